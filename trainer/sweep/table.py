"""How the runs of a sweep compare with their baseline, pair by pair: the table, as Markdown, JSON
and CSV.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from ..csv_cells import as_cell
from ..noise import TIMESTEPS
from ..runs import Run
from ..trend import STANDARD_ERRORS, Change, change
from .sweep import Member, Sweep

BETTER, WORSE, NOT_SEPARATED = "better", "worse", "not separated"
EQUAL, BASELINE, PENDING = "equal", "baseline", ""
NOT_A_NUMBER = "not a number"
ROUNDING = 1e-5
"""A smaller mean difference is taken for rounding. Attention in slices, which computes the same,
came to 4.5e-7 in one tiny run in fp32; how far longer trainings come apart is not measured.
"""
MOST_LEVELS = 10
"""More noise levels than these are put together into bands."""
RULE = (
    f"Better and worse: the mean difference over the validation pairs is more than "
    f"{STANDARD_ERRORS:g} standard errors, and more than {ROUNDING:.5f}, as less may be rounding; "
    "not separated: it is less. Equal: all recorded losses have the same bits. Not a number: a "
    "loss of the run or of the baseline is none, so that there is nothing to compare."
)


@dataclass(frozen=True)
class Level:
    """The difference from the baseline at the noise levels from `begin` up to but not including
    `end`, of 1000.
    """

    begin: int
    end: int
    difference: float
    standard_error: float | None
    verdict: str


@dataclass(frozen=True)
class Row:
    """A run of a sweep. Losses are mean squared errors, differences those of the run minus the
    baseline's, at the best epoch of each.

    `change` is the share by which the best loss differs from the run's own start, `share` that by
    which it differs from the baseline's. `farthest` is the largest difference of any loss that both
    runs have recorded, of a step or a validation pair. What is not known is None.
    """

    label: str
    run: str
    setting: str
    value: Any
    status: str
    message: str
    epoch: int | None = None
    loss: float | None = None
    change: float | None = None
    pairs: int | None = None
    difference: float | None = None
    standard_error: float | None = None
    share: float | None = None
    farthest: float | None = None
    verdict: str = PENDING
    minutes: float | None = None
    memory_bytes: float | None = None
    levels: tuple[Level, ...] = ()


def compare(sweep: Sweep, runs: Sequence[Run]) -> list[Row]:
    """A row for each run of a sweep, as far as they have come; `runs` are those of its members.

    The verdict is a paired test. Both runs were measured on the same pairs with the same noise, so
    most of the spread of the losses cancels out in their differences. It assumes that the pairs are
    drawn from those one cares for, independently of each other, and are many enough (say 30) for
    their mean to be about normal; then one of twenty variants that change nothing is called better
    or worse. It knows nothing of the luck of a seed, and takes the lowest of each run's epochs,
    which favours a run that is validated more often.
    """
    recorded = [Recorded(run.metrics(), run.validations()) for run in runs]
    return [
        _row(member, run, own, recorded[0])
        for member, run, own in zip(sweep.members, runs, recorded, strict=True)
    ]


@dataclass(frozen=True)
class Recorded:
    """What a run has recorded: the lines of its metrics, and its validations."""

    lines: Sequence[Mapping[str, Any]]
    validations: Sequence[Mapping[str, Any]]

    def lost_its_numbers(self) -> bool:
        """Whether a validation after the first step came to no number."""
        return any(
            line["kind"] == "validation" and line["step"] and not _is_number(line.get("loss"))
            for line in self.lines
        )


def _row(member: Member, run: Run, recorded: Recorded, baseline: Recorded) -> Row:
    state = run.state()
    row: dict[str, Any] = {**asdict(member), "status": state.status, "message": state.message}
    row["minutes"] = minutes(recorded.lines)
    memory = [line["memory_bytes"] for line in recorded.lines if "memory_bytes" in line]
    row["memory_bytes"] = max((found for found in memory if _is_number(found)), default=None)
    own, before = best(recorded.validations), best(baseline.validations)
    if own is None or not math.isfinite(loss := mean(own)):
        return Row(**row, verdict=NOT_A_NUMBER if recorded.lost_its_numbers() else PENDING)
    row |= {"epoch": own["epoch"], "loss": loss, "pairs": len(own["pairs"])}
    first = recorded.validations[0]
    if first["step"] == 0 and _is_number(mean(first)) and mean(first):
        row["change"] = loss / mean(first) - 1
    if recorded is baseline:
        return Row(**row, verdict=BASELINE)
    if before is None or not (shared := before["pairs"].keys() & own["pairs"].keys()):
        return Row(**row)
    found = change(before["pairs"], own["pairs"])
    if not math.isfinite(found.mean):
        return Row(**row, verdict=NOT_A_NUMBER)
    row |= {
        "pairs": len(shared),
        "difference": found.mean,
        "standard_error": _finite(found.standard_error),
        "share": found.mean / mean(before) if mean(before) else None,
        "levels": levels(before, own),
    }
    row["farthest"], equal = farthest(baseline, recorded)
    row["verdict"] = EQUAL if equal else verdict(found)
    return Row(**row)


def best(validations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The validation with the lowest mean after the first step, one that is no number only where
    there is no other; None before there is one.
    """
    measured = [v for v in validations if v["step"]]
    numbers = [v for v in measured if math.isfinite(mean(v))]
    return min(numbers or measured, key=mean, default=None)


