"""The commands of `python -m merge`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from .blocks import LAYOUTS
from .card import command as card
from .checkpoint import DIFFERENT, bind_to_files, make_checkpoint, notes_of, remake
from .conversion import EMA_CHOICES, KEEP, convert
from .errors import MergeError
from .inspection import inspect_file, report, tree
from .licence import parse_by_hand
from .lora_kinds import is_lora
from .lora_mixing import mix_loras, shares_of
from .metadata import read_recipe
from .methods import METHODS
from .numbers import decimal, exact, written
from .options import OneFolder
from .pickled import ENDINGS, is_pickled
from .plan import PRECISIONS
from .presets import read_weights
from .reading import open_checkpoint
from .recipe import TREES, Ingredient, Recipe, flatten, ingredients
from .recipe_json import load_json, to_json
from .requantise import quantise_like
from .safetensors_file import ENDINGS as SAFETENSORS
from .safetensors_file import read_header
from .text import name_finder, parse, to_text

MIXED_PREDICTION = "mixed-prediction"
CLOSED_PIPE = 141
"""The exit status of a program that a closed pipe ends (128 + SIGPIPE)."""
Command: TypeAlias = Callable[[argparse.Namespace], int]
Options: TypeAlias = Callable[[argparse.ArgumentParser], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a MergeError becomes one line on standard error and exit status 1. When
    whoever reads the output stops reading, as `| head` does, the command ends quietly.
    """
    try:
        return _carry_out(arguments)
    except OSError as error:
        if not _is_closed_pipe(error):
            raise
        # At its end Python writes what is left in the buffer, and the pipe would refuse it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def _carry_out(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        status = options.run(options)
    except MergeError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except SystemExit:
        sys.stdout.flush()  # the help
        raise
    sys.stdout.flush()
    return status


def _is_closed_pipe(error: OSError) -> bool:
    """Whether nobody reads the output any more; Windows says EINVAL then."""
    is_invalid = os.name == "nt" and error.errno == errno.EINVAL and error.filename is None
    return is_invalid or isinstance(error, BrokenPipeError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m merge", description="Mix checkpoints by recipe."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, about: str, run: Command, *options: Options) -> None:
        command = commands.add_parser(name, help=about, description=_sentence(about))
        for more in options:
            more(command)
        command.set_defaults(run=run)

    add("run", "make the checkpoint of a recipe", _run, _run_options, _converted)
    add(
        "remake",
        "make a merged checkpoint again from its own metadata, and compare the two",
        _remake,
        _remake_options,
        _converted,
    )
    add(
        "inspect",
        "show a checkpoint's family, parts, types, hashes, licence and recipe",
        _inspect,
        _inspect_options,
    )
    add(
        "compare",
        "show how much two checkpoints differ, block by block",
        _compare,
        _compare_options,
    )
    add(
        "prune",
        "write a smaller copy of a checkpoint: another precision, no averaged copies, "
        "nothing left over from training",
        _prune,
        _prune_options,
        _converted,
    )
    add(
        "extract-lora",
        "write the difference between two checkpoints as a LoRA file",
        _extract,
        _extract_options,
    )
    add("bake-lora", "write a checkpoint with a LoRA added to it", _bake, _bake_options)
    add("methods", "list the merge methods and their settings", _methods)
    add("show", "print the recipe a checkpoint was made from", _show, _show_options)
    add(
        "card",
        "write the release card of a checkpoint: lineage, losses, votes, recipe, licences",
        _card,
        card.card_options,
    )
    add(
        "verify",
        "check everything that a release card speaks of, and name what was changed",
        _verify,
        card.verify_options,
    )
    return parser


def _sentence(about: str) -> str:
    return f"{about[0].upper()}{about[1:]}."


def _run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", help='a .json file with the recipe, or its text: "0.6 vodka + 0.4 epic"'
    )
    _out(command)
    _models(command)
    command.add_argument("--precision", choices=list(PRECISIONS), default="fp16")
    command.add_argument(
        "--rank",
        type=int,
        help="for a mix of LoRA files: cut it to this rank (default: the sum of theirs, exact)",
    )
    _threads(command)
    command.add_argument(
        "--device",
        default="cpu",
        help="where methods are computed, such as cuda (default: %(default)s)",
    )
    command.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=[MIXED_PREDICTION],
        help="mix models that predict the noise with models that predict v, which is refused",
    )
    command.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="NAME: LICENCE",
        help="the licence of an ingredient, if no file states it; may be given several times",
    )


def _remake_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, help="the merged checkpoint")
    _out(command)
    _models(command)
    _threads(command)


def _inspect_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path)
    command.add_argument("--picture", type=Path, help="draw the recipe's tree into this new PNG")


def _compare_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("a", type=Path)
    command.add_argument("b", type=Path)
    command.add_argument("--picture", type=Path, help="draw a bar for each block into this new PNG")
    _threads(command)


