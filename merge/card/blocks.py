"""What a card is written of. Every text is plain: who writes it down escapes it, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .pictures import Picture


class Mono(str):
    """A hash, a file name or the like, in letters of one width."""


@dataclass(frozen=True)
class Words:
    """A paragraph; `strong` for the one sentence to take away."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Warnings:
    """What to heed before the checkpoint is shared."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and what is known."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Code:
    """Commands or a recipe, to be copied as they are."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Drawing:
    """An SVG for the page, the same as a file of its own, and what it shows in words."""

    inline: str
    standalone: str
    file: str
    about: str


@dataclass(frozen=True)
class Figure:
    """A picture and what stands under it."""

    picture: Picture
    alt: str
    caption: str
    small: str = ""


@dataclass(frozen=True)
class Gallery:
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Versus:
    """Two pictures side by side, and which of them the votes preferred."""

    left: Figure
    right: Figure
    verdict: str


@dataclass(frozen=True)
class Fold:
    """What is there for those who look for it."""

    title: str
    blocks: tuple[Block, ...]


Block: TypeAlias = (
    "Words | Warnings | Facts | Table | Code | Drawing | Figure | Gallery | Versus | Fold"
)


@dataclass(frozen=True)
class Section:
    """A part of a card, under a heading; the first one has the card's title."""

    title: str
    blocks: Sequence[Block]
