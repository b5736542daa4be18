"""A condition that a person writes on records: one SQL expression that can read the record and
nothing else.
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
"""Columns that a condition can use besides caption_0 and so on, with their types."""

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
"""Functions that look at more than their arguments, or make something huge out of little."""

_MACROS = {"if", "ifnull", "nullif", "split_part"}
"""Plain functions that DuckDB keeps as macros."""


def check_condition(connection: Any, where: str, captions: int = 0) -> str:
    """A condition as DuckDB spells it after parsing. Raises TrainerError unless it is one plain
    expression.

    The record has `captions` further captions: caption_0 and so on. Sub-queries, aggregates,
    windows, parameters and functions whose value is not fixed by their arguments are refused.
    """
    if "\0" in where:
        raise TrainerError("The condition holds a NUL character. Type it again.")
    columns = COLUMNS | {f"caption_{number}": "VARCHAR" for number in range(captions)}
    listed = [name.strip('"') for name in columns]
    query = f"{FRAME}({where}\n)"
    _check_nodes(connection, where, _parsed(connection, where, query), listed)
    spelled = connection.execute(
        "SELECT json_deserialize_sql(json_serialize_sql(?))", [query]
    ).fetchone()[0]
    condition = spelled.split(" WHERE ", 1)[1]
    typed = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns.items())
    try:
        connection.execute(f"SELECT 1 FROM (SELECT {typed}) WHERE {condition}")
    except Exception as error:
        raise TrainerError(
            f"The condition {where!r} does not fit the table: {str(error).splitlines()[0]}. "
            f"The columns are: {', '.join(listed)}."
        ) from error
    return f"CAST({condition} AS BOOLEAN)"


FRAME = "SELECT 1 FROM pairs WHERE "


def _parsed(connection: Any, where: str, query: str) -> Any:
    """The tree of the condition in `query`. Raises TrainerError when it does not parse, or holds
    more than one expression.
    """
    tree = _tree(connection, query)
    if tree.get("error"):
        raise TrainerError(
            f"The condition {where!r} cannot be read: {tree['error_message']}. Write one SQL "
            "expression, for example: width >= 1024 AND prompt NOT ILIKE '%logo%'."
        )
    bare = _tree(connection, f"{FRAME}(true)")
    bare["statements"][0]["node"].pop("where_clause")
    statements = tree["statements"]
    condition = statements[0]["node"].pop("where_clause", None)
    if len(statements) != 1 or not condition or _unplaced(tree) != _unplaced(bare):
        raise TrainerError(
            f"The condition {where!r} is more than one expression. Write one SQL expression "
            "without ; or SELECT."
        )
    return condition


def _check_nodes(connection: Any, where: str, condition: Any, columns: list[str]) -> None:
    """Raise TrainerError for every kind of expression, column and function that is not allowed."""
    allowed = {
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions()"
            " WHERE function_type = 'scalar' AND stability = 'CONSISTENT'"
        ).fetchall()
    }
    allowed = (allowed | _MACROS) - _REFUSED_FUNCTIONS
    for node in _nodes(condition):
        kind = node.get("class")
        if kind and kind not in _EXPRESSIONS:
            raise TrainerError(
                f"The condition {where!r} holds {_SAID.get(kind, kind.lower())}, which is not "
                "allowed. Use only columns, values, comparisons and plain functions."
            )
        if kind == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if name.lower() not in columns:
                raise TrainerError(
                    f"The condition {where!r} names {name}, which is not a column. The columns "
                    f"are: {', '.join(columns)}. Put text in single quotes."
                )
        name = node.get("function_name")
        if name and (name.lower() not in allowed or node.get("schema") not in ("", "main")):
            raise TrainerError(
                f"The condition {where!r} calls {name}, which is not allowed: only functions whose "
                "value is fixed by their arguments are."
            )


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
    """A parsed tree without the positions of its parts in the text."""
    if isinstance(value, dict):
        return {k: _unplaced(v) for k, v in value.items() if not k.startswith("query_location")}
    return [_unplaced(item) for item in value] if isinstance(value, list) else value
