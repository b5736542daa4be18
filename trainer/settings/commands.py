"""The commands about settings: presets, import-everydream2, and new, which makes a run folder
without ComfyUI.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TrainerError

if TYPE_CHECKING:
    from ..data.manifest import Dataset
    from .run_settings import RunSettings


def add(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the parser of `python -m trainer`."""
    new = commands.add_parser(
        "new",
        help="make a run folder from a base, pairs and settings",
        description="Make a run folder from a base, pairs and settings. Nothing is trained yet: 'run FOLDER' does that. The same base, "
        "pairs and settings under the same name are the same run; a name that is taken by another run is refused.",
    )
    new.add_argument(
        "parent",
        type=Path,
        help="folder that the run's folder is made in, such as OUTPUT/cocktail/runs",
    )
    new.add_argument("name", help="name of the run and of its checkpoints")
    new.add_argument(
        "--base",
        type=Path,
        required=True,
        help="the SD1.5 checkpoint to start from, a .safetensors file",
    )
    new.add_argument(
        "--dataset",
        type=Path,
        required=True,
        help="a folder of pictures with captions, or a saved manifest (.parquet)",
    )
    _add_settings(new)
    new.add_argument(
        "--validation-share",
        type=float,
        default=0.15,
        help="share of the pairs that is held back for validation, where the manifest has no split of its own (0.15)",
    )
    new.add_argument(
        "--split-seed", type=int, default=1, help="decides which pairs are held back (1)"
    )
    new.add_argument(
        "--on-problem",
        choices=("stop", "skip"),
        default="stop",
        help="what a picture that is no pair does (stop)",
    )
    new.add_argument(
        "--checkpoints",
        type=Path,
        help="folder that gets the run's folder of checkpoints (PARENT/../checkpoints)",
    )
    new.add_argument(
        "--tokenizer",
        type=Path,
        help="folder of CLIP's tokenizer (COMFYUI/comfy/sd1_tokenizer, found beside the pack)",
    )
    new.add_argument("--cache", type=Path, help="folder of encoded pictures (PARENT/../cache)")
    new.set_defaults(run=_new)

    presets = commands.add_parser(
        "presets",
        help="print the presets, or the settings of one, as JSON",
        description="Print the names of the presets, or all settings of one, as JSON.",
    )
    presets.add_argument("name", nargs="?", help="the preset whose settings are wanted")
    presets.set_defaults(run=_presets)

    imported = commands.add_parser(
        "import-everydream2",
        help="turn EveryDream2's configuration into settings, with a report of every key",
        description="Turn EveryDream2's train.json, optimizer.json and validation.json into settings. The report says of every key whether "
        "it was taken, translated or ignored, and why. Without -o the settings are printed and the report goes to standard error.",
    )
    imported.add_argument("train", type=Path, help="train.json")
    imported.add_argument("optimizer", type=Path, nargs="?", help="optimizer.json")
    imported.add_argument("--validation", type=Path, help="validation.json")
    imported.add_argument(
        "--steps-per-epoch",
        type=int,
        default=0,
        help="batches in an epoch: turns what EveryDream2 derives from the length of a run into steps",
    )
    imported.add_argument(
        "-o",
        "--out",
        type=Path,
        help="write the settings to this file, which must not be there yet",
    )
    imported.set_defaults(run=_import)

    memory = commands.add_parser(
        "memory",
        help="estimate the memory that settings need, and lighter ones",
        description="Estimate the memory of a run with these settings, and of lighter settings, each with what was changed.",
    )
    memory.add_argument(
        "base", type=Path, nargs="?", help="the checkpoint to start from (full-size SD1.5)"
    )
    _add_settings(memory)
    memory.set_defaults(run=_memory)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--settings",
        type=Path,
        help="settings as JSON, as presets and import-everydream2 write them",
    )
    chosen.add_argument("--preset", help="settings by name, see presets")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, such as loss.min_snr_gamma=5; may be repeated",
    )


def _presets(options: argparse.Namespace) -> int:
    from .presets import PRESETS, preset

    value = preset(options.name).to_json() if options.name else list(PRESETS)
    print(json.dumps(value, ensure_ascii=False, indent=1))
    return 0


