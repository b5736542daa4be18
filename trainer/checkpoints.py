"""Checkpoints for ComfyUI: the base's own single file with the trained tensors in their places."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainerError
from .files import publish
from .runs import Run
from .single_file import TEXT_ENCODER, UNET, Level, text_encoder_name, unet_name

if TYPE_CHECKING:
    import torch

HALF_LIMIT = 65504.0


def checkpoint_file(run: Run, epoch: int, step: int) -> str:
    """A name that no other checkpoint has: ComfyUI keeps a loaded file by its name."""
    return f"{run.name}-e{epoch:03d}-s{step:06d}.safetensors"


def save_checkpoint(
    run: Run, parts: dict[str, Any], levels: tuple[Level, ...], epoch: int, step: int
) -> Path:
    """Write the trained parts into a copy of the base; every other tensor, the VAE above all, is copied as it is.

    EMA copies (`model_ema.*`) are left out. Raises TrainerError when a weight is not finite or does not fit the type.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = Path(run.paths.checkpoints) / checkpoint_file(run, epoch, step)
    if path.exists():
        return path
    trained = trained_tensors(parts, levels, run.settings.save_precision)
    with safe_open(run.base.path, framework="pt") as file:
        tensors = {
            name: trained.pop(single_file_name(name), None)
            for name in file.keys()  # noqa: SIM118 (a safe_open file is no dict)
            if not name.startswith("model_ema.")
        }
        for name, tensor in tensors.items():
            if tensor is None:
                tensors[name] = file.get_tensor(name)
    if trained:
        raise TrainerError(
            f"The base has no place for {sorted(trained)[:3]}; it cannot be trained."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata=_metadata(run, epoch, step))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def single_file_name(name: str) -> str:
    """The usual spelling of a tensor's name; NovelAI-style files leave `text_model.` out."""
    prefix = "cond_stage_model.transformer."
    if name.startswith(prefix) and not name.startswith(TEXT_ENCODER):
        return TEXT_ENCODER + name.removeprefix(prefix)
    return name


def trained_tensors(
    parts: dict[str, Any], levels: tuple[Level, ...], precision: str
) -> dict[str, torch.Tensor]:
    """The trained tensors by their names in a single file, in the type to save."""
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    tensors = {}
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            if part == "unet":
                key = UNET + unet_name(name, levels)
            else:
                key = TEXT_ENCODER + text_encoder_name(name)
            largest = tensor.abs().max().item()
            if not largest <= (HALF_LIMIT if precision == "fp16" else torch.finfo(dtype).max):
                raise TrainerError(
                    f"{key} holds {largest}, which {precision} cannot store. "
                    "Choose save precision bf16 or fp32, or a lower learning rate."
                )
            tensors[key] = tensor.detach().cpu().to(dtype).contiguous()
    return tensors


def _metadata(run: Run, epoch: int, step: int) -> dict[str, str]:
    """ModelSpec 1.0.1 and the card of the run, as safetensors metadata."""
    card = {
        "run": run.name,
        "id": run.id,
        "epoch": epoch,
        "step": step,
        "base": {"name": run.base.name, "sha256": run.base.sha256},
        "dataset": json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["dataset"],
        "settings": run.settings.to_json(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": f"{run.name}, epoch {epoch}",
        "modelspec.resolution": f"{run.settings.resolution}x{run.settings.resolution}",
        "modelspec.prediction_type": "epsilon",
        "cocktail.run": json.dumps(card, ensure_ascii=False, sort_keys=True),
    }
