"""The columns that filters ask about, derived by DuckDB from a table's records: during one pass, or
kept for later.

`ingest` writes them to a derived table, together with the source's fingerprint. Later selections
use that table.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...errors import TrainerError
from ...files import canonical_json, literal, publish, sha256_text
from ...litter import sweep, temporary
from . import midjourney
from .columns import Mapping, check
from .midjourney import KINDS, WHITE, Layer, layered, text_literal
from .rejects import Reject, Rejects, read_rejects
from .table import Table, check_compression, fingerprint, source_sql
from .whole_records import copy_whole_records

MEMORY_MB = 256
_DERIVED = 6
"""Changes whenever the columns of derived tables or their meaning do."""

Say = Callable[[str], None]


def ingest(
    table: Table,
    mapping: Mapping,
    cache: Path,
    memory_mb: int = MEMORY_MB,
    progress: Say | None = None,
) -> Path:
    """Derive once, from every record, what filters need; returns the derived table's path in
    `cache`.

    Raises TrainerError for a mapping that does not fit, for a cache that DuckDB cannot write to,
    and for a source that cannot be read or changes meanwhile.
    """
    check(mapping, table.columns)
    _check_cache(cache)
    source = fingerprint(table.path)
    known = derived_path(table, mapping, cache, source)
    if known:
        return known
    if progress:
        progress("deriving the columns that the filters need")
    path = _derived_name(table, mapping, cache, source)
    sweep(cache)
    part = temporary(path)
    try:
        with connected(table, cache, memory_mb, [], part, write=True) as connection:
            captions = [f"caption_{number}" for number in range(len(mapping.captions))]
            columns = ", ".join(["readable", *COLUMNS, *captions])
            rejects = read_source(
                connection,
                table,
                mapping,
                "pairs",
                lambda relation: f"SELECT {columns} FROM {layered(relation, full_layers(mapping))}",
                "(SELECT rowid FROM pairs WHERE NOT readable)",
            )
            connection.execute("CREATE TABLE meta (rejects VARCHAR)")
            connection.execute(
                "INSERT INTO meta VALUES (?)",
                [json.dumps(asdict(rejects))],
            )
            connection.execute("CHECKPOINT")
        check_unchanged(table, source)
        publish(part, path)
        _remove_older(path)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(part.name + ".wal").unlink(missing_ok=True)
    return path


def _check_cache(cache: Path) -> None:
    """Raise TrainerError when DuckDB cannot write a database in a folder: it takes what follows a
    `?` for options, and a `\\` for a `/`.
    """
    path = cache.absolute()
    if "?" in str(path) or "\\" in path.as_posix():
        raise TrainerError(
            f"No derived table can be kept in {path}: DuckDB writes none below a folder with ? or "
            "\\ in its name. Rename that folder, or select without a derived table."
        )


def read_source(
    connection: Any,
    table: Table,
    mapping: Mapping,
    name: str,
    query: Callable[[str], str],
    unreadable: str,
) -> Rejects:
    """Put what a query finds in the relation of a source's cells into the table `name`; returns
    what could not be read.

    Next to damage in a CSV or TSV file, DuckDB can miss records and cut others. So when it noted
    any, it reads a copy without the damaged records (see whole_records.py). Of a compressed file
    it does not note every damage. For `unreadable` see `read_rejects`.
    """
    cells = tuple(mapping.columns().values())

    def read(source: Table, one_thread: bool = False) -> Rejects:
        for stale in (name, "reject_errors", "reject_scans"):
            connection.execute(f"DROP TABLE IF EXISTS {stale}")
        relation, values = source_sql(source, cells, one_thread)
        connection.execute(f"CREATE TABLE {name} AS {query(relation)}", values)
        return read_rejects(connection, source, unreadable, cells)

    if table.format not in ("csv", "tsv"):
        check_compression(table)
        return read(table)
    wanted = _looked_at(table, cells)
    if _is_undamaged(table, wanted, read):
        return Rejects()
    connection.execute(f"DROP TABLE IF EXISTS {name}")
    connection.execute("CHECKPOINT")
    (spill,) = connection.execute("SELECT current_setting('temp_directory')").fetchone()
    copy = replace(table, path=_copy_path(table, Path(spill)))
    rejects = copy_whole_records(table, wanted, copy.path)
    missed = _read_with_any_line_ends(copy, read)
    if missed.count:
        raise TrainerError(
            f"{table.name} is damaged in a way that is not understood ({missed.first[0].reason}). "
            "Repair the table, or save it again."
        )
    return rejects


def _is_undamaged(table: Table, wanted: Sequence[int], read: Callable[..., Rejects]) -> bool:
    """Read a CSV or TSV file, unless it turns out to be damaged."""
    import duckdb

    if table.compressed:
        if copy_whole_records(table, wanted, None).count:
            return False
        _read_with_any_line_ends(table, read)
        return True
    try:
        return not read(table).count
    except duckdb.InvalidInputException:
        return False


def _read_with_any_line_ends(table: Table, read: Callable[..., Rejects]) -> Rejects:
    """Read a CSV or TSV file without damage."""
    import duckdb

    with suppress(duckdb.InvalidInputException):
        rejects = read(table)
        if not rejects.count:
            return rejects
    return read(table, one_thread=True)


def _looked_at(table: Table, cells: Sequence[str]) -> Sequence[int]:
    """Places of the columns whose bytes matter: before 2.0, DuckDB looks at all of them."""
    import duckdb

    if int(duckdb.__version__.split(".")[0]) < 2:
        return range(len(table.columns))
    return [table.columns.index(cell) for cell in cells]


def _copy_path(table: Table, folder: Path) -> Path:
    """Where a copy of the table's whole records lies while it is read."""
    return folder / f"whole.{table.format}{'.gz' if table.compressed else ''}"