def mean(validation: Mapping[str, Any]) -> float:
    return sum(validation["pairs"].values()) / len(validation["pairs"])


def verdict(found: Change) -> str:
    """Whether a difference is one: |mean| > 2 standard errors, and more than rounding leaves. What
    is not a number is neither better nor worse.
    """
    if not math.isfinite(found.mean):
        return NOT_A_NUMBER
    if abs(found.mean) <= max(STANDARD_ERRORS * found.standard_error, ROUNDING):
        return NOT_SEPARATED
    return BETTER if found.mean < 0 else WORSE


def levels(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Level, ...]:
    """The differences at each noise level, or at bands of them; none where they were not recorded.

    The noise level number i of n lies between i/n and (i+1)/n of the schedule for every pair.
    """
    one, other = _levels(before), _levels(after)
    pairs = [pair for pair in one if pair in other]
    counts = {len(found[pair]) for found in (one, other) for pair in pairs}
    if len(counts) != 1 or counts == {0}:
        return ()
    (count,) = counts
    bands = min(count, MOST_LEVELS)
    edges = [round(band * count / bands) for band in range(bands + 1)]
    result = []
    for begin, end in pairwise(edges):
        found = change(
            {pair: sum(one[pair][begin:end]) / (end - begin) for pair in pairs},
            {pair: sum(other[pair][begin:end]) / (end - begin) for pair in pairs},
        )
        low, high = (round(edge * TIMESTEPS / count) for edge in (begin, end))
        error = _finite(found.standard_error)
        result.append(Level(low, high, found.mean, error, verdict(found)))
    return tuple(result)


def _levels(validation: Mapping[str, Any]) -> dict[str, list[float]]:
    found = validation.get("levels")
    if not isinstance(found, dict):
        return {}
    return {
        pair: losses
        for pair, losses in found.items()
        if isinstance(losses, list) and all(_is_number(loss) for loss in losses)
    }


def farthest(one: Recorded, other: Recorded) -> tuple[float | None, bool]:
    """The largest difference of any loss that both runs have recorded, and whether all their losses
    are the same.
    """
    losses, others = _losses(one), _losses(other)
    shared = losses.keys() & others.keys()
    difference = max((abs(losses[key] - others[key]) for key in shared), default=None)
    return difference, losses == others


def _losses(recorded: Recorded) -> dict[tuple[int, str], float]:
    """Every recorded loss: of steps by (step, ""), of pairs by (step, pair)."""
    found = {
        (line["step"], ""): line["loss"]
        for line in recorded.lines
        if line["kind"] == "step" and _is_number(line.get("loss"))
    }
    for validation in recorded.validations:
        found |= {
            (validation["step"], pair): loss
            for pair, loss in validation["pairs"].items()
            if _is_number(loss)
        }
    return found


