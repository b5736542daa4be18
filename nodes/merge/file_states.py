"""When a node must run again because one of its files has changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def file_states(paths: Iterable[Path]) -> list[list[int]]:
    """Size and modification time of each file, for `fingerprint_inputs`: they differ when a file is
    replaced under the same name.
    """
    states = [path.stat() for path in paths]
    return [[state.st_size, state.st_mtime_ns] for state in states]
