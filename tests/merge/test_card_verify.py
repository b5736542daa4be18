"""`verify` finds everything that has changed since a card was made, and says what it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocktail.merge.card.card import Sources, Wishes, make_card
from cocktail.merge.card.command import finder
from cocktail.merge.card.verifying import (
    CHANGED,
    MISSING,
    SAME,
    UNREACHABLE,
    Finding,
    Places,
    verify,
)
from cocktail.merge.card.writing import files_of, write_card
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
    return Places(finder(base / "models"), base / "runs", base / "grids")


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
    assert any(one.what == "votes" and "since" in one.why for one in found)


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
        for file, under in (("../../secret", "runs"), ("/etc/passwd", "models"), ("a\0b", "grids"))
    ]
    (root / RECORD).write_text(json.dumps(record))
    assert {one.state for one in verify(root / RECORD, places_in(root))[-3:]} == {UNREACHABLE}


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
