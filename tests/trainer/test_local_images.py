"""Rows find their images in a folder by what is in the names, and nothing outside the folder is
ever found.
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import duckdb
import pytest

from cocktail.trainer.data.fetch.local_images import KEYS, LocalImages, find_images
from cocktail.trainer.errors import TrainerError

JOB = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_JOB = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
ATTACHMENT = "1101549318229512252"
OTHER_ATTACHMENT = "1101549318229512253"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str) -> None:
    """Files of these names; what is in them is nobody's business here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def find(folder: Path, key: str, rows: list[dict]) -> LocalImages:
    """Join rows, given as what is known of them; they are numbered from 1 unless they say
    otherwise.
    """
    selection = folder.with_name("selection [1].parquet")
    columns = ("image", "prompt", "user", "kind", "attachment", "job", "file")
    with duckdb.connect() as database:
        texts = ", ".join(f"{column} VARCHAR" for column in columns)
        database.execute(f"CREATE TABLE rows (row BIGINT, {texts})")
        values = [
            (row.get("row", number), *(row.get(column) for column in columns))
            for number, row in enumerate(rows, start=1)
        ]
        if values:
            database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        database.execute(f"COPY rows TO '{selection}' (FORMAT parquet)")
    return find_images(selection, folder, key)


def test_by_row_index_with_or_without_zeros_in_any_folder(folder):
    put(folder, "000123.png", "7.WEBP", "images/000/000008.jpg", "9a.png", "notes.txt", "10.txt")
    found = find(folder, "row index", [{"row": number} for number in (7, 8, 9, 10, 123)])
    assert found.files == {7: "7.WEBP", 8: "images/000/000008.jpg", 123: "000123.png"}
    assert (found.matched, found.missing, found.ambiguous, found.unused) == (3, 2, 0, 1)
    assert found.missing_first == ("row 9: 9", "row 10: 10")
    assert found.unused_first == ("9a.png",)


@pytest.mark.parametrize(
    "name",
    [
        f"{ATTACHMENT}.png",
        f"{ATTACHMENT}_someone_a_prompt.webp",
        f"someone-{ATTACHMENT}.jpg",
        f"1099/{ATTACHMENT}/someone.png",
    ],
)
def test_by_attachment_id(folder, name):
    put(folder, name, f"{OTHER_ATTACHMENT}.png", f"1{ATTACHMENT}.png", f"{ATTACHMENT}0.png")
    found = find(folder, "attachment id", [{"attachment": ATTACHMENT}])
    assert found.files == {1: name}


@pytest.mark.parametrize(
    "name",
    [
        f"{JOB}.png",
        f"someone_a_long_prompt_{JOB}.png",
        f"{JOB}_someone_a_long_prompt.png",
        f"someone_{JOB.upper()}.PNG",
        f"{JOB.replace('-', '')}.webp",
        f"{JOB}/0_2.png",
        f"{JOB}/grid_0.png",
    ],
)
def test_by_job_uuid(folder, name):
    put(folder, name, f"x_{OTHER_JOB}.png", "0_2.png")
    assert find(folder, "job uuid", [{"job": JOB}]).files == {1: name}


def test_of_the_four_images_of_a_job_the_file_name_tells_which(folder):
    put(folder, *(f"{JOB}/0_{number}.png" for number in range(4)), f"{OTHER_JOB}/0_2.png")
    rows = [
        {"job": JOB, "file": "0_2.png"},
        {"job": JOB, "image": f"https://cdn.midjourney.com/{JOB}/0_3.webp?x=1"},
        {"job": JOB, "file": "0_9.png"},
    ]
    found = find(folder, "job uuid", rows)
    assert found.files == {1: f"{JOB}/0_2.png", 2: f"{JOB}/0_3.png"}
    assert (found.ambiguous, found.missing, found.unused) == (1, 0, 3)
    assert found.ambiguous_first[0].startswith(f"row 3: {JOB}/0_0.png, {JOB}/0_1.png")


def test_a_folder_named_by_another_job_does_not_outweigh_the_files_own_name(folder):
    put(folder, f"{OTHER_JOB}/x_{JOB}.png")
    assert find(folder, "job uuid", [{"job": JOB}, {"job": OTHER_JOB}]).files == {
        1: f"{OTHER_JOB}/x_{JOB}.png"
    }


def test_by_file_name_in_any_case_and_spelling(folder):
    put(folder, "sub/A_Caf\u00e9.png", unicodedata.normalize("NFD", "M\u00fcnchen.jpg"), "c.webp")
    rows = [
        {"file": unicodedata.normalize("NFD", "a_caf\u00e9.PNG")},
        {"file": "m\u00fcnchen.jpg"},
        {"file": "c.png"},
        {"image": "https://cdn.example/1/2/C.webp?ex=1&is=2#x"},
        {"image": "https://cdn.example/1/2/a_caf%C3%A9.png"},
    ]
    found = find(folder, "file name", rows)
    assert list(found.files) == [1, 2, 3, 4, 5]
    assert found.files[1] == found.files[5] == "sub/A_Caf\u00e9.png"
    assert found.files[3] == found.files[4] == "c.webp"


