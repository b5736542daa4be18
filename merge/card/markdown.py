"""A card as Markdown, which GitHub and Hugging Face show: README.md beside its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import escape

from . import licences
from .blocks import (
    Block,
    Code,
    Drawing,
    Facts,
    Figure,
    Fold,
    Gallery,
    Mono,
    Section,
    Table,
    Versus,
    Warnings,
    Words,
)
from .card import Card
from .graph import plain
from .words import triggers

MARKS = re.compile(r"([\\`*_\[\]|~$#@{}^!])")
"""What means something in Markdown wherever it stands."""


def write_markdown(card: Card, sections: Sequence[Section]) -> str:
    """The whole file."""
    parts = ["\n".join(_front_matter(card))]
    for number, section in enumerate(sections):
        parts.append(f"{'#' if number == 0 else '##'} {marked(section.title)}")
        parts += [part for block in section.blocks for part in _block(block)]
    return "\n\n".join(parts) + "\n"


def marked(text: str) -> str:
    """A plain text such that Markdown shows it as it is: nothing in it is markup, HTML or a link.

    ASCII punctuation may have a backslash before it (CommonMark 0.31, section 2.4).
    """
    text = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = MARKS.sub(r"\\\1", text)
    text = re.sub(r"^(\d{1,9})([.)])", r"\1\\\2", text)  # a numbered list
    text = re.sub(r"^([-+=:])", r"\\\1", text)  # a list, or a line under a heading
    text = re.sub(r"(?i)(www)\.", r"\1\\.", text)  # what GitHub makes links of
    return text.replace("://", "\\://")


def _front_matter(card: Card) -> Iterator[str]:
    """What Hugging Face reads of a model's README."""
    yield "---"
    yield from licences.front_matter(card.licence)
    yield "pipeline_tag: text-to-image"
    tags = ["stable-diffusion", "text-to-image"] + ["merge"] * bool(card.lineage.released.made_of)
    yield f"tags: {json.dumps(tags)}"
    if triggers(card):
        yield f"instance_prompt: {json.dumps(triggers(card))}"
    yield "---"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Words):
        text = marked(block.text)
        yield f"**{text}**" if block.strong and text else text
    elif isinstance(block, Warnings):
        lines = [f"> **{marked(block.title)}**", ">"]
        yield "\n".join([*lines, *(f"> - {marked(one)}" for one in block.sentences)])
    elif isinstance(block, Facts):
        yield _table(("", ""), block.rows)
    elif isinstance(block, Table):
        yield _table(block.head, block.rows)
    elif isinstance(block, Code):
        yield _code(block)
    elif isinstance(block, Drawing):
        yield f"![{marked(block.about)}]({block.file})"
    elif isinstance(block, Figure):
        yield _image(block)
        yield from filter(None, (marked(block.caption), marked(block.small)))
    elif isinstance(block, Gallery):
        rows = [f"| {_image(one)} | {_under(one)} |" for one in block.figures]
        yield "\n".join(["| picture | prompt |", "|---|---|", *rows])
    elif isinstance(block, Versus):
        head = [marked(side.caption) or "picture" for side in (block.left, block.right)]
        yield "\n".join(
            [
                f"| {head[0]} | {head[1]} |",
                "|---|---|",
                f"| {_image(block.left)} | {_image(block.right)} |",
            ]
        )
        yield marked(block.verdict)
    elif isinstance(block, Fold):
        yield f"<details><summary>{escape(plain(block.title))}</summary>"
        yield from (part for inner in block.blocks for part in _block(inner))
        yield "</details>"


def _image(figure: Figure) -> str:
    return f"![{marked(figure.alt)}]({figure.picture.file})"


def _under(figure: Figure) -> str:
    return "<br>".join(filter(None, (marked(figure.caption), marked(figure.small))))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_row(head), "|" + "---|" * len(head), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    if isinstance(text, Mono) and not set(text) & set("`|\n\\"):
        return f"`{plain(text)}`" if plain(text) else ""
    return marked(text)


def _code(block: Code) -> str:
    longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    text = "\n".join(plain_line(line) for line in block.text.split("\n"))
    return f"{fence}{block.language}\n{text}\n{fence}"


def plain_line(line: str) -> str:
    """A line of code without characters that cannot be seen; blanks stay."""
    return "".join(c if c.isprintable() else " " for c in line)