def _prune_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file", type=Path, help="the checkpoint; also a .ckpt file, if it holds no code"
    )
    _out(command)
    command.add_argument("--precision", choices=[KEEP, *PRECISIONS], default=KEEP)
    command.add_argument(
        "--ema",
        choices=EMA_CHOICES,
        default="drop",
        help="averaged copies (model_ema.*): drop them, keep them, or use them as UNet weights",
    )
    command.add_argument("--vae", action="store_true", help="convert the VAE too")
    command.add_argument(
        "--like",
        type=Path,
        metavar="FILE",
        help="quantise the weights that are quantised in this checkpoint, in the same way (fp8, "
        "int8 and int4 with scales, MXFP8, NVFP4, NF4, FP4); best of a merge in fp32",
    )
    _threads(command)


def _extract_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("tuned", type=Path, help="the checkpoint that has learned something")
    command.add_argument("base", type=Path, help="the checkpoint it was trained from")
    _out(command)
    command.add_argument("--rank", type=int, default=32, help="default: %(default)s")


def _number(text: str) -> float:
    """A number as recipes take it: 0.6 or 3/5. Raises what argparse expects."""
    try:
        return float(text) if "/" not in text else float(exact(text, "a number"))
    except (MergeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def _bake_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=Path)
    command.add_argument("lora", type=Path)
    _out(command)
    command.add_argument("--strength", type=_number, default=1.0, help="default: %(default)s")
    command.add_argument(
        "--blocks",
        metavar="WEIGHTS",
        help="a factor for the strength in each block, BASE (the text encoder) first, or the name "
        'of a preset: "0, 1, 0.5, ..." or GRAD_V',
    )
    command.add_argument(
        "--layout", choices=list(LAYOUTS), default="SD1.5", help="of a preset (default: SD1.5)"
    )


def _show_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path)


def _out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "out", type=Path, help="the .safetensors file to write; an existing file is never replaced"
    )


def _models(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models",
        type=Path,
        action=OneFolder,
        required=True,
        help="the folder that the ingredients are in or below",
    )


def _threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, help="default: one per processor, at most 8")


def _converted(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--converted",
        type=Path,
        default=Path.home() / ".cache" / "cocktail" / "converted",
        help="folder for safetensors copies of .ckpt ingredients (default: %(default)s)",
    )


def _run(options: argparse.Namespace) -> int:
    recipe = _read_recipe(options.recipe, options.models)
    if _are_loras(recipe, options.models):
        return _mix_loras(recipe, options)
    if options.rank is not None:
        raise MergeError("--rank is for mixes of LoRA files, and this is none. Leave it out.")
    bound = bind_to_files(
        recipe,
        _finder(options.models),
        progress=_show_progress,
        converted=options.converted,
        licences=parse_by_hand("\n".join(options.licence)),
    )
    bound = replace(bound, is_mixed_prediction_allowed=MIXED_PREDICTION in options.allow)
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
    print(f"{options.out}: {to_text(bound.recipe)}" + ("" if made else " (already there)"))
    return 0


def _are_loras(recipe: Recipe, models: Path) -> bool:
    """Whether the ingredients of a recipe are LoRA files; mixes with others are refused later."""
    paths = [_finder(models)(ingredient.name) for ingredient in ingredients(recipe)]
    return all(path.is_file() and not is_pickled(path) for path in paths) and all(
        is_lora(read_header(path).tensors) for path in paths
    )


def _mix_loras(recipe: Recipe, options: argparse.Namespace) -> int:
    find = _finder(options.models)
    loras = [(find(name), share) for name, share in shares_of(recipe)]
    done = mix_loras(loras, options.out, options.rank)
    error = f", {100 * done.error:.3g} % away from the sum" if options.rank else ""
    print(f"{options.out}: {done.weights} weights, rank {done.rank}{error}")
    return 0


def _remake(options: argparse.Namespace) -> int:
    others = sorted(
        file for file in options.models.rglob("*") if file.suffix.lower() in SAFETENSORS
    )
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

    a, b = (open_checkpoint(path) for path in (options.a, options.b))
    found = comparison.compare(a, b, options.threads, _show_progress)
    print(comparison.report(found, a.path.name, b.path.name))
    if options.picture:
        drawn = draw_differences(found.differences, a.path.name, b.path.name)
        _write_new(options.picture, drawn)
    return 0


def _prune(options: argparse.Namespace) -> int:
    if options.like:
        if (options.precision, options.ema, options.vae) != (KEEP, "drop", False):
            raise MergeError("--like goes without --precision, --ema and --vae.")
        made = quantise_like(options.file, options.like, options.out, progress=_show_progress)
        print(f"{options.out}: {made}")
        return 0
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

    blocks = read_weights(options.blocks, options.layout) if options.blocks else None
    done = bake_lora(options.checkpoint, options.lora, options.out, options.strength, None, blocks)
    print(
        f"{options.out}: {len(done.matched)} weights of the LoRA added, "
        f"{len(done.unmatched)} match no weight of the checkpoint"
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
            raise MergeError(f"{name} must be the name of an ingredient within {models}.")
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
            if file.suffix.lower() in (*SAFETENSORS, *ENDINGS)
        )
        return parse(recipe, name_finder(files, f" in the folder {models}"))
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


def _card(options: argparse.Namespace) -> int:
    return card.write(options, _show_progress)


def _verify(options: argparse.Namespace) -> int:
    return card.check(options, _show_progress)
