"""Pairs that stand out: those whose loss is far from what is usual at their noise levels.

What stands out is worth a look, no more: a wrong caption, a picture unlike all others, or one that
is only hard to predict.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..csv_cells import as_cell
from ..data.manifest import Dataset, Pair
from ..errors import TrainerError
from ..runs import Run
from .curves import NotRecorded, are_levels
from .heat_map import make_levels

TRAINING, VALIDATION = "training", "validation"
PARTS = ("both", TRAINING, VALIDATION)
NEWEST = 3
"""Scores are taken from the mean over so many of the newest validations, which steadies them."""
FEWEST = 8
"""What is usual can be said of so many pairs or more."""
COLUMNS = ("id", "part", "score", "trend", "image", "caption", "words")
LEAST = 1e-12


@dataclass(frozen=True)
class Standing:
    """How a pair stands among the pairs of its part.

    `score` is how far its log loss is above the median of its part, averaged over its noise levels,
    in spreads (1.48 times the median absolute deviation, which is the standard deviation where
    losses are normal). `trend` is the same of the change of its log loss since the first
    validation: above 0 it has fallen less than usual, or risen more; None before the second
    validation. `levels` are the scores at every noise level.
    """

    id: str
    part: str
    score: float
    trend: float | None
    levels: tuple[float, ...]

    @property
    def words(self) -> str:
        """The figures in a sentence."""
        highest = max(range(len(self.levels)), key=self.levels.__getitem__)
        level = make_levels(len(self.levels))[highest]
        most = f", most at {level} ({self.levels[highest]:+.1f})" if len(self.levels) > 1 else ""
        side = "above" if self.score >= 0 else "below"
        found = f"loss {abs(self.score):.1f} spreads {side} what is usual{most}"
        if self.trend is None:
            return found
        if self.trend > 1:
            return f"{found}; it has fallen less than others' ({self.trend:+.1f})"
        if self.trend < -1:
            return f"{found}; it has fallen more than others' ({self.trend:+.1f})"
        return f"{found}; it has changed as others' have ({self.trend:+.1f})"


def rank(validations: Sequence[Mapping[str, Any]]) -> list[Standing]:
    """All pairs whose losses by noise level are recorded, those that stand out most first.

    `validations` are in order of their steps, each with `levels` and perhaps `training`: the losses
    at every noise level by the pair's id. A part with fewer than FEWEST pairs is left out.
    """
    found: list[Standing] = []
    for part, key in ((VALIDATION, "levels"), (TRAINING, "training")):
        recorded = [line[key] for line in validations if are_levels(line.get(key))]
        if recorded:
            count = len(next(iter(recorded[-1].values())))
            recorded = [r for r in recorded if len(next(iter(r.values()))) == count]
            found += _rank_part(part, recorded)
    return sorted(found, key=lambda standing: (-standing.score, standing.id))


def _rank_part(part: str, recorded: Sequence[Mapping[str, Sequence[float]]]) -> list[Standing]:
    import numpy

    newest = recorded[-min(NEWEST, max(1, len(recorded) - 1)) :]
    ids = sorted(set(recorded[0]).intersection(*newest))
    if len(ids) < FEWEST:
        return []
    logs = numpy.log(
        numpy.maximum([[losses[pair] for pair in ids] for losses in (recorded[0], *newest)], LEAST)
    )
    now = logs[1:].mean(axis=0)
    levels = spreads(now)
    scores = spreads(levels.mean(axis=1))
    trends = spreads(spreads(now - logs[0]).mean(axis=1)) if len(recorded) > 1 else None
    return [
        Standing(
            pair,
            part,
            float(scores[index]),
            None if trends is None else float(trends[index]),
            tuple(map(float, levels[index])),
        )
        for index, pair in enumerate(ids)
    ]


def spreads(values: Any) -> Any:
    """How far numbers are above the median of their column, in robust standard deviations.

    A column in which more than half of the numbers are the same is measured by its standard
    deviation; one of equal numbers gives zeros.
    """
    import numpy

    apart = values - numpy.median(values, axis=0)
    spread = 1.4826 * numpy.median(numpy.abs(apart), axis=0)
    spread = numpy.where(spread > 1e-9, spread, apart.std(axis=0))
    return numpy.where(spread > 1e-9, apart / numpy.maximum(spread, 1e-9), 0.0)


def standings(run: Run) -> list[Standing]:
    """`rank` of a run's validations. Raises NotRecorded when there is nothing to rank."""
    found = rank(run.validations())
    if not found:
        raise NotRecorded(
            f"No pair of {run.name} can be ranked: it has recorded no losses of {FEWEST} or more "
            "pairs by noise level. It has not validated yet, has too few pairs, or was trained by "
            "an older Cocktail."
        )
    return found


