"""Pairs from a table of millions of records: filters, the users who upscaled most, no repeats, a
sample; and how many records each step left.

The first answer comes from one pass over the table. With a derived table (derived.py) the same
statements take less than a second.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from ...errors import TrainerError
from ...files import publish, write_text
from ...litter import sweep, temporary
from ...settings.group import Group, setting
from ..tokens import LIMIT, count_tokens
from .columns import Mapping, check
from .condition import check_condition
from .derived import (
    MEMORY_MB,
    Say,
    check_unchanged,
    connected,
    derived_path,
    full_layers,
    kept_rejects,
    read_source,
    sight_layers,
)
from .midjourney import KINDS, layered, text_literal
from .rejects import Rejects
from .table import Table, fingerprint

COUNT = (0, 2**53 - 1)
RAW = ("any", "style_raw", "stylize")
ROW = "(number + coalesce(missing, 0))"
"""A record's number when those that DuckDB did not deliver are counted too, in a join with them."""
WITH_GAPS = "ASOF LEFT JOIN gaps ON number >= place"
IS_KEPT = "number IN (SELECT number FROM kept)"


@dataclass(frozen=True)
class SelectionSettings(Group):
    """Which records of a table become pairs. Unfinished pictures and negative weights never do."""

    CALLED: ClassVar[str] = "selection setting"

    kinds: tuple[str, ...] = setting(
        ("upscaled",), "What messages may show; empty = anything.", choices=KINDS
    )
    raw: str = setting(
        "style_raw",
        "any, style_raw (`--style raw` or `--raw`), or stylize (`--stylize` given and at most "
        "max_stylize).",
        choices=RAW,
    )
    max_stylize: int = setting(50, "The highest `--stylize` of raw = stylize.", COUNT)
    image_prompts: bool = setting(
        False, "Keep prompts that contain pictures; their text does not describe the result."
    )
    truncated: bool = setting(True, "Keep prompts that Discord cut off (they end in ...).")
    min_words: int = setting(3, "The fewest words of a prompt.", COUNT)
    max_words: int = setting(0, "The most words of a prompt; 0 = no limit.", COUNT)
    max_tokens: int = setting(
        0,
        "The most CLIP tokens of a prompt; 0 = no limit, prompts beyond 75 are only counted.",
        COUNT,
    )
    where: str = setting(
        "", "A further condition: one SQL expression over the columns of the result; empty = none."
    )
    top_users: int = setting(
        0,
        "Only this many users, those with the most finished upscales in the whole table; "
        "0 = everyone.",
        COUNT,
    )
    deduplicate: bool = setting(
        True, "Of prompts that differ at most in upper and lower case, keep the first."
    )
    per_user: int = setting(
        0,
        "The most pairs of one user, the first ones; 0 = no limit. Records without a user count as "
        "one user.",
        COUNT,
    )
    sample: int = setting(0, "Pairs to draw by `seed`; 0 = all.", COUNT)
    seed: int = setting(555, "Decides which pairs are drawn.", COUNT)


@dataclass(frozen=True)
class Step:
    """One line of the funnel: the filter, and how many records it left."""

    name: str
    rows: int


@dataclass(frozen=True)
class SelectionReport:
    """What a selection found. `over_75_tokens` is None without a tokenizer."""

    path: Path
    funnel: tuple[Step, ...]
    rejects: Rejects
    source: dict[str, Any]
    from_derived: bool
    over_75_tokens: int | None = None

    @property
    def rows(self) -> int:
        return self.funnel[-1].rows

    def __str__(self) -> str:
        width = max(len(step.name) for step in self.funnel)
        lines = [f"{step.name:{width}}  {step.rows}" for step in self.funnel]
        if self.rejects.count:
            lines.append(f"damaged records, skipped: {self.rejects.count}")
            lines += [f"  {reject}" for reject in self.rejects.first[:5]]
        if self.over_75_tokens:
            lines.append(f"prompts longer than {LIMIT} CLIP tokens: {self.over_75_tokens}")
        return "\n".join(lines)


