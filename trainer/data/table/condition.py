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
_FUNCTIONS = frozenset(
    (
        *("+", "-", "*", "/", "//", "%", "**", "^", "||", "^@", "@", "&", "|", "<<", ">>"),
        *("~~", "!~~", "~~*", "!~~*", "~~~", "like_escape", "not_like_escape"),
        *("ilike_escape", "not_ilike_escape", "regexp_matches", "regexp_full_match"),
        *("regexp_extract", "contains", "starts_with", "ends_with", "prefix", "suffix"),
        *("length", "len", "strlen", "char_length", "lower", "upper", "lcase", "ucase"),
        *("trim", "ltrim", "rtrim", "left", "right", "substring", "substr", "strpos"),
        *("instr", "position", "split_part", "string_split", "str_split", "split"),
        *("list_contains", "list_has", "array_contains", "list_value", "concat", "ascii"),
        *("strip_accents", "md5", "hash", "abs", "sign", "round", "floor", "ceil", "ceiling"),
        *("trunc", "sqrt", "ln", "log", "log2", "log10", "exp", "pow", "power", "mod"),
        *("greatest", "least", "coalesce", "if", "ifnull", "nullif", "isnan", "isfinite"),
        *("array_length", "array_has", "list_has_any", "character_length", "bit_length", "ord"),
        *("unicode", "reverse", "levenshtein", "regexp_extract_all", "xor"),
        *("replace", "regexp_replace"),
    )
)
"""What a condition may call, by DuckDB's names: functions and operators whose value is fixed by
their arguments and is not much larger than all of those together. For `replace` and
`regexp_replace` see `_grows`, for lists `_check_lists`.
"""
_LISTS = frozenset(("string_split", "str_split", "split", "regexp_extract_all", "list_value"))
_OF_LISTS = frozenset(
    (
        *("len", "length", "array_length", "list_contains", "list_has", "array_contains"),
        *("array_has", "list_has_any", "contains"),
    )
)
"""What makes lists, and what may be asked of one. As text a list is five times as long as what it
was made of, and so again at every level.
"""

