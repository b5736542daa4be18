"""How options of `python -m merge` are taken."""

from __future__ import annotations

import argparse
from typing import Any

ABOVE = {"models": "; give one that both are in, since names are looked for below it too"}


class OneFolder(argparse.Action):
    """Takes the folder of an option that may be given once: of two the first would be lost without
    a word.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if (first := getattr(namespace, self.dest, None)) is not None:
            told = f"it takes one folder, not two, {first} and {values}{ABOVE.get(self.dest, '')}"
            raise argparse.ArgumentError(self, told)
        setattr(namespace, self.dest, values)
