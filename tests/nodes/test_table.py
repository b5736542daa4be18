"""Selecting pairs from a table and finding their pictures, through a real ComfyUI."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import sys
import threading
import time
from types import ModuleType
from typing import ClassVar

import duckdb
import psutil
import pytest

from cocktail.trainer.data.manifest import Dataset

from ..comfy import ComfyError
from .graphs import node

FILTERS = {
    "image_column": "",
    "prompt_column": "",
    "content_column": "",
    "user_column": "",
    "upscaled_column": "",
    "kind": "any",
    "raw": "any",
    "max_stylize": 50,
    "min_words": 3,
    "max_words": 0,
    "max_tokens": 0,
    "image_prompts": False,
    "truncated": True,
    "top_users": 0,
    "deduplicate": True,
    "per_user": 0,
    "sample": 0,
    "seed": 555,
    "where": "",
}


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
def table(comfy, make_table) -> str:
    make_table.write_table(comfy.base / "input" / "midjourney.csv", rows=2000, seed=3)
    return "input/midjourney.csv"


def select(table, layout="followfox_v51", **filters):
    return {
        "select": node("CocktailSelectPairs", table=table, layout=layout, **{**FILTERS, **filters})
    }


def chosen(comfy, graph):
    return comfy.run(graph)["select"]["cocktail"][0]


def test_the_layout_is_shown_with_five_rows_and_never_applied_silently(comfy, table):
    with pytest.raises(ComfyError) as error:
        comfy.run(select(table, "show me the table first"))
    text = str(error.value)
    assert "layout: followfox_v51" in text and "row 5: " in text and "row 6: " not in text
    assert "set layout to followfox_v51 and queue again" in text
    with pytest.raises(ComfyError, match="no image, no prompt|No column of the table"):
        strange = comfy.base / "input" / "strange.csv"
        strange.write_text("a,b\n1,2\n", encoding="utf-8")
        comfy.run(select("input/strange.csv", "show me the table first"))


def test_the_funnel_says_what_each_filter_leaves_and_the_same_filters_choose_the_same(comfy, table):
    filters = {"kind": "upscaled", "top_users": 200, "per_user": 3, "where": "words <= 60"}
    found = chosen(comfy, select(table, **filters))
    rows = [step["rows"] for step in found["funnel"]]
    assert rows == sorted(rows, reverse=True) and rows[0] == 2000 and 0 < rows[-1] < 1000
    assert found["rows"] == rows[-1]
    again = chosen(comfy, select(table, **{**filters, "seed": 556}))
    assert again["funnel"] == found["funnel"]
    few = chosen(comfy, select(table, **filters, sample=7))
    assert few["rows"] == 7


def test_own_columns_are_named_by_hand(comfy):
    path = comfy.base / "input" / "own.csv"
    path.write_text(
        "file,words\na.png,a red cat on a mat\nb.png,a blue dog in a bog\n", encoding="utf-8"
    )
    found = chosen(
        comfy, select("input/own.csv", "columns below", image_column="file", prompt_column="words")
    )
    assert found["rows"] == 2
    with pytest.raises(
        ComfyError, match="image is 'fiel', but the table has no such column. Did you mean file"
    ):
        comfy.run(
            select("input/own.csv", "columns below", image_column="fiel", prompt_column="words")
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"table": "input/nothing.csv"}, "There is no table"),
        ({"table": "../midjourney.csv"}, "There is no table"),
        ({"table": "input/../x.csv"}, "is refused"),
        ({"layout": "columns below"}, "needs image_column"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(comfy, table, change, words):
    graph = select(table)
    graph["select"]["inputs"].update(change)
    assert words in comfy.errors(graph)["select"]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("1=1); DROP TABLE pairs --", "cannot be read|more than one expression"),
        ("prompt IN (SELECT content FROM read_text('/etc/passwd'))", "not allowed"),
        ("nothing > 3", "names nothing, which is not a column"),
    ],
)
def test_a_condition_can_read_nothing_else(comfy, table, where, words):
    with pytest.raises(ComfyError, match=words):
        comfy.run(select(table, where=where))


def test_when_no_row_is_left_the_funnel_says_why(comfy, table):
    with pytest.raises(ComfyError, match="No row is left"):
        comfy.run(select(table, min_words=900))


def test_users_are_in_the_result_as_hashes_only(comfy, table):
    comfy.run(select(table, kind="upscaled"))
    folder = comfy.base / "output" / "cocktail" / "cache" / "tables" / "selections"
    with duckdb.connect() as database:
        found = database.execute(
            'SELECT DISTINCT "user" FROM read_parquet(?, union_by_name=true)',
            [f"{folder}/*.parquet"],
        ).fetchall()
    users = [user for (user,) in found if user]
    assert len(users) > 100 and all(len(user) == 16 and int(user, 16) >= 0 for user in users)


def test_rows_that_cannot_be_read_are_counted_and_listed_with_line_and_reason(comfy):
    path = comfy.base / "input" / "damaged.csv"
    path.write_bytes(
        b'image,prompt\na.png,"a red cat\non a mat"\nb.png\n'
        b"c.png,a blue \xff dog\nd.png,a green bird\n"
    )
    outputs = comfy.run(
        select("input/damaged.csv", "columns below", image_column="image", prompt_column="prompt")
    )["select"]
    found = outputs["cocktail"][0]
    assert found["rows"] == 2 and found["funnel"][0] == {"name": "records", "rows": 2}
    assert [(reject["line"], reject["reason"]) for reject in found["rejects"]["first"]] == [
        (4, "1 field instead of 2"),
        (5, "not UTF-8"),
    ]
    assert "damaged records, skipped: 2\n  line 4" in outputs["text"][0]


@pytest.fixture(scope="module")
def large(comfy, make_table):
    """A table that is large enough for a derived one, and a condition that takes long on it."""
    path = comfy.base / "input" / "large.csv"
    write_large(make_table, path, times=16)
    yield path
    path.unlink()


def write_large(make_table, path, times):
    """Four megabytes of records, again and again."""
    make_table.write_table(path, size_bytes=4_200_000, seed=4)
    header, _, records = path.read_bytes().partition(b"\n")
    with path.open("wb") as file:
        file.write(header + b"\n")
        for _ in range(times):
            file.write(records)


LONG = "levenshtein(image, concat(prompt, image)) < 5"


def children(comfy):
    """The selecting processes of this ComfyUI."""
    found = []
    for process in psutil.Process(comfy.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = process.cmdline()
            if "select" in command and any("cocktail-select-" in part for part in command):
                found.append(process)
    return found


def started(comfy, graph):
    """The prompt's id and its selecting process, once that runs."""
    prompt = comfy.queue(graph)
    while not (running := children(comfy)):
        assert comfy.history(prompt) is None
    return prompt, running


