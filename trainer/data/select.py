"""Pairs out of a table of millions: filters, the users who chose most, no repeats, a sample; and what each step left.

The first answer comes from one pass over the table. `ingest` writes what the filters need to a table of its own beside
the source's fingerprint; from then on the same statements run on that and take less than a second.
"""

from __future__ import annotations

import difflib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import TrainerError
from ..files import canonical_json, publish, sha256_text, write_text
from . import midjourney
from .columns import Mapping, check
from .midjourney import KINDS, WHITE, text_literal
from .table import (
    Reject,
    Rejects,
    Table,
    check_compression,
    fingerprint,
    identifier,
    read_rejects,
    source_sql,
)
from .tokens import LIMIT, count_tokens

RAW = ("any", "style_raw", "stylize")
MEMORY_MB = 256
_DERIVED = 1
"""Changes whenever the columns of derived tables or their meaning do."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class SelectionSettings:
    """Which records of a table become pairs. Unfinished pictures and negative weights never do."""

    kinds: tuple[str, ...] = ("upscaled",)
    """What messages may show (midjourney.KINDS); empty = anything."""
    raw: str = "style_raw"
    """any, style_raw (`--style raw` or `--raw`), or stylize (`--stylize` given and at most max_stylize)."""
    max_stylize: int = 50
    image_prompts: bool = False
    """Keep prompts with pictures in them; their text does not describe the result."""
    truncated: bool = True
    """Keep prompts that Discord cut off (they end in ...)."""
    min_words: int = 3
    max_words: int = 0
    """0 = no limit."""
    max_tokens: int = 0
    """Most CLIP tokens of a prompt; 0 = no limit, what is beyond 75 is counted only."""
    where: str = ""
    """A further condition, one SQL expression over the columns of the result; empty = none."""
    top_users: int = 0
    """Only users who are among this many by finished upscales in the whole table; 0 = everyone."""
    deduplicate: bool = True
    """Of equal prompts, letter case aside, keep the first."""
    per_user: int = 0
    """Most pairs of one user, the first ones; 0 = no limit. Records without a user count as one user."""
    sample: int = 0
    """Pairs to draw by `seed`; 0 = all."""
    seed: int = 555

    def __post_init__(self) -> None:
        if isinstance(self.kinds, list):
            object.__setattr__(self, "kinds", tuple(self.kinds))
        for field in fields(self):
            value, wanted = getattr(self, field.name), type(field.default)
            if type(value) is not wanted:
                raise TrainerError(
                    f"Selection setting {field.name} must be of type {wanted.__name__}, but is {value!r}."
                )
            if wanted is int and not 0 <= value < 2**53:
                raise TrainerError(
                    f"Selection setting {field.name} is {value}; it must be between 0 and {2**53 - 1}."
                )
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise TrainerError(
                f"Selection setting kinds names {unknown[0]!r}; there are {', '.join(KINDS)}."
            )
        if self.raw not in RAW:
            raise TrainerError(
                f"Selection setting raw is {self.raw!r}; it must be one of {', '.join(RAW)}."
            )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kinds": list(self.kinds)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SelectionSettings:
        """Raises TrainerError for an unknown key, naming the nearest known one."""
        known = [field.name for field in fields(cls)]
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise TrainerError(f"Unknown selection setting {key!r}.{hint}")
        return cls(**value)


@dataclass(frozen=True)
class Step:
    """One line of the funnel: what was asked and how many records are left."""

    name: str
    rows: int


@dataclass(frozen=True)
class Selection:
    """What a selection found. `over_75_tokens` is None when no tokenizer was given."""

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
            lines.append(f"damaged records, not read: {self.rejects.count}")
            lines += [f"  {reject}" for reject in self.rejects.first[:5]]
        if self.over_75_tokens:
            lines.append(f"prompts beyond {LIMIT} CLIP tokens: {self.over_75_tokens}")
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
    progress: Progress | None = None,
) -> Selection:
    """Write the chosen records of a table to the Parquet file `output`, in the order of the table.

    Columns: row (0-based number among the records that could be read), image, prompt, user (16 hex digits, salted),
    kind, image_no, version, aspect, stylize, raw, width, height, attachment, job, file, image_prompts, truncated,
    caption_0 and so on. A derived table in `cache` is used when there is one. The salt, unless given, lives in `cache`.
    Raises TrainerError for a mapping or condition that does not fit, and for a source that cannot be read.
    """
    say = progress or (lambda _: None)
    check(mapping, table.columns)
    _check_kinds(mapping, settings)
    salt = salt if salt is not None else _kept_salt(cache)
    source = fingerprint(table.path)
    derived = derived_path(table, mapping, cache, source)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with _connected(table, cache, memory_mb, [part], derived) as connection:
            say("reading the table" if derived is None else "asking the derived table")
            early, late = _early(settings, _Quick()), _late(connection, settings)
            if derived is None:
                check_compression(table)
                rejects = _first_pass(connection, table, mapping, settings)
            else:
                rejects = _kept_rejects(connection)
            _view_pairs(connection, mapping, salt, derived is not None)
            funnel = _early_funnel(connection, early)
            say("applying the filters")
            funnel += _judge(connection, early if derived else [], late, settings)
            funnel += _choose(connection, settings, tokenizer, salt)
            _draw(connection, settings, funnel)
            say("writing the result")
            over = _over_tokens(connection, tokenizer)
            _write(connection, part, mapping)
        if fingerprint(table.path) != source:
            raise TrainerError(f"{table.name} changed while it was read. Run the selection again.")
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        publish(part, output)
    finally:
        part.unlink(missing_ok=True)
    return Selection(output, tuple(funnel), rejects, source, derived is not None, over)


def ingest(
    table: Table,
    mapping: Mapping,
    cache: Path,
    memory_mb: int = MEMORY_MB,
    progress: Progress | None = None,
) -> Path:
    """Derive what filters need from every record, once; returns the derived table's path in `cache`.

    Raises TrainerError for a mapping that does not fit and a source that cannot be read or changes meanwhile.
    """
    check(mapping, table.columns)
    source = fingerprint(table.path)
    known = derived_path(table, mapping, cache, source)
    if known:
        return known
    if progress:
        progress("deriving the columns that filters need")
    path = _derived_name(mapping, cache, source)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        check_compression(table)
        with _connected(table, cache, memory_mb, [], part, write=True) as connection:
            relation, values = source_sql(table, tuple(mapping.columns().values()))
            full = _full_sql(_tailed(relation, mapping), mapping)
            connection.execute(f"CREATE TABLE pairs AS {full}", values)
            rejects = read_rejects(connection, table)
            connection.execute("CREATE TABLE meta (rejects VARCHAR)")
            connection.execute(
                "INSERT INTO meta VALUES (?)",
                [json.dumps({"count": rejects.count, "first": [asdict(r) for r in rejects.first]})],
            )
            connection.execute("CHECKPOINT")
        if fingerprint(table.path) != source:
            raise TrainerError(f"{table.name} changed while it was read. Run the selection again.")
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(part.name + ".wal").unlink(missing_ok=True)
    return path


def derived_path(
    table: Table, mapping: Mapping, cache: Path, source: dict[str, Any] | None = None
) -> Path | None:
    """Where the derived table of this source and mapping is, or None when there is none yet."""
    path = _derived_name(mapping, cache, source or fingerprint(table.path))
    return path if path.is_file() else None


def check_where(connection: Any, where: str) -> str:
    """A condition as DuckDB itself spells it after parsing. Raises TrainerError unless it is one plain expression.

    Sub-queries, aggregates, windows, parameters and functions whose value is not fixed by their arguments are refused.
    """
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
    } - _REFUSED_FUNCTIONS
    for node in _nodes(condition):
        kind = node.get("class")
        if kind and kind not in _EXPRESSIONS:
            raise TrainerError(
                f"The condition {where!r} holds {_SAID.get(kind, kind.lower())}, which is not allowed. "
                "Only columns, values, comparisons and plain functions are."
            )
        name = node.get("function_name")
        if name and (name.lower() not in allowed or node.get("schema") not in ("", "main")):
            raise TrainerError(
                f"The condition {where!r} calls {name}, which is not allowed: only functions whose value is fixed by "
                "their arguments are."
            )
    spelled = connection.execute(
        "SELECT json_deserialize_sql(json_serialize_sql(?))", [frame + where + "\n)"]
    ).fetchone()[0]
    condition_sql = spelled.split(" WHERE ", 1)[1]
    try:
        columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in WHERE_COLUMNS.items())
        captions = ", ".join(f"NULL::VARCHAR AS caption_{number}" for number in range(10))
        connection.execute(f"SELECT 1 FROM (SELECT {columns}, {captions}) WHERE {condition_sql}")
    except Exception as error:
        raise TrainerError(
            f"The condition {where!r} does not fit the table: {str(error).splitlines()[0]}. "
            f"Columns are: {', '.join(WHERE_COLUMNS)}."
        ) from error
    return condition_sql


WHERE_COLUMNS = {
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
}


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


@contextmanager
def _connected(
    table: Table,
    cache: Path,
    memory_mb: int,
    outputs: list[Path],
    database: Path | None,
    write: bool = False,
) -> Iterator[Any]:
    """A DuckDB that sees the source, the outputs and nothing else, and cannot be talked out of it."""
    import duckdb

    cache.mkdir(parents=True, exist_ok=True)
    spill = Path(tempfile.mkdtemp(prefix=".spill-", dir=cache))
    try:
        connection = duckdb.connect(
            str(database) if database else ":memory:",
            read_only=bool(database) and not write,
            config={
                "memory_limit": f"{memory_mb}MB",
                "temp_directory": str(spill),
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        with connection:
            allowed = ", ".join(
                text_literal(str(path)) for path in [table.path.absolute(), table.path, *outputs]
            )
            connection.execute(f"SET allowed_paths = [{allowed}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise TrainerError(
            f"{memory_mb} MB of memory are not enough for {table.name}. Raise the memory limit of the selection."
        ) from error
    except (duckdb.IOException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise TrainerError(
            f"{table.name} cannot be read: {str(error).splitlines()[0]}. Mend the file, or check the disk."
        ) from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _kept_salt(cache: Path) -> str:
    path = cache / "user-salt"
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    write_text(path, secrets.token_hex(16) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _derived_name(mapping: Mapping, cache: Path, source: dict[str, Any]) -> Path:
    import duckdb

    identity = {
        "source": source,
        "mapping": {k: v for k, v in mapping.to_json().items() if k != "preset"},
        "derived": _DERIVED,
        "duckdb": duckdb.__version__,
    }
    return cache / f"{sha256_text(canonical_json(identity))[:32]}.duckdb"


def _check_kinds(mapping: Mapping, settings: SelectionSettings) -> None:
    if settings.kinds and not mapping.content and not mapping.upscaled:
        raise TrainerError(
            "Nothing in the table tells upscaled pictures from others: the column mapping has neither content nor "
            "upscaled. Map one of them, or empty the setting kinds."
        )


@dataclass(frozen=True)
class _Quick:
    """SQL of what is quick to tell of a record, over `_tailed`: expressions for one pass, or column names."""

    kind: str = "kind"
    unfinished: str = "unfinished"
    raw: str = "raw"
    account: str = "account"


def _places(mapping: Mapping) -> dict[str, str]:
    """Column of the source relation by role."""
    return {role: f"c{number}" for number, role in enumerate(mapping.columns())}


def _tailed(relation: str, mapping: Mapping) -> str:
    """SQL of the source with its messages' tails."""
    message = f"coalesce({_places(mapping)['content']}, '')" if mapping.content else "''"
    return f"SELECT *, {midjourney.tail_sql(message)} AS tail FROM {relation}"


