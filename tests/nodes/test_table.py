"""Selecting pairs from a table and finding their pictures, through a real ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import duckdb
import pytest

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
    return {"select": node("CocktailSelectPairs", table=table, layout=layout, **{**FILTERS, **filters})}  # fmt: skip


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
    found = chosen(comfy, select("input/own.csv", "columns below", image_column="file", prompt_column="words"))  # fmt: skip
    assert found["rows"] == 2
    with pytest.raises(
        ComfyError, match="image is 'fiel', but the table has no such column. Did you mean file"
    ):
        comfy.run(select("input/own.csv", "columns below", image_column="fiel", prompt_column="words"))  # fmt: skip


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
        ("nothing > 3", "does not fit the table"),
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
    files = sorted((comfy.base / "output" / "cocktail" / "cache" / "tables").rglob("*.parquet"))
    assert files
    with duckdb.connect() as database:
        users = database.execute(
            f"SELECT DISTINCT \"user\" FROM read_parquet('{files[0]}')"
        ).fetchall()
    assert users and all(len(user) == 16 and int(user, 16) >= 0 for (user,) in users if user)