def test_a_file_name_with_its_folder_tells_two_of_the_same_name_apart(folder):
    put(folder, "a/1.png", "b/1.png", "2.png", "2.webp")
    rows = [{"file": "b\\1.png"}, {"file": "1.png"}, {"file": "2.webp"}, {"file": "2.jpg"}]
    found = find(folder, "file name", rows)
    assert found.files == {1: "b/1.png", 3: "2.webp"}
    assert (found.ambiguous, found.missing) == (2, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the file system keeps no two such names")
def test_names_that_differ_only_in_case_are_told_apart_by_it(folder):
    put(folder, "a.png", "A.png")
    rows = [{"image": "A.png"}, {"image": "a.png"}]
    assert find(folder, "column", rows).files == {1: "A.png", 2: "a.png"}
    rows = [{"file": "A.png"}, {"file": "a.png"}]
    assert find(folder, "file name", rows).files == {1: "A.png", 2: "a.png"}


def test_by_the_image_column_with_either_slash(folder):
    put(folder, "a/one.png", "a/b/two.png", "three.png")
    rows = [{"image": image} for image in ("a/one.png", "A\\B\\Two.PNG", "./three.png", "one.png")]
    found = find(folder, "column", rows)
    assert found.files == {1: "a/one.png", 2: "a/b/two.png", 3: "three.png"}
    assert found.missing_first == ("row 4: one.png",)


@pytest.mark.parametrize(
    "image",
    [
        "../secret.png",
        "a/../../secret.png",
        "..\\secret.png",
        "{parent}/secret.png",
        "a/../one.png",
    ],
)
def test_a_path_that_leads_out_of_the_folder_finds_nothing(folder, image):
    put(folder.parent, "secret.png")
    put(folder, "a/one.png", "one.png")
    rows = [{"image": image.format(parent=folder.parent)}, {"image": "one.png"}]
    assert find(folder, "column", rows).files == {2: "one.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege there")
def test_links_are_followed_within_the_folder_and_not_out_of_it(folder):
    put(folder.parent, "secret.png", "elsewhere/1.png")
    put(folder, "real.png")
    (folder / "link.png").symlink_to(folder / "real.png")
    (folder / "secret.png").symlink_to(folder.parent / "secret.png")
    (folder / "elsewhere").symlink_to(folder.parent / "elsewhere")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    names = ("real.png", "link.png", "secret.png", "elsewhere/1.png", "gone.png")
    assert find(folder, "column", [{"image": name} for name in names]).files == {
        1: "real.png",
        2: "link.png",
    }


def test_hidden_files_and_folders_are_skipped(folder):
    put(folder, ".1.png", ".thumbnails/2.png", "3.png")
    found = find(folder, "row index", [{}, {}, {}])
    assert (found.files, found.unused) == ({3: "3.png"}, 0)


def test_two_files_for_one_row_are_ambiguous_and_none_is_guessed(folder):
    put(folder, "1.png", "000001.webp", "2.png")
    found = find(folder, "row index", [{}, {}])
    assert found.files == {2: "2.png"}
    assert found.ambiguous_first == ("row 1: 000001.webp, 1.png",)
    assert found.unused == 2


def test_the_report_names_the_first_twenty(folder):
    put(folder, "0.png", *(f"x{number}.png" for number in range(25)))
    found = find(folder, "row index", [{"row": number} for number in range(51)])
    assert (found.matched, found.missing, found.unused) == (1, 50, 25)
    assert len(found.missing_first) == len(found.unused_first) == 20
    lines = str(found).splitlines()
    assert lines[0] == "1 of 51 rows have an image"
    assert "50 rows have none:" in lines and "  and 30 more" in lines
    assert "25 files belong to no row:" in lines and "  and 5 more" in lines


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_finds_nothing_says_what_it_looked_for_and_what_is_there(folder, key):
    put(folder, "something else.png")
    row = {"image": "a.png", "attachment": ATTACHMENT, "job": JOB, "file": "a.png"}
    with pytest.raises(TrainerError, match="None of the 1 rows finds an image") as caught:
        find(folder, key, [row])
    assert "row 1: " in str(caught.value) and "something else.png" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"), [("attachment id", "an attachment id"), ("job uuid", "a job uuid")]
)
def test_a_key_that_no_row_has_is_refused(folder, key, words):
    put(folder, "1.png")
    with pytest.raises(TrainerError, match=f"None of the 2 rows has {words}"):
        find(folder, key, [{"image": "x"}, {"image": "y"}])


def test_what_cannot_be_joined_is_said(folder):
    with pytest.raises(TrainerError, match="no image file in pictures"):
        find(folder, "row index", [{}])
    put(folder, "1.png")
    with pytest.raises(TrainerError, match="Unknown key 'name'"):
        find(folder, "name", [{}])
    with pytest.raises(TrainerError, match="has no row"):
        find(folder, "row index", [])
    with pytest.raises(TrainerError, match="There is no folder"):
        selection = folder.with_name("selection [1].parquet")
        duckdb.sql(
            "SELECT 1 AS row, '' AS image, '' AS attachment, '' AS job, '' AS file"
        ).write_parquet(str(selection))
        find_images(selection, folder / "none", "row index")
    selection.write_bytes(b"text")
    with pytest.raises(TrainerError, match="is not a selection"):
        find_images(selection, folder, "row index")
