"""How much disk space a run will use, computed before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from math import ceil, prod
from pathlib import Path

from .errors import TrainerError
from .litter import final_name
from .model.decoding import Quantised
from .model.memory import state_bytes, trained_counts
from .model.single_file import read_weights
from .resume import KEPT
from .runs import Run
from .settings.run_settings import RunSettings

SAVED_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


def checkpoint_bytes(
    shapes: Mapping[str, tuple[int, ...]], base_bytes: int, settings: RunSettings
) -> tuple[int, int]:
    """Bytes of one checkpoint and of one resume point, for a base with these tensor shapes."""
    counts = trained_counts(shapes, settings)
    moved = sum(counts.values())
    total = sum(prod(shape) for shape in shapes.values())
    kept_bytes = base_bytes * (total - moved) / total
    weights = 4 * moved * (2 if settings.ema.decay else 1)
    checkpoint = ceil(moved * SAVED_BYTES[settings.save_precision] + kept_bytes)
    return checkpoint, weights + state_bytes(counts, settings)


def saves(settings: RunSettings) -> int:
    """The most checkpoints on the disk at one time: those due, the best, and the next best while it
    is being written. A range test saves none.
    """
    if settings.range_test.steps:
        return 0
    due = ceil(settings.epochs / settings.save_every_epochs)
    if settings.saving.keep_last:
        due = min(due, settings.saving.keep_last + len(settings.saving.pinned) + 1)
    files = due if settings.save_every_epochs == 1 and due == settings.epochs else due + 2
    return 2 * files if settings.ema.decay and settings.ema.save == "both" else files


def check_disk(run: Run, cache_bytes: int = 0) -> None:
    """Raise TrainerError when what the run has yet to write does not fit on its disks: checkpoints,
    resume points, and so many bytes of encoded pictures and captions.
    """
    base = Path(run.base.path)
    tensors = read_weights(base)
    # Quantised weights are saved in full.
    quantised = [prod(t.shape) for t in tensors.values() if isinstance(t, Quantised)]
    size = base.stat().st_size + SAVED_BYTES[run.settings.save_precision] * sum(quantised)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    checkpoint, point = checkpoint_bytes(shapes, size, run.settings)
    folders = {
        Path(run.paths.checkpoints): checkpoint * saves(run.settings),
        run.folder / "resume": point * (KEPT + 1),
    }
    missing = {Path(run.paths.cache): cache_bytes}
    for folder, size in folders.items():
        there = sum(file.stat().st_size for file in folder.rglob("*") if _counts(file))
        missing[folder] = max(0, size - there)
    needed: dict[int, int] = {}
    where: dict[int, Path] = {}
    for folder, size in missing.items():
        folder.mkdir(parents=True, exist_ok=True)
        disk = folder.stat().st_dev
        needed[disk] = needed.get(disk, 0) + size
        where.setdefault(disk, folder)
    for disk, size in needed.items():
        free = shutil.disk_usage(where[disk]).free
        if free < size:
            raise TrainerError(
                f"The run may write {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in "
                f"{where[disk]}. Free some space, or save less often."
            )


def _counts(file: Path) -> bool:
    """Whether a file is one of those that a run will have: what is only the beginning of one, here
    or in the folder of a resume point, is written again.
    """
    beginning = any(final_name(name) is not None for name in (file.name, file.parent.name))
    return file.is_file() and not beginning
