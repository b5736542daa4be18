"""Captions put into a dataset: as a column, or in place of the pairs' own captions or joined with
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import TrainerError
from ..captions import OWN, as_choices
from ..manifest import Dataset, Pair

MODES = ("replace", "fill empty", "append", "prepend", "column only")
JOIN = ", "


@dataclass(frozen=True)
class ApplyReport:
    """What became of captions that were put into a dataset. `missing` lists the ids of the pairs
    that got none.
    """

    mode: str
    column: str
    pairs: int
    changed: int
    missing: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        where = f" in column {self.column}" if self.column else ""
        given = self.pairs - len(self.missing)
        lines = [
            f"captions{where}: {given} of {self.pairs} pairs ({self.mode}), {self.changed} changed"
        ]
        if self.missing:
            lines.append(f"without a caption, left as they were: {_named(self.missing)}")
        return "\n".join(lines)


def apply_captions(
    dataset: Dataset, column: str, captions: Mapping[str, str], mode: str, keep_own_as: str = ""
) -> tuple[Dataset, ApplyReport]:
    """The dataset with these captions, given by pair id. Ids, order and pictures stay the same.

    Every mode stores the text in the caption column `column` ("" for none). "column only" leaves
    the pair's own caption alone, "replace" replaces it, "fill empty" replaces it where it is
    empty, "append" and "prepend" join the two with a comma. `keep_own_as` names a column that keeps
    the pair's former caption. A pair whose text is missing or empty does not change and is named
    in the report. Raises TrainerError for ids that the dataset does not have.
    """
    if mode not in MODES:
        raise TrainerError(f"Unknown mode {mode!r}; it must be one of {', '.join(MODES)}.")
    if OWN in (column, keep_own_as):
        raise TrainerError(f"{OWN} is the pair's own caption; choose another name for the column.")
    if mode == "column only" and not column:
        raise TrainerError('The mode "column only" needs the name of a column.')
    if keep_own_as and keep_own_as == column:
        raise TrainerError(f"The new and the own captions cannot both go to the column {column}.")
    unknown = sorted(set(captions) - {pair.id for pair in dataset.pairs})
    if unknown:
        raise TrainerError(
            f"{len(unknown)} of {len(captions)} captions are for pairs that the dataset "
            f"{dataset.name} does not have: {_named(unknown)}. Use the ids that came with its "
            "pictures."
        )
    pairs = tuple(
        _with_caption(pair, column, captions.get(pair.id, "").strip(), mode, keep_own_as)
        for pair in dataset.pairs
    )
    report = ApplyReport(
        mode,
        column,
        len(pairs),
        sum(old != new for old, new in zip(dataset.pairs, pairs, strict=True)),
        tuple(pair.id for pair in dataset.pairs if not captions.get(pair.id, "").strip()),
    )
    line = str(report).split("\n", 1)[0]
    return replace(dataset, pairs=pairs, history=(*dataset.history, line)), report


def _with_caption(pair: Pair, column: str, text: str, mode: str, keep_own_as: str) -> Pair:
    if not text:
        return pair
    own, choices, line_of_it = pair.caption, pair.choices, as_choices(text)
    if mode == "replace" or (not own.strip() and mode != "column only"):
        own, choices = text, ""
    elif mode == "append":
        own = f"{own}{JOIN}{text}"
        choices = "\n".join(f"{line}{JOIN}{line_of_it}" for line in _lines(choices))
    elif mode == "prepend":
        own = f"{text}{JOIN}{own}"
        choices = "\n".join(f"{line_of_it}{JOIN}{line}" for line in _lines(choices))
    columns = dict(pair.captions)
    if column:
        columns[column] = text
    if keep_own_as and own != pair.caption:
        columns[keep_own_as] = pair.caption
    return replace(pair, caption=own, captions=columns, choices=choices)


def _lines(choices: str) -> list[str]:
    return [line.strip() for line in choices.splitlines() if line.strip()]


def set_captions(
    dataset: Dataset, ids: Sequence[str], texts: Sequence[str], mode: str, column: str = ""
) -> tuple[Dataset, ApplyReport]:
    """The dataset with captions made anywhere else: `texts` in the order of `ids` (see
    `apply_captions`).

    Raises TrainerError when their numbers differ or an id is repeated.
    """
    if len(ids) != len(texts):
        raise TrainerError(
            f"There are {len(ids)} ids but {len(texts)} captions; every picture needs exactly one. "
            "Look for a node in between that drops or joins pictures."
        )
    twice = [pair_id for pair_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise TrainerError(f"{len(twice)} ids came more than once: {_named(twice)}.")
    return apply_captions(dataset, column, dict(zip(ids, texts, strict=True)), mode)


def _named(ids: Sequence[str]) -> str:
    """Up to ten ids, and how many more there are."""
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(ids[:10]) + more
