"""How much a run will write, known before it writes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from math import ceil, prod
from pathlib import Path

from .config import RunSettings
from .errors import TrainerError
from .resume import KEPT
from .runs import Run
from .single_file import UNET, read_shapes

SAVED_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}
POINT_BYTES = 12
"""Bytes of a resume point for each trained parameter: the fp32 weight and AdamW's two moments."""


def checkpoint_bytes(
    shapes: Mapping[str, tuple[int, ...]], base_bytes: int, settings: RunSettings
) -> tuple[int, int]:
    """Bytes of one checkpoint and of one resume point of a run on a base with these tensor shapes."""
    trained = (UNET, "cond_stage_model.") if settings.train_text_encoder else (UNET,)
    parameters = {name: prod(shape) for name, shape in shapes.items()}
    moved = sum(count for name, count in parameters.items() if name.startswith(trained))
    total = sum(parameters.values())
    kept_bytes = base_bytes * (total - moved) / total
    return ceil(moved * SAVED_BYTES[settings.save_precision] + kept_bytes), moved * POINT_BYTES


def saves(settings: RunSettings) -> int:
    """The most checkpoints that lie there at one time: those due, the best, and the next best while it is written."""
    due = ceil(settings.epochs / settings.save_every_epochs)
    return due if settings.save_every_epochs == 1 else due + 2


def check_disk(run: Run) -> None:
    """Raise TrainerError when what the run has yet to write does not fit where it goes."""
    base = Path(run.base.path)
    checkpoint, point = checkpoint_bytes(read_shapes(base), base.stat().st_size, run.settings)
    folders = {
        Path(run.paths.checkpoints): checkpoint * saves(run.settings),
        run.folder / "resume": point * (KEPT + 1),
    }
    needed: dict[int, int] = {}
    where: dict[int, Path] = {}
    for folder, size in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        disk = folder.stat().st_dev
        needed[disk] = needed.get(disk, 0) + max(0, size - there)
        where.setdefault(disk, folder)
    for disk, size in needed.items():
        free = shutil.disk_usage(where[disk]).free
        if free < size:
            raise TrainerError(
                f"The run may write {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in {where[disk]}. "
                "Free some space, or save less often."
            )
