"""Selecting pairs: the same rows as a slow reading in plain Python, whatever the filters and
however dirty the table.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

from cocktail.trainer.data.table import derived as derived_module
from cocktail.trainer.data.table import request as request_module
from cocktail.trainer.data.table.columns import Mapping, guess
from cocktail.trainer.data.table.derived import derived_path, ingest
from cocktail.trainer.data.table.request import run_select
from cocktail.trainer.data.table.select import SelectionSettings, select
from cocktail.trainer.data.table.table import open_table
from cocktail.trainer.data.tokens import count_tokens
from cocktail.trainer.errors import TrainerError

from . import select_reference as slow

SALT = "test"
ANY = SelectionSettings(kinds=(), raw="any", min_words=0, deduplicate=False, image_prompts=True)


@pytest.fixture(scope="module")
def make_table(root) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_table", root / "benchmarks" / "make_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clean(make_table, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "clean.csv"
    make_table.write_table(path, rows=2000, seed=11)
    return path


@pytest.fixture(scope="module")
def records(clean) -> list:
    """What plain Python reads in the clean table."""
    return csv_records(clean)


@pytest.fixture(scope="module")
def derived(clean, tmp_path_factory) -> Path:
    """A cache with the derived table of the clean one."""
    cache = tmp_path_factory.mktemp("derived")
    table = open_table(clean)
    ingest(table, mapping_of(clean), cache)
    return cache


def csv_records(path: Path, mapping=None, delimiter=",") -> list[dict[str, str | None] | None]:
    """What plain Python reads, of a mapping's columns only if one is given."""
    table = open_table(path)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = slow.read_csv(data, delimiter, mapping and places(table, mapping))
    return [None if row is None else dict(zip(table.columns, row, strict=True)) for row in rows]


def places(table, mapping: Mapping) -> set[int] | None:
    """Columns whose bytes must be UTF-8."""
    if int(duckdb.__version__.split(".")[0]) < 2:
        return None
    return {table.columns.index(name) for name in mapping.columns().values()}


def mapping_of(path: Path) -> Mapping:
    table = open_table(path)
    found = guess(table.columns, table.samples)
    return replace(found, width="width", height="height") if "width" in table.columns else found


def rows_of(path: Path) -> list[tuple]:
    with duckdb.connect() as database:
        return database.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchall()


def answer(path: Path, settings: SelectionSettings, cache: Path, mapping=None, **more):
    table = open_table(path)
    mapping = mapping or mapping_of(path)
    return select(table, mapping, settings, cache / "rows.parquet", cache, SALT, **more)


FILTERS = [
    ANY,
    *(replace(ANY, kinds=(kind,)) for kind in ("grid", "variation", "upscaled", "pan")),
    replace(ANY, kinds=("zoom", "upscaled")),
    replace(ANY, raw="style_raw"),
    replace(ANY, raw="stylize", max_stylize=50),
    replace(ANY, raw="stylize", max_stylize=0),
    replace(ANY, image_prompts=False),
    replace(ANY, truncated=False),
    replace(ANY, min_words=12),
    replace(ANY, max_words=9),
    replace(ANY, top_users=40),
    replace(ANY, top_users=40, kinds=("grid",)),
    replace(ANY, deduplicate=True),
    replace(ANY, per_user=2),
    replace(ANY, sample=25),
    replace(ANY, sample=25, seed=1),
    SelectionSettings(),
    SelectionSettings(top_users=150, per_user=2, sample=60, max_words=40, truncated=False),
    SelectionSettings(kinds=("grid", "variation"), raw="stylize", top_users=200, per_user=1),
]


def name_of(settings: SelectionSettings) -> str:
    values, usual = settings.to_json(), ANY.to_json()
    return ",".join(f"{k}={values[k]}" for k in values if values[k] != usual[k]) or "any"


