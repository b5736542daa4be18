"""Tensor names as most checkpoints have them, whatever names the tool that wrote the file uses.

Only names and shapes in the header change, never a byte of a tensor: an attention weight that is
[512, 512] in diffusers is [512, 512, 1, 1] in the original layout and has the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from .safetensors_file import Header, Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
EMA = "model_ema."
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.", "text_encoders.", "text_encoder.")
UNET_PART, TEXT_PART, VAE_PART, EMA_PART = PARTS = (
    "UNet",
    "text encoder",
    "VAE",
    "averaged copies",
)
"""The parts of a checkpoint."""

Rename: TypeAlias = Callable[[str], str]

UNET_PARTS = (
    "input_blocks.",
    "middle_block.",
    "output_blocks.",
    "out.",
    "time_embed.",
    "label_emb.",
)
CLIP_ALONE = "text_model.embeddings.token_embedding.weight"
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
VAE_ATTENTION = {
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out", "group_norm": "norm",
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip
"""Diffusers' old and new names in the VAE's attention, and those of the original layout."""
ATTENTION = re.compile(rf"(.*\.mid\.attn_1\.)({'|'.join(map(re.escape, VAE_ATTENTION))})\.(.*)")
SQUARE = re.compile(r".*\.mid\.attn_1\.(q|k|v|proj_out)\.weight")
UP_BLOCK = re.compile(r"decoder\.up_blocks\.(\d+)\.")


def part_of(name: str) -> str:
    """The part of a checkpoint that a tensor belongs to; the UNet if it is in no other part."""
    if name.startswith((VAE, "vae.")):
        return VAE_PART
    if name.startswith(EMA):
        return EMA_PART
    return TEXT_PART if name.startswith(TEXT_PREFIXES) else UNET_PART


def with_usual_names(header: Header) -> Header:
    """The header with the names of the original Stable Diffusion layout, and a note for every kind
    of name that was changed.

    It knows NovelAI's text encoder, diffusers' names in a VAE (in its attention or everywhere), and
    files with only a UNet, a CLIP-L or a VAE, whose names lack the prefix. If a file has both names
    of a tensor, the usual one counts and the other is left out.
    """
    tensors = dict(header.tensors)
    notes = list(header.notes)
    for what, rename in (
        ("the UNet's prefix added", _unet_prefix(tensors)),
        ("the text encoder's prefix added", _text_prefix(tensors)),
        ("the VAE's prefix added", _vae_prefix(tensors)),
        ("NovelAI's names of the text encoder", _novelai),
        ("diffusers' names in the VAE", _vae_layout(tensors)),
    ):
        changed = [name for name in tensors if rename(name) != name]
        if changed:
            tensors = _renamed(tensors.values(), rename)
            notes.append(f"{what} ({len(changed)} tensors)")
    tensors = {name: _with_usual_shape(tensor) for name, tensor in tensors.items()}
    return replace(header, tensors=tensors, notes=tuple(notes))


def _renamed(tensors: Iterable[Tensor], rename: Rename) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        name = rename(tensor.name)
        if name == tensor.name or name not in found:
            found[name] = replace(tensor, name=name)
    return found


def _unet_prefix(names: Iterable[str]) -> Rename:
    found = set(names)
    alone = "input_blocks.0.0.weight" in found and not any(n.startswith(UNET) for n in found)
    return lambda name: UNET + name if alone and name.startswith(UNET_PARTS) else name


def _text_prefix(names: Iterable[str]) -> Rename:
    """A file of CLIP-L alone, as transformers writes it."""
    alone = CLIP_ALONE in names and not any(n.startswith((UNET, *TEXT_PREFIXES)) for n in names)
    return lambda name: TEXT + name if alone and name.startswith("text_model.") else name


def _vae_prefix(names: Iterable[str]) -> Rename:
    found = set(names)
    alone = "decoder.conv_in.weight" in found and not any(n.startswith(VAE) for n in found)
    return lambda name: VAE + name if alone and name.startswith(VAE_PARTS) else name


def _novelai(name: str) -> str:
    rest = name.removeprefix(TEXT)
    if rest != name and rest.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return f"{TEXT}text_model.{rest}"
    return name


def _vae_layout(names: Iterable[str]) -> Rename:
    """From diffusers' names in a VAE, whose decoder numbers its blocks from the middle outwards, to
    the original ones.
    """
    blocks = [int(m[1]) for n in names if (m := UP_BLOCK.match(n.removeprefix(VAE)))]
    last = max(blocks, default=0)

    def rename(name: str) -> str:
        if not name.startswith(VAE):
            return name
        rest = name.removeprefix(VAE)
        if match := UP_BLOCK.match(rest):
            rest = f"decoder.up.{last - int(match[1])}.{rest[match.end() :]}"
        for old, new in (
            ("encoder.down_blocks.", "encoder.down."),
            (".mid_block.attentions.0.", ".mid.attn_1."),
            (".mid_block.resnets.0.", ".mid.block_1."),
            (".mid_block.resnets.1.", ".mid.block_2."),
            (".resnets.", ".block."),
            (".downsamplers.0.", ".downsample."),
            (".upsamplers.0.", ".upsample."),
            (".conv_shortcut.", ".nin_shortcut."),
            ("coder.conv_norm_out.", "coder.norm_out."),
        ):
            rest = rest.replace(old, new)
        if match := ATTENTION.fullmatch(rest):
            rest = f"{match[1]}{VAE_ATTENTION[match[2]]}.{match[3]}"
        return VAE + rest

    return rename


def _with_usual_shape(tensor: Tensor) -> Tensor:
    """A linear layer of the VAE's attention as the 1x1 convolution of the original layout."""
    if tensor.name.startswith(VAE) and SQUARE.fullmatch(tensor.name) and len(tensor.shape) == 2:
        return replace(tensor, shape=(*tensor.shape, 1, 1))
    return tensor