_TYPES = frozenset(
    (
        *("VARCHAR", "TEXT", "STRING", "CHAR", "BOOLEAN", "BOOL", "FLOAT", "REAL", "DOUBLE"),
        *("TINYINT", "SMALLINT", "INTEGER", "INT", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT"),
        *("UINTEGER", "UBIGINT", "DECIMAL", "NUMERIC", "DATE", "TIMESTAMP"),
        *(
            "INT8",
            "INT16",
            "INT32",
            "INT64",
            "UINT8",
            "UINT16",
            "UINT32",
            "UINT64",
            "FLOAT4",
            "FLOAT8",
            "INT2",
            "INT4",
        ),
    )
)
"""What a condition may cast to. As bits, for example, a text would be eight times as long."""

LONGEST = 10_000


def check_condition(connection: Any, where: str, captions: int = 0) -> str:
    """A condition as DuckDB spells it after parsing. Raises TrainerError unless it is one plain
    expression.

    The record has `captions` further captions: caption_0 and so on. Sub-queries, aggregates,
    windows, parameters and all functions but plain ones (see _FUNCTIONS) are refused.
    """
    if len(where) > LONGEST:
        raise TrainerError(
            f"The condition {where[:40]!r}... has {len(where):,} characters; {LONGEST:,} is the "
            "most. Write a shorter one."
        )
    if "\0" in where:
        raise TrainerError("The condition holds a NUL character. Type it again.")
    if any("\ud800" <= letter <= "\udfff" for letter in where):
        raise TrainerError("The condition holds half of a character. Type it again.")
    columns = COLUMNS | {f"caption_{number}": "VARCHAR" for number in range(captions)}
    listed = [name.strip('"') for name in columns]
    query = f"{FRAME}({where}\n)"
    try:
        _check_nodes(where, _parsed(connection, where, query), listed)
    except RecursionError:
        raise TrainerError(
            f"The condition {where[:40]!r}... is nested too deeply. Write a flatter one."
        ) from None
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


def _check_nodes(where: str, condition: Any, columns: list[str]) -> None:
    """Raise TrainerError for every kind of expression, column and function that is not allowed."""
    nodes = [(node.get("class"), node) for node in _nodes(condition)]
    for kind, _ in nodes:
        if kind and kind not in _EXPRESSIONS:
            raise TrainerError(
                f"The condition {where!r} holds {_SAID.get(kind, kind.lower())}, which is not "
                "allowed. Use only columns, values, comparisons and plain functions."
            )
    for kind, node in nodes:
        if kind == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if name.lower() not in columns:
                raise TrainerError(
                    f"The condition {where!r} names {name}, which is not a column. The columns "
                    f"are: {', '.join(columns)}. Put text in single quotes."
                )
        name = node.get("function_name")
        if name and (name.lower() not in _FUNCTIONS or node.get("schema") not in ("", "main")):
            raise TrainerError(
                f"The condition {where!r} calls {name}, which is not allowed. These are: "
                f"{', '.join(sorted(_FUNCTIONS))}."
            )
        if name and _grows(name.lower(), node):
            raise TrainerError(
                f"The condition {where!r} calls {name} in a way that can make texts longer, which "
                "is not allowed: give replace two texts in quotes, the second no longer than the "
                "first, and regexp_replace the empty text ''."
            )
        if kind == "CAST" and (name := _cast_to(node)) not in _TYPES:
            raise TrainerError(
                f"The condition {where!r} casts to {name}, which is not allowed: only numbers, "
                "texts, booleans and dates are."
            )
    _check_lists(where, [node for _, node in nodes])


def _check_lists(where: str, nodes: list[dict[str, Any]]) -> None:
    """Raise TrainerError for a list that becomes a text, or part of another value."""
    made = {id(node): node for node in nodes if _called(node) in _LISTS}
    for node in nodes:
        if _called(node) in _OF_LISTS:
            for argument in _arguments(node):
                made.pop(id(argument), None)
    for node in made.values():
        raise TrainerError(
            f"The condition {where!r} uses the list of {_called(node)} as a value, which is not "
            f"allowed. Ask it for something: {', '.join(sorted(_OF_LISTS))}."
        )


def _called(node: dict[str, Any]) -> str:
    """The name of the function that a node calls; that of [...] for ARRAY[...], which is none."""
    if node.get("type") == "ARRAY_CONSTRUCTOR":
        return "list_value"
    return str(node.get("function_name") or "").lower()


def _grows(name: str, node: dict[str, Any]) -> bool:
    """Whether a replacement may be longer than what it replaces. What a regular expression matches
    can be empty.
    """
    if name not in ("replace", "regexp_replace"):
        return False
    given = [_text(argument) for argument in _arguments(node)]
    if len(given) < 3 or (new := given[2]) is None:
        return True
    old = given[1] if name == "replace" else ""
    return old is None or len(new.encode()) > len(old.encode())


def _arguments(node: dict[str, Any]) -> list[dict[str, Any]]:
    """What a function is called with; DuckDB before 2 writes it in another way."""
    return node.get("children") or [one["expression"] for one in node.get("arguments", [])]


def _text(node: dict[str, Any]) -> str | None:
    """The text that a node is a constant of; None for any other node."""
    if node.get("class") != "CONSTANT":
        return None
    found = (node.get("literal") or {}).get("text") or (node.get("value") or {}).get("value", "")
    return found if isinstance(found, str) else None


def _cast_to(node: dict[str, Any]) -> str:
    """The type of a cast; DuckDB before 2 writes it in another way."""
    written = node.get("type_expr") or {}
    return str(written.get("type_name") or (node.get("cast_type") or {}).get("id")).upper()


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
