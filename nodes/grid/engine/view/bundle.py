"""The modules of the viewer as one classic script: browsers load no modules from file://.

Each module becomes a function that is called once and returns what it exports. This understands the
way in which this pack writes its modules, and refuses everything else.
"""

from __future__ import annotations

import re
from pathlib import Path

IMPORT = re.compile(r'^import \{([\w\s,]*)\} from "(\./|\.\./)([\w./-]+\.mjs)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async function|function|class|const) (\w+))", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*|.*\b(?:import\(|import\.meta\b).*", re.MULTILINE)


class CannotBundle(ValueError):
    """A module is written in a way that is not understood. The message says which and where."""


def bundle(entry: Path) -> str:
    """The script of a module and of all that it imports, directly or not."""
    order: list[Path] = []
    _visit(entry.resolve(), order, ())
    numbers = {path: number for number, path in enumerate(order)}
    parts = [_wrapped(path, numbers) for path in order]
    return '"use strict";\n(() => {\n' + "".join(parts) + "})();\n"


def _visit(path: Path, order: list[Path], above: tuple[Path, ...]) -> None:
    """Put a module into the order, after those that it imports."""
    if path in above:
        raise CannotBundle(f"{path.name} imports itself, through {above[-1].name}.")
    if path in order:
        return
    for found in IMPORT.finditer(path.read_text(encoding="utf-8")):
        _visit(_imported(path, found), order, (*above, path))
    order.append(path)


def _imported(path: Path, found: re.Match[str]) -> Path:
    return (path.parent / found[2] / found[3]).resolve()


def _wrapped(path: Path, numbers: dict[Path, int]) -> str:
    text = path.read_text(encoding="utf-8")

    def taken(found: re.Match[str]) -> str:
        return f"const {{{found[1]}}} = m{numbers[_imported(path, found)]};\n"

    exported = EXPORT.findall(text)
    code = EXPORT.sub("", IMPORT.sub(taken, text))
    if left := OTHER.search(code):
        raise CannotBundle(f"{path.name} has a line that is not understood: {left[0][:100]}")
    names = ", ".join(exported)
    return f"const m{numbers[path]} = (() => {{\n{code}return {{ {names} }};\n}})();\n"