def _typed(mapping: Mapping) -> str:
    """SQL of what was typed, over `_tailed`."""
    place = _places(mapping)
    if mapping.content:
        return midjourney.typed_sql(f"coalesce({place['content']}, '')", "tail")
    typed = f"coalesce({place['prompt']}, '')"
    return f"{typed} || ' ' || coalesce({place['arguments']}, '')" if mapping.arguments else typed


def _quick(mapping: Mapping) -> _Quick:
    place = _places(mapping)
    kind = midjourney.kind_sql("tail")
    if mapping.upscaled:
        flag = f"TRY_CAST({place['upscaled']} AS BOOLEAN)"
        kind = f"CASE WHEN {flag} THEN 'upscaled' WHEN NOT {flag} AND {kind} = 'upscaled' THEN 'grid' ELSE {kind} END"
    account = f"nullif({place['user']}, '')" if mapping.user else midjourney.account_sql("tail")
    raw = midjourney.raw_sql(f"({_typed(mapping)})")
    return _Quick(f"({kind})", midjourney.unfinished_sql("tail"), raw, f"({account})")


def _full_sql(tailed: str, mapping: Mapping, first: str = "readable") -> str:
    """SQL of every derived column, over what `_tailed` gives; `first` names columns to pass through."""
    place = _places(mapping)
    quick = _quick(mapping)
    text = f"coalesce({place['prompt']}, '')" if mapping.content and mapping.prompt else "typed"
    links = midjourney.links_sql("text")
    prompt = midjourney.prompt_sql("plain")
    parameters = midjourney.parameters_sql("parameters", "typed")
    kept = f"{first}, kind, image_no, account, unfinished, raw"
    version, aspect = parameters["version"], parameters["aspect"]
    if mapping.version:
        version = f"coalesce({version}, nullif({place['version']}, ''))"
    if mapping.aspect:
        aspect = f"coalesce({aspect}, nullif({place['aspect']}, ''))"
    side = {
        role: f"TRY_CAST({place[role]} AS INTEGER)" if role in place else "NULL::INTEGER"
        for role in ("width", "height")
    }
    white = text_literal(WHITE)
    another = text_literal(f"(?s),[{WHITE}]*https?://.*")
    image = f"coalesce({place['image']}, '')"
    image = f"trim(CASE WHEN contains({image}, ',') THEN regexp_replace({image}, {another}, '') ELSE {image} END, {white})"
    captions = "".join(
        f", {place[role]} AS {role}" for role in place if role.startswith("caption_")
    )
    passed = "".join(f", {role}" for role in place if role.startswith("caption_"))
    return (
        f"SELECT {kept}, image, prompt, {midjourney.words_sql('prompt')} AS words, version, aspect, stylize,"
        f" width, height, image_prompts, negative_weight, truncated, image <> '' AND prompt <> '' AS whole{passed}"
        f" FROM (SELECT *, {prompt['prompt']} AS prompt, {prompt['negative_weight']} AS negative_weight,"
        f" {version} AS version, {aspect} AS aspect, {parameters['stylize']} AS stylize,"
        f" {parameters['truncated']} AS truncated"
        f" FROM (SELECT *, {links['plain']} AS plain, {links['image_prompts']} AS image_prompts,"
        f" substr(typed, length(typed_text) + 1) AS parameters"
        f" FROM (SELECT *, {midjourney.text_sql(text)} AS text, {midjourney.text_sql('typed')} AS typed_text,"
        f" {midjourney.raw_sql('typed')} AS raw, {image} AS image, {side['width']} AS width, {side['height']} AS height{captions}"
        f" FROM (SELECT *, {_typed(mapping)} AS typed, {quick.kind} AS kind, {quick.account} AS account,"
        f" {midjourney.image_no_sql('tail')} AS image_no, {quick.unfinished} AS unfinished"
        f" FROM ({tailed})))))"
    )


