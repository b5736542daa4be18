"""Which pictures of a grid have the same pixels."""

from __future__ import annotations

import errno
import hashlib
import stat
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from .....trainer.files import SpecialFile
from .picture import open_picture
from .store import Store

if TYPE_CHECKING:
    import numpy

MOST_READ = 100_000
"""Pictures whose hashes are in memory."""

Version = tuple[str, int, int]
"""A file as it is now: its path, size and time of change."""

_read: OrderedDict[Version, str] = OrderedDict()
_alone = threading.Lock()


def hash_of(pixels: numpy.ndarray) -> str:
    """A hash of the size and the uint8 pixels [height, width, 3] of a picture."""
    sizes = f"{pixels.shape[1]}x{pixels.shape[0]}:".encode()
    return hashlib.sha256(sizes + pixels.tobytes()).hexdigest()


def pixel_hash(path: Path) -> str:
    """The same of a file. Raises OSError if it is damaged."""
    with open_picture(path) as file:
        picture = file.convert("RGB")
    sizes = f"{picture.width}x{picture.height}:".encode()
    return hashlib.sha256(sizes + picture.tobytes()).hexdigest()


def classes(store: Store, most_s: float) -> tuple[dict[str, int], int]:
    """A number for every finished cell of the last plan, by key, which is equal for equal pixels;
    and how many pictures were not looked at after `most_s` seconds: asking again goes on.

    Most hashes were noted when the cells were written; a file that has another size now is read, as
    is one that was never noted. Pictures that cannot be read have no number.
    """
    until = time.monotonic() + most_s
    files, noted = store.files(), store.pixels()
    numbers: dict[str, int] = {}
    found: dict[str, int] = {}
    waiting = 0
    for key in dict.fromkeys(store.saved_plan().keys):
        if key not in files:
            continue
        try:
            hash = _known(store.folder / files[key], noted.get(key), time.monotonic() < until)
        except OSError:
            continue
        if hash is None:
            waiting += 1
        else:
            found[key] = numbers.setdefault(hash, len(numbers))
    return found, waiting


def _known(path: Path, noted: tuple[str, int] | None, may_read: bool) -> str | None:
    """The hash of a picture; None if it would have to be read and may not be."""
    status = path.lstat()
    if noted is not None and noted[1] == status.st_size:
        return noted[0]
    version = (str(path), status.st_size, status.st_mtime_ns)
    with _alone:
        if version in _read:
            return _read[version]
    if not may_read:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise SpecialFile(errno.EINVAL, "it is no regular file", str(path))
    hash = pixel_hash(path)
    with _alone:
        _read[version] = hash
        if len(_read) > MOST_READ:
            _read.popitem(last=False)
    return hash
