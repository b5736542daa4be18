"""A card as one HTML file that needs nothing else: no script, no network, pictures within."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

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
from .graph import plain
from .markdown import plain_line
from .pictures import SMALL
from .reading import sha256_json

STYLE = Path(__file__).with_name("card.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
RECORD = '<script type="application/json" id="cocktail-card">'
"""What the record in a page begins with; browsers do not run it."""
RECORD_END = "</script>"
EMBEDDED = re.compile(r'src="data:image/webp;base64,([A-Za-z0-9+/=]*)"')


def write_page(sections: Sequence[Section], record: dict[str, Any]) -> str:
    """The whole file, with the card's record for programs at its end, and in that its own hash and
    that of the page around it.
    """
    title = sections[0].title
    links = "".join(
        f'<li><a href="#{_id(one.title)}">{_text(one.title)}</a></li>' for one in sections[1:]
    )
    body = [_opening(sections[0]), f'<nav aria-label="Sections"><ul>{links}</ul></nav>']
    body += [
        f'<section aria-labelledby="{_id(one.title)}"><h2 id="{_id(one.title)}">'
        f"{_text(one.title)}</h2>{_blocks(one.blocks)}</section>"
        for one in sections[1:]
    ]
    start = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_text(title)}: release card</title>"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(body)}</main>\n{RECORD}"
    )
    end = f"{RECORD_END}</body></html>\n"
    return start + _json(sealed({**record, "page_sha256": page_sha256(start + end)})) + end


def read_page(page: str) -> str:
    """The JSON of the record in a page, "" without one."""
    start, end = _record_in(page)
    return page[start:end]


def page_sha256(page: str) -> str:
    """Hex SHA-256 of a page without its record and without its pictures, which have hashes of their
    own; line ends are as on Unix.
    """
    start, end = _record_in(page)
    words = EMBEDDED.sub('src=""', page[:start] + page[end:]).replace("\r\n", "\n")
    return hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its own hash."""
    return {**record, "record_sha256": sha256_json(record)}


def _record_in(page: str) -> tuple[int, int]:
    """Where in a page its record begins and ends."""
    start = page.rfind(RECORD)
    end = page.find(RECORD_END, start)
    return (start + len(RECORD), end) if min(start, end) >= 0 else (0, 0)


def _json(record: dict[str, Any]) -> str:
    """JSON that ends no element of a page, whatever is in it."""
    text = json.dumps(record, ensure_ascii=True, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _opening(section: Section) -> str:
    """The title beside the first picture, with the verdict above all else."""
    picture = [block for block in section.blocks if isinstance(block, Figure)]
    rest = [block for block in section.blocks if not isinstance(block, Figure)]
    first = "".join(f'<div class="cover">{_figure(one)}</div>' for one in picture)
    return (
        f'<header class="opening{" with-cover" * bool(picture)}">{first}<div class="about">'
        f"<h1>{_text(section.title)}</h1>{_blocks(rest)}</div></header>"
    )


def _blocks(blocks: Sequence[Block]) -> str:
    """All blocks; comparisons that follow each other stand side by side where there is room."""
    parts = []
    for kind, group in groupby(blocks, key=lambda block: isinstance(block, Versus)):
        text = "".join(part for block in group for part in _block(block))
        parts.append(f'<div class="comparisons">{text}</div>' if kind else text)
    return "".join(parts)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Words):
        yield f"<p{' class=strong' * block.strong}>{_text(block.text)}</p>"
    elif isinstance(block, Warnings):
        sentences = "".join(f"<li>{_text(one)}</li>" for one in block.sentences)
        yield f'<div class="warnings"><p>{_text(block.title)}</p><ul>{sentences}</ul></div>'
    elif isinstance(block, Facts):
        rows = "".join(
            f"<div><dt>{_text(name)}</dt><dd>{_cell(value)}</dd></div>"
            for name, value in block.rows
        )
        yield f"<dl>{rows}</dl>" if rows else ""
    elif isinstance(block, Table):
        yield _table(block)
    elif isinstance(block, Code):
        lines = "\n".join(plain_line(line) for line in block.text.split("\n"))
        yield _wide("pre", f"<code>{escape(lines)}</code>", "Text to copy")
    elif isinstance(block, Drawing):
        yield _wide("div", block.inline, block.about)
    elif isinstance(block, Figure):
        yield _figure(block)
    elif isinstance(block, Gallery):
        yield f'<div class="gallery">{"".join(map(_figure, block.figures))}</div>'
    elif isinstance(block, Versus):
        sides = _figure(block.left) + _figure(block.right)
        told = f"<p>{_text(block.verdict)}</p>"
        yield f'<div class="versus"><div class="sides">{sides}</div>{told}</div>'
    elif isinstance(block, Fold):
        yield f"<details><summary>{_text(block.title)}</summary>{_blocks(block.blocks)}</details>"


def _figure(figure: Figure) -> str:
    one = figure.picture
    small = " class=small" * (max(one.width, one.height) <= SMALL)
    words = "".join(
        f"<span{' class=settings' * bool(number)}>{_text(text)}</span>"
        for number, text in enumerate((figure.caption, figure.small))
        if text
    )
    return (
        f'<figure><img{small} src="{one.address}" width="{one.width}" height="{one.height}" '
        f'alt="{_text(figure.alt)}">'
        + f"<figcaption>{words}</figcaption>" * bool(words)
        + "</figure>"
    )


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in block.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in block.rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return _wide("div", table, f"Table: {', '.join(block.head)}")


def _wide(tag: str, inner: str, name: str) -> str:
    """What may be wider than the page: it can be scrolled, also by keyboard."""
    return (
        f'<{tag} class="wide" role="group" tabindex="0" aria-label="{_text(name)}">{inner}</{tag}>'
    )


def _id(title: str) -> str:
    return title.lower().replace(" ", "-")


def _cell(text: str) -> str:
    return f"<code>{_text(text)}</code>" if isinstance(text, Mono) else _text(text)


def _text(text: str) -> str:
    """A plain text for a page: escaped, in one line, without characters that turn it around."""
    return escape(plain(text))
