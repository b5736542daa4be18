"""How far the pictures of a grid are from those of a baseline: one value of an axis, beside which
every other value is laid, with the same values on all other axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import GridError
from ..store.picture import open_picture
from ..store.store import Store
from ..vote.chart import cell_text
from ..vote.field import Field

PROMPT = "prompt"
ALL = "all"


@dataclass(frozen=True)
class Difference:
    """A picture beside the baseline's."""

    candidate: int
    place: int
    key: str
    baseline: str
    mean: float
    """Mean absolute difference of red, green and blue, from 0 to 255."""
    equal: bool
    """Whether every pixel is."""


@dataclass(frozen=True)
class Compared:
    """All differences, and what could not be compared."""

    found: tuple[Difference, ...]
    missing: int
    """Places where one of the two pictures is not there."""
    sizes: int
    """Places where they have other sizes."""


@dataclass(frozen=True)
class Measure:
    """Another figure for pictures beside the baseline's."""

    words: str
    """What it says and from where on it is more; {baseline} stands for the baseline's label."""
    form: str
    """How a figure is written, such as {:.2f}."""
    values: Sequence[tuple[int, int, float]]
    """Of (candidate, place, value)."""


def compare(
    field: Field,
    baseline: int,
    store: Store,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compared:
    """Every candidate's pictures beside those of the candidate `baseline`. Raises GridError if
    there is nothing to compare, or a file is damaged.
    """
    found, missing, sizes = [], 0, 0
    for number, place in enumerate(field.places):
        progress(number, len(field.places))
        base = place.keys[baseline]
        pixels = _pixels(store, base)
        for candidate, key in enumerate(place.keys):
            if candidate == baseline or key is None or base is None:
                continue
            other = _pixels(store, key)
            if pixels is None or other is None:
                missing += 1
            elif pixels.shape != other.shape:
                sizes += 1
            else:
                mean = float(abs(pixels - other).mean())
                found.append(Difference(candidate, number, key, base, mean, mean == 0))
    if not found:
        raise GridError(
            f"No picture of the grid {store.folder.name} can be laid beside one of "
            f"{field.candidates[baseline].label}: {missing} are missing and {sizes} have another "
            "size. Put Render Grid before this node."
        )
    return Compared(tuple(found), missing, sizes)


def _pixels(store: Store, key: str | None) -> Any:
    """The pixels [height, width, 3] of a cell as int16, None if it has no picture."""
    import numpy

    if key is None or not store.is_finished(key):
        return None
    path = store.cell_path(key)
    try:
        with open_picture(path) as file:
            return numpy.asarray(file.convert("RGB"), dtype=numpy.int16)
    except OSError as error:
        raise GridError(
            f"The file of a cell, {path.name}, cannot be read ({error}). Queue Render Grid again: "
            "it puts a damaged file aside and renders the cell again."
        ) from None


def group_of(field: Field, place: int) -> str:
    """The prompt of a place, or its label on the first other axis of a grid without prompts."""
    labels = field.places[place].labels
    named = [label for target, label in labels.items() if target == PROMPT]
    return (named or [*labels.values(), ALL])[0]


def by_prompt(
    field: Field, values: Sequence[tuple[int, int, float]]
) -> dict[str, dict[int, float]]:
    """The mean of values, each of (candidate, place, value), by prompt and candidate; the prompts
    with the largest means first.
    """
    sums: dict[str, dict[int, list[float]]] = {}
    for candidate, place, value in values:
        group = sums.setdefault(group_of(field, place), {})
        group.setdefault(candidate, []).append(value)
    means = {
        group: {candidate: sum(all) / len(all) for candidate, all in found.items()}
        for group, found in sums.items()
    }
    size = {group: sum(map(abs, found.values())) / len(found) for group, found in means.items()}
    return dict(sorted(means.items(), key=lambda item: -size[item[0]]))


def table(field: Field, baseline: int, compared: Compared, measures: Sequence[Measure] = ()) -> str:
    """Differences by prompt as Markdown, and a table for every other measure."""
    values = [(one.candidate, one.place, one.mean) for one in compared.found]
    label = cell_text(field.candidates[baseline].label)
    parts = [
        f"Mean absolute difference of the pixels from {label}, of 255:",
        _table(field, baseline, values, "{:.2f}"),
        _words(compared),
    ]
    for one in measures:
        parts += [one.words.replace("{baseline}", label)]
        parts += [_table(field, baseline, one.values, one.form)]
    return "\n\n".join(parts)


def _table(field: Field, baseline: int, values: Sequence[tuple[int, int, float]], form: str) -> str:
    others = [n for n in range(len(field.candidates)) if n != baseline]
    groups = by_prompt(field, values)
    rows = [["prompt", *(cell_text(field.candidates[n].label) for n in others)]]
    rows.append(["---"] * len(rows[0]))
    whole: dict[int, list[float]] = {}
    for candidate, _, value in values:
        whole.setdefault(candidate, []).append(value)
    means = {candidate: sum(all) / len(all) for candidate, all in whole.items()}
    for group, found in [*groups.items(), (f"**{ALL}**", means)]:
        figures = [form.format(found[n]) if n in found else "" for n in others]
        rows.append([cell_text(group), *figures])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _words(compared: Compared) -> str:
    equal = sum(one.equal for one in compared.found)
    parts = [f"{len(compared.found)} pictures compared, {equal} of them pixel-equal."]
    if compared.missing:
        parts.append(f"{compared.missing} are missing.")
    if compared.sizes:
        parts.append(f"{compared.sizes} have another size than the baseline's and are left out.")
    return " ".join(parts)
