"""Checkpoints for ComfyUI: the base's own single file with the trained tensors in their places."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainerError
from .jobs.job import read_json
from .litter import sweep_own
from .model.decoding import Quantised
from .model.single_file import (
    TEXT_ENCODER,
    UNET,
    Level,
    open_weights,
    single_file_name,
    text_encoder_name,
    unet_name,
    write_single_file,
)
from .notes import read_notes, unchanged
from .runs import Run, is_plain
from .settings.run_settings import RunSettings

if TYPE_CHECKING:
    import torch

HALF_LIMIT = 65504.0
EMA_SUFFIX = "-ema"
"""What the name of an EMA checkpoint ends with."""


def checkpoint_file(run: Run, epoch: int, step: int, suffix: str = "") -> str:
    """A name that no other checkpoint has, because ComfyUI caches a loaded file by its name."""
    return f"{run.name}-e{epoch:03d}-s{step:06d}{suffix}.safetensors"


def save_checkpoint(
    run: Run,
    parts: dict[str, Any],
    levels: tuple[Level, ...],
    epoch: int,
    step: int,
    suffix: str = "",
) -> Path:
    """Write the trained parts into a copy of the base; all other tensors, such as the VAE's, are
    copied as they are. Of a quantised base they are the weights that are meant, in the precision in
    which the run saves.

    EMA copies (`model_ema.*`) of the base are left out. The file is read back and compared before
    it gets its name. Raises TrainerError when a weight is not finite or does not fit the type, or
    when the file does not hold what was written.
    """
    path = Path(run.paths.checkpoints) / checkpoint_file(run, epoch, step, suffix)
    if path.exists():
        return path
    precision = run.settings.save_precision
    trained = trained_tensors(parts, levels, precision)
    tensors = {}
    with open_weights(Path(run.base.path)) as file:
        for name, stored in file.tensors.items():
            if name.startswith("model_ema."):
                continue
            own = trained.pop(single_file_name(name), None)
            if own is None and isinstance(stored, Quantised):
                own = in_precision(name, file[name], precision)
            tensors[name] = file[name] if own is None else own
    if trained:
        raise TrainerError(
            f"{run.base.name} cannot be trained: it lacks tensors such as {sorted(trained)[0]}. "
            "Choose a full Stable Diffusion 1.5 checkpoint."
        )
    metadata = _metadata(run, epoch, step, suffix)
    write_single_file(path, tensors, metadata, lambda written: _verify(written, path.name, tensors))
    return path


def sweep_checkpoints(run: Run) -> None:
    """Remove what kills have left of checkpoints that this run was saving. For the process that
    works on it: others may be saving one right now.
    """
    own = re.compile(rf"{re.escape(run.name)}-e\d+-s\d+({EMA_SUFFIX})?\.safetensors")
    sweep_own(Path(run.paths.checkpoints), lambda name: bool(own.fullmatch(name)))


def trained_tensors(
    parts: dict[str, Any], levels: tuple[Level, ...], precision: str
) -> dict[str, torch.Tensor]:
    """The trained tensors by their names in a single file, in the type to save them in."""
    tensors = {}
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            if part == "unet":
                key = UNET + unet_name(name, levels)
            else:
                key = TEXT_ENCODER + text_encoder_name(name)
            tensors[key] = in_precision(key, tensor, precision)
    return tensors


def in_precision(name: str, tensor: torch.Tensor, precision: str) -> torch.Tensor:
    """A weight in the type to save it in. Raises TrainerError when that cannot hold it."""
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    largest = tensor.abs().max().item()
    if not largest <= (HALF_LIMIT if precision == "fp16" else torch.finfo(dtype).max):
        raise TrainerError(
            f"{name} contains {largest}, which {precision} cannot store. "
            "Choose save precision bf16 or fp32, or a lower learning rate."
        )
    return tensor.detach().cpu().to(dtype).contiguous()


def _verify(path: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Compare a written file, which will be `name`, with the names, shapes, types and values that
    it should have.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        wrong = sorted(set(file.keys()) ^ tensors.keys())
        wrong += [
            key
            for key, tensor in tensors.items()
            if key not in wrong and not _is_same(file.get_tensor(key), tensor)
        ]
    if wrong:
        raise TrainerError(
            f"{name} was not written correctly: {', '.join(wrong[:3])} read back differently. "
            "Check the disk and its cables."
        )


def _is_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether shape, type and all bits of two tensors are the same."""
    import torch

    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    one, other = first.contiguous().flatten(), second.contiguous().flatten()
    # Eight bytes at a time, where they fit, take a third of the time of one.
    starts = [tensor.storage_offset() * tensor.itemsize for tensor in (one, other)]
    size = torch.uint8 if any(count % 8 for count in (one.nbytes, *starts)) else torch.int64
    return torch.equal(one.view(size), other.view(size))