def tables_folder(comfy):
    return comfy.base / "output" / "cocktail" / "cache" / "tables"


def new_derived(comfy, before):
    """The derived table that is made in the background, once it is there."""
    deadline = time.monotonic() + 120
    while not (new := set(tables_folder(comfy).glob("*.duckdb")) - before):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (path,) = new
    return path


def left_over(comfy):
    return [path.name for path in tables_folder(comfy).rglob(".*")]


def test_interrupt_ends_a_selection_and_leaves_nothing_of_it(comfy, large):
    prompt, running = started(comfy, select("input/large.csv", where=LONG))
    comfy.interrupt()
    with pytest.raises(ComfyError, match="interrupted"):
        comfy.wait(prompt)
    assert psutil.wait_procs(running, timeout=60)[1] == []
    assert left_over(comfy) == []


def test_a_large_table_is_derived_once_found_after_a_restart_and_derived_again_when_it_changes(
    comfy, large, make_table
):
    before = set(tables_folder(comfy).glob("*.duckdb"))
    first = chosen(comfy, select("input/large.csv", min_words=4))
    assert not first["from_derived"]
    derived = new_derived(comfy, before)
    stamp = derived.stat().st_mtime_ns
    # ComfyUI ends in the middle of a selection; the process that it had started finds nobody to
    # tell and ends too.
    _, left = started(comfy, select("input/large.csv", where=LONG))
    comfy.process.kill()
    comfy.restart()
    assert psutil.wait_procs(left, timeout=60)[1] == []
    again = chosen(comfy, select("input/large.csv", min_words=5))
    assert again["from_derived"] and derived.stat().st_mtime_ns == stamp
    with duckdb.connect() as database:
        for path in (tables_folder(comfy) / "selections").glob("*.parquet"):
            database.execute("SELECT count(*) FROM read_parquet(?)", [str(path)])
    write_large(make_table, large, times=17)
    changed = chosen(comfy, select("input/large.csv", min_words=5))
    assert not changed["from_derived"] and changed["funnel"][0]["rows"] > again["funnel"][0]["rows"]
    assert new_derived(comfy, {*before, derived})
    assert psutil.wait_procs(children(comfy), timeout=60)[1] == []
    assert not derived.exists()
    assert chosen(comfy, select("input/large.csv", min_words=6))["from_derived"]
    assert left_over(comfy) == []