def derived_path(
    table: Table, mapping: Mapping, cache: Path, source: dict[str, Any] | None = None
) -> Path | None:
    """The path of the derived table of this source and mapping; None when there is none yet."""
    path = _derived_name(table, mapping, cache, source or fingerprint(table.path))
    return path if path.is_file() else None


def kept_rejects(connection: Any) -> Rejects:
    """The records that could not be read when this derived table was made."""
    (text,) = connection.execute("SELECT rejects FROM meta").fetchone()
    value = json.loads(text)
    return Rejects(
        value["count"],
        tuple(Reject(**reject) for reject in value["first"]),
        tuple((place, count) for place, count in value["gaps"]),
    )


def check_unchanged(table: Table, source: dict[str, Any]) -> None:
    """Raise TrainerError when the table is no longer what `fingerprint` said."""
    if fingerprint(table.path) != source:
        raise TrainerError(f"{table.name} changed while it was read. Run the selection again.")


def _fitting(table: Table, memory_mb: int) -> tuple[int, int]:
    """How many threads may read a table, and the megabytes they need: each thread unpacks a whole
    row group of a Parquet file, which may hold a million records.
    """
    import duckdb

    threads = os.cpu_count() or 1
    if table.format != "parquet":
        return threads, memory_mb
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT sum(total_uncompressed_size) FROM parquet_metadata(?) GROUP BY row_group_id",
            [literal(table.path)],
        ).fetchall()
    group_mb = max((size for (size,) in found), default=0) / 1e6
    fitting = max(1, min(threads, int(memory_mb / max(1.0, 2 * group_mb))))
    return fitting, max(memory_mb, min(3 * memory_mb, round(memory_mb / 2 + 1.5 * group_mb)))