def _early(settings: SelectionSettings, quick: _Quick) -> list[tuple[str, str]]:
    """(name, condition) of the filters that are quick to apply."""
    steps = [("readable", "readable"), ("finished", f"NOT {quick.unfinished}")]
    if settings.kinds:
        kinds = ", ".join(text_literal(kind) for kind in settings.kinds)
        steps.append((f"kind: {' or '.join(settings.kinds)}", f"{quick.kind} IN ({kinds})"))
    if settings.raw == "style_raw":
        steps.append(("raw", quick.raw))
    return steps


def _late(connection: Any, settings: SelectionSettings) -> list[tuple[str, str]]:
    """(name, condition) of the other filters that look at one record."""
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
        late.append(("the condition", check_where(connection, settings.where)))
    return late


def _failed(steps: list[tuple[str, str]]) -> str:
    """SQL of the number of the first step that a record fails, from 1; 0 = none."""
    cases = " ".join(
        f"WHEN NOT coalesce({condition}, false) THEN {number}"
        for number, (_, condition) in enumerate(steps, start=1)
    )
    return f"(CASE {cases} ELSE 0 END)::UTINYINT"


def _chosen(quick: _Quick) -> str:
    """SQL of the user, as a number, whom a record counts for as an upscale; NULL for others."""
    return (
        f"CASE WHEN readable AND NOT {quick.unfinished} AND {quick.kind} = 'upscaled'"
        f" THEN hash({quick.account}) END"
    )