def minutes(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """The minutes that a run was at work, from its metrics: the time between a process' first line
    and its last, without the time between a kill and the next start, and without the preparation.
    """
    times = [(line["kind"], line["time"]) for line in lines if _is_number(line.get("time"))]
    if not times:
        return None
    spent = (
        max(0.0, after - before)
        for (_, before), (kind, after) in pairwise(times)
        if kind != "start"
    )
    return sum(spent) / 60


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_json(sweep: Sweep, rows: Sequence[Row]) -> dict[str, Any]:
    """The table as plain data."""
    return {
        "sweep": sweep.name,
        "base": sweep.base,
        "dataset": sweep.dataset,
        "rule": RULE,
        "rows": [asdict(row) for row in rows],
    }


CSV_COLUMNS = (
    "label", "run", "setting", "value", "status", "epoch", "loss", "change", "pairs", "difference",
    "standard_error", "share", "farthest", "verdict", "minutes", "memory_bytes",
)  # fmt: skip


def to_csv(rows: Sequence[Row]) -> str:
    """The table as CSV, a line for each run and, where noise levels were recorded, two more columns
    for each of them. Full figures; what is not known is empty.
    """
    bands = next((row.levels for row in rows if row.levels), ())
    names = [f"{level.begin}-{level.end}" for level in bands]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    more = [f"{what} {name}" for name in names for what in ("difference", "standard_error")]
    writer.writerow([*CSV_COLUMNS, *more])
    for row in rows:
        known = [found for at in row.levels for found in (at.difference, at.standard_error)]
        levels = known or [None] * len(more)
        writer.writerow([*(as_cell(getattr(row, name)) for name in CSV_COLUMNS), *levels])
    return file.getvalue()


def to_markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    """The table for people, with its rule, and a second one by noise level where that is known."""
    head = (
        "run", "best validation loss", "epoch", "since the start", "against the baseline",
        "standard error", "largest difference", "verdict", "minutes", "memory",
    )  # fmt: skip
    lines = [f"**{sweep.name}**: base {_cell(sweep.base)}, dataset {_cell(sweep.dataset)}", ""]
    lines += _table(head, [_cells(row) for row in rows])
    banded = [row for row in rows if row.levels]
    if banded:
        bands = [f"{level.begin}-{level.end}" for level in banded[0].levels]
        lines += ["", "By noise level (of 1000, from little noise to much):", ""]
        lines += _table(
            ("run", *bands), [[row.label, *map(_level_cell, row.levels)] for row in banded]
        )
    pairs = next((row.pairs for row in rows if row.difference is not None), None)
    counted = f"{pairs} validation pairs. " if pairs else ""
    return "\n".join([*lines, "", counted + RULE])


def _cells(row: Row) -> list[str]:
    if row.loss is None:
        words = f"{row.status}: {row.message}" if row.message else row.status
        if row.verdict:
            words = f"{row.verdict} ({words})"
        return [
            row.label,
            "",
            "",
            "",
            "",
            "",
            "",
            words,
            _figure(row.minutes, ".1f"),
            _gigabytes(row),
        ]
    difference = row.difference is not None
    unfinished = "" if row.status == "finished" else f" (so far: {row.status})"
    return [
        row.label,
        f"{row.loss:.5f}",
        str(row.epoch),
        _figure(row.change, "+.2%"),
        f"{row.difference:+.6f} ({_figure(row.share, '+.2%')})" if difference else "",
        ("unknown" if row.standard_error is None else f"{row.standard_error:.6f}")
        if difference
        else "",
        "none" if row.farthest == 0 else _figure(row.farthest, ".2g"),
        row.verdict + unfinished,
        _figure(row.minutes, ".1f"),
        _gigabytes(row),
    ]


def _level_cell(level: Level) -> str:
    error = "unknown" if level.standard_error is None else f"{level.standard_error:.6f}"
    return f"{level.difference:+.6f} ± {error}, {level.verdict}"


def _gigabytes(row: Row) -> str:
    return "" if row.memory_bytes is None else f"{row.memory_bytes / 1e9:.1f} GB"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form).replace("%", " %")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