@contextmanager
def connected(
    table: Table,
    cache: Path,
    memory_mb: int,
    outputs: list[Path],
    database: Path | None,
    write: bool = False,
) -> Iterator[Any]:
    """A connection to DuckDB that can open the source, the outputs and nothing else, whatever SQL
    it is given.
    """
    import duckdb

    cache.mkdir(parents=True, exist_ok=True)
    spill = Path(tempfile.mkdtemp(prefix=f".spill-{os.getpid()}-", dir=cache))
    try:
        threads, memory_mb = _fitting(table, memory_mb)
        connection = duckdb.connect(
            str(database) if database else ":memory:",
            read_only=bool(database) and not write,
            config={
                "memory_limit": f"{memory_mb}MB",
                "threads": threads,
                "temp_directory": str(spill),
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        with connection:
            allowed = ", ".join(
                text_literal(path)
                for source in (table.path, _copy_path(table, spill))
                for path in (str(source.absolute()), literal(source), *map(str, outputs))
            )
            connection.execute(f"SET allowed_paths = [{allowed}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection
    except duckdb.OutOfMemoryException as error:
        advice = "Split the table into smaller ones, or raise memory_mb of the selection's request."
        if table.format == "parquet":
            advice = "Save it again with at most 20,000 rows in a row group, or as CSV."
        raise TrainerError(
            f"{memory_mb} MB of memory are not enough for {table.name}. {advice}"
        ) from error
    except (duckdb.IOException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise TrainerError(
            f"{table.name} cannot be read: {str(error).splitlines()[0]}. "
            "Repair the file, or check the disk."
        ) from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)


COLUMNS = (
    "kind",
    "image_no",
    "account",
    "person",
    "unfinished",
    "raw",
    "image",
    "prompt",
    "words",
    "version",
    "aspect",
    "stylize",
    "width",
    "height",
    "image_prompts",
    "negative_weight",
    "truncated",
    "whole",
)
"""Columns of a derived table besides `readable` and caption_0 and so on. `person` is a number that
stands for the account.
"""


def full_layers(mapping: Mapping) -> list[Layer]:
    """Every derived column of a record, over a relation of `source_sql`'s cells."""
    place = _places(mapping)
    typed = "typed_text" if mapping.content and mapping.prompt else "text"
    texts = {"text": midjourney.text_sql("typed")}
    if typed == "typed_text":
        own = f"coalesce({place['prompt']}, '')"
        texts = {"text": midjourney.text_sql(own), "typed_text": midjourney.text_sql("typed")}
    image = f"coalesce({place['image']}, '')"
    another = text_literal(f"(?s),[{WHITE}]*https?://.*")
    first_image = (
        f"CASE WHEN contains({image}, ',') THEN regexp_replace({image}, {another}, '')"
        f" ELSE {image} END"
    )
    side = {
        role: f"TRY_CAST({place[role]} AS INTEGER)" if role in place else "NULL::INTEGER"
        for role in ("width", "height")
    }
    *before, said = midjourney.parameter_layers("parameters", "typed")
    combined = {
        role: f"coalesce({sql}, nullif({place[role]}, ''))" if role in place else sql
        for role, sql in said.items()
    }
    return [
        *midjourney.tail_layers(_message(mapping)),
        {
            "typed": typed_sql(mapping),
            "kind": _kind(mapping),
            "image_no": midjourney.image_no_sql("tail"),
            "unfinished": midjourney.unfinished_sql("tail"),
            "first_image": first_image,
            **side,
        },
        *_account(mapping),
        {
            "person": PERSON,
            "raw": midjourney.raw_sql("typed"),
            "image": midjourney.trimmed_sql("first_image", WHITE),
            **texts,
        },
        {"parameters": f"substr(typed, length({typed}) + 1)"},
        *midjourney.prompt_layers("text"),
        *before,
        combined,
        {
            "words": midjourney.words_sql("prompt"),
            "whole": "image <> '' AND prompt <> ''",
            **{role: cell for role, cell in place.items() if role.startswith("caption_")},
        },
    ]


def sight_layers(
    mapping: Mapping, kinds: tuple[str, ...], raw: bool, upscales: bool
) -> list[Layer]:
    """What one pass can tell about a record cheaply: `failed`, `upscale` and `person`.

    `failed` is the number of the first of these that holds, else 0: 1 not readable, 2 not of the
    `kinds`, 3 unfinished, 4 not raw. With `upscales`, `upscale` says which records are finished
    upscales, otherwise none is. `person` is known for those and for the records that did not fail.
    """
    wanted = ", ".join(map(text_literal, kinds))
    other_kind = f"kind NOT IN ({wanted})" if kinds else "false"
    distinct = KINDS if mapping.upscaled or "other" in kinds else (*kinds, "upscaled")
    may_count = "kind = 'upscaled'" if upscales else "false"
    within = _message(mapping) if mapping.content else ""
    not_raw = f"NOT ({midjourney.raw_sql(typed_sql(mapping), within)})"
    return [
        *midjourney.tail_layers(_message(mapping)),
        {"kind": _kind(mapping, distinct)},
        {
            "unfinished": f"CASE WHEN {other_kind} AND NOT ({may_count}) THEN false"
            f" ELSE {midjourney.unfinished_sql('tail')} END"
        },
        {
            "upscale": f"readable AND {may_count} AND NOT unfinished",
            "failed": f"(CASE WHEN NOT readable THEN 1 WHEN {other_kind} THEN 2"
            f" WHEN unfinished THEN 3 WHEN {not_raw if raw else 'false'} THEN 4 ELSE 0"
            " END)::UTINYINT",
        },
        *_account(mapping, "upscale OR failed = 0"),
        {"person": PERSON},
    ]


PERSON = "CASE WHEN account IS NOT NULL THEN hash(account) END"


def typed_sql(mapping: Mapping) -> str:
    """SQL of what was typed, over `midjourney.tail_layers`."""
    place = _places(mapping)
    if mapping.content:
        return midjourney.typed_sql(_message(mapping))
    typed = f"coalesce({place['prompt']}, '')"
    return f"{typed} || ' ' || coalesce({place['arguments']}, '')" if mapping.arguments else typed


def _places(mapping: Mapping) -> dict[str, str]:
    """The columns of the source relation by role."""
    return {role: f"c{number}" for number, role in enumerate(mapping.columns())}


def _message(mapping: Mapping) -> str:
    return f"coalesce({_places(mapping)['content']}, '')" if mapping.content else "''"


def _kind(mapping: Mapping, distinct: tuple[str, ...] = KINDS) -> str:
    kind = midjourney.kind_sql("tail", distinct)
    if not mapping.upscaled:
        return kind
    flag = f"TRY_CAST({_places(mapping)['upscaled']} AS BOOLEAN)"
    return (
        f"CASE WHEN {flag} THEN 'upscaled' WHEN NOT {flag} AND {kind} = 'upscaled' THEN 'grid'"
        f" ELSE {kind} END"
    )


def _account(mapping: Mapping, when: str = "true") -> list[Layer]:
    if not mapping.user:
        return midjourney.account_layers("tail", when)
    return [{"account": f"nullif({_places(mapping)['user']}, '')"}]


def _derived_name(table: Table, mapping: Mapping, cache: Path, source: dict[str, Any]) -> Path:
    """The path of a derived table: first the table and the mapping, then what the table held."""
    import duckdb

    meaning = {k: v for k, v in mapping.to_json().items() if k != "preset"}
    place = sha256_text(canonical_json([str(table.path.absolute()), meaning]))
    held = sha256_text(canonical_json([source, _DERIVED, duckdb.__version__]))
    return cache / f"{place[:16]}-{held[:16]}.duckdb"


def _remove_older(path: Path) -> None:
    """Remove the tables that were derived from earlier contents of the same table."""
    for older in path.parent.glob(f"{path.name.split('-')[0]}-*.duckdb"):
        if older != path:
            with suppress(OSError):
                older.unlink()