def _first_pass(
    connection: Any,
    table: Table,
    mapping: Mapping,
    settings: SelectionSettings,
) -> Rejects:
    """One pass over the source: keep the cells of records that pass the quick filters. Its rowid numbers the records."""
    relation, values = source_sql(table, tuple(mapping.columns().values()))
    cells = ", ".join(
        f"CASE WHEN failed = 0 THEN c{number} END AS c{number}"
        for number in range(len(mapping.columns()))
    )
    quick = _quick(mapping)
    told = _Quick(raw=quick.raw, account=quick.account)
    chosen = _chosen(told) if settings.top_users else "NULL::UBIGINT"
    connection.execute(
        f"CREATE TEMP TABLE source AS SELECT failed, readable, {chosen} AS chosen, {cells}"
        f" FROM (SELECT *, {_failed(_early(settings, told))} AS failed"
        f" FROM (SELECT *, {quick.kind} AS kind, {quick.unfinished} AS unfinished FROM ({_tailed(relation, mapping)})))",
        values,
    )
    noted = read_rejects(connection, table)
    lines = connection.execute(
        "SELECT rowid + 1 FROM source WHERE NOT readable ORDER BY rowid LIMIT 1000"
    ).fetchall()
    return _with_objectless(connection, "source", noted, lines)


