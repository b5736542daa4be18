"""Exports a grid as a folder that any browser opens, without ComfyUI.

    python custom_nodes/cocktail/nodes/grid/engine/view/command.py output/cocktail/grids/NAME

The new folder is below output/cocktail/exports, or below the one that is named with --to, and has
the grid's name, with a number if that is taken. The exit status is 2 if that failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path

PACK = Path(__file__).resolve().parents[4]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", type=Path, help="the folder of a grid")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the new folder goes")
    options = parser.parse_args(arguments)
    for name in ("cocktail", "cocktail.nodes"):
        package = types.ModuleType(name)
        package.__path__ = [str(PACK.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    from ..errors import GridError
    from ..store.store import Store
    from .folder import export_folder

    grid = options.grid.resolve()
    if not (grid / "plan.json").is_file():
        parser.error(f"{options.grid} is no folder of a grid: it has no plan.json")
    to = options.to or grid.parents[1] / "exports"

    def show(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"{done} of {total} pictures", flush=True)

    try:
        with tempfile.TemporaryDirectory() as small:
            print(export_folder(Store(grid), to, Path(small), show))
    except GridError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    __package__ = "cocktail.nodes.grid.engine.view"
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    sys.exit(main(sys.argv[1:]))
