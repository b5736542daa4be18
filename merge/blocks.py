"""Block weights: a number for every block of the UNet, as other merging tools write them, and finer
rules for parts of blocks.

SD1.5 and SD2 have 25 blocks (IN00..IN11, M00, OUT00..OUT11), SDXL has 19 (IN00..IN08, M00,
OUT00..OUT08). BASE is everything outside the UNet: in practice the text encoder, since a VAE is
never blended. The time embedding acts on every block; merging tools put it into four different
ones, so it has a slot of its own, TIME, together with SDXL's label embedding. Unless it is given,
it has the weight of IN00, as in merge-block-weighted and supermerger.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from .errors import MergeError
from .numbers import exact, written

UNET = "model.diffusion_model."
BASE = "BASE"
TIME = "TIME"
LAYOUTS: dict[str, tuple[str, ...]] = {
    layout: (
        *(f"IN{n:02}" for n in range(side)),
        "M00",
        *(f"OUT{n:02}" for n in range(side)),
    )
    for layout, side in (("SD1.5", 12), ("SDXL", 9))
}
"""The blocks of each layout in the order in which weights are written."""
GROUPS = ("in_shallow", "in_middle", "in_deep", "middle", "out_deep", "out_middle", "out_shallow")
"""Thirds of the blocks of each side, by how far down the UNet they are, and M00 between them."""
ELEMENTS = {
    "ATTENTION": (".attn1.", ".attn2."),
    "SELF_ATTENTION": (".attn1.",),
    "CROSS_ATTENTION": (".attn2.",),
    "FEED_FORWARD": (".ff.",),
    "CONVOLUTION": (".in_layers.2.", ".out_layers.3.", ".skip_connection.", ".op.", ".conv."),
    "NORM": (".norm", ".in_layers.0.", ".out_layers.0."),
}
"""Names for kinds of tensors; any other word of a rule is a part of a tensor's name, as in
supermerger.
"""


@dataclass(frozen=True)
class ElementRule:
    """A value for the tensors of some blocks whose names contain one of some words. Without blocks
    it is for all blocks, without words for all tensors.
    """

    value: Fraction
    blocks: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()
    not_blocks: bool = False
    not_elements: bool = False

    def holds(self, slot: str, name: str) -> bool:
        """Whether the rule applies to this tensor."""
        in_block = not self.blocks or (slot in self.blocks) != self.not_blocks
        words = [part for word in self.elements for part in ELEMENTS.get(word, (word,))]
        has_word = not words or any(part in name for part in words) != self.not_elements
        return in_block and has_word

    def __str__(self) -> str:
        blocks = ("NOT " if self.not_blocks else "") + " ".join(self.blocks)
        elements = ("NOT " if self.not_elements else "") + " ".join(self.elements)
        return f"{blocks}:{elements}:{self.value}"


@dataclass(frozen=True)
class BlockWeights:
    """One number for every tensor: that of its block, or that of the last rule that applies."""

    layout: str
    base: Fraction
    time: Fraction
    blocks: tuple[Fraction, ...]
    rules: tuple[ElementRule, ...] = ()

    @cached_property
    def by_slot(self) -> Mapping[str, Fraction]:
        """The numbers by the slots' names."""
        named = dict(zip(LAYOUTS[self.layout], self.blocks, strict=True))
        return {BASE: self.base, TIME: self.time, **named}

    def of(self, name: str) -> Fraction:
        """The number for the tensor of that name."""
        slot = slot_of(name, self.layout)
        for rule in reversed(self.rules):
            if rule.holds(slot, name):
                return rule.value
        return self.by_slot[slot]


def block_weights(
    values: Sequence[object],
    base: object = None,
    time: object = None,
    rules: Sequence[ElementRule] = (),
) -> BlockWeights:
    """Block weights from 25 or 19 numbers in the usual order, or from 26 or 20 with BASE first.

    `base` replaces BASE (0 if neither is given); `time` is IN00's number if it is not given. Raises
    MergeError for any other count, and for a value that is not a number.
    """
    count = len(values)
    given = [exact(v, f"a block weight (number {n} of {count})") for n, v in enumerate(values, 1)]
    layout = next((k for k, blocks in LAYOUTS.items() if 0 <= len(given) - len(blocks) <= 1), None)
    if layout is None:
        raise MergeError(
            f"These are {len(given)} block weights. SD1.5 has 25 blocks, SDXL has 19; BASE may "
            "stand "
            "before them as one more number."
        )
    first = given.pop(0) if len(given) > len(LAYOUTS[layout]) else Fraction(0)
    return BlockWeights(
        layout,
        first if base is None else exact(base, "the weight of BASE"),
        given[0] if time is None else exact(time, "the weight of the time embedding"),
        tuple(given),
        tuple(rules),
    )


