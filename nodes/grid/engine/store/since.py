"""What has changed of a grid since somebody looked last: the viewer asks every few seconds, for
grids of any size.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from .....trainer.files import canonical_json, sha256_text
from .export import states
from .store import Store

SETTLED_S = 2.0
"""What changed later than this may change once more without another time: file systems count time
in steps of up to two seconds.
"""
PLAN = "plan.json"
LEFT_OUT = ("files",)
AS_BEFORE = ("axes", "positions", "keys")
"""What the plan alone says."""


def states_since(store: Store, mark: str) -> dict[str, Any]:
    """The same as `states` without files, and with a "mark" to give the next time. Of a grid that
    is as it was at `mark` nothing but name and mark, of one with the same plan only name, mark,
    "states" and "reasons". Any other text, such as "", is a mark that nothing is known of.

    Raises OSError, and GridError for a plan that is damaged.
    """
    now = _mark(store.folder)
    plan, _, _ = now.partition("-")
    if now == mark and "" not in now.split("-"):
        return {"name": store.folder.name, "mark": now}
    found = states(store)
    # The plan may have been replaced while the states were read.
    known = plan and mark.partition("-")[0] == plan == _word([store.folder / PLAN])
    without = (*LEFT_OUT, *AS_BEFORE) if known else LEFT_OUT
    return {name: value for name, value in found.items() if name not in without} | {"mark": now}


def _mark(folder: Path) -> str:
    """Two words that stand for a plan, and for its cells. Files are not read: a folder has another
    time after each file that appears in it, is replaced or goes. A word is empty while it cannot be
    relied on.
    """
    places = [folder / "cells.jsonl", folder / "cells"]
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        places += sorted(folder.joinpath("cells").iterdir())
    return f"{_word([folder / PLAN])}-{_word(places)}"


def _word(places: list[Path]) -> str:
    found = []
    for place in places:
        try:
            stat = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.st_mtime > time.time() - SETTLED_S:
            return ""
        found.append([place.name, stat.st_ino, stat.st_size, stat.st_mtime_ns])
    return sha256_text(canonical_json(found))[:16]
