"""Rewriting captions: replaced words, a prefix and a suffix, and how training shows tags."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from ...errors import TrainerError
from ..captions import OWN
from ..manifest import Dataset, Pair


@dataclass(frozen=True)
class CaptionRules:
    """What is done to every caption, in this order: column, replace, strip, prefix, suffix.

    `column`: the caption column that replaces the pair's own caption, where the pair has one.
    `replace`: pairs of a text and its replacement, regardless of letter case, one after the other.
    `strip`: white space becomes single spaces, empty tags and commas at the ends are removed.
    `prefix` and `suffix` are added as they are. The others say how training shows a caption (see
    `captions.vary`); None leaves what the pairs have.
    """

    column: str = OWN
    replace: tuple[tuple[str, str], ...] = ()
    strip: bool = True
    prefix: str = ""
    suffix: str = ""
    shuffle_tags: bool | None = None
    keep_tags: int | None = None
    tag_dropout: float | None = None


@dataclass(frozen=True)
class RewriteReport:
    """How many captions changed, and which pairs were left out because theirs became empty."""

    pairs: int
    changed: int
    empty: tuple[str, ...]
    examples: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"{self.changed} of {self.pairs} captions changed"]
        if self.empty:
            lines.append(
                f"left out, because the caption became empty: {len(self.empty)} "
                f"({', '.join(self.empty[:10])})"
            )
        for old, new in self.examples:
            lines += [f"- {old}", f"+ {new}"]
        return "\n".join(lines)


def read_replacements(text: str) -> tuple[tuple[str, str], ...]:
    """A replace list from text, one `old => new` a line; an empty right side removes the text.

    Raises TrainerError, naming the line, when there is no `=>` or nothing before it.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        old, arrow, new = line.partition("=>")
        if not arrow or not old.strip():
            raise TrainerError(
                f"Line {number} of the replace list is {line.strip()!r}. "
                "Write it as: old text => new text."
            )
        found.append((old.strip(), new.strip()))
    return tuple(found)


def rewrite(dataset: Dataset, rules: CaptionRules) -> tuple[Dataset, RewriteReport]:
    """The dataset with every caption rewritten; pairs keep their ids and places.

    Raises TrainerError when no caption would be left, or no pair has the column.
    """
    if rules.column != OWN and not any(rules.column in pair.captions for pair in dataset.pairs):
        columns = sorted({name for pair in dataset.pairs for name in pair.captions})
        raise TrainerError(
            f"No pair has captions in a column {rules.column!r}. "
            f"There is {', '.join([OWN, *columns])}."
        )
    options = {
        name: value
        for name in ("shuffle_tags", "keep_tags", "tag_dropout")
        if (value := getattr(rules, name)) is not None
    }
    kept: list[Pair] = []
    empty: list[str] = []
    examples: list[tuple[str, str]] = []
    changed = 0
    for pair in dataset.pairs:
        caption = _rewritten(pair, rules)
        if not caption.strip():
            empty.append(pair.image)
            continue
        if caption != pair.caption:
            changed += 1
            if len(examples) < 5:
                examples.append((pair.caption, caption))
        choices = _rewritten_choices(pair, rules)
        kept.append(dataclasses.replace(pair, caption=caption, choices=choices, **options))
    if not kept:
        raise TrainerError("These rules leave every caption empty. Loosen them.")
    report = RewriteReport(len(dataset.pairs), changed, tuple(empty), tuple(examples))
    result = dataclasses.replace(dataset, pairs=tuple(kept))
    return result.noted(f"captions rewritten: {changed} of {len(dataset.pairs)} changed"), report


def _rewritten(pair: Pair, rules: CaptionRules) -> str:
    return _by_rules(pair.captions.get(rules.column) or pair.caption, rules)


def _rewritten_choices(pair: Pair, rules: CaptionRules) -> str:
    """What the caption is drawn from, rewritten line by line; nothing under another column."""
    if pair.captions.get(rules.column):
        return ""
    lines = (_by_rules(line, rules) for line in pair.choices.splitlines())
    return "\n".join(line for line in lines if line.strip())


def _by_rules(caption: str, rules: CaptionRules) -> str:
    for old, new in rules.replace:
        caption = re.sub(re.escape(old), lambda _, new=new: new, caption, flags=re.IGNORECASE)
    if rules.strip:
        caption = ", ".join(tag for part in caption.split(",") if (tag := " ".join(part.split())))
    return f"{rules.prefix}{caption}{rules.suffix}" if caption else ""


def mix(dataset: Dataset, shares: dict[str, float]) -> Dataset:
    """The dataset with its pairs shown with captions of several columns, each as often as its share
    says.

    Raises TrainerError for a column that no pair has, and when all shares are 0.
    """
    columns = {name for pair in dataset.pairs for name in pair.captions} | {OWN}
    for name, share in shares.items():
        if name not in columns:
            raise TrainerError(
                f"No pair has captions in a column {name!r}. There is {', '.join(sorted(columns))}."
            )
        if not 0 <= share <= 1_000_000:
            raise TrainerError(f"The share of {name} is {share}; it must be 0 or more.")
    if not sum(shares.values()):
        raise TrainerError("All shares are 0. Give at least one column a share above 0.")
    total = sum(shares.values())
    mixed = tuple((name, share / total) for name, share in sorted(shares.items()) if share)
    if mixed == ((OWN, 1.0),):
        mixed = ()
    words = ", ".join(f"{share:.0%} {name}" for name, share in mixed) or "the pairs' own"
    return dataclasses.replace(dataset, caption_mix=mixed).noted(f"captions shown: {words}")
