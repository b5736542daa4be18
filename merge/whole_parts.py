"""The tensors of a whole text encoder and of a whole VAE, by their names in the original layout."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from .key_names import TEXT, TEXT_PART, VAE

BOTH = (".weight", ".bias")
CLIP = "text_model.embeddings.token_embedding.weight"
OPEN_CLIP = "model.token_embedding.weight"
CLIP_LAYER = (
    "layer_norm1", "layer_norm2", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.out_proj", "mlp.fc1", "mlp.fc2",
)  # fmt: skip
OPEN_CLIP_LAYER = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
VAE_BLOCK = ("norm1", "conv1", "norm2", "conv2")


def missing_of(part: str, names: Collection[str]) -> list[str]:
    """What a text encoder or VAE of Stable Diffusion lacks that has these tensors. It is taken to
    have as many layers as the last one that it has a tensor of.
    """
    wanted = _text_encoders(names) if part == TEXT_PART else _vae(names)
    return [name for name in wanted if name not in names]


def _text_encoders(names: Collection[str]) -> Iterator[str]:
    """CLIP as transformers names it, and OpenCLIP; SDXL has one of each."""
    clip = [name.removesuffix(CLIP) for name in names if name.endswith("." + CLIP)]
    open_clip = [name.removesuffix(OPEN_CLIP) for name in names if name.endswith("." + OPEN_CLIP)]
    if not clip and not open_clip:
        yield TEXT + CLIP
    for prefix in clip:
        text = f"{prefix}text_model."
        yield f"{text}embeddings.position_embedding.weight"
        layers = f"{text}encoder.layers."
        for number in range(max(_count(names, layers), 1)):
            yield from _both(*(f"{layers}{number}.{layer}" for layer in CLIP_LAYER))
        yield from _both(f"{text}final_layer_norm")
    for prefix in open_clip:
        text = f"{prefix}model."
        yield f"{text}positional_embedding"
        layers = f"{text}transformer.resblocks."
        for number in range(max(_count(names, layers), 1)):
            yield from (f"{layers}{number}.attn.in_proj_{end}" for end in ("weight", "bias"))
            yield from _both(*(f"{layers}{number}.{layer}" for layer in OPEN_CLIP_LAYER))
        yield from _both(f"{text}ln_final")


def _vae(names: Collection[str]) -> Iterator[str]:
    yield from _both(f"{VAE}quant_conv", f"{VAE}post_quant_conv")
    last = max(_count(names, f"{VAE}encoder.down."), _count(names, f"{VAE}decoder.up."), 1) - 1
    for side, levels, blocks in (("encoder", "down", 2), ("decoder", "up", 3)):
        start = f"{VAE}{side}."
        yield from _both(f"{start}conv_in", f"{start}norm_out", f"{start}conv_out")
        for block in ("block_1", "block_2"):
            yield from _both(*(f"{start}mid.{block}.{layer}" for layer in VAE_BLOCK))
        yield from _both(*(f"{start}mid.attn_1.{n}" for n in ("norm", "q", "k", "v", "proj_out")))
        for level in range(last + 1):
            place = f"{start}{levels}.{level}."
            for number in range(blocks):
                yield from _both(*(f"{place}block.{number}.{layer}" for layer in VAE_BLOCK))
            if side == "encoder" and level < last:
                yield from _both(f"{place}downsample.conv")
            if side == "decoder" and level > 0:
                yield from _both(f"{place}upsample.conv")


def _both(*layers: str) -> Iterator[str]:
    return (layer + end for layer in layers for end in BOTH)


def _count(names: Collection[str], prefix: str) -> int:
    """One more than the highest number that follows a prefix."""
    found = {name.removeprefix(prefix).partition(".")[0] for name in names if prefix in name}
    return max((int(n) for n in found if n.isdecimal() and len(n) < 4), default=-1) + 1
