"""cells.jsonl of a grid: one line for every cell that was finished or failed, whoever rendered it.

Several processes may append at the same time, and any of them may be killed while it does: a line
that was cut off is passed over, and never swallows the one after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def append(path: Path, line: dict[str, Any]) -> None:
    """Append a line and bring it to the disk. Raises OSError."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"
    with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                data = b"\n" + data
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines, first to last; none when there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for data in file:
            try:
                line = json.loads(data)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("key"), str):
                yield line
