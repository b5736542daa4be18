"""A recipe's text as tokens, and which of them comes next."""

from __future__ import annotations

import re

from .errors import MergeError

PLAIN_NAME = re.compile(r"[^\W\d][\w./\\@-]*")
"""A name that needs no quotation marks in a recipe's text."""
TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:/\d+)?%?)"
    rf'|(?P<name>{PLAIN_NAME.pattern})|(?P<quoted>"(?:[^"\\]|\\.)*")'
    r"|(?P<weights>\[[^\]]*\])|(?P<sign>[-+()*,;]))"
)


class Tokens:
    """The tokens of a text, read from left to right. Raises MergeError for anything else in it.

    A token is a number, a name, a name in quotation marks ("quoted"), block weights in brackets
    ("weights") or a sign.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        self._next = 0
        end = 0
        while text[end:].strip():
            match = TOKEN.match(text, end)
            if not match or match.lastgroup is None:
                raise self._error_at(end, "this is not part of a recipe")
            kind = match.lastgroup
            self._tokens.append((kind, match[kind], match.start(kind)))
            end = match.end()

    @property
    def place(self) -> int:
        """The number of the next token, for `error`."""
        return self._next

    @property
    def kind(self) -> str:
        """The kind of the next token, or "end"."""
        return self._tokens[self._next][0] if self._next < len(self._tokens) else "end"

    @property
    def text(self) -> str:
        """The text of the next token; empty at the end."""
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def take(self) -> str:
        """The text of the next token, which is left behind."""
        self._next += 1
        return self._tokens[self._next - 1][1]

    def take_sign(self, sign: str) -> bool:
        """Leave the next token behind if it is this sign; whether it was."""
        found = self.kind == "sign" and self.text == sign
        self._next += found
        return found

    def expect(self, sign: str) -> None:
        """Leave this sign behind. Raises MergeError for any other token."""
        if not self.take_sign(sign):
            raise self.error(f"{sign!r} is expected here")

    def error(self, what: str, place: int | None = None) -> MergeError:
        """A message that shows the text from token number `place`, or from the next one."""
        index = self._next if place is None else place
        at = self._tokens[index][2] if index < len(self._tokens) else len(self._text)
        return self._error_at(at, what)

    def _error_at(self, at: int, what: str) -> MergeError:
        rest = self._text[at : at + 30].strip() or "the end"
        return MergeError(
            f"The recipe's text cannot be read at {rest!r}: {what.removesuffix('.')}."
        )