def _import(options: argparse.Namespace) -> int:
    from ..files import write_json
    from .everydream import import_everydream

    optimizer = _read(options.optimizer) if options.optimizer else ""
    validation = _read(options.validation) if options.validation else ""
    found = import_everydream(_read(options.train), optimizer, validation, options.steps_per_epoch)
    if options.out is None:
        print(found.report(), file=sys.stderr)
        print(json.dumps(found.settings.to_json(), ensure_ascii=False, indent=1))
        return 0
    if options.out.exists():
        raise TrainerError(
            f"{options.out} is there already. Choose another name; nothing is overwritten."
        )
    write_json(options.out, found.settings.to_json())
    print(found.report())
    print(f"written: {options.out}")
    return 0


def _memory(options: argparse.Namespace) -> int:
    from ..model.memory import estimate, lighter
    from ..model.networks import sd15_shapes
    from ..model.single_file import check_sd15, read_shapes

    settings = _settings(options)
    if options.base:
        check_sd15(options.base)
    shapes = read_shapes(options.base) if options.base else sd15_shapes()
    print(f"as set: {estimate(shapes, settings)}")
    for words, lighter_settings in lighter(settings):
        print(f"{words}: {estimate(shapes, lighter_settings)}")
    return 0


def _new(options: argparse.Namespace) -> int:
    from ..files import sha256_file
    from ..model.single_file import check_sd15
    from ..runs import Base, Paths, create_run

    settings = _settings(options)
    check_sd15(options.base)
    tokenizer = options.tokenizer or _tokenizer()
    if not (tokenizer / "vocab.json").is_file():
        raise TrainerError(
            f"There is no tokenizer in {tokenizer}: vocab.json is missing. Give COMFYUI/comfy/sd1_tokenizer by --tokenizer."
        )
    dataset = _dataset(options)
    parent = options.parent.resolve()
    run = create_run(
        parent,
        options.name,
        Base(options.base.name, str(options.base.resolve()), sha256_file(options.base)),
        dataset,
        settings,
        Paths(
            checkpoints=str((options.checkpoints or parent.parent / "checkpoints").resolve()),
            tokenizer=str(tokenizer.resolve()),
            cache=str((options.cache or parent.parent / "cache").resolve()),
        ),
    )
    print(
        f"{run.folder}: {len(dataset.train)} pairs to train on, {len(dataset.validation)} for validation"
    )
    print(f"python -m trainer run {run.folder}")
    return 0


def _settings(options: argparse.Namespace) -> RunSettings:
    from .presets import preset
    from .run_settings import RunSettings
    from .strict_json import parse_object
    from .text import changed_by

    settings = RunSettings()
    if options.preset:
        settings = preset(options.preset)
    elif options.settings:
        settings = RunSettings.from_json(
            parse_object(_read(options.settings), options.settings.name)
        )
    return changed_by(settings, options.set)


def _dataset(options: argparse.Namespace) -> Dataset:
    """The pairs, split: a manifest keeps the split it has."""
    from ..data.folder.folder import load_folder
    from ..data.manifest import Dataset
    from ..data.split import split

    if not 0.0 < options.validation_share < 1.0:
        raise TrainerError(
            f"The validation share is {options.validation_share}; it must be between 0 and 1."
        )
    path = options.dataset
    if path.is_dir():
        dataset, report = load_folder(path, path.resolve().name, on_problem=options.on_problem)
        print(report)
    elif path.is_file():
        dataset = Dataset.load(path)
    else:
        raise TrainerError(f"There is neither a folder nor a manifest {path}.")
    if dataset.validation:
        return dataset
    return split(dataset, options.validation_share, options.split_seed)


def _tokenizer() -> Path:
    """The tokenizer of the ComfyUI that this pack lies in."""
    for folder in Path(__file__).absolute().parents:
        if (found := folder / "comfy" / "sd1_tokenizer").is_dir():
            return found
    raise TrainerError(
        "The pack does not lie in a ComfyUI. Give CLIP's tokenizer, COMFYUI/comfy/sd1_tokenizer, by --tokenizer."
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainerError(f"{file} is not UTF-8 text: {error.reason}.") from error
    except OSError as error:
        raise TrainerError(f"{file} cannot be read: {error.strerror}.") from error
