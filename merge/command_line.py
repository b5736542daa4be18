"""The commands of `python -m merge`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .checkpoint import DIFFERENT, bind_to_files, make_checkpoint, notes_of, remake
from .conversion import EMA_CHOICES, KEEP, convert
from .errors import MergeError
from .inspection import inspect_file, report, tree
from .key_names import with_usual_names
from .licence import parse_by_hand
from .metadata import read_recipe
from .methods import METHODS
from .numbers import decimal, written
from .pickled import ENDINGS
from .plan import PRECISIONS
from .recipe import TREES, Ingredient, Recipe, flatten
from .recipe_json import load_json, to_json
from .safetensors_file import read_header
from .text import name_finder, parse, to_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a MergeError becomes one line on standard error and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except MergeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m merge", description="Mix checkpoints by recipe."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="make the checkpoint of a recipe")
    run.add_argument(
        "recipe", help='a .json file with the recipe, or its text: "0.6 vodka + 0.4 epic"'
    )
    run.add_argument("out", type=Path, help="the .safetensors file to make; never overwritten")
    run.add_argument("--models", type=Path, required=True, help="folder the ingredients are in")
    run.add_argument("--precision", choices=list(PRECISIONS), default="fp16")
    run.add_argument("--threads", type=int, help="default: one per processor, at most 8")
    run.add_argument(
        "--device", default="cpu", help="where methods compute, such as cuda (default: %(default)s)"
    )
    run.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="NAME: LICENCE",
        help="the licence of an ingredient that no file says; can be given several times",
    )
    _add_converted(run)
    run.set_defaults(run=_run)

    again = commands.add_parser(
        "remake", help="make a merged checkpoint again by its own metadata, and compare the two"
    )
    again.add_argument("file", type=Path, help="the merged checkpoint")
    again.add_argument("out", type=Path, help="the .safetensors file to make; never overwritten")
    again.add_argument("--models", type=Path, required=True, help="folder the ingredients are in")
    again.add_argument("--threads", type=int, help="default: one per processor, at most 8")
    _add_converted(again)
    again.set_defaults(run=_remake)

    inspect = commands.add_parser(
        "inspect", help="tell a checkpoint's family, parts, types, hashes, licence and recipe"
    )
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--picture", type=Path, help="a PNG to draw the recipe's tree into")
    inspect.set_defaults(run=_inspect)

    comparison = commands.add_parser(
        "compare", help="tell how far two checkpoints are apart, block by block"
    )
    comparison.add_argument("a", type=Path)
    comparison.add_argument("b", type=Path)
    comparison.add_argument("--picture", type=Path, help="a PNG to draw bars of the blocks into")
    comparison.add_argument("--threads", type=int, help="default: one per processor, at most 8")
    comparison.set_defaults(run=_compare)

    prune = commands.add_parser(
        "prune",
        help="write a checkpoint anew: other precision, without averaged copies and leftovers of training",
    )
    prune.add_argument(
        "file", type=Path, help="the checkpoint; .ckpt files too, if they hold no code"
    )
    prune.add_argument("out", type=Path, help="the .safetensors file to make; never overwritten")
    prune.add_argument("--precision", choices=[KEEP, *PRECISIONS], default=KEEP)
    prune.add_argument(
        "--ema",
        choices=EMA_CHOICES,
        default="drop",
        help="averaged copies (model_ema.*): drop them, keep them, or use them in place of the UNet's weights",
    )
    prune.add_argument("--vae", action="store_true", help="convert the VAE too")
    prune.add_argument("--threads", type=int, help="default: one per processor, at most 8")
    _add_converted(prune)
    prune.set_defaults(run=_prune)

    extract = commands.add_parser(
        "extract-lora", help="write the difference of two checkpoints as a LoRA file"
    )
    extract.add_argument("tuned", type=Path, help="the checkpoint with what the LoRA should hold")
    extract.add_argument("base", type=Path, help="the checkpoint it was trained from")
    extract.add_argument("out", type=Path, help="the .safetensors file to make; never overwritten")
    extract.add_argument("--rank", type=int, default=32, help="default: %(default)s")
    extract.set_defaults(run=_extract)

    bake = commands.add_parser("bake-lora", help="write a checkpoint with a LoRA added to it")
    bake.add_argument("checkpoint", type=Path)
    bake.add_argument("lora", type=Path)
    bake.add_argument("out", type=Path, help="the .safetensors file to make; never overwritten")
    bake.add_argument("--strength", type=float, default=1.0, help="default: %(default)s")
    bake.set_defaults(run=_bake)

    methods = commands.add_parser(
        "methods", help="list the methods that recipes can use, with their settings"
    )
    methods.set_defaults(run=_methods)

    show = commands.add_parser("show", help="print the recipe that a checkpoint was made by")
    show.add_argument("file", type=Path)
    show.set_defaults(run=_show)
    return parser


def _add_converted(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--converted",
        type=Path,
        default=Path.home() / ".cache" / "cocktail" / "converted",
        help="folder for the safetensors files that .ckpt ingredients are converted to (default: %(default)s)",
    )


def _run(options: argparse.Namespace) -> int:
    recipe = _read_recipe(options.recipe, options.models)
    bound = bind_to_files(
        recipe,
        _finder(options.models),
        progress=_show_progress,
        converted=options.converted,
        licences=parse_by_hand("\n".join(options.licence)),
    )
    made = make_checkpoint(
        bound,
        options.out,
        options.precision,
        options.threads,
        _show_progress,
        device=options.device,
    )
    for note in notes_of(bound, options.precision):
        print(note)
    print(f"{options.out}: {to_text(bound.recipe)}" + ("" if made else " (there already)"))
    return 0


def _remake(options: argparse.Namespace) -> int:
    others = sorted(options.models.rglob("*.safetensors"))
    found = remake(
        options.file,
        options.out,
        _finder(options.models),
        others,
        threads=options.threads,
        progress=_show_progress,
        converted=options.converted,
    )
    print(f"{options.out}: {found}")
    return 0 if found != DIFFERENT else 1


def _inspect(options: argparse.Namespace) -> int:
    from .picture import draw_tree

    found = inspect_file(options.file, progress=_show_progress)
    print(report(found))
    if options.picture:
        _write_new(options.picture, draw_tree(tree(found)))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from . import comparison
    from .picture import draw_differences

    a, b = (with_usual_names(read_header(path)) for path in (options.a, options.b))
    found = comparison.compare(a, b, options.threads, _show_progress)
    print(comparison.report(found, a.path.name, b.path.name))
    if options.picture:
        drawn = draw_differences(found.differences, a.path.name, b.path.name)
        _write_new(options.picture, drawn)
    return 0


def _prune(options: argparse.Namespace) -> int:
    done = convert(
        options.file,
        options.out,
        options.precision,
        options.ema,
        options.vae,
        converted=options.converted,
        threads=options.threads,
        progress=_show_progress,
    )
    print(f"{options.out}: {done}")
    return 0


def _methods(_: argparse.Namespace) -> int:
    for name, known in METHODS.items():
        more = ", ..." if known.more else ""
        defaults = ", ".join(f"{s.name} {written(s.default)}" for s in known.settings)
        print(f"{name}({', '.join(known.operands)}{more}{'; ' if defaults else ''}{defaults})")
        print(f"    {known.title}. {known.about}")
        for setting in known.settings:
            print(f"    {setting.name}, {setting.low} to {setting.high}: {setting.about}")
    for name in TREES:
        print(f"{name}(a, b, c; share_of_b NUMBER, share_of_c NUMBER)")
    return 0


def _extract(options: argparse.Namespace) -> int:
    from .lora import extract_lora

    count = extract_lora(options.tuned, options.base, options.out, options.rank)
    print(f"{options.out}: rank {options.rank}, {count} weights")
    return 0


def _bake(options: argparse.Namespace) -> int:
    from .lora import bake_lora

    done = bake_lora(options.checkpoint, options.lora, options.out, options.strength)
    print(
        f"{options.out}: {len(done.matched)} weights of the LoRA added, {len(done.unmatched)} without a counterpart"
    )
    for name in done.unmatched:
        print(f"  not added: {name}")
    return 0


def _write_new(path: Path, data: bytes) -> None:
    """Write a new file. Raises MergeError when it exists."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise MergeError(
            f"{path} exists already and is never overwritten. Choose another name."
        ) from None
    except OSError as error:
        raise MergeError(f"{path} cannot be written: {error.strerror}.") from error