def select(
    table: Table,
    mapping: Mapping,
    settings: SelectionSettings,
    output: Path,
    cache: Path,
    salt: str | None = None,
    tokenizer: Path | None = None,
    memory_mb: int = MEMORY_MB,
    progress: Say | None = None,
) -> SelectionReport:
    """Write the chosen records of a table to the Parquet file `output`, in the order of the table.

    Columns: row (its number from 0, damaged ones counted), image, prompt, user (16 hex digits,
    salted), kind, image_no, version, aspect, stylize, raw, width, height, attachment, job, file,
    image_prompts, truncated, caption_0 and so on. A derived table in `cache` is used if there is
    one. Unless given, the salt is kept there. Raises TrainerError for what does not fit the table.
    """
    say = progress or (lambda _: None)
    check(mapping, table.columns)
    _check_settings(mapping, settings, tokenizer)
    salt = _kept_salt(cache) if salt is None else salt
    source = fingerprint(table.path)
    derived = derived_path(table, mapping, cache, source)
    output.parent.mkdir(parents=True, exist_ok=True)
    sweep(output.parent)
    part = temporary(output)
    try:
        with connected(table, cache, memory_mb, [part], derived) as connection:
            late = _late(connection, mapping, settings)
            if derived:
                say("asking the derived table")
                rejects = kept_rejects(connection)
                _see_derived(connection, settings)
            else:
                say("reading the table")
                rejects = _first_pass(connection, table, mapping, settings)
            _keep_gaps(connection, rejects)
            funnel = _seen(connection, settings)
            say("applying the filters")
            funnel += _best_users(connection, settings)
            best = "AND person IN (SELECT person FROM best)" if settings.top_users else ""
            _view_records(connection, mapping, salt, derived is not None, f"failed = 0 {best}")
            funnel += _judge(connection, late, settings)
            _view_records(connection, mapping, salt, derived is not None, IS_KEPT)
            funnel += _choose(connection, settings)
            if tokenizer:
                say("counting CLIP tokens")
                _count_tokens(connection, tokenizer, settings.max_tokens)
                funnel += _limit_tokens(connection, settings)
            funnel += _draw(connection, settings)
            say("writing the result")
            over = _count(connection, "kept SEMI JOIN long USING (number)") if tokenizer else None
            _write(connection, part, mapping)
        check_unchanged(table, source)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        publish(part, output)
    finally:
        part.unlink(missing_ok=True)
    return SelectionReport(output, tuple(funnel), rejects, source, derived is not None, over)


