"""What a CLIP model from a local folder says of pictures. CLIP score: 100 times the cosine between
a picture and its prompt, as the model sees both (Hessel et al. 2021, "CLIPScore: a reference-free
evaluation metric for image captioning", EMNLP, without its factor 2.5 and without the cut at 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .....trainer import bounded_json
from .....trainer.data.caption.model_folder import safe_config
from .....trainer.errors import TrainerError
from ..errors import GridError
from ..store.picture import open_picture

if TYPE_CHECKING:
    from torch import Tensor

KIND = "clip"
BATCH = 8


def is_clip(folder: Path) -> bool:
    """Whether a model folder says that it holds a CLIP model."""
    try:
        config = bounded_json.parse((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == KIND


class Clip:
    """A CLIP model. What it says of pictures and prompts are vectors of length 1."""

    def __init__(self, folder: Path, device: Any) -> None:
        """Raises GridError if the folder holds no CLIP model with safetensors weights."""
        import torch

        model, self._processor = _loaded(folder)
        self._model = model.to(device=device, dtype=torch.float32).eval()
        self._device = device

    def pictures(
        self,
        files: Mapping[str, Path],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Tensor]:
        """The embedding of every picture by its key."""

        def told(keys: Sequence[str]) -> Any:
            images = [_picture(files[key]) for key in keys]
            inputs = self._processor(images=images, return_tensors="pt").to(self._device)
            return self._model.visual_projection(self._model.vision_model(**inputs).pooler_output)

        return _embedded(list(files), told, progress)

    def prompts(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """The embedding of every prompt, which is cut at 77 tokens: the model takes no more."""

        def told(texts: Sequence[str]) -> Any:
            inputs = self._processor(
                text=list(texts), return_tensors="pt", padding=True, truncation=True
            ).to(self._device)
            return self._model.text_projection(self._model.text_model(**inputs).pooler_output)

        return _embedded(list(dict.fromkeys(prompts)), told)


def clip_scores(
    clip: Clip, pictures: Mapping[str, Tensor], prompts: Mapping[str, str]
) -> dict[str, float]:
    """The score of every picture whose prompt is known, by its key."""
    texts = clip.prompts(prompts[key] for key in pictures if prompts.get(key))
    return {
        key: 100 * float(picture @ texts[prompts[key]])
        for key, picture in pictures.items()
        if prompts.get(key)
    }


def _embedded(
    what: Sequence[str],
    told: Callable[[Sequence[str]], Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Tensor]:
    import torch

    found: dict[str, Tensor] = {}
    with torch.inference_mode():
        for start in range(0, len(what), BATCH):
            progress(start, len(what))
            batch = what[start : start + BATCH]
            vectors = torch.nn.functional.normalize(told(batch).float(), dim=-1).cpu()
            found.update(zip(batch, vectors, strict=True))
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
