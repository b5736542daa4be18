"""A folder made for Hugging Face's imagefolder gives the rows that imagefolder gives, with their
captions and splits.
"""

from __future__ import annotations

import duckdb
import pytest

from cocktail.trainer.errors import TrainerError

from .folders import by_image, jsonl, load, picture, text

SPLITS = {"train": 4, "validation": 2, "test_small": 1}


@pytest.fixture
def folder(tmp_path):
    """Three split folders with a metadata file each, one outside of them, and pictures that no row
    names.
    """
    for split, count in SPLITS.items():
        rows = []
        for number in range(count):
            picture(tmp_path, f"{split}/{number}.png")
            rows.append(
                {"file_name": f"{number}.png", "text": f"{split} {number}", "source": "drawn"}
            )
        jsonl(tmp_path, f"{split}/metadata.jsonl", *rows)
    picture(tmp_path, "train/deep/more.webp")
    jsonl(
        tmp_path,
        "train/deep/metadata.jsonl",
        {"file_name": "more.webp", "text": "more", "source": "drawn"},
        {"file_name": "more.webp", "text": "more, again", "source": "drawn"},
    )
    picture(tmp_path, "train/nameless.png")
    picture(tmp_path, "extra/z.png")
    jsonl(tmp_path, "extra/metadata.jsonl", {"file_name": "z.png", "text": "z", "source": "drawn"})
    return tmp_path


def test_the_pairs_are_the_rows_that_imagefolder_reads(folder):
    """By its code (b7cb10b): data_files.py puts into a split what lies in a folder whose name has
    train, validation, test (or a like word) between separators, and where one does, nothing outside
    counts; folder_based_builder.py gives an example for each row of each metadata file, none for a
    picture without a row. So 4 + 2 for train (a picture may stand twice), 2 for validation, 1 for
    test. Its own resolver and patterns run on this folder gave 6, 2 and 1 rows.
    """
    dataset, report = load(folder)
    assert report.layout == "hugging face" and report.problems == ()
    assert len(dataset.train) == 6
    assert {name: len(pairs) for name, pairs in dataset.validation_sets.items()} == {
        "validation": 2,
        "test": 1,
    }
    assert [pair.caption for pair in dataset.pairs if pair.image == "train/deep/more.webp"] == [
        "more",
        "more, again",
    ]
    assert all(pair.captions == {"source": "drawn"} for pair in dataset.pairs)
    assert {pair.group for pair in dataset.train} == {"train", "train/deep"}
    assert report.notes == (
        "outside the split folders, not read: extra/metadata.jsonl",
        (
            "captions from the column text (the likeliest; caption_column chooses another); "
            "further captions: source"
        ),
        "pictures with more than one row: 1",
        "pictures without a row, not read: 2",
        "split by folder: 6 train, 2 validation, 1 validation/test",
    )


def test_one_metadata_file_above_the_split_folders_counts_for_all(tmp_path):
    for name in ("train/a.png", "val/b.png"):
        picture(tmp_path, name)
    rows = [{"file_name": name, "text": name} for name in ("train/a.png", "val/b.png")]
    jsonl(tmp_path, "metadata.jsonl", *rows)
    pairs = by_image(load(tmp_path)[0])
    assert pairs["train/a.png"].split == "train" and pairs["val/b.png"].split == "validation"


def test_without_a_folder_to_train_on_everything_is_for_training(tmp_path):
    picture(tmp_path, "test/a.png")
    jsonl(tmp_path, "test/metadata.jsonl", {"file_name": "a.png", "text": "a"})
    dataset, report = load(tmp_path)
    assert dataset.train == dataset.pairs
    assert (
        "none of the split folders is for training: all pairs are used for training" in report.notes
    )


def table(folder, kind):
    """The same three rows as JSON lines, CSV or Parquet."""
    for name in ("a.png", "b.png", "c d.png"):
        picture(folder, name)
    if kind == "jsonl":
        jsonl(
            folder,
            "metadata.jsonl",
            {"file_name": "a.png", "prompt": "one, \u00e9", "blip": "a thing", "size": 3},
            {"file_name": "b.png", "prompt": 'two "quoted"\nlines', "blip": None, "size": 4},
            {"file_name": "./c d.png", "prompt": "three", "blip": "", "size": None},
        )
    elif kind == "csv":
        lines = (
            '\ufefffile_name,prompt,blip\r\na.png,"one, \u00e9",a thing\r\nb.png,"two '
            '""quoted""\nlines",\r\n./c d.png,three,\r\n'
        )
        text(folder, "metadata.csv", lines)
    else:
        with duckdb.connect() as database:
            database.execute(
                "COPY (FROM (VALUES ('a.png', 'one, \u00e9', 'a thing', 3), ('b.png', 'two "
                "\"quoted\"\nlines', NULL, 4), ('./c d.png', 'three', '', NULL)) AS t(file_name, "
                f"prompt, blip, size)) TO '{folder / 'metadata.parquet'}' (FORMAT parquet)"
            )


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_three_kinds_of_table_give_the_same_pairs(tmp_path, kind):
    table(tmp_path, kind)
    dataset, report = load(tmp_path)
    assert [(pair.image, pair.caption, pair.captions.get("blip")) for pair in dataset.pairs] == [
        ("a.png", "one, \u00e9", "a thing"),
        ("b.png", 'two "quoted"\nlines', None),
        ("c d.png", "three", None),
    ]
    assert report.why == f"metadata.{kind} names pictures"
    assert report.notes[0].startswith("captions from the column prompt (the likeliest;")
    assert ("columns that are not text, not read: 'size'" in report.notes) == (kind != "csv")