def note(found: Sequence[Standing]) -> str:
    """Which pairs were ranked, and what to do about those that were not."""
    counts = {part: sum(s.part == part for s in found) for part in (VALIDATION, TRAINING)}
    text = f"{counts[VALIDATION]} validation pairs"
    if counts[TRAINING]:
        return f"{text} and {counts[TRAINING]} training pairs are ranked."
    return (
        f"{text} are ranked. Training pairs are not measured: set validation.train_share to rank "
        "them too."
    )


def chosen(
    found: Sequence[Standing], count: int, part: str = PARTS[0], least: float = 0.0
) -> list[Standing]:
    """The first `count` of a ranking that belong to a part and have at least that score."""
    kept = [s for s in found if part in (PARTS[0], s.part) and s.score >= least]
    return kept[:count]


def as_csv(found: Sequence[Standing], pairs: Mapping[str, Pair]) -> str:
    """A ranking as a table with COLUMNS."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for standing in found:
        pair = pairs.get(standing.id)
        writer.writerow(
            (
                as_cell(standing.id),
                standing.part,
                f"{standing.score:.3f}",
                "" if standing.trend is None else f"{standing.trend:.3f}",
                as_cell(pair.image) if pair else "",
                as_cell(pair.caption) if pair else "",
                standing.words,
            )
        )
    return text.getvalue()


def read_ids(text: str) -> list[str]:
    """The ids in a list that a person has written, or the table of `as_csv` as text.

    Ids are separated by white space or commas; of a table, the column `id`. Raises TrainerError
    when something else is in the list.
    """
    lines = text.strip().splitlines()
    if lines and lines[0].split(",")[0].strip() == "id":
        try:
            rows = list(csv.reader(io.StringIO(text.strip())))
        except csv.Error as error:
            raise TrainerError(f"The list is no table that can be read: {error}.") from None
        words = [row[0] for row in rows if row][1:]
    else:
        words = text.replace(",", " ").split()
    for word in words:
        digits, _, again = word.partition("-")
        if (
            len(digits) != 16
            or set(digits) - set("0123456789abcdef")
            or (again and not again.isdecimal())
        ):
            raise TrainerError(
                f"{word[:80]!r} is not the id of a pair. Link the output ids of Pairs That Stand "
                "Out, or write ids of 16 digits (0-9, a-f), separated by spaces or commas."
            )
    return list(dict.fromkeys(words))


def leave_out(dataset: Dataset, ids: Sequence[str]) -> tuple[Dataset, list[Pair], list[str]]:
    """The dataset without these pairs; also those that were left out, and the ids that it did not
    have. The given dataset stays as it is.

    Raises TrainerError when nothing would be left.
    """
    wanted = set(ids)
    left_out = [pair for pair in dataset.pairs if pair.id in wanted]
    kept = tuple(pair for pair in dataset.pairs if pair.id not in wanted)
    if not kept:
        raise TrainerError(f"The list leaves out all {len(dataset.pairs)} pairs of the dataset.")
    there = {pair.id for pair in left_out}
    absent = [pair for pair in ids if pair not in there]
    if not left_out:
        return dataset, [], absent
    result = replace(dataset, pairs=kept)
    return result.noted(f"{len(left_out)} pairs left out by a list"), left_out, absent
