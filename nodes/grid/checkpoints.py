"""Checkpoints as grids need them: a file that is there and sound, and the hash of its content."""

from __future__ import annotations

from pathlib import Path

from ...merge.errors import MergeError
from ...merge.hashing import file_sha256
from ...merge.safetensors_file import read_header
from .. import names
from ..progress import Progress, show_text
from .errors import GridError

NONE = "none"
"""What stands in a list of checkpoints for no checkpoint."""


def readable(checkpoint: str) -> Path:
    """The file of a checkpoint, if it is there and sound; otherwise GridError."""
    try:
        path = names.checkpoint_path(checkpoint)
        if path.suffix == ".safetensors":
            read_header(path)
    except (names.BadName, MergeError) as error:
        raise GridError(str(error)) from None
    return path


def content_sha256(checkpoint: str) -> str:
    try:
        show_text(f"reading {checkpoint}")
        return file_sha256(readable(checkpoint), names.cocktail_dir("hashes.json"), Progress())
    except MergeError as error:
        raise GridError(str(error)) from None


def file_state(checkpoint: str | None) -> list[int]:
    """Size and modification time of a chosen checkpoint; nothing for a linked or missing one."""
    if checkpoint is None or checkpoint == NONE:
        return []
    try:
        status = names.checkpoint_path(checkpoint).stat()
    except (names.BadName, OSError):
        return []
    return [status.st_size, status.st_mtime_ns]
