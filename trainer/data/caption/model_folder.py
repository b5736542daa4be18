"""A folder with a picture-to-text model: what it holds, whether it may be loaded, its identity."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import bounded_json
from ...errors import TrainerError
from ...files import canonical_json, sha256_text
from ...known_hashes import known_hashes

KINDS = ("auto", "blip", "florence2", "git")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
CODE_FILES = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)
"""The files in which a model folder can name Python files of its own."""
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
LOADED = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Suffixes of the files that transformers reads from a model: weights, settings, vocabularies,
merges and templates.
"""


@dataclass(frozen=True)
class ModelFacts:
    """What a model folder holds. `kind` is blip, florence2, git, or "other" for every other model
    that transformers knows.
    """

    kind: str
    model_type: str
    architecture: str


def model_fingerprint(
    folder: Path, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> str:
    """SHA-256 over the names and contents of the files that a model is loaded from.

    With `cache`, a JSON file, only files that are new or changed are read; `progress` is called
    with (done, all) bytes.
    """
    if not (folder / "config.json").is_file():
        raise TrainerError(_no_config(folder))
    files = sorted(file for file in folder.iterdir() if file.suffix in LOADED and file.is_file())
    hashes = known_hashes(files, cache, progress)
    return sha256_text(canonical_json([[f.name, h] for f, h in zip(files, hashes, strict=True)]))


def check_model(folder: Path, kind: str = "auto") -> ModelFacts:
    """What the folder holds, without loading weights.

    Raises TrainerError when it is not a model, has no safetensors weights, has an architecture that
    this version of transformers does not know or that does not caption, needs Python code of its
    own, or is not of the wanted kind.
    """
    config = safe_config(folder)
    model_type = str(config.get("model_type", ""))
    architecture = str((config.get("architectures") or [""])[0])
    _check_architecture(folder, model_type, architecture)
    found = model_type if model_type in KINDS else "other"
    if kind not in ("auto", found):
        raise TrainerError(
            f"{folder.name} holds a model of type {model_type}, not {kind}. "
            "Choose another folder, or set kind to auto."
        )
    return ModelFacts(found, model_type, architecture)


def safe_config(folder: Path) -> dict[str, Any]:
    """config.json of a model that can be loaded without running code of its own. Raises
    TrainerError when it is not a model, needs Python code, or has no safetensors weights.
    """
    config = _read_config(folder)
    _refuse_own_code(folder)
    _check_weights(folder)
    return config


def _no_config(folder: Path) -> str:
    return (
        f"There is no model in {folder.name}: config.json is missing. "
        "Choose the folder that holds config.json and the .safetensors weights."
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = _json_of(folder / "config.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TrainerError(_no_config(folder)) from error
    except ValueError as error:
        raise TrainerError(f"config.json in {folder.name} is damaged: {error}") from error
    if not isinstance(config, dict) or not config.get("model_type"):
        raise TrainerError(f"config.json in {folder.name} does not say its model_type.")
    return config


def _json_of(file: Path) -> Any:
    """The value in a file or behind a link, as the Hub's own folders have them. Raises OSError and
    ValueError.
    """
    if file.exists() and not file.is_file():
        raise ValueError("it is no file")
    return bounded_json.parse(file.read_bytes())


def _refuse_own_code(folder: Path) -> None:
    """Refuse folders that name Python files of their own, under auto_map."""
    for name in CODE_FILES:
        try:
            value = _json_of(folder / name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise TrainerError(f"{name} in {folder.name} is damaged: {error}") from error
        if isinstance(value, dict) and value.get("auto_map"):
            raise TrainerError(
                f"{folder.name} needs Python code of its own (auto_map in {name}), which is never "
                "run. "
                "Use a version of the model that transformers loads by itself; for Florence-2 "
                "these are the ones of florence-community."
            )


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted(set(_json_of(index)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainerError(f"{index.name} in {folder.name} is damaged: {error}") from error
        strange = [part for part in parts if not SHARD.fullmatch(str(part))]
        if strange:
            raise TrainerError(
                f"{index.name} in {folder.name} names {strange[0]!r}, which is not a .safetensors "
                "file in that folder. Use the model's own files."
            )
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            raise TrainerError(
                f"{len(missing)} of {len(parts)} weight files are missing in {folder.name}: "
                f"{', '.join(missing[:5])}."
            )
        return
    if (folder / "model.safetensors").is_file():
        return
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise TrainerError(
            f"{folder.name} has only pickled weights ({', '.join(pickled[:3])}), which are never "
            "loaded because they can run code. Use the model's model.safetensors."
        )
    raise TrainerError(f"There are no weights in {folder.name}: model.safetensors is missing.")


def _check_architecture(folder: Path, model_type: str, architecture: str) -> None:
    import inspect

    import transformers
    from transformers.models.auto import configuration_auto

    name = architecture or model_type
    if model_type not in configuration_auto.CONFIG_MAPPING_NAMES:  # pyright: ignore
        raise TrainerError(
            f"transformers {transformers.__version__} does not know the architecture {name} "
            f"(model type {model_type}) of {folder.name}. A newer transformers may."
        )
    if model_type in _mapped_types():
        return
    model_class = getattr(transformers, architecture, None) if architecture else None
    takes = inspect.signature(model_class.forward).parameters if model_class else {}
    if "pixel_values" not in takes or not hasattr(model_class, "generate"):
        raise TrainerError(
            f"{folder.name} holds {name}, which does not turn pictures into text. "
            "Choose a captioning model such as BLIP, GIT or Florence-2."
        )


def _mapped_types() -> set[str]:
    """Model types behind AutoModelForImageTextToText and, before transformers 5,
    AutoModelForVision2Seq.
    """
    from transformers.models.auto import modeling_auto

    names = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES")
    return {model_type for name in names for model_type in getattr(modeling_auto, name, {})}