def prune_checkpoints(run: Run, former_best: dict[str, Any] | None = None) -> None:
    """Delete checkpoints that the settings do not keep: a former best that was not due, and all but
    the newest few.

    The best, the newest, those of pinned epochs and those that a person has pinned always stay;
    files of other runs are never touched. Nothing goes while it cannot be read what is pinned, and
    nothing can be pinned between that and the deletion.
    """
    try:
        with unchanged(run.folder):
            _prune(run, former_best, read_notes(run.folder).pinned)
    except TrainerError as error:
        print(f"No checkpoint is pruned: {error}", file=sys.stderr)


def _prune(run: Run, former_best: dict[str, Any] | None, pinned: Sequence[int]) -> None:
    settings, folder, metrics = run.settings, Path(run.paths.checkpoints), run.metrics()
    kinds = ("checkpoint", "ema checkpoint")
    lines = {
        line["file"]: line
        for line in metrics
        if line["kind"] in kinds and _is_own(run, line.get("file"), line["epoch"], line["step"])
    }
    best = run.state().best
    always = {*pinned, best["step"]} if best else {*pinned}
    for line in lines.values():
        if line["epoch"] in settings.saving.pinned or line["epoch"] == settings.epochs:
            always.add(line["step"])
    steps = sorted({line["step"] for line in lines.values()})
    gone = set(steps[: -settings.saving.keep_last]) if settings.saving.keep_last else set()
    if former_best and not _was_due(settings, former_best, metrics):
        gone.add(former_best["step"])
    for name, line in lines.items():
        if line["step"] in gone - always:
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def _is_own(run: Run, file: Any, epoch: int, step: int) -> bool:
    """Whether a line names the very file that this run has written at that step: its folder may
    have come from elsewhere, and nothing else is deleted.
    """
    return is_plain(file) and file in (
        checkpoint_file(run, epoch, step),
        checkpoint_file(run, epoch, step, EMA_SUFFIX),
    )


def _was_due(
    settings: RunSettings, best: dict[str, Any], metrics: Sequence[dict[str, Any]]
) -> bool:
    """Whether a checkpoint was due at the step of this best one anyway."""
    every, step = settings.saving.every_steps, best["step"]
    if every and step % every == 0:
        return True
    epochs = {line["step"]: line["epoch"] for line in metrics if line["kind"] == "step"}
    closes_epoch = epochs.get(step + 1, math.inf) > best["epoch"]
    return closes_epoch and best["epoch"] % settings.save_every_epochs == 0


def _metadata(run: Run, epoch: int, step: int, suffix: str) -> dict[str, str]:
    """ModelSpec 1.0.1 and the card of the run, as safetensors metadata."""
    card = {
        "run": run.name,
        "id": run.id,
        "epoch": epoch,
        "step": step,
        "ema": bool(suffix),
        "base": {"name": run.base.name, "sha256": run.base.sha256},
        "dataset": read_json(run.folder / "run.json")["dataset"],
        "settings": run.settings.to_json(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": f"{run.name}, epoch {epoch}{', EMA' if suffix else ''}",
        "modelspec.resolution": f"{run.settings.resolution}x{run.settings.resolution}",
        "modelspec.prediction_type": "epsilon"
        if run.settings.loss.prediction == "epsilon"
        else "v",
        "cocktail.run": json.dumps(card, ensure_ascii=False, sort_keys=True),
    }
