"""Rows that were selected from a table: prompts, and where their images are, but no images yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainerError
from ...files import literal

SOURCE = "read_parquet(?, hive_partitioning = false)"


@dataclass(frozen=True)
class Selection:
    """A selection that was made: its Parquet file (see select.py for the columns), the number of
    rows, and how it came about.
    """

    path: str
    sha256: str
    table: str
    rows: int
    history: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What a pair takes over from its row. `captions` holds further columns, by name."""

    number: int
    prompt: str
    user: str
    captions: Mapping[str, str]


def read_rows(path: Path) -> dict[int, Row]:
    """The rows of a selection by their number in the table."""
    import duckdb

    with duckdb.connect() as database:
        cursor = database.execute(f"SELECT * FROM {SOURCE}", [literal(path)])
        names = [column[0] for column in cursor.description]
        extra = [place for place, name in enumerate(names) if name.startswith("caption_")]
        number, prompt, user = (names.index(name) for name in ("row", "prompt", "user"))
        return {
            values[number]: Row(
                values[number],
                values[prompt] or "",
                values[user] or "",
                {names[place]: values[place] for place in extra if values[place]},
            )
            for values in cursor.fetchall()
        }


def read_columns(path: Path, *columns: str) -> list[tuple]:
    """The number of every row of a selection file and these columns as text ("" where there is
    nothing), in the order of the numbers.

    Raises TrainerError when the file is not a selection, or has no row.
    """
    import duckdb

    texts = ", ".join(f"coalesce(CAST({column} AS VARCHAR), '')" for column in columns)
    query = f'SELECT CAST("row" AS BIGINT), {texts} FROM {SOURCE} ORDER BY 1'
    try:
        with duckdb.connect() as database:
            rows = database.execute(query, [literal(path)]).fetchall()
    except duckdb.Error as error:
        raise TrainerError(
            f"{path.name} is not a selection (a Parquet file with the columns row, "
            f"{', '.join(columns)}): {error}"
        ) from error
    if not rows:
        raise TrainerError(f"{path.name} has no row. Select more.")
    return rows
