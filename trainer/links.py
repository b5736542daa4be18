"""Links that lead out of a folder, which may have come from anywhere."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from . import marks
from .errors import TrainerError
from .files import read_text, real, write_text

OWN = ".own"
"""The name of the token in a folder, and of the folder with the marks beside it."""


def link_out(folder: Path, unseen: str = "") -> Path | None:
    """A link below `folder` that leads out of it, or a pipe or the like, None without one. A folder
    from elsewhere may hold such links; what is written or deleted behind them belongs to somebody
    else, and who reads a pipe waits for ever. What is inside the folder's own folder `unseen` is
    not looked at, but that may be no such link itself.
    """
    root, waiting = real(folder), [os.fspath(folder)]
    apart = os.path.join(folder, unseen) if unseen else ""  # noqa: PTH118 - compared with entries
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink() or _is_junction(entry):
                    if not _leads_into(entry.path, root):
                        return Path(entry.path)
                elif entry.is_dir():
                    waiting += [entry.path] if entry.path != apart else []
                elif not entry.is_file():
                    return Path(entry.path)
    return None


def _leads_into(path: str, root: Path) -> bool:
    """Whether a link leads into a folder; one that leads in a circle does not."""
    try:
        return real(path).is_relative_to(root)
    except OSError:
        return False


def foreign_link(folder: Path, unseen: str = "") -> Path | None:
    """The link that `link_out` finds, unless the folder was free of such links here once: those
    that were made since then are its owner's. That is so when there is a token in it and beside it
    this installation's mark of that token, since the folder alone may have come from elsewhere.
    What a person starts by hand has no key to tell whose mark it is: one beside it is enough.
    """
    inside, beside = _tokens(folder)
    by_hand = not marks.has_key() and inside.is_file() and beside.is_file()
    if by_hand or was_free_of_links(folder):
        return None
    link = link_out(folder, unseen)
    if link is None:
        token = secrets.token_hex(16)
        with contextlib.suppress(OSError, TrainerError):
            write_text(beside, marks.mark(*_words(folder, token)))
            write_text(inside, token)
    return link


def was_free_of_links(folder: Path) -> bool:
    """Whether `foreign_link` has once found nothing in a folder: its links are its owner's."""
    inside, beside = _tokens(folder)
    with contextlib.suppress(OSError, ValueError):
        return marks.is_marked(read_text(beside, 100), *_words(folder, read_text(inside, 100)))
    return False


def _words(folder: Path, token: str) -> tuple[str, ...]:
    return "free of links", folder.name, token


def _tokens(folder: Path) -> tuple[Path, Path]:
    return folder / OWN, folder.parent / OWN / f"{folder.name}.txt"


def _is_junction(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is a junction, the links of Windows; Python 3.12 is the first to say so."""
    return getattr(entry, "is_junction", lambda: False)()