@pytest.fixture(scope="module")
def drawn(comfy) -> str:
    """A folder of drawn pictures, and a table that names them beside some that are not there."""
    comfy.run(
        {
            "draw": node("CocktailDrawShapes", name="joined", count=12, seed=8),
            "load": node(
                "CocktailLoadDataset",
                folder=["draw", 0],
                caption_text="first line",
                on_problem="stop",
            ),
        }
    )
    with (comfy.base / "input" / "joined" / "pairs.csv").open("a", encoding="utf-8") as file:
        file.write("nowhere.png,a picture that is not there,\n")
    return "input/joined/pairs.csv"


def joined(table, **join):
    return {
        **select(
            table, "columns below", image_column="image", prompt_column="prompt", deduplicate=False
        ),
        "join": node(
            "CocktailJoinImages",
            selection=["select", 0],
            **{"folder": "input/joined", "key": "column", "on_problem": "skip", **join},
        ),
        "save": node("CocktailSaveDataset", dataset=["join", 0], name="joined"),
    }


def test_rows_are_joined_to_the_files_of_a_folder(comfy, drawn):
    outputs = comfy.run(joined(drawn))
    found = outputs["join"]["cocktail"][0]
    assert (found["rows"], found["matched"], found["missing"], found["pairs"]) == (13, 12, 1, 12)
    assert "nowhere.png" in outputs["join"]["text"][0]
    dataset = Dataset.load(
        comfy.base / "output" / "cocktail" / "datasets" / "joined" / "manifest.parquet"
    )
    for pair in dataset.pairs:
        assert (
            dataset.path(pair).with_suffix(".txt").read_text(encoding="utf-8").strip()
            == pair.caption
        )
    assert dataset.history[0].startswith("from input/joined/pairs.csv: 13 ")


def test_rows_and_pictures_that_have_nothing_in_common_say_what_was_wanted(comfy, drawn):
    with pytest.raises(ComfyError, match="rows has a job uuid"):
        comfy.run(joined(drawn, key="job uuid"))


@pytest.fixture
def server(comfy):
    """The drawn pictures behind a real HTTP server on this machine."""
    handler = functools.partial(Quiet, directory=str(comfy.base / "input" / "joined"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Notes what is asked for, and says nothing."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


def test_the_network_is_off_until_the_servers_owner_allows_it_and_then_nothing_is_fetched_twice(
    comfy, drawn, server
):
    address = f"http://127.0.0.1:{server.server_port}"
    urls = comfy.base / "input" / "urls.csv"
    lines = [f"{address}/{number:05d}.png,a drawing of number {number}" for number in range(12)]
    urls.write_text(
        "\n".join(["image,prompt", *lines, f"{address}/none.png,there is none"]) + "\n",
        encoding="utf-8",
    )
    values = {
        "concurrency": 4,
        "timeout_s": 20.0,
        "retries": 1,
        "max_megabytes": 50.0,
        "max_megapixels": 64.0,
        "respect_robots": True,
        "retry_failed": "nothing",
    }
    graph = {
        **select("input/urls.csv", "columns below", image_column="image", prompt_column="prompt"),
        "get": node("CocktailDownloadImages", selection=["select", 0], name="fetched", **values),
    }
    with pytest.raises(ComfyError, match='"download": true'):
        comfy.run(graph)
    allowed = comfy.base / "user" / "cocktail" / "network.json"
    allowed.parent.mkdir(parents=True, exist_ok=True)
    allowed.write_text('{"download": true}', encoding="utf-8")
    try:
        with pytest.raises(ComfyError, match="refused_address"):
            comfy.run(graph)
        assert Quiet.asked == []
        allowed.write_text('{"download": true, "private_addresses": true}', encoding="utf-8")
        graph["get"]["inputs"]["retry_failed"] = "all"
        found = comfy.run(graph)["get"]["cocktail"][0]
        assert (found["rows"], found["downloaded"], found["pairs"]) == (13, 12, 12)
        assert found["errors"] == {"http_404": 1}
        assert len(Quiet.asked) == 13
        graph["get"]["inputs"]["retry_failed"] = "nothing"
        again = comfy.run(graph)["get"]["cocktail"][0]
        assert again["fingerprint"] == found["fingerprint"] and len(Quiet.asked) == 13
    finally:
        allowed.unlink()
