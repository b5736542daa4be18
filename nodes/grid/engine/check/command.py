"""Renders random cells of a grid again, without a server, and says whether they are equal to the
files on disk.

    python custom_nodes/cocktail/nodes/grid/engine/check/command.py GRID --cells 8 --
    --base-directory DIR

Run it with ComfyUI's Python. Everything after `--` is passed to ComfyUI, so that folders and
precision are the same as usual. The exit status is 0 if all cells are equal, 1 if any differs, 2 if
the check failed, 141 if whoever reads the output stopped reading, as `| head` does.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[4]


CLOSED_PIPE = 141
"""The exit status of a program that a closed pipe ends (128 + SIGPIPE)."""


def main(arguments: Sequence[str]) -> int:
    """Check as the arguments say; when nobody reads the output any more, end quietly."""
    try:
        try:
            return carry_out(arguments)
        finally:
            print(end="", flush=True)
    except OSError as error:
        # Windows says EINVAL for a closed pipe.
        is_invalid = os.name == "nt" and error.errno == errno.EINVAL and error.filename is None
        if not (is_invalid or isinstance(error, BrokenPipeError)):
            raise
        # At its end Python writes what is left in the buffer, and the pipe would refuse it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def carry_out(arguments: Sequence[str]) -> int:
    own, comfyui_arguments = list(arguments), []
    if "--" in own:
        comfyui_arguments = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", help="name of the grid, a folder in output/cocktail/grids")
    parser.add_argument("--cells", type=int, default=4, help="how many cells to render again")
    parser.add_argument("--seed", type=int, default=0, help="another number picks other cells")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument(
        "--comfyui",
        type=Path,
        default=PACK.parent.parent,
        help="ComfyUI's folder, if this pack is not inside it",
    )
    options = parser.parse_args(own)
    if not (options.comfyui / "main.py").is_file():
        parser.error(f"there is no ComfyUI in {options.comfyui}; name its folder with --comfyui")
    if options.cells < 1:
        parser.error("--cells must be 1 or more")
    start_comfyui(options.comfyui, comfyui_arguments)
    from .....trainer.files import write_json
    from ..errors import GridError
    from .check import check

    try:
        result = check(
            options.grid, options.cells, options.seed, lambda line: print(line, flush=True)
        )
    except GridError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        write_json(options.json, result.to_json())
    print(result.text(), flush=True)
    return int(result.equal < len(result.checked))


def start_comfyui(folder: Path, arguments: Sequence[str]) -> None:
    """Make ComfyUI's modules importable, with folders and switches as its main.py sets them, and
    this pack as `cocktail`.
    """
    import types

    sys.argv = ["main.py", *arguments]
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    sys.path.insert(0, str(folder))
    for name in ("cocktail", "cocktail.nodes"):
        package = types.ModuleType(name)
        package.__path__ = [str(PACK.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.cli_args import args

    if getattr(args, "cuda_device", None) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(args.cuda_device)
    if getattr(args, "deterministic", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import folder_paths
    from utils.extra_config import load_extra_path_config

    configs: list[Any] = [
        config for found in args.extra_model_paths_config or () for config in found
    ]
    for config in (folder / "extra_model_paths.yaml", *configs):
        if Path(config).is_file():
            load_extra_path_config(str(config))
    if args.output_directory:
        folder_paths.set_output_directory(str(Path(args.output_directory).resolve()))
    if args.input_directory:
        folder_paths.set_input_directory(str(Path(args.input_directory).resolve()))


if __name__ == "__main__":
    __package__ = "cocktail.nodes.grid.engine.check"
    sys.exit(main(sys.argv[1:]))
