"""The folder of a card: README.md, NAME.html and NAME.card.json with their pictures, whole or not
at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

from ..errors import MergeError
from ..recipe import short_name
from ..safetensors_file import ABANDONED_AFTER_S
from .blocks import Drawing, Fold, Section
from .card import Card
from .markdown import write_markdown
from .page import sealed, write_page
from .pictures import thumbnail
from .reading import Unreadable
from .record import record_of
from .remaking import settings_file, settings_text
from .sections import sections_of

README = "README.md"
RECORD_ENDING = ".card.json"
PAGE_ENDING = ".html"
LONGEST_NAME = 64
MOST_NUMBERS = 1000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Taken(MergeError):
    """Something else has the name."""


def folder_name(card: Card) -> str:
    """A name for a card's folder, of its title or else its checkpoint's file."""
    for text in (card.wishes.title, short_name(card.name)):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:LONGEST_NAME].rstrip("-._")
        if name and not RESERVED.fullmatch(name):
            return name
    return "card"


def check_name(name: str) -> None:
    """Raise MergeError for a name that no folder can have everywhere."""
    if not NAME.fullmatch(name) or name.endswith(".") or RESERVED.fullmatch(name):
        raise MergeError(
            f"{name!r} cannot name a card: use up to 64 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit and not ending with a dot."
        )


def files_of(card: Card, name: str) -> dict[str, bytes]:
    """Every file of a card's folder."""
    sections, record = sections_of(card), record_of(card)
    files = {one.file: one.data for one in card.pictures}
    files |= {one.file: one.standalone.encode("utf-8") for one in _drawings(sections)}
    if card.cover:
        files["pictures/thumbnail.jpg"] = thumbnail(card.cover)
    for run in card.runs:
        try:
            files[settings_file(run)] = settings_text(run).encode("utf-8")
        except (Unreadable, KeyError, RecursionError):
            continue
    files[README] = write_markdown(card, sections).encode("utf-8", "replace")
    files[name + PAGE_ENDING] = write_page(sections, record).encode("utf-8", "replace")
    own = {file: text_sha256(data) for file, data in sorted(files.items())}
    record = sealed({**record, "files": own})
    text = json.dumps(record, ensure_ascii=True, indent=1, sort_keys=True)
    files[name + RECORD_ENDING] = text.encode("ascii") + b"\n"
    return files


def text_sha256(data: bytes) -> str:
    """Hex SHA-256 of a file's bytes; of a text with line ends as they are on Unix, since some
    programs change them.
    """
    if b"\0" not in data:
        data = data.replace(b"\r\n", b"\n")
    return hashlib.sha256(data).hexdigest()


def write_card(folder: Path, files: dict[str, bytes]) -> bool:
    """Write a card's folder, which must not exist yet; False if the very same card is there.

    Raises MergeError if something else is there, or it cannot be written; then no part of it is
    left.
    """
    if _is_there(folder, files):
        return False
    ending = f"{os.getpid()}.{threading.get_ident()}.part"
    temporary = folder.with_name(f".{folder.name}.{ending}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        for name, data in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():  # an empty folder would be replaced
            raise FileExistsError
        temporary.rename(folder)
    except FileExistsError:
        raise _taken(folder) from None
    except OSError as error:
        if folder.exists():
            raise _taken(folder) from None
        raise MergeError(f"{folder} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have written of a card under this name: an hour ago, since one
    takes seconds.
    """
    named = re.compile(rf"\.{re.escape(folder.name)}\.\d+\.\d+\.part")
    for part in [one for one in folder.parent.iterdir() if named.fullmatch(one.name)]:
        with contextlib.suppress(OSError):
            if time.time() - part.lstat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(part, ignore_errors=True)


def write_another(parent: Path, card: Card, name: str) -> tuple[Path, dict[str, bytes], bool]:
    """Write a card's folder below `parent` under this name, or where other cards have it already,
    with a number behind it: the folder, its files, and whether it was made.

    Raises MergeError if it cannot be written.
    """
    for number in range(1, MOST_NUMBERS):
        ending = f"-{number}" * (number > 1)
        one = name[: LONGEST_NAME - len(ending)] + ending
        files = files_of(card, one)
        try:
            return parent / one, files, write_card(parent / one, files)
        except Taken:
            continue
    raise _taken(parent / name)


def _is_there(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether a folder holds this card. Raises MergeError if it holds something else."""
    if not folder.exists() and not folder.is_symlink():
        return False
    try:
        same = all((folder / name).read_bytes() == data for name, data in files.items())
    except OSError:
        same = False
    if not same:
        raise _taken(folder)
    return True


def _taken(folder: Path) -> Taken:
    return Taken(
        f"{folder} exists already and is never overwritten. Choose another name for the card."
    )


def _drawings(sections: list[Section]) -> list[Drawing]:
    blocks = [block for section in sections for block in section.blocks]
    blocks += [inner for block in blocks if isinstance(block, Fold) for inner in block.blocks]
    return [block for block in blocks if isinstance(block, Drawing)]