def _kept_salt(cache: Path) -> str:
    path = cache / "user-salt"
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    write_text(path, secrets.token_hex(16) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _check_settings(mapping: Mapping, settings: SelectionSettings, tokenizer: Path | None) -> None:
    if settings.kinds and not mapping.content and not mapping.upscaled:
        raise TrainerError(
            "Nothing in the table tells upscaled pictures from others: the column mapping has "
            "neither content nor upscaled. Map one of them, or empty the setting kinds."
        )
    if settings.max_tokens and tokenizer is None:
        raise TrainerError(
            "max_tokens needs CLIP's tokenizer, but its folder was not given. Set max_tokens to 0, "
            "or name the folder."
        )


def _first_pass(
    connection: Any, table: Table, mapping: Mapping, settings: SelectionSettings
) -> Rejects:
    """One pass over the source that keeps the cells of the records that pass the quick filters. The
    rowid numbers the records.
    """
    layers = sight_layers(
        mapping, settings.kinds, settings.raw == "style_raw", bool(settings.top_users)
    )
    # One list for each record: as columns, the cells of the many records that fail would fill the
    # memory with empty texts.
    kept = ", ".join(f"c{number}" for number in range(len(mapping.columns())))
    rejects = read_source(
        connection,
        table,
        mapping,
        "source",
        lambda relation: (
            f"SELECT failed, upscale, person, CASE WHEN failed = 0 THEN [{kept}] END AS cells"
            f" FROM {layered(relation, layers)}"
        ),
        "(SELECT rowid FROM source WHERE failed = 1)",
    )
    connection.execute(
        "CREATE TEMP VIEW seen AS SELECT rowid AS number, failed, upscale, person FROM source"
    )
    return rejects


def _see_derived(connection: Any, settings: SelectionSettings) -> None:
    kinds = ", ".join(map(text_literal, settings.kinds))
    other_kind = f"kind NOT IN ({kinds})" if kinds else "false"
    not_raw = "NOT raw" if settings.raw == "style_raw" else "false"
    connection.execute(
        "CREATE TEMP VIEW seen AS SELECT rowid AS number, (CASE WHEN NOT readable THEN 1"
        f" WHEN {other_kind} THEN 2 WHEN unfinished THEN 3 WHEN {not_raw} THEN 4 ELSE 0"
        " END)::UTINYINT AS failed,"
        " readable AND kind = 'upscaled' AND NOT unfinished AS upscale, person FROM pairs"
    )


def _seen(connection: Any, settings: SelectionSettings) -> list[Step]:
    """The funnel of the filters that the first pass applies."""
    counts = dict(
        connection.execute("SELECT failed, count(*) FROM seen GROUP BY failed").fetchall()
    )
    left = sum(counts.values()) - counts.get(1, 0)
    steps = [Step("records", left)]
    if settings.kinds:
        left -= counts.get(2, 0)
        steps.append(Step(f"kind: {' or '.join(settings.kinds)}", left))
    left -= counts.get(3, 0)
    steps.append(Step("finished", left))
    if settings.raw == "style_raw":
        left -= counts.get(4, 0)
        steps.append(Step("raw", left))
    return steps


def _best_users(connection: Any, settings: SelectionSettings) -> list[Step]:
    """Put the users who upscaled most into the table `best`; of equal ones, the earliest."""
    if not settings.top_users:
        return []
    connection.execute(
        "CREATE TEMP TABLE best AS SELECT person FROM seen WHERE upscale AND person IS NOT NULL"
        f" GROUP BY person ORDER BY count(*) DESC, min(number) LIMIT {settings.top_users}"
    )
    left = _count(connection, "seen SEMI JOIN best USING (person) WHERE failed = 0")
    return [Step(f"top {settings.top_users} users by upscales", left)]


def _view_records(
    connection: Any, mapping: Mapping, salt: str, derived: bool, condition: str
) -> None:
    """Make the view `records` of those that meet a condition on `seen`: `number` and every derived
    column, whether or not there is a derived table. The condition is below the columns, so that
    they are computed for those records only.
    """
    user = (
        f"CASE WHEN account IS NOT NULL THEN left(sha256({text_literal(salt)} || account), 16) END"
    )
    if derived:
        connection.execute(
            "CREATE OR REPLACE TEMP VIEW records AS"
            f' SELECT rowid AS number, *, {user} AS "user" FROM pairs'
            f" WHERE rowid IN (SELECT number FROM seen WHERE {condition})"
        )
        return
    cells = ", ".join(
        f"cells[{number + 1}] AS c{number}" for number in range(len(mapping.columns()))
    )
    relation = (
        f"(SELECT number, {cells} FROM (SELECT rowid AS number, * FROM source) WHERE {condition})"
    )
    connection.execute(
        f'CREATE OR REPLACE TEMP VIEW records AS SELECT *, {user} AS "user"'
        f" FROM {layered(relation, full_layers(mapping))}"
    )


def _late(connection: Any, mapping: Mapping, settings: SelectionSettings) -> list[tuple[str, str]]:
    """(name, condition) of the other filters that look at one record at a time."""
    late = [("with picture and prompt", "whole")]
    if settings.raw == "stylize":
        late.append(
            (f"stylize at most {settings.max_stylize}", f"stylize <= {settings.max_stylize}")
        )
    if not settings.image_prompts:
        late.append(("no image prompts", "image_prompts = 0"))
    late.append(("no negative weights", "NOT negative_weight"))
    if not settings.truncated:
        late.append(("not cut off", "NOT truncated"))
    if settings.min_words:
        late.append((f"at least {settings.min_words} words", f"words >= {settings.min_words}"))
    if settings.max_words:
        late.append((f"at most {settings.max_words} words", f"words <= {settings.max_words}"))
    if settings.where.strip():
        condition = check_condition(connection, settings.where, len(mapping.captions))
        late.append(("the condition", condition))
    return late


def _judge(connection: Any, late: list[tuple[str, str]], settings: SelectionSettings) -> list[Step]:
    """Put the records that pass every filter into the table `kept`."""
    import duckdb

    key = "md5_number(lower(prompt))" if settings.deduplicate else "NULL::HUGEINT"
    cases = " ".join(
        f"WHEN NOT coalesce({condition}, false) THEN {number}"
        for number, (_, condition) in enumerate(late, start=1)
    )
    try:
        connection.execute(
            "CREATE TEMP TABLE judged AS"
            f" SELECT number, failed, person, CASE WHEN failed = 0 THEN {key} END AS key FROM"
            f" (SELECT number, person, prompt, (CASE {cases} ELSE 0 END)::UTINYINT AS failed"
            " FROM records)"
        )
    except (duckdb.DataError, duckdb.InvalidInputException) as error:
        if not settings.where.strip():
            raise
        raise TrainerError(
            f"The condition {settings.where!r} fails on a record: {str(error).splitlines()[0]}. "
            "Where a text is not always a number, write TRY_CAST(text AS INTEGER)."
        ) from error
    counts = dict(
        connection.execute("SELECT failed, count(*) FROM judged GROUP BY failed").fetchall()
    )
    left, steps = sum(counts.values()), []
    for number, (label, _) in enumerate(late, start=1):
        left -= counts.get(number, 0)
        steps.append(Step(label, left))
    connection.execute(
        "CREATE TEMP TABLE kept AS SELECT number, person, key FROM judged WHERE failed = 0"
    )
    connection.execute("DROP TABLE judged")
    return steps


def _choose(connection: Any, settings: SelectionSettings) -> list[Step]:
    """Apply the steps that compare records with each other; of equal ones, the first stays."""
    steps = []
    if settings.deduplicate:
        _keep(connection, "number IN (SELECT min(number) FROM kept GROUP BY key)")
        steps.append(Step("first of equal prompts", _count(connection, "kept")))
    if settings.per_user:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE kept AS SELECT number, person, key FROM kept QUALIFY"
            f" row_number() OVER (PARTITION BY person ORDER BY number) <= {settings.per_user}"
        )
        steps.append(Step(f"at most {settings.per_user} a user", _count(connection, "kept")))
    return steps


