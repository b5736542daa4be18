"""Every path is a name, never a pattern: beside each folder lies one that it would match."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.data.table.columns import Mapping
from cocktail.trainer.data.table.derived import ingest
from cocktail.trainer.data.table.select import SelectionSettings, select
from cocktail.trainer.data.table.selection import read_columns, read_rows
from cocktail.trainer.data.table.table import open_table
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.recorded_steps import Followed

from . import folders

MATCHES = {
    **{plain: plain for plain in ("r", " ", "{a,b}", "'", '"', "%", "%20", "#", "~", "=", "]")},
    **{"[runs]": "r", "[!a]": "b", "[": "[", "*": "xx", "**": "x", "?": "x"},
}
"""Pieces of names, and what each matches where it is taken for a pattern."""
if sys.platform == "win32":
    MATCHES = {piece: other for piece, other in MATCHES.items() if not set(piece) & set('*?"')}
names = some.lists(some.sampled_from(sorted(MATCHES)), min_size=1, max_size=4).filter(
    lambda pieces: not "".join(pieces).endswith(" ")
)
EXAMPLES = (["r", " ", "[runs]"], ["~"], ["?"], ["**"], ["r", "=", "r"], ["[", "'", '"'])
QUICK = settings(max_examples=8, deadline=None)
EVERY = SelectionSettings(kinds=(), raw="any", min_words=0, deduplicate=False)
MAPPING = Mapping(image="image", prompt="prompt")
ROW = {"image": "right.png", "prompt": "a cat", "r": "7"}


def odd(test):
    """Try a test with odd names, the ones that once went wrong among them."""
    for pieces in EXAMPLES:
        test = example(pieces=pieces)(test)
    return QUICK(given(pieces=names)(test))


@contextmanager
def beside(pieces: list[str]) -> Iterator[tuple[Path, Path]]:
    """A folder with an odd name, and one that its name would match."""
    with tempfile.TemporaryDirectory() as root:
        there, other = Path(root, "".join(pieces)), Path(root, "".join(map(MATCHES.get, pieces)))
        for folder in (there, other):
            folder.mkdir(exist_ok=True)
        yield there, other


@pytest.fixture(scope="module")
def large_from_the_first_byte():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cocktail.trainer.recorded_steps.LARGE_BYTES", 1)
        yield


def dataset(caption: str, folder: Path) -> Dataset:
    return Dataset("few", str(folder), (Pair("0" * 16, "a.png", "f" * 64, 64, 64, caption),))


def write_table(file: Path, row: dict[str, str]) -> None:
    if file.suffix == ".parquet":
        values = ", ".join(f"'{value}' AS {name}" for name, value in row.items())
        plain = file.with_name("plain")
        with duckdb.connect() as database:
            database.execute(f"COPY (SELECT {values}) TO '{Path(plain.name)}' (FORMAT parquet)")
        Path(plain.name).rename(file)
    elif file.suffix == ".jsonl":
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    else:
        comma = "\t" if file.suffix == ".tsv" else ","
        file.write_text(f"{comma.join(row)}\n{comma.join(row.values())}\n", encoding="utf-8")


@odd
def test_a_manifest_is_the_one_of_its_folder(pieces):
    with beside(pieces) as (there, other):
        for folder in (other, there):
            dataset(folder.name, folder).save(folder / "dataset.parquet")
        assert Dataset.load(there / "dataset.parquet") == dataset(there.name, there)
        assert Dataset.root_of(there / "dataset.parquet") == str(there)


@example(pieces=["r", " ", "[runs]"], suffix=".csv")
@example(pieces=["r", "=", "r"], suffix=".parquet")
@example(pieces=["?"], suffix=".jsonl")
@settings(max_examples=3, deadline=None)
@given(pieces=names, suffix=some.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_a_table_and_its_selection_are_the_ones_of_their_folder(pieces, suffix):
    with beside(pieces) as (there, other), _inside(there.parent):
        name = f"{there.name}{suffix}"
        for wrong in (f"{other.name}{suffix}", name):
            write_table(other / wrong, ROW | {"image": "wrong.png"})
        write_table(there / name, ROW)
        table = open_table(there / name)
        assert table.columns == ("image", "prompt", "r") and table.samples == (tuple(ROW.values()),)
        output = there / f"{there.name} rows.parquet"
        (other / output.name).write_bytes(b"nothing")
        (other / f"{other.name} rows.parquet").write_bytes(b"nothing")
        select(table, MAPPING, EVERY, output, there / "cache", "salt")
        assert read_columns(output, "image", "prompt") == [(0, "right.png", "a cat")]
        assert list(read_rows(output)) == [0]


@pytest.mark.parametrize("pieces", [["r", "[runs]", "'", "="], ["?"]])
def test_a_derived_table_is_the_one_of_its_folder(pieces):
    with beside(pieces) as (there, other):
        for folder, image in ((other, "wrong.png"), (there, "right.png")):
            write_table(folder / "t.csv", ROW | {"image": image})
        table = open_table(there / "t.csv")
        if "?" in pieces:
            with pytest.raises(TrainerError, match=r"DuckDB writes none below a folder with \?"):
                ingest(table, MAPPING, there / "cache")
            return
        ingest(table, MAPPING, there / "cache")
        output = there / "rows.parquet"
        found = select(table, MAPPING, EVERY, output, there / "cache", "salt")
        assert found.from_derived and read_columns(output, "image") == [(0, "right.png")]


@odd
def test_a_hugging_face_folder_is_read_from_itself(pieces):
    with beside(pieces) as (there, other), _inside(there.parent):
        for folder, caption in ((other, "wrong"), (there, "right")):
            name = f"{folder.name}.png"
            folders.picture(folder, name)
            row = {"file_name": name.replace("'", "''"), "text": caption, "r": caption}
            write_table(folder / "metadata.parquet", row)
        found, report = folders.load(there)
        assert report.layout == "hugging face"
        assert [(p.image, p.caption) for p in found.pairs] == [(f"{there.name}.png", "right")]


@odd
def test_a_curve_is_the_one_of_its_run(large_from_the_first_byte, pieces):
    with beside(pieces) as (there, other):
        for folder, loss in ((other, 0.9), (there, 0.1)):
            line = {"kind": "step", "epoch": 1, "step": 1, "time": 1.0, "loss": loss}
            (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        steps, _, _ = Followed(there / "metrics.jsonl").read()
        assert steps[:, 3].tolist() == [0.1]


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
