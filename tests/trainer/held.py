"""Lets a job wait after a step or a caption until a test has done what it does then, however slow
the machine is: as long as a file hold.txt in the job's folder tells the number.

Run as a script it starts `trainer/__main__.py`, its first argument, with that and the other ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import time
from pathlib import Path
from typing import Any


def hold(folder: Path, number: int) -> None:
    """Let the job wait when it has written the line of this step, or so many captions."""
    (folder / "hold.txt").write_text(str(number), encoding="utf-8")


def let_go(folder: Path) -> None:
    (folder / "hold.txt").unlink()


def mind(lines: type[Any]) -> None:
    """Let this process wait as it is told; `lines` is the class that appends a job's lines."""
    append, captions = lines.append, []

    def append_and_wait(self: Any, *values: dict[str, Any], **how: Any) -> None:
        append(self, *values, **how)
        captions.extend(line for line in values if "text" in line)
        steps = [line["step"] for line in values if line.get("kind") == "step"]
        while max(len(captions), *steps, 0) >= told(self.path.parent / "hold.txt"):
            time.sleep(0.01)

    lines.append = append_and_wait


def hold_validation(folder: Path) -> None:
    """Let the training wait in its next validation, which its state tells of."""
    (folder / "hold-validation.txt").touch()


def let_validation_go(folder: Path) -> None:
    (folder / "hold-validation.txt").unlink()


def mind_validations(journal: type[Any]) -> None:
    """Let this process wait as `hold_validation` asks; `journal` is the class that keeps a run's
    state.
    """
    progress = journal.progress

    def progress_and_wait(self: Any, **changes: Any) -> None:
        progress(self, **changes)
        file = self.run.folder / "hold-validation.txt"
        if str(changes.get("message")).startswith("Validating") and file.exists():
            self.update()
            while file.exists():
                time.sleep(0.01)

    journal.progress = progress_and_wait


def told(file: Path) -> float:
    try:
        return int(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return math.inf


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("started", sys.argv[1])
    assert spec and spec.loader
    started = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(started)
    started._as_package()
    mind(importlib.import_module("trainer.jobs.lines").Lines)
    sys.argv = sys.argv[1:]
    sys.exit(importlib.import_module("trainer.command_line").main())
