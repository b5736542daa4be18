"""The manifest: one file, whole or not there, known by its content."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cocktail.trainer.data import manifest
from cocktail.trainer.data.captions import texts, vary
from cocktail.trainer.data.manifest import HEADER, Dataset, Pair
from cocktail.trainer.errors import TrainerError

PLAIN = Pair("0" * 16, "a.png", "f" * 64, 512, 768, "a caption")

letters = some.characters(exclude_categories=["Cs"], exclude_characters="/\\:.\0")
picture = some.lists(some.text(letters, max_size=9), min_size=1, max_size=3).map("/".join)
word = some.text(some.characters(exclude_categories=["Cs"]), max_size=20)
chance = some.floats(0, 1)
pairs = some.builds(
    Pair,
    id=word,
    image=picture.filter(lambda image: not image.startswith("/")),
    image_hash=word,
    width=some.integers(1, 2**40),
    height=some.integers(1, 2**40),
    caption=word,
    weight=some.floats(0, 1e6),
    split=some.sampled_from(["train", "validation", "validation/faces"]),
    group=word,
    captions=some.dictionaries(word, word, max_size=3),
    conditional_dropout=some.none() | chance,
    flip=chance,
    shuffle_tags=some.booleans(),
    keep_tags=some.integers(0, 100),
    tag_dropout=chance,
)


@settings(max_examples=40, deadline=None)
@given(
    name=word,
    found=some.lists(pairs, unique_by=lambda pair: pair.id, max_size=4),
    mix=some.lists(some.tuples(word, chance), max_size=2),
    history=some.lists(word, max_size=2),
)
def test_what_is_saved_is_loaded(tmp_path_factory, name, found, mix, history):
    path = tmp_path_factory.mktemp("it's") / "it's.parquet"
    dataset = Dataset(name, "/a 'root'", tuple(found), "#ff0080", tuple(mix), tuple(history))
    dataset.save(path)
    assert Dataset.load(path) == dataset
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "change",
    [
        {"caption": "another"},
        {"image_hash": "e" * 64},
        {"weight": 2.0},
        {"split": "validation"},
        {"captions": {"blip": "a cat"}},
        {"conditional_dropout": 0.0},
        {"flip": 0.5},
        {"shuffle_tags": True},
        {"keep_tags": 1},
        {"tag_dropout": 0.1},
    ],
)
def test_the_fingerprint_depends_on_what_is_trained_on(change):
    plain = Dataset("a", "b", (PLAIN,)).fingerprint
    changed = Dataset("a", "b", (dataclasses.replace(PLAIN, **change),)).fingerprint
    assert changed != plain


@pytest.mark.parametrize("change", [{"image": "b.png"}, {"group": "b"}, {"id": "1" * 16}])
def test_the_fingerprint_does_not_depend_on_where_files_are(change):
    plain = Dataset("a", "b", (PLAIN,)).fingerprint
    assert Dataset("c", "d", (dataclasses.replace(PLAIN, **change),)).fingerprint == plain


def test_the_fingerprint_of_plain_pairs_is_what_it_always_was():
    known = "54df788c"
    assert Dataset("a", "b", (PLAIN,)).fingerprint[:8] == known


def test_a_changed_manifest_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    Dataset("a", "b", (PLAIN,)).save(path)
    with duckdb.connect() as database:
        (header,) = database.execute(f"SELECT value FROM parquet_kv_metadata('{path}')").fetchone()
        database.execute(
            f"COPY (SELECT * REPLACE ('changed' AS caption) FROM '{path}') TO "
            f"'{tmp_path}/n.parquet' (FORMAT parquet, KV_METADATA {{'cocktail.dataset': "
            f"'{header.decode()}'}})"
        )
    with pytest.raises(TrainerError, match="changed since"):
        Dataset.load(tmp_path / "n.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainerError, match="not the manifest of a dataset, or it is damaged"):
        Dataset.load(path)


def test_a_caption_is_drawn_from_the_columns_by_their_chances():
    pair = dataclasses.replace(PLAIN, captions={"blip": "a cat", "empty": ""})
    mix = (("caption", 0.5), ("blip", 0.3), ("empty", 0.1), ("missing", 0.1))
    shown = [vary(pair, mix, str(number)) for number in range(2000)]
    assert shown == [vary(pair, mix, str(number)) for number in range(2000)]
    assert 500 < shown.count("a cat") < 700 and set(shown) == {"a cat", "a caption"}
    assert texts(pair, mix) == {"a cat", "a caption"}
    assert texts(pair, (("caption", 1.0), ("blip", 0.0))) == {"a caption"}


def test_tags_are_shuffled_and_left_out_behind_the_kept_head():
    pair = dataclasses.replace(
        PLAIN, caption="one,two, three ,four,five", shuffle_tags=True, keep_tags=2, tag_dropout=0.25
    )
    shown = [vary(pair, (), str(number)).split(", ") for number in range(1000)]
    assert all(tags[:2] == ["one", "two"] for tags in shown)
    assert {tags[2] for tags in shown if len(tags) > 2} == {"three", "four", "five"}
    assert 2150 < sum(len(tags) - 2 for tags in shown) < 2350
    assert (
        vary(dataclasses.replace(pair, shuffle_tags=False, tag_dropout=0.0), (), "1")
        == pair.caption
    )


def altered(path: Path, header: dict | None = None, select: str = "*") -> Path:
    """A copy of a manifest with another header or other columns."""
    other = path.with_name("altered.parquet")
    with duckdb.connect() as database:
        metadata = database.execute("SELECT key, value FROM parquet_kv_metadata(?)", [str(path)])
        kept = json.loads(dict(metadata.fetchall())[HEADER.encode()])
        text = json.dumps(kept if header is None else header).replace("'", "''")
        database.execute(
            f"COPY (SELECT {select} FROM read_parquet('{path}')) TO '{other}' "
            f"(FORMAT parquet, KV_METADATA {{'{HEADER}': '{text}'}})"
        )
    return other


HEADER_OF = {"format": 2, "name": "x", "root": "x", "fingerprint": "0", "background": "#ffffff"}
COMPLETE = HEADER_OF | {"caption_mix": [], "history": []}
BAD_MANIFESTS = [
    ([], "*", "not the manifest of a dataset, or it is damaged (TypeError"),
    (COMPLETE | {"format": 9}, "*", "another version of Cocktail (format 9; this one reads 2)"),
    (HEADER_OF, "*", "damaged (KeyError: 'caption_mix')"),
    (COMPLETE | {"caption_mix": [1]}, "*", "damaged (TypeError"),
    (COMPLETE, "*", "has been changed since it was written"),
    (COMPLETE, "* EXCLUDE (captions)", "damaged (KeyError"),
    (COMPLETE, "* EXCLUDE (id)", "damaged (TypeError"),
    (COMPLETE, "* REPLACE ('no json' AS captions)", "damaged (JSONDecodeError"),
    (COMPLETE, "* REPLACE (NULL AS captions)", "damaged (ValueError"),
    (COMPLETE, "* REPLACE ('one' AS id)", "has 1 ids more than once, such as one"),
]


@pytest.mark.parametrize(("header", "select", "words"), BAD_MANIFESTS)
def test_a_manifest_that_is_none_is_refused_in_words(tmp_path, header, select, words):
    pairs = tuple(Pair(name, f"{name}.png", name * 64, 8, 8, "a red circle") for name in "ab")
    Dataset("two", str(tmp_path), pairs).save(tmp_path / "two.parquet")
    assert Dataset.load(altered(tmp_path / "two.parquet")).pairs == pairs
    with pytest.raises(TrainerError) as caught:
        Dataset.load(altered(tmp_path / "two.parquet", header, select))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "image",
    [
        "../a.png",
        "../../etc/a.png",
        "few/../../a.png",
        "few\\..\\..\\a.png",
        "..",
        "/etc/../a.png",
        "a\0.png",
    ],
)
def test_a_picture_that_climbs_out_of_the_root_is_refused(tmp_path, image):
    pair = dataclasses.replace(PLAIN, image=image)
    Dataset("two", str(tmp_path), (PLAIN, dataclasses.replace(pair, id="1"))).save(tmp_path / "m")
    with pytest.raises(TrainerError, match="names 1 pictures outside its folder"):
        Dataset.load(tmp_path / "m")


@pytest.mark.parametrize("image", ["a..b.png", "few/..a.png", "~/a.png", "few/a.png"])
def test_an_odd_name_below_the_root_is_none_outside(tmp_path, image):
    dataset = Dataset("one", str(tmp_path), (dataclasses.replace(PLAIN, image=image),))
    dataset.save(tmp_path / "m")
    assert Dataset.load(tmp_path / "m") == dataset


def test_a_manifest_for_which_memory_is_short_is_not_called_damaged(tmp_path, monkeypatch):
    Dataset("one", str(tmp_path), (PLAIN,)).save(tmp_path / "m")
    monkeypatch.setattr(manifest, "MOST_MEMORY", "100KB")
    with pytest.raises(TrainerError, match="takes more than 100KB of memory"):
        Dataset.load(tmp_path / "m")


def test_a_manifest_that_is_not_there_is_missed_by_name(tmp_path):
    with pytest.raises(TrainerError, match=r"There is no manifest gone\.parquet in "):
        Dataset.load(tmp_path / "gone.parquet")