def _with_objectless(
    connection: Any, name: str, noted: Rejects, lines: list[tuple[int]]
) -> Rejects:
    """Add the lines of a JSONL file that hold no object."""
    if not lines:
        return noted
    (count,) = connection.execute(f"SELECT count(*) FROM {name} WHERE NOT readable").fetchone()
    first = [*noted.first, *(Reject(line, "", "not a JSON object") for (line,) in lines)]
    return Rejects(noted.count + count, tuple(sorted(first, key=lambda r: r.line)[:1000]))


def _kept_rejects(connection: Any) -> Rejects:
    (text,) = connection.execute("SELECT rejects FROM meta").fetchone()
    value = json.loads(text)
    noted = Rejects(value["count"], tuple(Reject(**reject) for reject in value["first"]))
    lines = connection.execute(
        "SELECT rowid + 1 FROM pairs WHERE NOT readable ORDER BY rowid LIMIT 1000"
    ).fetchall()
    return _with_objectless(connection, "pairs", noted, lines)


def _view_pairs(connection: Any, mapping: Mapping, salt: str, derived: bool) -> None:
    """The view `records`, the same over both ways: `number`, `account` and every derived column."""
    user = (
        f"CASE WHEN account IS NOT NULL THEN left(sha256({text_literal(salt)} || account), 16) END"
    )
    if derived:
        connection.execute(
            f'CREATE TEMP VIEW records AS SELECT rowid AS number, *, {user} AS "user" FROM pairs'
        )
        connection.execute(
            f"CREATE TEMP VIEW upscales AS SELECT rowid AS number, {_chosen(_Quick())} AS chosen FROM pairs"
        )
        return
    cells = ", ".join(f"c{number}" for number in range(len(mapping.columns())))
    tailed = _tailed(
        f"(SELECT rowid AS number, readable, {cells} FROM source WHERE failed = 0)", mapping
    )
    full = _full_sql(tailed, mapping, "number, readable")
    connection.execute(f'CREATE TEMP VIEW records AS SELECT *, {user} AS "user" FROM ({full})')
    connection.execute("CREATE TEMP VIEW upscales AS SELECT rowid AS number, chosen FROM source")


def _early_funnel(connection: Any, early: list[tuple[str, str]]) -> list[Step]:
    derived = not connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'source'"
    ).fetchone()[0]
    failed, name = (_failed(early), "pairs") if derived else ("failed", "source")
    counts = dict(
        connection.execute(
            f"SELECT {failed} AS step, count(*) FROM {name} GROUP BY step"
        ).fetchall()
    )
    left = sum(counts.values())
    steps = [Step("records", left)]
    for number, (label, _) in enumerate(early, start=1):
        left -= counts.get(number, 0)
        steps.append(Step(label, left))
    return steps if counts.get(1) else [steps[0], *steps[2:]]


def _judge(
    connection: Any,
    early: list[tuple[str, str]],
    late: list[tuple[str, str]],
    settings: SelectionSettings,
) -> list[Step]:
    """Put the records that pass every filter into the table `kept`."""
    key = "md5_number(lower(prompt))" if settings.deduplicate else "NULL::HUGEINT"
    conditions = " AND ".join(["true", *(f"({condition})" for _, condition in early)])
    connection.execute(
        f"CREATE TEMP TABLE judged AS SELECT number, failed, hash(account) AS account,"
        f" CASE WHEN failed = 0 THEN {key} END AS key FROM"
        f" (SELECT number, account, prompt, {_failed(late)} AS failed FROM records WHERE {conditions})"
    )
    counts = dict(
        connection.execute("SELECT failed, count(*) FROM judged GROUP BY failed").fetchall()
    )
    left, steps = sum(counts.values()), []
    for number, (label, _) in enumerate(late, start=1):
        left -= counts.get(number, 0)
        steps.append(Step(label, left))
    connection.execute(
        "CREATE TEMP TABLE kept AS SELECT number, account, key FROM judged WHERE failed = 0"
    )
    connection.execute("DROP TABLE judged")
    return steps


