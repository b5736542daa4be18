"""`python -m merge card` and `python -m merge verify`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import MergeError
from ..hashing import Progress, file_hashes, file_sha256
from ..licence import Licence, parse_by_hand
from ..options import OneFolder
from ..pickled import ENDINGS as PICKLED
from ..safetensors_file import ENDINGS
from .card import Sources, Wishes, make_card
from .reading import Unreadable, inside
from .verifying import CHANGED, MISSING, SAME, UNREACHABLE, Places, summary, verify
from .writing import PAGE_ENDING, check_name, files_of, folder_name, write_card


def card_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=Path, help="the checkpoint that is released")
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the folder in which the card gets a folder of its own; nothing is ever replaced",
    )
    _places(command)
    command.add_argument("--name", help="of the card's folder (default: its title)")
    command.add_argument("--title", default="", help="default: what the checkpoint calls itself")
    command.add_argument("--trigger-words", default="", metavar="WORDS", help="separated by commas")
    command.add_argument("--notes", type=Path, metavar="FILE", help="a text to put into the card")
    command.add_argument("--licence", default="", help="of the released checkpoint")
    command.add_argument(
        "--licence-of",
        action="append",
        default=[],
        metavar="NAME: LICENCE",
        help="the licence of an ingredient, if no file states it; may be given several times",
    )
    command.add_argument(
        "--grid", default="", help="the grid to show (default: the one with the most votes)"
    )
    command.add_argument(
        "--pictures", type=int, default=12, help="how many to show, at most 48 (%(default)s)"
    )
    command.add_argument(
        "--captions",
        type=int,
        default=0,
        metavar="COUNT",
        help="show so many captions of the pairs (none)",
    )


def verify_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "card", type=Path, help="the card's folder, or its .card.json, .html or README.md"
    )
    _places(command)
    command.add_argument("--all", action="store_true", help="also list what is as it was")
    command.add_argument(
        "--strict",
        action="store_true",
        help="end with exit status 1 also when something is missing or unreachable",
    )


def _places(command: argparse.ArgumentParser) -> None:
    for name, about in (
        ("--models", "the folder with the checkpoints"),
        ("--runs", "the folder of runs, OUTPUT/cocktail/runs"),
        ("--grids", "the folder of grids, OUTPUT/cocktail/grids"),
    ):
        command.add_argument(name, type=Path, action=OneFolder, help=about)


def write(options: argparse.Namespace, progress: Progress | None = None) -> int:
    """Write a card; 0 if all went well."""
    for folder in (options.models, options.runs, options.grids):
        _check_folder(folder)
    if options.name:
        check_name(options.name)
    notes = ""
    if options.notes:
        try:
            notes = options.notes.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MergeError(f"{options.notes} cannot be read: {error}.") from error
    wishes = Wishes(
        title=options.title,
        trigger_words=options.trigger_words,
        notes=notes,
        licence=Licence(options.licence, source="given by hand") if options.licence else None,
        licences=parse_by_hand("\n".join(options.licence_of)),
        grid=options.grid,
        pictures=options.pictures,
        captions=options.captions,
    )
    sources = Sources(
        finder(options.models),
        options.runs,
        options.grids,
        lambda path: file_hashes(path, progress=progress),
    )
    card = make_card(options.checkpoint, sources, wishes, _name(options.checkpoint, options.models))
    name = options.name or folder_name(card)
    made = write_card(options.out / name, files_of(card, name))
    for line in (*card.warnings, *card.problems):
        print(f"note: {line}")
    page = options.out / name / f"{name}{PAGE_ENDING}"
    print(f"{page}: {card.title}" + ("" if made else " (already there)"))
    return 0


def check(options: argparse.Namespace, progress: Progress | None = None) -> int:
    """Check a card; 1 if something was changed."""
    for folder in (options.models, options.runs, options.grids):
        _check_folder(folder)
    find = finder(options.models) if options.models else None
    places = Places(
        find,
        options.runs,
        options.grids,
        lambda path: file_sha256(path, progress=progress),
        lambda: names_below(options.models),
        lambda words: print(f"note: {words}", file=sys.stderr, flush=True),
    )
    found = verify(options.card, places)
    for one in found:
        if options.all or one.state != SAME or one.why:
            print(one)
    print(summary(found))
    states = {one.state for one in found}
    bad = {CHANGED, MISSING, UNREACHABLE} if options.strict else {CHANGED}
    return 1 if states & bad else 0


def finder(models: Path | None) -> Callable[[str], Path | None]:
    """Finds the file of a checkpoint's name below a folder."""

    def find(name: str) -> Path | None:
        if models is None:
            return None
        path = inside(models, name)
        return path if path.is_file() else None

    return find


def names_below(models: Path | None) -> Sequence[str]:
    """The names of all checkpoints below a folder."""
    found = []
    for folder, folders, files in os.walk(models) if models is not None else ():
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(folder, name) for name in files if not name.startswith("."))
        found += [one for one in paths if one.suffix.lower() in (*ENDINGS, *PICKLED)]
    return sorted(one.relative_to(models).as_posix() for one in found if models is not None)


def _name(checkpoint: Path, models: Path | None) -> str:
    """The name of a checkpoint below the folder of models, else that of its file."""
    try:
        if models is not None:
            relative = checkpoint.resolve().relative_to(models.resolve()).as_posix()
            if inside(models, relative).is_file():
                return relative
    except (ValueError, OSError, Unreadable):
        pass
    return checkpoint.name


def _check_folder(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise MergeError(f"{folder} is not a folder that can be read.")