def _draw(connection: Any, settings: SelectionSettings) -> list[Step]:
    if not settings.sample:
        return []
    _keep(
        connection,
        f"number IN (SELECT number FROM kept {WITH_GAPS}"
        f" ORDER BY md5('{settings.seed}/' || {ROW}), number"
        f" LIMIT {settings.sample})",
    )
    return [Step(f"sample of {settings.sample}", _count(connection, "kept"))]


def _keep(connection: Any, condition: str) -> None:
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE kept AS"
        f" SELECT number, person, key FROM kept WHERE {condition}"
    )


def _count(connection: Any, relation: str) -> int:
    return connection.execute(f"SELECT count(*) FROM {relation}").fetchone()[0]


def _count_tokens(connection: Any, tokenizer: Path, most: int) -> None:
    """Put kept records with more than 75 CLIP tokens into the table `long`, and those with more
    than `most` into `longer`.
    """
    limits = {"long": LIMIT, "longer": most or 2**31}
    over: dict[str, list[int]] = {name: [] for name in limits}
    # ASCII text has no more tokens than letters. The prompts are materialized, because DuckDB would
    # push the condition down and derive every prompt again for each time that it is mentioned.
    rows = connection.execute(
        "WITH texts AS MATERIALIZED (SELECT number, prompt FROM records)"
        " SELECT number, prompt FROM texts"
        f" WHERE strlen(prompt) > {min(limits.values())} OR strlen(prompt) <> length(prompt)"
    )
    while batch := rows.fetchmany(4096):
        counts = count_tokens([prompt for _, prompt in batch], tokenizer)
        for (number, _), count in zip(batch, counts, strict=True):
            for name, limit in limits.items():
                if count > limit:
                    over[name].append(number)
    for name, numbers in over.items():
        connection.execute(
            f"CREATE TEMP TABLE {name} AS SELECT unnest(?::BIGINT[]) AS number", [numbers]
        )


def _limit_tokens(connection: Any, settings: SelectionSettings) -> list[Step]:
    if not settings.max_tokens:
        return []
    _keep(connection, "number NOT IN (SELECT number FROM longer)")
    return [Step(f"at most {settings.max_tokens} CLIP tokens", _count(connection, "kept"))]


_FOUND_IN_IMAGE = {
    "attachment": r"/attachments/[0-9]+/([0-9]+)/",
    "job": r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",
    "file": r"([^/\\?#]*)(?:[?#].*)?$",
}


def _keep_gaps(connection: Any, rejects: Rejects) -> None:
    """Put into the table `gaps` how many records are missing up to each place where some are."""
    missing = list(accumulate(count for _, count in rejects.gaps))
    connection.execute(
        "CREATE TEMP TABLE gaps AS"
        " SELECT unnest(?::BIGINT[]) AS place, unnest(?::BIGINT[]) AS missing",
        [[place for place, _ in rejects.gaps], missing],
    )


def _write(connection: Any, path: Path, mapping: Mapping) -> None:
    layers = [
        {
            name: f"regexp_extract(image, {text_literal(pattern)}, 1)"
            for name, pattern in _FOUND_IN_IMAGE.items()
        }
    ]
    found = ", ".join(f"nullif({name}, '') AS {name}" for name in _FOUND_IN_IMAGE)
    captions = "".join(f", caption_{number}" for number in range(len(mapping.captions)))
    kept = layered("records", layers)
    connection.execute(
        f'COPY (SELECT {ROW}::BIGINT AS "row", image, prompt, "user", kind, image_no, version,'
        f" aspect, stylize, raw, width, height, {found}, image_prompts, truncated{captions}"
        f" FROM {kept} {WITH_GAPS} ORDER BY number) TO {text_literal(str(path))}"
        " (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
    )