@pytest.mark.parametrize("settings", FILTERS, ids=name_of)
def test_every_filter_leaves_the_rows_and_counts_that_plain_python_leaves(
    clean, records, derived, tmp_path, settings
):
    table = open_table(clean)
    mapping = mapping_of(table.path)
    wanted = slow.select(records, mapping, settings, SALT)
    steps = slow.funnel(records, mapping, settings)
    assert 0 < len(wanted) == steps[-1][1]
    for cache in (tmp_path, derived):
        found = answer(clean, settings, cache)
        assert found.from_derived == (cache == derived)
        assert rows_of(found.path) == wanted
        assert [(step.name, step.rows) for step in found.funnel] == steps
        assert found.rejects.count == 0


@pytest.mark.parametrize("seed", range(2))
def test_filters_drawn_by_chance_do_too(clean, records, derived, tmp_path, seed):
    draw = random.Random(seed)
    table = open_table(clean)
    mapping = mapping_of(table.path)
    for _ in range(5):
        settings = SelectionSettings(
            kinds=draw.choice(((), ("upscaled",), ("grid", "pan"))),
            raw=draw.choice(("any", "style_raw", "stylize")),
            max_stylize=draw.choice((0, 50, 300)),
            image_prompts=draw.random() < 0.5,
            truncated=draw.random() < 0.5,
            min_words=draw.choice((0, 3, 20)),
            max_words=draw.choice((0, 30)),
            top_users=draw.choice((0, 5, 500)),
            deduplicate=draw.random() < 0.5,
            per_user=draw.choice((0, 1, 3)),
            sample=draw.choice((0, 1, 50)),
            seed=draw.randrange(1000),
        )
        wanted = slow.select(records, mapping, settings, SALT)
        for cache in (tmp_path, derived):
            assert rows_of(answer(clean, settings, cache).path) == wanted, settings