def _choose(
    connection: Any, settings: SelectionSettings, tokenizer: Path | None, salt: str
) -> list[Step]:
    """Apply the steps that look at several records together; ties go to the record that comes first."""
    steps = []
    if settings.top_users:
        _keep(
            connection,
            "account IN (SELECT chosen FROM upscales WHERE chosen IS NOT NULL GROUP BY chosen"
            f" ORDER BY count(*) DESC, min(number) LIMIT {settings.top_users})",
        )
        steps.append(_count(connection, f"top {settings.top_users} users by upscales"))
    if settings.deduplicate:
        _keep(connection, "number IN (SELECT min(number) FROM kept GROUP BY key)")
        steps.append(_count(connection, "first of equal prompts"))
    if settings.per_user:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE kept AS SELECT number, account, key FROM kept QUALIFY"
            f" row_number() OVER (PARTITION BY account ORDER BY number) <= {settings.per_user}"
        )
        steps.append(_count(connection, f"at most {settings.per_user} a user"))
    if settings.max_tokens:
        if tokenizer is None:
            raise TrainerError(
                "max_tokens needs CLIP's tokenizer, but its folder was not given. Set max_tokens to 0, or name the folder."
            )
        _limit_tokens(connection, tokenizer, settings.max_tokens)
        steps.append(_count(connection, f"at most {settings.max_tokens} CLIP tokens"))
    return steps


def _draw(connection: Any, settings: SelectionSettings, funnel: list[Step]) -> None:
    if settings.sample:
        _keep(
            connection,
            f"number IN (SELECT number FROM kept ORDER BY md5('{settings.seed}/' || number), number"
            f" LIMIT {settings.sample})",
        )
        funnel.append(_count(connection, f"sample of {settings.sample}"))


def _keep(connection: Any, condition: str) -> None:
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE kept AS SELECT number, account, key FROM kept WHERE {condition}"
    )


def _count(connection: Any, name: str) -> Step:
    return Step(name, connection.execute("SELECT count(*) FROM kept").fetchone()[0])


def _token_counts(connection: Any, tokenizer: Path) -> Iterator[tuple[int, int]]:
    """(number, CLIP tokens without start and end) of every kept record."""
    rows = connection.execute("SELECT number, prompt FROM records SEMI JOIN kept USING (number)")
    while batch := rows.fetchmany(2048):
        counts = count_tokens([prompt for _, prompt in batch], tokenizer)
        yield from zip((number for number, _ in batch), counts, strict=True)


def _limit_tokens(connection: Any, tokenizer: Path, most: int) -> None:
    over = [number for number, count in _token_counts(connection, tokenizer) if count > most]
    connection.execute("CREATE TEMP TABLE too_long AS SELECT unnest(?::BIGINT[]) AS number", [over])
    _keep(connection, "number NOT IN (SELECT number FROM too_long)")


def _over_tokens(connection: Any, tokenizer: Path | None) -> int | None:
    if tokenizer is None:
        return None
    return sum(count > LIMIT for _, count in _token_counts(connection, tokenizer))


_ATTACHMENT = r"/attachments/[0-9]+/([0-9]+)/"
_JOB = r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_FILE = r"([^/\\?#]*)(?:[?#].*)?$"


def _write(connection: Any, path: Path, mapping: Mapping) -> None:
    def part(pattern: str) -> str:
        return f"nullif(regexp_extract(image, {text_literal(pattern)}, 1), '')"

    captions = "".join(f", {identifier(f'caption_{n}')}" for n in range(len(mapping.captions)))
    connection.execute(
        f'COPY (SELECT number::BIGINT AS "row", image, prompt, "user", kind, image_no, version, aspect, stylize, raw,'
        f" width, height, {part(_ATTACHMENT)} AS attachment, {part(_JOB)} AS job, {part(_FILE)} AS file,"
        f" image_prompts, truncated{captions} FROM records SEMI JOIN kept USING (number) ORDER BY number)"
        f" TO {text_literal(str(path))} (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
    )
