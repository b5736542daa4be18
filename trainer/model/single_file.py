"""LDM single files: the family of a checkpoint, and the names of its tensors in the modules of
diffusers and transformers.

The names are those of CompVis' Stable Diffusion 1. They are derived from the number of levels and
blocks found in the file, so that the full model and the miniature take the same path.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TrainerError
from ..files import publish
from ..litter import temporary
from . import content, header
from .decoding import Quantised, Read, reader
from .header import Stored
from .quantised import NotKnown, with_weights

if TYPE_CHECKING:
    import torch

UNET = "model.diffusion_model."
TEXT_ENCODER = "cond_stage_model.transformer.text_model."
VAE = "first_stage_model."

UNKNOWN = "an unknown UNet"
ENDINGS = (".safetensors", ".sft")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """What a model file is: `name` as a person would call it, `reason` how its shapes show it."""

    name: str
    reason: str


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a checkpoint by name, whether they are quantised or not. Raises
    TrainerError.
    """
    return {name: tensor.shape for name, tensor in read_weights(path).items()}


def read_weights(path: Path) -> dict[str, Stored | Quantised]:
    """The tensors of a checkpoint by name, the quantised ones as the weights that they mean. Raises
    TrainerError, also for a kind of quantisation that is not known.
    """
    contents = read_header(path)
    try:
        with path.open("rb") as file:
            return with_weights(contents, reader(file))
    except OSError as error:
        raise TrainerError(f"{path.name} cannot be read: {error.strerror}.") from error
    except NotKnown as error:
        raise TrainerError(
            f"{path.name} is quantised in a way that cannot be read: {error}. Choose the "
            "checkpoint before it was quantised."
        ) from error


@dataclass(frozen=True)
class Weights:
    """The weights of an open checkpoint by name; the quantised ones come in fp32."""

    tensors: Mapping[str, Stored | Quantised]
    plain: Any
    read: Read

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.tensors[name]
        is_quantised = isinstance(tensor, Quantised)
        return tensor.decode(self.read) if is_quantised else self.plain.get_tensor(name)


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Raises TrainerError like `read_weights`."""
    from safetensors import safe_open

    tensors = read_weights(path)
    with safe_open(path, framework="pt") as plain, path.open("rb") as file:
        yield Weights(tensors, plain, reader(file))


def read_header(path: Path) -> header.Contents:
    """What a file holds, as it is stored. Raises TrainerError."""
    if not path.is_file():
        raise TrainerError(f"There is no file {path.name} in {path.parent}.")
    try:
        _check_content(path)
        return header.read(path)
    except OSError as error:
        raise TrainerError(f"{path.name} cannot be read: {error.strerror}.") from error
    except header.Damaged as error:
        raise TrainerError(f"{path.name} cannot be read as a safetensors file: {error}.") from error


def _check_content(path: Path) -> None:
    """Raise TrainerError, which says what a file is by its content, unless it is a safetensors file
    and named like one.
    """
    with path.open("rb") as file:
        start = file.read(content.ENOUGH)
        is_safetensors = content.is_safetensors(start)
        known = None if is_safetensors else content.kind_of(start, file)
    is_named = path.suffix.lower() in ENDINGS
    if is_safetensors and not is_named:
        raise TrainerError(
            f"{path.name} is a safetensors file by its content. Rename it to {path.stem}"
            ".safetensors, so that every program reads it as one."
        )
    if known and known[1] != content.PICKLED:
        raise TrainerError(f"{path.name} is not a .safetensors file but {known[0]}. {known[1]}")
    if known or not is_named:
        pickled = path.with_suffix(".ckpt").name if is_named else path.name
        names = " ".join(map(shlex.quote, (pickled, f"{Path(pickled).stem}.safetensors")))
        raise TrainerError(
            f"{path.name} is not a .safetensors file{f' but {known[0]}' if known else ''}. "
            f"{f'Rename it to {pickled} and convert' if is_named else 'Convert'} it to safetensors "
            f"first: `python -m merge prune {names}` copies the tensors alone; pickled "
            "checkpoints (.ckpt, .pt) can run code when they are opened."
        )


def write_single_file(
    path: Path,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a safetensors file that appears complete or not at all; `check` sees it before it gets
    its name.
    """
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    try:
        save_file(tensors, part, metadata=metadata)
        check(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def family_of(shapes: Shapes) -> Family:
    """The family that ComfyUI would recognise by the same shapes (its model_detection)."""
    if any(".lora_down." in name or ".lora_A." in name for name in shapes):
        return Family("a LoRA", "its tensors are low-rank pairs")
    if any("double_blocks." in name for name in shapes):
        return Family("Flux", "it has double_blocks")
    if any("joint_blocks." in name for name in shapes):
        return Family("Stable Diffusion 3", "it has joint_blocks")
    conv_in = shapes.get(UNET + "input_blocks.0.0.weight")
    if conv_in is None:
        if "conv_in.weight" in shapes and any(name.startswith("down_blocks.") for name in shapes):
            return Family("a diffusers UNet", "its names are those of a diffusers folder")
        if any(name.startswith(("first_stage_model.", "encoder.", "decoder.")) for name in shapes):
            return Family("a VAE", "it has an encoder or decoder and no UNet")
        return Family("not a diffusion checkpoint", f"{UNET}input_blocks.0.0.weight is missing")
    if UNET + "label_emb.0.0.weight" in shapes:
        return Family("SDXL", "its UNet has label_emb")
    context = context_width(shapes)
    if context == 1024:
        return Family("Stable Diffusion 2", "its cross attention is 1024 wide")
    if context != 768 or conv_in[0] != 320:
        return Family(UNKNOWN, f"cross attention {context}, model channels {conv_in[0]}")
    if conv_in[1] == 9:
        return Family("SD1.5 inpainting", "its first convolution has 9 input channels")
    if conv_in[1] != 4:
        return Family(f"SD1.5 with {conv_in[1]} input channels", "its first convolution says so")
    return Family("SD1.5", "model channels 320, cross attention 768, 4 input channels")


def context_width(shapes: Shapes) -> int | None:
    """Width of the text embedding that the UNet attends to."""
    for name, shape in shapes.items():
        if name.startswith(UNET) and name.endswith("attn2.to_k.weight"):
            return shape[1]
    return None


@dataclass(frozen=True)
class Level:
    """One resolution of the UNet: its width, its residual blocks on the way down, and whether it
    attends to the text.
    """

    channels: int
    blocks: int
    attention: bool


def unet_levels(shapes: Shapes) -> tuple[Level, ...]:
    """The levels of an LDM UNet, read off its input blocks."""
    levels: list[Level] = []
    channels, blocks, attention = 0, 0, False
    index = 1
    while True:
        block = f"{UNET}input_blocks.{index}."
        if block + "0.op.weight" in shapes:
            levels.append(Level(channels, blocks, attention))
            channels, blocks, attention = 0, 0, False
        elif block + "0.in_layers.0.weight" in shapes:
            channels = shapes[block + "0.out_layers.3.weight"][0]
            blocks += 1
            attention = block + "1.proj_in.weight" in shapes
        else:
            break
        index += 1
    return (*levels, Level(channels, blocks, attention))


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def unet_name(name: str, levels: tuple[Level, ...]) -> str:
    """The LDM name, without prefix, of a tensor of diffusers' UNet2DConditionModel."""
    parts = name.split(".")
    blocks = levels[0].blocks
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    stem, leaf = ".".join(parts[:-1]), parts[-1]
    if stem in fixed:
        return f"{fixed[stem]}.{leaf}"
    if parts[0] == "mid_block":
        kind, index, rest = parts[1], int(parts[2]), parts[3:]
        position = index * 2 if kind == "resnets" else 1
        return f"middle_block.{position}.{_inner(kind, rest)}"
    side, level, kind, index, rest = parts[0], int(parts[1]), parts[2], int(parts[3]), parts[4:]
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(blocks + 1) * (level + 1)}.0.op.{leaf}"
        position = (blocks + 1) * level + index + 1
        return f"input_blocks.{position}.{0 if kind == 'resnets' else 1}.{_inner(kind, rest)}"
    mirrored = levels[len(levels) - 1 - level]
    if kind == "upsamplers":
        position = (blocks + 1) * level + blocks
        return f"output_blocks.{position}.{2 if mirrored.attention else 1}.conv.{leaf}"
    position = (blocks + 1) * level + index
    return f"output_blocks.{position}.{0 if kind == 'resnets' else 1}.{_inner(kind, rest)}"


