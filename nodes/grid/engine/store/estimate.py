"""What a grid will cost, learned from the cells that this machine has rendered before."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cell.samplers import EVALUATIONS
from ..cell.stock import stock
from ..plan.plan import Cell
from .cell_file import PNG
from .cell_log import FINISHED, latest

LATEST_GRIDS = 20
MOST = 1e15
LATEST_CELLS = 400
LATEST_BYTES = 1 << 20
"""Of a log: what stands before that was noted long ago."""
BYTES_PER_PIXEL = 1.8
"""Of a PNG at level 1, before anything is known: a 512 x 512 photo has 425 KiB."""

SLACK = 1.5
"""By what factor a cell may cost more or less than the median."""


@dataclass(frozen=True)
class Learned:
    """Seconds and bytes so far: the median of what was seen, None where nothing was."""

    step_s: float | None
    """Of one evaluation of the model for a million pixels, cond and uncond together."""
    rest_s: float
    """Of everything else about a cell, such as decoding."""
    load_s: float | None
    encode_s: float | None
    bytes_per_pixel: float


@dataclass(frozen=True)
class Estimate:
    """What rendering will cost. `seconds` is a range, None if nothing was rendered here before."""

    cells: int
    loads: int
    encodings: int
    seconds: tuple[float, float] | None
    bytes: int

    def words(self) -> str:
        """One line: loads, encodings, time and disk."""
        loads = f"{self.loads} load{'s' * (self.loads != 1)}"
        texts = f", {self.encodings} text encoding{'s' * (self.encodings != 1)}"
        time = "time unknown until some cells have been rendered here"
        if self.seconds is not None:
            time = f"about {duration(self.seconds[0])} to {duration(self.seconds[1])}"
        return f"{loads}{texts if self.encodings else ''}, {time}, {size(self.bytes)}"


def _age(log: Path) -> float:
    """What sorts the newest first; a log that was deleted just now comes last."""
    try:
        return -log.lstat().st_mtime
    except OSError:
        return 0.0


def learn(grids: Path, save_as: str = PNG) -> Learned:
    """What the logs of the grids rendered last say."""
    logs = sorted(grids.glob("[!.]*/cells.jsonl"), key=_age)
    found: list[dict[str, Any]] = []
    for log in logs[:LATEST_GRIDS]:
        with contextlib.suppress(OSError):
            lines = latest(log, LATEST_BYTES)
            found += [line for line in lines if _is_measured(line)][-LATEST_CELLS:]
        if len(found) >= LATEST_CELLS:
            break
    steps, rests, loads, encodes, sizes = [], [], [], [], []
    for line in found:
        settings, whole = line["settings"], line.get("sample_s", line.get("seconds"))
        if whole is None:
            continue
        pixels = settings["width"] * settings["height"]
        if whole > 0:
            steps.append(whole / (_evaluations(settings) * pixels / 1e6))
            rests.append(line.get("decode_s", 0.0))
        if "load_s" in line:
            loads.append(line["load_s"])
        if "encode_s" in line:
            encodes.append(line["encode_s"])
        if line.get("save_as") == save_as:
            sizes.append(line["bytes"] / pixels)
    return Learned(
        _middle(steps),
        _middle(rests) or 0.0,
        _middle(loads),
        _middle(encodes),
        _middle(sizes) or BYTES_PER_PIXEL,
    )


def estimate(cells: Sequence[Cell], learned: Learned) -> Estimate:
    """What rendering these cells will cost, in render order."""
    settings = [stock(cell.settings) for cell in cells]
    loads = len({one.recipe or one.checkpoint for one in settings})
    texts = {(one.models, text) for one in settings for text in (one.prompt, one.negative_prompt)}
    work = [_evaluations(one.to_json()) for one in settings]
    pixels = [one.width * one.height for one in settings]
    seconds = None
    if learned.step_s is not None:
        middle = sum(w * p / 1e6 * learned.step_s for w, p in zip(work, pixels, strict=True))
        middle += len(cells) * learned.rest_s
        middle += loads * (learned.load_s or 0.0) + len(texts) * (learned.encode_s or 0.0)
        seconds = (middle / SLACK, middle * SLACK)
    size_bytes = round(sum(pixels) * learned.bytes_per_pixel)
    return Estimate(len(cells), loads, len(texts), seconds, size_bytes)


def estimate_workflow(cells: Sequence[Cell], log: Sequence[dict[str, Any]]) -> Estimate:
    """The same for cells of any workflow, learned from the finished ones of the same grid."""
    done = [
        line
        for line in log
        if line["status"] == FINISHED and _are_numbers(line, "prompt_s", "bytes")
    ]
    each = _middle(line["prompt_s"] for line in done)
    seconds = None if each is None else (len(cells) * each / SLACK, len(cells) * each * SLACK)
    per_cell = _middle(line["bytes"] for line in done)
    pixels = sum(cell.settings.width * cell.settings.height for cell in cells)
    loads = len({cell.settings.models for cell in cells})
    size_bytes = pixels * BYTES_PER_PIXEL if per_cell is None else len(cells) * per_cell
    return Estimate(len(cells), loads, 0, seconds, round(size_bytes))


def _is_measured(line: dict[str, Any]) -> bool:
    """Whether a line tells of a finished cell of stock nodes; logs may have come from anywhere."""
    settings = line.get("settings")
    timed = [name for name in line if name.endswith("_s") or name in ("seconds", "bytes")]
    return (
        line["status"] == FINISHED
        and isinstance(settings, dict)
        and _are_numbers(line, *timed)
        and _are_numbers(settings, "width", "height", "steps")
        and min(settings["width"], settings["height"], settings["steps"]) > 0
        and isinstance(settings.get("sampler"), str)
        and (line.get("save_as") is None or "bytes" in line)
    )


def _are_numbers(values: dict[str, Any], *names: str) -> bool:
    """Whether these are numbers that a person could have measured or set."""
    return all(
        isinstance(value := values.get(name), int | float) and 0 <= value <= MOST for name in names
    )


def duration(seconds: float) -> str:
    """Seconds in words that a person reads at a glance."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _evaluations(settings: dict[str, Any]) -> int:
    return max(1, settings["steps"] * EVALUATIONS.get(settings["sampler"], 1))


def _middle(numbers: Iterable[float]) -> float | None:
    found = list(numbers)
    return statistics.median(found) if found else None