def by_group(values: Sequence[object], base: object, layout: str) -> BlockWeights:
    """Block weights from one number for each of `GROUPS` and one for BASE. Raises MergeError for a
    value that is not a number.
    """
    third = len(LAYOUTS[layout]) // 6
    found: list[object] = []
    for group, value in zip(GROUPS, values, strict=True):
        found += [value] * (1 if group == "middle" else third)
    return block_weights(found, base)


def values_text(weights: BlockWeights) -> str:
    """BASE and the blocks as a list that `parse_values` reads back as the same numbers."""
    return ", ".join(written(value) for value in (weights.base, *weights.blocks))


def parse_values(text: str) -> list[str]:
    """The numbers of a list such as "0, 0.5, 1", separated by commas, spaces or lines; a comma may
    follow the last. Raises MergeError, which names it, for a field that is left empty.
    """
    parts = text.strip().strip("[]").split(",")
    if len(parts) > 1 and not parts[-1].strip():
        del parts[-1]
    fields = [field for part in parts for field in part.split() or [""]]
    for number, field in enumerate(fields):
        if not field and len(fields) > 1:
            where = _slot_of_field(number, fields)
            where += f" after {fields[number - 1]}" if number else ""
            raise MergeError(
                f"Block weight {number + 1} of {len(fields)} is empty{where}. "
                "Write a number between the commas."
            )
    return fields


def _slot_of_field(number: int, fields: Sequence[str]) -> str:
    """The block of a field, for a message, if their count tells the layout."""
    for blocks in LAYOUTS.values():
        slots = (*([BASE] if len(fields) > len(blocks) else []), *blocks)
        if len(slots) == len(fields):
            return f" ({slots[number]})"
    return ""


def parse_rules(text: str, layout: str) -> tuple[ElementRule, ...]:
    """Rules in supermerger's form BLOCKS:ELEMENTS:VALUE, separated by commas or lines; later ones
    win.

    Blocks are ids or ranges such as OUT03-OUT06, elements are parts of tensor names or one of
    `ELEMENTS`; NOT in front of a field means all others. Raises MergeError for a rule of any other
    form, and for an unknown block.
    """
    return tuple(_parse_rule(rule, layout) for rule in re.split(r"[,\n]", text) if rule.strip())


def _parse_rule(text: str, layout: str) -> ElementRule:
    fields = text.split(":")
    if len(fields) != 3:
        raise MergeError(
            f"{text.strip()!r} is not a rule. Write BLOCKS:ELEMENTS:VALUE, such as "
            "OUT03-OUT06:attn2:0.5."
        )
    (not_blocks, blocks), (not_elements, elements) = (_words(field) for field in fields[:2])
    slots = (BASE, *LAYOUTS[layout], TIME)
    found: list[str] = []
    for block in blocks:
        first, _, last = block.partition("-")
        for end in filter(None, (first, last)):
            if end not in slots:
                raise MergeError(
                    f"{layout} has no block {end!r}. Its blocks are {', '.join(slots)}."
                )
        begin = slots.index(first)
        found += slots[begin : (slots.index(last) if last else begin) + 1]
    value = exact(fields[2].strip(), "the value of a rule")
    return ElementRule(value, tuple(found), tuple(elements), not_blocks, not_elements)


def _words(field: str) -> tuple[bool, list[str]]:
    words = field.split()
    turned = bool(words) and words[0] == "NOT"
    return turned, words[1:] if turned else words


SLOT = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.")


@lru_cache(maxsize=1 << 14)
def slot_of(name: str, layout: str) -> str:
    """The slot of a tensor: a block, TIME or BASE."""
    if not name.startswith(UNET):
        return BASE
    name = name[len(UNET) :]
    if name.startswith(("time_embed.", "label_emb.")):
        return TIME
    if name.startswith("middle_block."):
        return "M00"
    if name.startswith("out."):
        return LAYOUTS[layout][-1]
    if match := SLOT.match(name):
        slot = f"{'IN' if match[1] == 'input_blocks' else 'OUT'}{int(match[2]):02}"
        if slot in LAYOUTS[layout]:
            return slot
    return BASE