def test_the_caption_column_is_chosen_and_the_others_are_further_captions(tmp_path):
    picture(tmp_path, "a.png")
    jsonl(tmp_path, "metadata.jsonl", {"file_name": "a.png", "text": "one", "blip": "two"})
    chosen = load(tmp_path, caption_column="blip")[0].pairs[0]
    assert (chosen.caption, chosen.captions) == ("two", {"text": "one"})
    with pytest.raises(TrainerError) as error:
        load(tmp_path, caption_column="florence")
    assert str(error.value) == (
        "There is no column 'florence' in metadata.jsonl. Its columns with text are: text, blip. "
        "Choose one as caption_column, or leave it empty."
    )


def test_a_further_column_called_caption_does_not_hide_behind_the_pairs_own(tmp_path):
    picture(tmp_path, "a.png")
    jsonl(tmp_path, "metadata.jsonl", {"file_name": "a.png", "text": "one", "caption": "two"})
    dataset, report = load(tmp_path)
    assert (dataset.pairs[0].caption, dataset.pairs[0].captions) == ("one", {"caption_": "two"})
    assert report.notes[0].endswith("further captions: caption_")


def test_what_cannot_be_a_further_caption_does_not_cost_the_pair(tmp_path):
    picture(tmp_path, "a.png")
    row = {"file_name": "a.png", "text": "one", "page": "x" * 30_000, "\ud800": "name", "n": 3}
    jsonl(tmp_path, "metadata.jsonl", row)
    dataset, report = load(tmp_path, on_problem="stop")
    assert (dataset.pairs[0].caption, dataset.pairs[0].captions) == ("one", {})
    assert report.notes[1:] == (
        "columns that are not text, not read: '\\ud800', 'n'",
        "further captions that are not text or too long, left out: 1 of page",
    )


def test_numbers_and_the_index_in_a_csv_file_are_no_captions(tmp_path):
    """As pandas writes it, with an unnamed first column."""
    picture(tmp_path, "a.png")
    text(tmp_path, "metadata.csv", ",file_name,width,caption,score\n0,a.png,512,1girl,9.5e-1\n")
    dataset, report = load(tmp_path, on_problem="stop")
    assert (dataset.pairs[0].caption, dataset.pairs[0].captions) == ("1girl", {})
    assert report.notes[1] == "columns that are not text, not read: '', 'width', 'score'"


def test_a_column_named_like_picture_file_name_names_the_pictures(tmp_path):
    picture(tmp_path, "a.png")
    jsonl(
        tmp_path,
        "metadata.jsonl",
        {"image_file_name": "a.png", "note": "n", "additional_feature": "f"},
    )
    (pair,) = load(tmp_path)[0].pairs
    assert (pair.caption, pair.captions) == ("f", {"note": "n"})


def test_a_metadata_file_that_names_no_pictures_leaves_the_folder_plain(tmp_path):
    picture(tmp_path, "a.png")
    text(tmp_path, "a.txt", "a caption")
    text(tmp_path, "metadata.csv", "photographer,year\nme,2020\n")
    dataset, report = load(tmp_path)
    assert report.layout == "plain" and dataset.pairs[0].caption == "a caption"
    assert report.other_files == {".csv": 1}
    with pytest.raises(TrainerError) as error:
        load(tmp_path, layout="hugging face")
    assert str(error.value) == (
        "metadata.csv has no column file_name, only photographer, year. "
        "Rename the column of picture files to file_name, or choose another layout."
    )


def test_two_kinds_of_metadata_are_not_mixed(tmp_path):
    picture(tmp_path, "a.png")
    jsonl(tmp_path, "metadata.jsonl", {"file_name": "a.png", "text": "from lines"})
    text(tmp_path, "metadata.csv", "file_name,text\na.png,from csv\n")
    dataset, report = load(tmp_path)
    assert dataset.pairs[0].caption == "from lines"
    assert report.notes[0] == "metadata of another kind, not read: metadata.csv"


def test_a_folder_without_metadata_is_refused_by_name(tmp_path):
    picture(tmp_path, "a.png")
    with pytest.raises(
        TrainerError, match="There is no metadata.jsonl, metadata.csv or metadata.parquet"
    ):
        load(tmp_path, layout="hugging face")


def test_damaged_rows_of_a_csv_file_are_told_with_line_and_reason(tmp_path):
    for name in "abcd":
        picture(tmp_path, f"{name}.png")
    rows = ["file_name,text", "a.png,a cat, big", 'b.png,"open', "c.png,x", f"d.png,{'x' * 20_001}"]
    text(tmp_path, "metadata.csv", "\n".join([*rows, ""]))
    dataset, report = load(tmp_path)
    assert [pair.image for pair in dataset.pairs] == ["c.png"]
    told = str(report)
    assert "2 x the row is not understood (metadata.csv, line 2: 3 values for 2 columns; " in told
    assert "metadata.csv, line 3: a quote is not closed)" in told
    assert "1 x the caption is too long (metadata.csv, line 5: column 'text': 20,001 char" in told
    assert "pictures without a row that is understood, not read: 3" in told


def test_a_csv_file_whose_only_row_is_damaged_is_not_blamed_for_its_name(tmp_path):
    picture(tmp_path, "a.png")
    text(tmp_path, "metadata.csv", 'file_name,text\na.png,"x\n')
    with pytest.raises(TrainerError, match=r"metadata\.csv.*(understood|not closed)") as error:
        load(tmp_path, on_problem="stop")
    assert "is not called as" not in str(error.value)
