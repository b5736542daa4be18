"""CLIP scores of pictures: 100 times the cosine between a picture and its prompt, as a CLIP model
from a local folder sees both (Hessel et al. 2021, "CLIPScore: a reference-free evaluation metric
for image captioning", EMNLP, without its factor 2.5 and without the cut at 0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .....trainer import bounded_json
from .....trainer.data.caption.model_folder import safe_config
from .....trainer.errors import TrainerError
from ..errors import GridError
from ..store.picture import open_picture

KIND = "clip"
BATCH = 8


def is_clip(folder: Path) -> bool:
    """Whether a model folder says that it holds a CLIP model."""
    try:
        config = bounded_json.parse((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == KIND


def clip_scores(
    folder: Path,
    pictures: Mapping[str, tuple[Path, str]],
    device: Any,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """The score of every picture by its key; each is given with its file and prompt. Prompts are
    cut at 77 tokens, as the model takes no more. Raises GridError if the folder holds no CLIP model
    with safetensors weights.
    """
    import torch

    model, processor = _loaded(folder)
    model = model.to(device=device, dtype=torch.float32).eval()
    keys, found = list(pictures), {}
    with torch.inference_mode():
        for start in range(0, len(keys), BATCH):
            progress(start, len(keys))
            batch = keys[start : start + BATCH]
            images = [_picture(pictures[key][0]) for key in batch]
            inputs = processor(
                text=[pictures[key][1] for key in batch],
                images=images,
                return_tensors="pt",
                padding=True,
                truncation=True,
            ).to(device)
            told = model(**inputs)
            cosines = torch.nn.functional.cosine_similarity(told.image_embeds, told.text_embeds)
            found.update(zip(batch, (100 * cosines).tolist(), strict=True))
    return found


def _loaded(folder: Path) -> tuple[Any, Any]:
    try:
        config = safe_config(folder)
    except TrainerError as error:
        raise GridError(str(error)) from error
    if config.get("model_type") != KIND:
        raise GridError(
            f"{folder.name} holds a model of type {config.get('model_type')}, not {KIND}. Choose "
            "the folder of a CLIP model."
        )
    from transformers import CLIPModel, CLIPProcessor

    try:
        model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        return model, CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:300]
        raise GridError(f"The CLIP model in {folder.name} cannot be loaded: {reason}") from error


def _picture(path: Path) -> Any:
    with open_picture(path) as file:
        return file.convert("RGB")
