"""Writing to a disk that may be full: all of the bytes, or an error that says so."""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

from ...errors import TrainerError


class DiskFull(TrainerError):
    """There is no room for more pictures."""


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write all of `data`. An unbuffered file may take only a part of it at a time; a buffered one
    would report a full disk only when it is closed.
    """
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@contextlib.contextmanager
def disk_errors(file: Path) -> Iterator[None]:
    """Turn an error of the disk into a message, which ends the download: no picture is at fault."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk is full: {file.parent}. Make room and start again: what has been "
                "fetched so far is kept."
            ) from error
        raise TrainerError(f"{file} cannot be written: {error}") from error
