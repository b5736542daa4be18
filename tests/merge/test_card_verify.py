"""`verify` finds everything that has changed since a card was made, and says what it is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cocktail.merge.card.card import Sources, Wishes, make_card
from cocktail.merge.card.command import finder, names_below
from cocktail.merge.card.reading import sha256_of
from cocktail.merge.card.verifying import (
    CHANGED,
    MISSING,
    SAME,
    UNREACHABLE,
    Finding,
    Places,
    _record,
    verify,
)
from cocktail.merge.card.writing import files_of, write_card
from cocktail.merge.command_line import main
from cocktail.merge.errors import MergeError

from .released import make_release

RUN, GRID, MODELS = "base/runs/vodka", "base/grids/tasting", "base/models"
RECORD = "card/mary.card.json"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verified")
    release = make_release(root / "base")
    sources = Sources(finder(release.models), release.runs, release.grids)
    name = release.mix.relative_to(release.models).as_posix()
    card = make_card(release.mix, sources, Wishes(title="mary"), name)
    write_card(root / "card", files_of(card, "mary"))
    return root


@pytest.fixture
def root(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "copy", symlinks=True)


def places_in(root: Path) -> Places:
    base = root / "base"
    models = base / "models"
    return Places(finder(models), base / "runs", base / "grids", names=lambda: names_below(models))


def not_same(root: Path, card: str = "card") -> list[Finding]:
    return [one for one in verify(root / card, places_in(root)) if one.state != SAME]


def append(file: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with (root / file).open("ab") as opened:
            opened.write(b"x")

    return change


def first_picture(root: Path) -> Path:
    links = json.loads((root / RECORD).read_text())["links"]
    return root / "base/grids" / next(one["file"] for one in links if one["what"] == "picture")


def edit_settings(root: Path) -> None:
    file = root / RUN / "run.json"
    value = json.loads(file.read_text())
    value["settings"]["learning_rate"] = 1.0
    file.write_text(json.dumps(value))


def edit_first_vote(root: Path) -> None:
    file = root / GRID / "votes.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"Ann"', b'"Eve"', 1))


def cut_votes(root: Path) -> None:
    file = root / GRID / "votes.jsonl"
    file.write_bytes(file.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("change", "state", "what", "name"),
    [
        (append(f"{MODELS}/cocktail/bloody-mary.safetensors"), CHANGED, "checkpoint", "mary"),
        (append(f"{MODELS}/epic.safetensors"), CHANGED, "ingredient", "epic"),
        (append(f"{MODELS}/base.safetensors"), CHANGED, "base", "base"),
        (edit_settings, CHANGED, "settings", "vodka"),
        (append(f"{RUN}/dataset.parquet"), CHANGED, "dataset", "shapes"),
        (edit_first_vote, CHANGED, "votes", "tasting"),
        (cut_votes, CHANGED, "votes", "tasting"),
        (append(f"{GRID}/plan.json"), CHANGED, "plan", "tasting"),
        (lambda root: first_picture(root).write_bytes(b"x"), CHANGED, "picture", ".webp"),
        (append("card/README.md"), CHANGED, "file of the card", "README.md"),
        (append("card/mary.html"), CHANGED, "file of the card", "mary.html"),
        (append("card/pictures/01.webp"), CHANGED, "file of the card", "01.webp"),
        (lambda root: (root / "card/README.md").unlink(), MISSING, "file of the card", "README"),
        (lambda root: first_picture(root).unlink(), MISSING, "picture", ".webp"),
        (lambda root: (root / MODELS / "epic.safetensors").unlink(), MISSING, "ingredient", "epic"),
        (lambda root: (root / RUN / "run.json").write_text("{"), UNREACHABLE, "settings", "vodka"),
    ],
)
def test_each_change_is_named_and_nothing_else_is(root: Path, change, state, what, name):
    assert not_same(root) == []
    change(root)
    (found,) = not_same(root)
    assert (found.state, found.what) == (state, what) and name in found.name


def test_votes_that_were_cast_later_are_no_change(root: Path):
    file = root / GRID / "votes.jsonl"
    file.write_bytes(file.read_bytes() + file.read_bytes().splitlines(True)[0])
    assert not_same(root) == []
    found = verify(root / "card", places_in(root))
    assert [one.why for one in found if one.what == "votes"] == ["more have been cast since"]


@pytest.mark.parametrize(
    ("old", "new", "what", "names"),
    [
        (f"{MODELS}/epic.safetensors", f"{MODELS}/old/e.sft", {"ingredient"}, "old/e.sft"),
        (
            f"{MODELS}/cocktail/bloody-mary.safetensors",
            f"{MODELS}/mary-v1.safetensors",
            {"checkpoint"},
            "mary-v1.safetensors",
        ),
        (RUN, "base/runs/gin", {"settings", "dataset"}, "gin/"),
        (GRID, "base/grids/last", {"votes", "plan", "picture"}, "last/"),
    ],
)
def test_what_has_another_name_now_is_found_by_its_hash(root: Path, old, new, what, names):
    (root / new).parent.mkdir(exist_ok=True)
    (root / old).rename(root / new)
    told = [one for one in verify(root / "card", places_in(root)) if one.why or one.state != SAME]
    assert {one.what for one in told} == what
    assert {one.state for one in told} == {SAME}
    assert all(one.why.startswith(f"it is {names}") for one in told)


def test_another_file_of_its_name_is_a_change_and_it_is_told_where_the_first_is(root: Path):
    models = root / MODELS
    (models / "epic.safetensors").rename(models / "epic-1.safetensors")
    shutil.copy(models / "base.safetensors", models / "epic.safetensors")
    (found,) = not_same(root)
    assert (found.state, found.what) == (CHANGED, "ingredient")
    assert found.why.endswith("what it was is epic-1.safetensors now")


def test_only_files_of_its_size_are_read_to_find_a_checkpoint(root: Path):
    (root / MODELS / "epic.safetensors").unlink()
    (root / MODELS / "huge.safetensors").write_bytes(b"x")
    read: list[Path] = []
    places = places_in(root)
    counted = Places(
        places.find,
        places.runs,
        places.grids,
        lambda path: read.append(path) or sha256_of(path),
        places.names,
    )
    found = {one.what: one.state for one in verify(root / "card", counted)}
    assert found["ingredient"] == MISSING
    assert (root / MODELS / "base.safetensors") in read and len(read) == len(set(read))
    assert (root / MODELS / "huge.safetensors") not in read


def every_field(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a JSON value."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from every_field(inner, (*path, key))
    elif path not in (("kind",), ("format",)):
        yield path


def test_a_change_of_any_field_of_the_record_is_told(root: Path):
    file = root / RECORD
    record = json.loads(file.read_text())
    fields = list(every_field(record))
    assert len(fields) > 200
    for path in fields:
        edited = json.loads(json.dumps(record))
        inner = edited
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "x" if inner[path[-1]] != "x" else "y"
        file.write_text(json.dumps(edited))
        _, own = _record(file)
        assert (own[0].state, own[0].what) == (CHANGED, "record of the card"), path
    file.write_text(json.dumps(record))
    assert not_same(root) == []


def test_words_of_a_page_alone_that_were_edited_are_told(root: Path):
    page = shutil.copy(root / "card/mary.html", root / "mary.html")
    data = page.read_bytes()
    page.write_bytes(data.replace(b"\n", b"\r\n"))
    assert not_same(root, "mary.html") == []
    page.write_bytes(data.replace(b"First of 4 in", b"First of 9 in", 1))
    (found,) = not_same(root, "mary.html")
    assert (found.state, found.what) == (CHANGED, "words of the page")
    page.write_bytes(data.replace(b'"title": "mary"', b'"title": "eve"'))
    (found,) = not_same(root, "mary.html")
    assert (found.state, found.what) == (CHANGED, "record of the card")


def test_a_card_from_before_it_had_these_hashes_is_checked_as_it_was(root: Path, capsys):
    record = json.loads((root / RECORD).read_text())
    del record["record_sha256"]
    for link in record["links"]:
        if link["under"] == "models":
            del link["size_bytes"]
    (root / RECORD).write_text(json.dumps(record))
    (root / MODELS / "epic.safetensors").rename(root / MODELS / "e.safetensors")
    assert not_same(root) == []
    folders = [f"--{one}={root / 'base' / one}" for one in ("models", "runs", "grids")]
    (root / MODELS / "base.safetensors").unlink()
    assert main(["verify", str(root / "card"), *folders]) == 0
    told = capsys.readouterr()
    assert "missing: base base.safetensors" in told.out
    assert told.err.count("note: ") == 1 and "every one in the folder of models" in told.err


@pytest.mark.parametrize("size", [None, 0, -1, "90"])
def test_votes_of_no_known_number_match_no_file(root: Path, size):
    record = json.loads((root / RECORD).read_text())
    (link,) = (one for one in record["links"] if one["what"] == "votes")
    link |= {"size_bytes": size, "sha256": hashlib.sha256(b"").hexdigest()}
    (root / RECORD).write_text(json.dumps(record))
    found = [one for one in not_same(root) if one.what == "votes"]
    assert [(one.state, one.why) for one in found] == [
        (UNREACHABLE, "the card does not say how much of it there was")
    ]


def test_settings_that_change_no_weight_and_line_ends_are_no_change(root: Path):
    file = root / RUN / "run.json"
    value = json.loads(file.read_text())
    value["settings"]["saving"]["keep_last"] = 3
    file.write_text(json.dumps(value))
    readme = root / "card/README.md"
    readme.write_bytes(readme.read_bytes().replace(b"\n", b"\r\n"))
    assert not_same(root) == []


def test_a_page_alone_is_enough_and_its_pictures_are_checked(root: Path):
    page = shutil.copy(root / "card/mary.html", root / "mary.html")
    assert not_same(root, "mary.html") == []
    text = page.read_text(encoding="utf-8")
    at = text.index("base64,") + 200
    page.write_text(
        text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :], encoding="utf-8"
    )
    (found,) = not_same(root, "mary.html")
    assert (found.state, found.why) == (CHANGED, "the card does not speak of them")
    page.write_text(re.sub(r"(src=\"data:image/webp;base64,)[^\"]*", r"\1AAAA", text))
    assert {(one.state, one.what) for one in not_same(root, "mary.html")} == {
        (CHANGED, "picture of the page")
    }


def test_a_link_that_leads_out_of_the_folders_is_not_followed(root: Path):
    record = json.loads((root / RECORD).read_text())
    record["links"] = [
        {**one, "file": file, "under": under}
        for one in record["links"][:1]
        for file, under in (
            ("../../secret", "runs"),
            ("/etc/passwd", "models"),
            ("a\0b", "grids"),
            ("n" * 300, "models"),
            ("n" * 300, "runs"),
        )
    ]
    (root / RECORD).write_text(json.dumps(record))
    assert {one.state for one in verify(root / RECORD, places_in(root))[-5:]} == {UNREACHABLE}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (b"", "no release card"),
        (b"[" * 100_000, "no release card"),
        (b'{"kind": "x"}', "is no release card"),
        (b'{"kind": "cocktail release card", "format": 2, "links": []}', "newer version"),
        (b'{"kind": "cocktail release card", "format": 1, "links": 3}', "no list of links"),
    ],
)
def test_what_is_no_card_is_refused_in_words(tmp_path: Path, record: bytes, told: str):
    (tmp_path / "a.card.json").write_bytes(record)
    with pytest.raises(MergeError, match=told):
        verify(tmp_path, Places())


def test_a_record_of_nonsense_gives_findings_and_no_traceback(tmp_path: Path):
    links: list[Any] = [None, [], {}, {"kind": 7, "sha256": []}, {"under": {}, "file": 3}]
    card = {
        "kind": "cocktail release card",
        "format": 1,
        "links": links,
        "files": {"..": 1, "a": 2},
    }
    (tmp_path / "a.card.json").write_text(json.dumps(card))
    found = verify(tmp_path, Places())
    assert {one.state for one in found} <= {UNREACHABLE, MISSING} and len(found) == 7