def _inner(kind: str, rest: list[str]) -> str:
    if kind == "resnets":
        return ".".join([RESNET[rest[0]], *rest[1:]])
    return ".".join(rest)


def vae_name(name: str, levels: int) -> str:
    """The LDM name, without prefix, of a tensor of diffusers' AutoencoderKL with so many levels."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.resnets.0", "mid.block_1")
    name = name.replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    if "mid.attn_1" in name:
        for ours, theirs in (
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            name = name.replace(f"mid.attn_1.{ours}.", f"mid.attn_1.{theirs}.")
    parts = name.split(".")
    if parts[1] == "down_blocks":
        parts[1:5] = _vae_block("down", int(parts[2]), parts[3], parts[4])
    elif parts[1] == "up_blocks":
        parts[1:5] = _vae_block("up", levels - 1 - int(parts[2]), parts[3], parts[4])
    return ".".join(parts)


def _vae_block(side: str, level: int, kind: str, index: str) -> list[str]:
    if kind == "resnets":
        return [side, str(level), "block", index]
    return [side, str(level), "downsample" if kind == "downsamplers" else "upsample"]


def single_file_name(name: str) -> str:
    """The usual spelling of a tensor's name; NovelAI-style files leave `text_model.` out."""
    prefix = "cond_stage_model.transformer."
    if name.startswith(prefix) and not name.startswith(TEXT_ENCODER):
        return TEXT_ENCODER + name.removeprefix(prefix)
    return name


def text_encoder_name(name: str) -> str:
    """The single-file name, without prefix, of a tensor of transformers' CLIPTextModel.

    transformers below 5.6 puts `text_model.` before every name, later ones do not.
    """
    return name.removeprefix("text_model.")
