"""The commands about settings: presets, import-everydream2, memory, and new, which makes a run
folder without ComfyUI.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TrainerError

if TYPE_CHECKING:
    from ..data.manifest import Dataset
    from .run_settings import RunSettings

PACK = Path(__file__).absolute().parents[2]
"""The folder that holds dev.py."""
VOCABULARY = "vocab.json"
"""A file that every folder of CLIP's tokenizer has."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the parser of `python -m trainer`."""
    _add_new(commands)
    _add_presets(commands)
    _add_import(commands)
    _add_memory(commands)


def _add_new(commands: argparse._SubParsersAction) -> None:
    new = commands.add_parser(
        "new",
        help="make a run folder from a base, pairs and settings",
        description="Make a run folder from a base, pairs and settings. This trains nothing yet: "
        "'run FOLDER' does. The same base, pairs and settings under the same name are the same "
        "run; a name that belongs to another run is refused.",
    )
    new.add_argument(
        "parent",
        type=Path,
        help="folder in which the run's folder is made, such as OUTPUT/cocktail/runs",
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
        help="share of the pairs to hold back for validation, unless the manifest is already "
        "split (0.15)",
    )
    new.add_argument(
        "--split-seed", type=int, default=1, help="decides which pairs are held back (1)"
    )
    new.add_argument(
        "--on-problem",
        choices=("stop", "skip"),
        default="stop",
        help="what to do about a picture that cannot be used (stop)",
    )
    _add_reading(new)
    new.add_argument(
        "--checkpoints",
        type=Path,
        help="folder in which the run's folder of checkpoints is made (PARENT/../checkpoints)",
    )
    new.add_argument(
        "--tokenizer",
        type=Path,
        help="folder of CLIP's tokenizer (comfy/sd1_tokenizer of COMFYUI_PATH, of the ComfyUI "
        "that contains this pack, or of .comfy)",
    )
    new.add_argument("--cache", type=Path, help="folder of encoded pictures (PARENT/../cache)")
    new.set_defaults(run=_new)


def _add_reading(new: argparse.ArgumentParser) -> None:
    """Add what Load Dataset asks about a folder."""
    from ..data.folder.reading import CAPTION_TEXTS, LAYOUTS

    new.add_argument(
        "--caption-text",
        choices=CAPTION_TEXTS,
        default=CAPTION_TEXTS[0],
        help="how much of a caption file is the caption (first line)",
    )
    new.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="how the folder stores captions and settings (auto)",
    )
    new.add_argument(
        "--caption-column",
        default="",
        help="column of the captions in a Hugging Face folder (the likeliest)",
    )
    new.add_argument(
        "--background", default="#ffffff", help="colour that transparency becomes (#ffffff)"
    )


def _add_presets(commands: argparse._SubParsersAction) -> None:
    presets = commands.add_parser(
        "presets",
        help="print the presets, or the settings of one, as JSON",
        description="Print the names of the presets, or all settings of one, as JSON.",
    )
    presets.add_argument("name", nargs="?", help="the preset to print")
    presets.set_defaults(run=_presets)


def _add_import(commands: argparse._SubParsersAction) -> None:
    imported = commands.add_parser(
        "import-everydream2",
        help="turn EveryDream2's configuration into settings and report on every key",
        description="Turn EveryDream2's train.json, optimizer.json and validation.json into "
        "settings. For every key the report says whether it was taken, translated or ignored, and "
        "why. Without -o the settings are printed and the report goes to standard error.",
    )
    imported.add_argument("train", type=Path, help="train.json")
    imported.add_argument("optimizer", type=Path, nargs="?", help="optimizer.json")
    imported.add_argument("--validation", type=Path, help="validation.json")
    imported.add_argument(
        "--steps-per-epoch",
        type=int,
        default=0,
        help="batches in an epoch; with it, what EveryDream2 derives from the length of a run "
        "becomes a number of steps",
    )
    imported.add_argument(
        "-o", "--out", type=Path, help="write the settings to this file, which must not exist"
    )
    imported.set_defaults(run=_import)