@pytest.mark.parametrize(
    "dirt",
    [
        "bad bytes",
        "stray quotes",
        "nul",
        "short rows",
        "long rows",
        "truncated end",
        "crlf",
        "bom",
        "all",
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_dirty_table_gives_every_row_that_can_be_read_and_lists_every_other(
    make_table, tmp_path, dirt, ending
):
    path = tmp_path / f"dirty{ending}"
    delimiter = "\t" if "tsv" in ending else ","
    kinds = make_table.DIRT if dirt == "all" else (dirt,)
    make_table.write_table(path, rows=300, seed=5, dirt=kinds, delimiter=delimiter)
    data = path.read_bytes()
    if dirt == "all":
        path = tmp_path / f"dirty{ending}.gz"
        path.write_bytes(gzip.compress(data, 1))
    table = open_table(path)
    mapping = guess(table.columns, table.samples)
    settings = replace(ANY, per_user=20, sample=150)
    read = csv_records(path, mapping, delimiter)
    wanted = slow.select(read, mapping, settings, SALT)
    lines = slow.read_csv_lines(data, delimiter, places(table, mapping))
    damaged = [line for line, row in lines if row is None]
    if dirt in ("bad bytes", "short rows", "truncated end", "all"):
        assert damaged
    for _ in range(2):
        found = answer(path, settings, tmp_path, mapping)
        assert rows_of(found.path) == wanted
        assert found.funnel[0].rows + found.rejects.count == len(read)
        assert [reject.line for reject in found.rejects.first] == damaged
        assert found.rejects.count == len(damaged)
        assert all(reject.reason for reject in found.rejects.first)
        ingest(table, mapping, tmp_path)
    assert found.from_derived


@pytest.mark.parametrize("dirt", ["", "nul", "long rows", "crlf", "truncated end", "bad bytes"])
def test_a_table_larger_than_the_reading_buffers_gives_the_same_rows(
    make_table, tmp_path, monkeypatch, dirt
):
    path = tmp_path / "large.csv"
    make_table.write_table(path, rows=2000, seed=9, dirt=(dirt,) if dirt else ())

    whole = answer(path, ANY, tmp_path)
    rows = rows_of(whole.path)
    monkeypatch.setattr("cocktail.trainer.data.table.table.MAX_RECORD_BYTES", 1 << 14)
    monkeypatch.setattr("cocktail.trainer.data.table.table.PART_BYTES", 1 << 16)
    parts = answer(path, ANY, tmp_path)
    assert rows_of(parts.path) == rows and len(rows) > 1500
    assert parts.rejects == whole.rejects


@pytest.mark.parametrize("seed", range(8))
def test_damage_next_to_the_borders_of_parts_costs_no_record(
    make_table, tmp_path, monkeypatch, seed
):
    path = tmp_path / "large.csv"
    monkeypatch.setattr(make_table, "DAMAGED", 0.9)
    make_table.write_table(path, rows=4000, seed=seed, dirt=make_table.DIRT)

    whole = answer(path, ANY, tmp_path)
    rows = rows_of(whole.path)
    monkeypatch.setattr("cocktail.trainer.data.table.table.MAX_RECORD_BYTES", 1 << 13)
    monkeypatch.setattr("cocktail.trainer.data.table.table.PART_BYTES", 1 << 15)
    parts = answer(path, ANY, tmp_path)
    assert rows_of(parts.path) == rows and parts.rejects == whole.rejects


def test_lines_of_json_are_read_object_by_object_and_others_listed(make_table, tmp_path):
    lines = []
    for number, record in zip(range(300), make_table.records(4), strict=False):
        value = dict(zip(make_table.COLUMNS, record, strict=True))
        del value[""]
        value["width"] = int(value["width"])
        if number % 7 == 0:
            value["version"] = {"major": 5, "letters": ["a", None]}
        if number % 11 == 0:
            del value["aspect"]
        lines.append(
            json.dumps(value, ensure_ascii=number % 2 == 0, separators=(",", ":")).encode()
        )
    lines[5:5] = [b"", b"[1, 2]", b"  ", b'"text"', b"{broken", b"null", b"12", b"\xff\xfe{}"]
    lines.append(b'{"Content": "**cut')
    for ending, mark in ((b"\n", b""), (b"\r\n", b"\xef\xbb\xbf")):
        path = tmp_path / f"lines{len(mark)}.jsonl"
        path.write_bytes(mark + ending.join(lines))
        table = open_table(path)
        mapping = mapping_of(table.path)
        read = [
            row and dict(zip(table.columns, row, strict=True))
            for row in slow.read_jsonl(b"\n".join(lines), table.columns)
        ]
        wanted = slow.select(read, mapping, ANY, SALT)
        for _ in range(2):
            found = answer(path, ANY, tmp_path)
            assert rows_of(found.path) == wanted and len(wanted) > 200
            reasons = [(reject.line, reject.reason) for reject in found.rejects.first]
            assert reasons == [
                *((line, "not a JSON object") for line in (7, 9, 10, 11, 12)),
                (13, "not UTF-8"),
                (309, "not a JSON object"),
            ]
            assert found.rejects.count == 7 and found.funnel[0].rows == 300
            ingest(table, mapping, tmp_path)


def test_parquet_of_any_types_is_read_as_text(tmp_path):
    path = tmp_path / "odd.parquet"
    with duckdb.connect() as database:
        database.execute(
            (
                "COPY (SELECT 'http://x/' || range || '.png' AS image, 'a cat of number ' || "
                "range AS prompt, (range / 3)::DECIMAL(9, 2) AS user, range % 2 = 0 AS upscaled, "
                "640::HUGEINT AS width, 4.6e2::FLOAT AS height, [1, NULL] AS nested, {'a': 1} AS "
                "struct, 'ab'::BLOB AS bytes, TIMESTAMP '2023-05-01 01:02:03' AS time, NULL AS "
                "nothing, DATE '2023-05-01' AS day, INTERVAL 1 DAY AS span, 'x'::ENUM('x', 'y') "
                "AS enumerated, uuid() AS identity FROM range(50)) TO $path (FORMAT parquet)"
            ),
            {"path": str(path)},
        )
    mapping = Mapping(
        image="image",
        prompt="prompt",
        user="user",
        upscaled="upscaled",
        width="width",
        height="height",
        captions=("nested", "struct", "time", "enumerated"),
    )
    found = answer(path, replace(ANY, kinds=("upscaled",)), tmp_path, mapping)
    rows = rows_of(found.path)
    assert [row[0] for row in rows] == list(range(0, 50, 2))
    assert rows[1][1:3] == ("http://x/2.png", "a cat of number 2")
    assert rows[1][10:12] == (640, 460)
    assert rows[1][-4:] == ("[1, NULL]", "{'a': 1}", "2023-05-01 01:02:03", "x")
    ingest(open_table(path), mapping, tmp_path)
    assert rows_of(answer(path, replace(ANY, kinds=("upscaled",)), tmp_path, mapping).path) == rows


CONDITIONS = {
    "words > 12": lambda r: r[2].count(" ") + 1 > 12,
    "prompt ILIKE '%FOX%'": lambda r: "fox" in r[2].lower(),
    "width >= 1232 AND NOT raw": lambda r: r[10] >= 1232 and not r[9],
    "aspect IN ('16:9', '2:3')": lambda r: r[7] in ("16:9", "2:3"),
    "stylize <= 50": lambda r: r[8] is not None and r[8] <= 50,
    "coalesce(stylize, 100) > 50 -- and so on": lambda r: r[8] is None or r[8] > 50,
    "TRY_CAST(version AS DOUBLE) >= 5.1": lambda r: r[6] in ("5.1", "5.2"),
    "user IS NULL OR kind = 'grid'": lambda r: r[3] is None or r[4] == "grid",
    "regexp_matches(prompt, '^a ') AND len(prompt) < 150": lambda r: (
        r[2].startswith("a ") and len(r[2]) < 150
    ),
    "nullif(split_part(aspect, ':', 2), '9') IS NOT NULL": lambda r: (
        r[7] is not None and r[7].split(":")[1] != "9"
    ),
    "length(replace(prompt, 'a ', '')) + 4 <= length(prompt)": lambda r: r[2].count("a ") > 1,
    "replace(prompt, 'fox', 'cat') <> prompt": lambda r: "fox" in r[2],
    "regexp_replace(prompt, '[^a-z]', '', 'g') LIKE '%fo_a%'": lambda r: (
        re.search("fo.a", re.sub("[^a-z]", "", r[2])) is not None
    ),
    "array_length(regexp_extract_all(prompt, 'a ')) > 1 AND width::UINT16 > 0": lambda r: (
        r[2].count("a ") > 1
    ),
    "xor(image_no, 1) = 3 OR unicode(reverse(prompt)) = ord('x')": lambda r: (
        r[5] == 2 or r[2].endswith("x")
    ),
    "array_has(split(prompt, ' '), 'old') OR list_has_any(split(prompt, ' '), ['fox'])": lambda r: (
        bool({"old", "fox"} & set(r[2].split(" ")))
    ),
    "character_length(prompt) * 8 < bit_length(prompt)": lambda r: not r[2].isascii(),
    "levenshtein(prompt, replace(prompt, 'fox', 'f')) = 2": lambda r: r[2].count("fox") == 1,
    "height BETWEEN 900 AND 1000 OR image_no = 2": lambda r: 900 <= r[11] <= 1000 or r[5] == 2,
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_condition_is_one_more_filter(clean, derived, tmp_path, where):
    everything = rows_of(answer(clean, ANY, derived).path)
    wanted = [row for row in everything if CONDITIONS[where](row)]
    assert 0 < len(wanted) < len(everything)
    for cache in (tmp_path, derived):
        found = answer(clean, replace(ANY, where=where), cache)
        assert rows_of(found.path) == wanted
        assert [found.funnel[-1].name, found.funnel[-1].rows] == ["the condition", len(wanted)]


REFUSED = {
    "1=1); DROP TABLE pairs; --": "cannot be read: syntax error",
    "true; SELECT 1": "cannot be read: syntax error",
    "1=1; ATTACH 'x.db'": "cannot be read: syntax error",
    "1=1 /* the rest": "cannot be read: unterminated",
    "1=1) GROUP BY (kind": "is more than one expression",
    "1=1 UNION SELECT 1": "cannot be read: syntax error",
    "1=1 LIMIT 5": "cannot be read: syntax error",
    "?": "is more than one expression",
    "prompt IN (SELECT content FROM read_text('/etc/passwd'))": "holds a sub-query",
    "(FROM read_csv('/etc/passwd') LIMIT 1) = prompt": "holds a sub-query",
    "EXISTS (SELECT 1 FROM '/etc/passwd')": "holds a sub-query",
    "read_csv('/etc/passwd')": "calls read_csv, which is not allowed",
    "read_text('/etc/passwd') = ''": "calls read_text, which is not allowed",
    "getenv('HOME') = ''": "calls getenv, which is not allowed",
    "current_setting('threads') = 1": "calls current_setting, which is not allowed",
    "COPY pairs TO 'x.csv'": "cannot be read: syntax error",
    "INSTALL httpfs": "cannot be read: syntax error",
    "PRAGMA database_list": "cannot be read: syntax error",
    "SET memory_limit = '9GB'": "cannot be read: syntax error",
    "SET enable_external_access = true": "cannot be read: syntax error",
    "random() < 0.5": "calls random, which is not allowed",
    "now() > '2020-01-01'": "calls now, which is not allowed",
    "current_date > '2020-01-01'": "names current_date, which is not a column",
    "count(*) > 1": "calls count_star, which is not allowed",
    "row_number() OVER () < 3": "holds a window function",
    "COLUMNS(*) IS NULL": "holds a star",
    "list_contains([x FOR x IN ['a']], prompt)": "holds a lambda",
    "repeat('x', 1000000000) = prompt": "calls repeat, which is not allowed",
    "format('{:1000000000}', 1) = prompt": "calls format, which is not allowed",
    "colour = 'red'": "names colour, which is not a column. The columns are: image, prompt, words",
    'prompt = "fox"': "Put text in single quotes.",
    "length(hex(prompt)) > 1": "calls hex, which is not allowed. These are: ",
    "length(replace(prompt, 'a', 'aa')) > 1": "calls replace in a way that can make",
    "length(replace(prompt, 'a', prompt)) > 1": "calls replace in a way",
    "length(replace(prompt, prompt, 'a')) > 1": "calls replace in a way",
    "length(replace(prompt, '', 'a')) > 1": "calls replace in a way",
    "length(replace(prompt, 'a', 'é')) > 1": "calls replace in a way",
    "regexp_replace(prompt, 'a*', 'a', 'g') = ''": "calls regexp_replace in a way",
    "main.replace(prompt, 'a', 'aa') = ''": "calls replace in a way",
    "length(to_base64(prompt::BLOB)) > 1": "calls to_base64, which",
    "prompt::BLOB::BIT::VARCHAR = ''": "casts to ",
    "CAST(prompt AS INTEGER[]) IS NULL": "casts to LIST, which is not allowed",
    "length(string_split(prompt, '')::VARCHAR) > 1": "uses the list of string_split as a value",
    "concat(regexp_extract_all(prompt, ''), '') = ''": "uses the list of regexp_extract_all",
    "coalesce(str_split(prompt, 'a'), prompt) = ''": "uses the list of str_split as a value",
    "len([string_split(prompt, '')]) > 1": "uses the list of string_split as a value",
    "lower(CASE WHEN raw THEN [prompt] ELSE prompt END) = ''": "uses the list of list_value",
    "len([ARRAY[prompt]]) > 1": "uses the list of list_value",
    "length(" + "CAST(ARRAY[" * 28 + "prompt" + "] AS VARCHAR)" * 28 + ") > 1": "uses the list of",
    "CAST(prompt AS JSON) IS NULL": "casts to ",
    "len(list_resize([1], 1000000000)) > 1": "calls list_resize, which",
    "prompt.upper() = 'A'": "calls upper, which",
    "getvariable('x') IS NULL": "calls getvariable, which",
    "length(" * 28 + "hex(prompt)" + ")" * 28 + " > 1": "calls hex, which",
    " OR ".join(["width > 1"] * 2_000): "characters; 10,000 is the most",
    "NOT " * 900 + "true": "The condition",
    "caption_0 = 'x'": "names caption_0, which is not a column",
    "prompt = '\0'": "holds a NUL character",
    "prompt = '\ud800'": "holds half of a character",
    "prompt + 1 > 2": "does not fit the table",
    "width > 'wide'": "Could not convert string 'wide' to INT32",
}


@pytest.mark.parametrize("where", REFUSED)
def test_a_condition_that_could_do_more_than_judge_a_record_is_refused(clean, derived, where):
    with pytest.raises(TrainerError) as error:
        answer(clean, replace(ANY, where=where), derived)
    assert REFUSED[where] in str(error.value)
    assert str(error.value).startswith("The condition")


def test_a_condition_that_fails_on_a_record_says_so(clean, derived, tmp_path):
    for cache in (tmp_path, derived):
        with pytest.raises(TrainerError, match="fails on a record: .*write TRY_CAST"):
            answer(clean, replace(ANY, where="CAST(prompt AS INTEGER) > 1"), cache)
        assert not list(cache.glob(".*.part")) and not list(cache.glob(".spill*"))


def test_duckdb_itself_can_reach_nothing_but_the_table(clean, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n", encoding="utf-8")
    with derived_module.connected(open_table(clean), tmp_path, 256, [], None) as database:
        for statement in (
            f"SELECT * FROM read_csv('{secret}')",
            f"SELECT * FROM '{secret}'",
            f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
            f"ATTACH '{tmp_path / 'other.db'}'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET memory_limit = '9GB'",
            "PRAGMA memory_limit = '9GB'",
            "RESET lock_configuration",
            "SELECT * FROM glob('/etc/*')",
        ):
            with pytest.raises(duckdb.Error):
                database.execute(statement).fetchall()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv"]


def test_prompts_too_long_for_clip_are_counted_or_left_out(clean, derived, tmp_path, tokenizer):
    every = rows_of(answer(clean, ANY, derived).path)
    counts = count_tokens([row[2] for row in every], tokenizer)
    over = sum(count > 75 for count in counts)
    assert over > 0
    for cache in (tmp_path, derived):
        assert answer(clean, ANY, cache).over_75_tokens is None
        assert answer(clean, ANY, cache, tokenizer=tokenizer).over_75_tokens == over
        for most in (20, 75, 80):
            found = answer(clean, replace(ANY, max_tokens=most), cache, tokenizer=tokenizer)
            wanted = [row for row, count in zip(every, counts, strict=True) if count <= most]
            assert rows_of(found.path) == wanted
            assert found.funnel[-1].name == f"at most {most} CLIP tokens"
            assert found.over_75_tokens == sum(75 < count <= most for count in counts)
    with pytest.raises(TrainerError, match="max_tokens needs CLIP's tokenizer"):
        answer(clean, replace(ANY, max_tokens=75), derived)


def test_users_are_told_apart_without_being_named(clean, tmp_path):
    found = rows_of(answer(clean, ANY, tmp_path).path)
    assert all(row[3] is None or (len(row[3]) == 16 and int(row[3], 16)) for row in found)
    table = open_table(clean)
    mapping = mapping_of(table.path)
    other = select(table, mapping, ANY, tmp_path / "other.parquet", tmp_path / "other")
    salted = rows_of(other.path)
    assert {row[3] for row in salted}.isdisjoint({row[3] for row in found} - {None})
    assert len({row[3] for row in salted}) == len({row[3] for row in found})
    again = select(table, mapping, ANY, tmp_path / "again.parquet", tmp_path / "other")
    assert rows_of(again.path) == salted


def test_a_derived_table_is_made_once_found_again_and_remade_when_the_source_changes(
    make_table, tmp_path
):
    path, cache = tmp_path / "t.csv", tmp_path / "cache"
    make_table.write_table(path, rows=200, seed=1)
    table = open_table(path)
    mapping = mapping_of(table.path)
    first = ingest(table, mapping, cache)
    stamp = first.stat().st_mtime_ns
    assert ingest(table, mapping, cache) == first and first.stat().st_mtime_ns == stamp
    assert answer(path, ANY, cache).from_derived
    other = ingest(table, replace(mapping, version=""), cache)
    assert other != first and first.exists()
    make_table.write_table(path, rows=201, seed=1)
    assert derived_path(table, mapping, cache) is None
    found = answer(path, ANY, cache)
    assert not found.from_derived and found.funnel[0].rows == 201
    second = ingest(table, mapping, cache)
    assert second != first and not first.exists() and other.exists()
    assert answer(path, ANY, cache).funnel[0].rows == 201
    assert sorted(cache.glob(".*")) == []


def test_a_table_that_changes_while_it_is_read_is_refused(make_table, tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    make_table.write_table(path, rows=200, seed=1)

    def change(said: str) -> None:
        if said == "applying the filters":
            make_table.write_table(path, rows=300, seed=1)

    with pytest.raises(TrainerError, match="t.csv changed while it was read"):
        answer(path, ANY, tmp_path / "cache", progress=change)
    assert not (tmp_path / "cache" / "rows.parquet").exists()
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == []


def request(path: Path, cache: Path, **more) -> dict:
    return {
        "action": "select",
        "table": str(path),
        "name": "the table",
        "preset": "followfox_v51",
        "settings": ANY.to_json(),
        "output": str(cache / "rows.parquet"),
        "cache": str(cache),
        **more,
    }


def test_a_process_of_its_own_gives_the_same_and_says_how_far_it_is(clean, tmp_path):
    said: list[str] = []
    found = run_select(request(clean, tmp_path), said.append)
    assert said == ["reading the table", "applying the filters", "writing the result"]
    table = open_table(clean)
    direct = answer(clean, ANY, tmp_path / "direct", guess(table.columns, table.samples))
    assert found["text"] == str(direct)
    assert [row[:3] for row in rows_of(tmp_path / "rows.parquet")] == [
        row[:3] for row in rows_of(direct.path)
    ]
    with pytest.raises(TrainerError, match="Unknown entry 'colour'"):
        run_select(request(clean, tmp_path, colour=1))
    with pytest.raises(TrainerError, match="the table has 3 columns|There is no table the table"):
        run_select(request(tmp_path / "none.csv", tmp_path))


HOSTILE = {
    "counts of a regular expression": "regexp_matches(prompt, '" + "(.*.{900})" * 20 + "q')",
    "two long texts": "levenshtein(prompt, prompt || 'a') = 7",
}
"""Conditions of which some records, as long as they may be, keep DuckDB busy for minutes."""


@pytest.mark.parametrize("which", HOSTILE)
def test_a_condition_that_computes_for_too_long_is_ended_and_told(tmp_path, which):
    path, cache = tmp_path / "t.parquet", tmp_path / "cache"
    cache.mkdir()
    rows = duckdb.sql("SELECT 'a.png' AS image, repeat('a', 20000) AS prompt FROM range(200)")
    rows.write_parquet(str(path))
    asked = {
        "preset": "",
        "mapping": Mapping(image="image", prompt="prompt").to_json(),
        "cpu_s": 4.0,
    }
    asks = replace(ANY, where=HOSTILE[which]).to_json()
    with pytest.raises(TrainerError, match="has computed for 4 s.*Simplify the condition"):
        run_select(request(path, cache, **asked, settings=asks))
    assert [file.name for file in cache.iterdir() if file.name != "user-salt"] == []


def test_the_limit_of_time_is_many_times_what_a_table_needs(make_table, tmp_path):
    path, cache = tmp_path / "t.csv", tmp_path / "cache"
    cache.mkdir()
    make_table.write_table(path, rows=20_000, seed=2)
    most = request_module.most_cpu_s(path)
    run_select(request(path, cache, cpu_s=(most - request_module.LEAST_CPU_S) / 2 + 20))
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert request_module.most_cpu_s(packed) > most, "it has the same records"


def test_a_parquet_table_of_large_row_groups_is_read_with_the_memory_that_they_need(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    mapping = Mapping(image="image", prompt="prompt", upscaled="upscaled")
    path = tmp_path / "t.parquet"
    duckdb.execute(
        "COPY (SELECT i || '.png' AS image, repeat(md5(i::VARCHAR), 30) AS prompt,"
        " i % 1000 = 0 AS upscaled FROM range(40_000) numbers(i))"
        f" TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 40_000)"
    )
    wanted = SelectionSettings(min_words=0, raw="any")
    found = answer(path, wanted, tmp_path / "cache", mapping, memory_mb=64)
    assert (found.funnel[0].rows, found.rows) == (40_000, 40)
    with pytest.raises(TrainerError, match="memory are not enough for t.parquet. Save it again"):
        answer(path, wanted, tmp_path / "cache", mapping, memory_mb=16)


@pytest.mark.parametrize("action", ["select", "ingest"])
def test_a_stopped_selection_leaves_nothing_behind(make_table, tmp_path, action):
    path, cache = tmp_path / "t.csv", tmp_path / "cache"
    cache.mkdir()
    make_table.write_table(path, rows=20_000, seed=2)

    class Stop(Exception):
        pass

    said: list[str] = []

    def stop() -> None:
        if said:
            raise Stop

    with pytest.raises(Stop):
        run_select(request(path, cache, action=action), said.append, stop)
    assert [file.name for file in cache.iterdir() if file.name != "user-salt"] == []
    assert run_select(request(path, cache))["rows"] > 10_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kinds": ("picture",)}, "kinds[0] is 'picture'; it must be one of grid, variation"),
        ({"raw": "yes"}, "raw is 'yes'; it must be one of any, style_raw, stylize"),
        ({"min_words": -1}, "min_words is -1; it must be between 0"),
        ({"sample": 1.5}, "sample is 1.5; it must be a whole number"),
        ({"deduplicate": 1}, "deduplicate is 1; it must be true or false"),
        ({"where": None}, "where is None; it must be a text"),
        ({"top_user": 5}, "Unknown selection setting 'top_user'. Did you mean top_users?"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(TrainerError) as error:
        SelectionSettings.from_json(change)
    assert words in str(error.value)


def test_kinds_need_a_column_that_tells_them(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,prompt\na.png,a red cat\n", encoding="utf-8")
    with pytest.raises(TrainerError, match="Nothing in the table tells upscaled pictures"):
        answer(path, SelectionSettings(raw="any"), tmp_path)
    assert answer(path, replace(ANY, kinds=()), tmp_path).rows == 1


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone limits a process' data")
@pytest.mark.parametrize("is_limited", [True, False])
def test_the_process_that_selects_gets_no_more_than_a_few_times_its_memory(tmp_path, is_limited):
    asked = {"action": "look", "table": "x", "memory_mb": 64, "result": str(tmp_path / "r.json")}
    (tmp_path / "request.json").write_text(json.dumps(asked))
    code = (
        "import sys; from pathlib import Path; from trainer.data.table import request\n"
        "request._do = lambda asked: {'bytes': len(bytearray(3 << 30))}\n"
        f"request._limit_memory = request._limit_memory if {is_limited} else lambda memory_mb: 0\n"
        "sys.exit(request.main(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "request.json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0 and "MemoryError" in done.stderr) == is_limited, done.stderr
    assert (tmp_path / "r.json").exists() != is_limited