def _finder(models: Path) -> Callable[[str], Path]:
    def path_of(name: str) -> Path:
        if Path(name).anchor or ".." in Path(name).parts:
            raise MergeError(f"The ingredient {name} must be named within {models}.")
        return models / name

    return path_of


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done / 1e6:.0f} of {total / 1e6:.0f} MB", end=end, file=sys.stderr)


def _read_recipe(recipe: str, models: Path) -> Recipe:
    if not recipe.lower().endswith(".json"):
        files = sorted(
            file.relative_to(models).as_posix()
            for file in models.rglob("*")
            if file.suffix.lower() in (".safetensors", *ENDINGS)
        )
        return parse(recipe, name_finder(files))
    try:
        return load_json(Path(recipe).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MergeError(f"{recipe} cannot be read: {error}.") from error


def _show(options: argparse.Namespace) -> int:
    recipe = read_recipe(read_header(options.file))
    print(to_text(recipe))
    for atom, weight in flatten(recipe):
        sha256 = (atom.sha256 or "")[:12] if isinstance(atom, Ingredient) else ""
        name = atom.name if isinstance(atom, Ingredient) else to_text(atom)
        print(f"{decimal(weight):>8}  {sha256:12}  {name}")
    print(json.dumps(to_json(recipe), ensure_ascii=False, indent=1))
    return 0