def _add_memory(commands: argparse._SubParsersAction) -> None:
    memory = commands.add_parser(
        "memory",
        help="estimate the memory that settings need, and lighter settings",
        description="Estimate the memory that a run with these settings needs, then suggest "
        "lighter settings, each with what was changed.",
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
        help="a JSON file of settings, as written by presets and import-everydream2",
    )
    chosen.add_argument("--preset", help="a preset by name; the command presets lists them")
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
    from .everydream.importing import import_everydream

    optimizer = _read(options.optimizer) if options.optimizer else ""
    validation = _read(options.validation) if options.validation else ""
    found = import_everydream(_read(options.train), optimizer, validation, options.steps_per_epoch)
    if options.out is None:
        print(found.report(), file=sys.stderr)
        print(json.dumps(found.settings.to_json(), ensure_ascii=False, indent=1))
        return 0
    if options.out.exists():
        raise TrainerError(
            f"{options.out} already exists and is not overwritten. Choose another name."
        )
    write_json(options.out, found.settings.to_json())
    print(found.report())
    print(f"written: {options.out}")
    return 0


def _memory(options: argparse.Namespace) -> int:
    from ..model.layout import check_sd15
    from ..model.memory import estimate, lighter
    from ..model.networks import sd15_shapes
    from ..model.single_file import read_shapes

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
    from ..model.layout import check_sd15
    from ..runs import Base, Paths, create_run

    settings = _settings(options)
    told = check_sd15(options.base)
    tokenizer = options.tokenizer or _tokenizer()
    if not (tokenizer / VOCABULARY).is_file():
        raise TrainerError(
            f"There is no tokenizer in {tokenizer}: {VOCABULARY} is missing. "
            "Give ComfyUI's comfy/sd1_tokenizer with --tokenizer."
        )
    dataset = _dataset(options, tokenizer)
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
        f"{run.folder}: {len(dataset.train)} pairs to train on, "
        f"{len(dataset.validation)} for validation"
    )
    if told:
        print(told)
    print(f"python -m trainer run {_quoted(run.folder)}")
    return 0


def _quoted(folder: Path) -> str:
    """A path as a person pastes it into a shell."""
    return subprocess.list2cmdline([str(folder)]) if os.name == "nt" else shlex.quote(str(folder))


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


def _dataset(options: argparse.Namespace, tokenizer: Path) -> Dataset:
    """The pairs, split; a manifest that is already split keeps its split."""
    from ..data.folder.folder import load_folder
    from ..data.manifest import Dataset
    from ..data.split import split

    if not 0.0 < options.validation_share < 1.0:
        raise TrainerError(
            f"The validation share is {options.validation_share}; it must be between 0 and 1."
        )
    path = options.dataset
    if path.is_dir():
        dataset, report = load_folder(
            path,
            path.resolve().name,
            options.caption_text,
            options.on_problem,
            layout=options.layout,
            caption_column=options.caption_column,
            background=options.background,
            tokenizer=tokenizer,
        )
        print(report)
    elif path.is_file():
        dataset = Dataset.load(path)
    else:
        raise TrainerError(f"{path} is neither a folder nor a manifest.")
    if dataset.validation:
        return dataset
    return split(dataset, options.validation_share, options.split_seed)


def _tokenizer() -> Path:
    """CLIP's tokenizer of COMFYUI_PATH, of the ComfyUI that contains this pack, or of .comfy, which
    dev.py makes.
    """
    places = [*PACK.parents, PACK / ".comfy" / "comfyui"]
    if named := os.environ.get("COMFYUI_PATH"):
        places.insert(0, Path(named))
    for folder in places:
        if (found := folder / "comfy" / "sd1_tokenizer" / VOCABULARY).is_file():
            return found.parent
    raise TrainerError(
        "CLIP's tokenizer was not found: this pack is in no ComfyUI, and there is none in "
        f"{named or 'COMFYUI_PATH, which is not set,'} or .comfy. Set COMFYUI_PATH to a ComfyUI, "
        "or give its comfy/sd1_tokenizer with --tokenizer."
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainerError(f"{file} is not UTF-8 text: {error.reason}.") from error
    except OSError as error:
        raise TrainerError(f"{file} cannot be read: {error.strerror}.") from error
