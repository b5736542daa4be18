"""A person's own condition on records: one SQL expression that can read the record and nothing
else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...errors import TrainerError

COLUMNS = {
    "image": "VARCHAR",
    "prompt": "VARCHAR",
    "words": "INTEGER",
    '"user"': "VARCHAR",
    "kind": "VARCHAR",
    "image_no": "INTEGER",
    "version": "VARCHAR",
    "aspect": "VARCHAR",
    "stylize": "INTEGER",
    "raw": "BOOLEAN",
    "width": "INTEGER",
    "height": "INTEGER",
    "image_prompts": "INTEGER",
    "truncated": "BOOLEAN",
}
"""Columns that a condition can use, with their types, besides caption_0 and so on."""

_EXPRESSIONS = {
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "COLUMN_REF",
    "FUNCTION",
    "OPERATOR",
    "CAST",
    "CASE",
    "BETWEEN",
    "COLLATE",
    "TYPE",
}
_SAID = {
    "SUBQUERY": "a sub-query",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
}
_REFUSED_FUNCTIONS = {
    "current_setting",
    "getvariable",
    "sleep_ms",
    "write_log",
    "error",
    "repeat",
    "lpad",
    "rpad",
    "range",
    "generate_series",
    "array_resize",
    "list_resize",
    "format",
    "printf",
}
"""Functions that look at more than their arguments, or make something huge of little."""

_MACROS = {"if", "ifnull", "nullif", "split_part"}
"""Plain functions that DuckDB keeps as macros."""


def check_condition(connection: Any, where: str, captions: int = 0) -> str:
    """A condition as DuckDB itself spells it after parsing. Raises TrainerError unless it is one
    plain expression.

    The record has so many further `captions`: caption_0 and so on. Sub-queries, aggregates,
    windows, parameters and functions whose value is not fixed by their arguments are refused.
    """
    if "\0" in where:
        raise TrainerError("The condition holds a NUL character. Type it again.")
    frame = "SELECT 1 FROM pairs WHERE ("
    bare = _tree(connection, "SELECT 1 FROM pairs WHERE (true)")
    tree = _tree(connection, frame + where + "\n)")
    if tree.get("error"):
        raise TrainerError(
            f"The condition {where!r} cannot be read: {tree['error_message']}. "
            "Write one SQL expression, for example: width >= 1024 AND prompt NOT ILIKE '%logo%'."
        )
    statements = tree["statements"]
    condition = statements[0]["node"].pop("where_clause", None)
    bare["statements"][0]["node"].pop("where_clause")
    if len(statements) != 1 or not condition or _unplaced(tree) != _unplaced(bare):
        raise TrainerError(
            f"The condition {where!r} is more than one expression. Write one SQL expression without ; or SELECT."
        )
    allowed = {
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions()"
            " WHERE function_type = 'scalar' AND stability = 'CONSISTENT'"
        ).fetchall()
    } | _MACROS
    columns = COLUMNS | {f"caption_{number}": "VARCHAR" for number in range(captions)}
    listed = ", ".join(name.strip('"') for name in columns)
    for node in _nodes(condition):
        kind = node.get("class")
        if kind and kind not in _EXPRESSIONS:
            raise TrainerError(
                f"The condition {where!r} holds {_SAID.get(kind, kind.lower())}, which is not allowed. "
                "Only columns, values, comparisons and plain functions are."
            )
        if kind == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if name.lower() not in listed.split(", "):
                raise TrainerError(
                    f"The condition {where!r} names {name}, which is no column. Columns are: {listed}. "
                    "A text stands between single quotes."
                )
        name = node.get("function_name")
        if name and (
            name.lower() not in allowed - _REFUSED_FUNCTIONS
            or node.get("schema") not in ("", "main")
        ):
            raise TrainerError(
                f"The condition {where!r} calls {name}, which is not allowed: only functions whose value is fixed by "
                "their arguments are."
            )
    spelled = connection.execute(
        "SELECT json_deserialize_sql(json_serialize_sql(?))", [frame + where + "\n)"]
    ).fetchone()[0]
    condition_sql = spelled.split(" WHERE ", 1)[1]
    try:
        typed = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns.items())
        connection.execute(f"SELECT 1 FROM (SELECT {typed}) WHERE {condition_sql}")
    except Exception as error:
        raise TrainerError(
            f"The condition {where!r} does not fit the table: {str(error).splitlines()[0]}. "
            f"Columns are: {listed}."
        ) from error
    return f"CAST({condition_sql} AS BOOLEAN)"


def _tree(connection: Any, text: str) -> dict[str, Any]:
    return json.loads(connection.execute("SELECT json_serialize_sql(?)", [text]).fetchone()[0])


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _unplaced(value: Any) -> Any:
    """A parsed tree without the places of its parts in the text."""
    if isinstance(value, dict):
        return {k: _unplaced(v) for k, v in value.items() if not k.startswith("query_location")}
    return [_unplaced(item) for item in value] if isinstance(value, list) else value
