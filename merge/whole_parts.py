"""The tensors of a whole text encoder and of a whole VAE, by their names in the original layout."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

from .key_names import TEXT, TEXT_PART, VAE

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]
Wanted: TypeAlias = Iterator[tuple[str, Shape | None]]
"""Names with their shapes; None where nothing tells the shape."""

TOKENS = 77
CLIP = "text_model.embeddings.token_embedding.weight"
OPEN_CLIP = "model.token_embedding.weight"
LATENT_CHANNELS = 4
"""Of the VAE of all these families."""


def faults_of(part: str, shapes: Shapes) -> list[str]:
    """What is wrong with a text encoder or VAE of Stable Diffusion that has these tensors: those
    that are missing, or of another shape. It is taken to have as many layers as the last one that
    it has a tensor of, and their widths; a 1 x 1 convolution may be a matrix.
    """
    found = []
    for name, shape in _text_encoders(shapes) if part == TEXT_PART else _vae(shapes):
        if name not in shapes:
            found.append(f"{name} is missing")
        elif shape is not None and _bare(shapes[name]) != _bare(shape):
            found.append(f"{name} is {list(shapes[name])}, not {list(shape)}")
    return found


def _bare(shape: Shape) -> Shape:
    """A shape without the ones at its end."""
    while shape[1:] and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _text_encoders(shapes: Shapes) -> Wanted:
    """CLIP as transformers names it, and OpenCLIP; SDXL has one of each."""
    clip = [name for name in shapes if name.endswith("." + CLIP)]
    open_clip = [name for name in shapes if name.endswith("." + OPEN_CLIP)]
    if not clip and not open_clip:
        yield TEXT + CLIP, None
    for name in clip:
        text = f"{name.removesuffix(CLIP)}text_model."
        width = _last(shapes[name])
        yield f"{text}embeddings.position_embedding.weight", (TOKENS, width)
        for number in range(max(_count(shapes, f"{text}encoder.layers."), 1)):
            layer = f"{text}encoder.layers.{number}."
            for norm in ("layer_norm1", "layer_norm2"):
                yield from _norm(layer + norm, width)
            for side in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from _both(f"{layer}self_attn.{side}", width, width)
            yield from _both(f"{layer}mlp.fc1", 4 * width, width)
            yield from _both(f"{layer}mlp.fc2", width, 4 * width)
        yield from _norm(f"{text}final_layer_norm", width)
    for name in open_clip:
        text = f"{name.removesuffix(OPEN_CLIP)}model."
        width = _last(shapes[name])
        yield f"{text}positional_embedding", (TOKENS, width)
        for number in range(max(_count(shapes, f"{text}transformer.resblocks."), 1)):
            layer = f"{text}transformer.resblocks.{number}."
            yield f"{layer}attn.in_proj_weight", (3 * width, width)
            yield f"{layer}attn.in_proj_bias", (3 * width,)
            yield from _both(f"{layer}attn.out_proj", width, width)
            for norm in ("ln_1", "ln_2"):
                yield from _norm(layer + norm, width)
            yield from _both(f"{layer}mlp.c_fc", 4 * width, width)
            yield from _both(f"{layer}mlp.c_proj", width, 4 * width)
        yield from _norm(f"{text}ln_final", width)


def _vae(shapes: Shapes) -> Wanted:
    widths = _widths(shapes)
    twice = 2 * LATENT_CHANNELS
    yield from _both(f"{VAE}quant_conv", twice, twice, 1, 1)
    yield from _both(f"{VAE}post_quant_conv", LATENT_CHANNELS, LATENT_CHANNELS, 1, 1)
    first, last = widths[0], widths[-1]
    sides = (("encoder", 3, first, last, twice), ("decoder", LATENT_CHANNELS, last, first, 3))
    for side, given, at_start, at_end, made in sides:
        start = f"{VAE}{side}."
        yield from _both(f"{start}conv_in", at_start, given, 3, 3)
        yield from _norm(f"{start}norm_out", at_end)
        yield from _both(f"{start}conv_out", made, at_end, 3, 3)
        for block in ("block_1", "block_2"):
            yield from _block(f"{start}mid.{block}", last, last)
        yield from _norm(f"{start}mid.attn_1.norm", last)
        for name in ("q", "k", "v", "proj_out"):
            yield from _both(f"{start}mid.attn_1.{name}", last, last, 1, 1)
        yield from _levels(start, widths, side == "encoder")


def _levels(start: str, widths: Sequence[int], is_encoder: bool) -> Wanted:
    """The levels of one side in the order in which they compute; the last is not resampled."""
    numbers = [*range(len(widths))] if is_encoder else [*reversed(range(len(widths)))]
    name, blocks, between = ("down", 2, "downsample") if is_encoder else ("up", 3, "upsample")
    channels = widths[numbers[0]]
    for number in numbers:
        place = f"{start}{name}.{number}."
        for block in range(blocks):
            yield from _block(f"{place}block.{block}", channels, widths[number])
            channels = widths[number]
        if number != numbers[-1]:
            yield from _both(f"{place}{between}.conv", channels, channels, 3, 3)


def _widths(shapes: Shapes) -> list[int]:
    """The channels of every level, by a tensor of it; 0 where none tells them."""
    down, up = f"{VAE}encoder.down.", f"{VAE}decoder.up."
    return [
        next(
            (
                shape[0]
                for side in (down, up)
                for block in range(3)
                for conv in ("conv1", "conv2")
                if (shape := shapes.get(f"{side}{level}.block.{block}.{conv}.weight"))
            ),
            0,
        )
        for level in range(max(_count(shapes, down), _count(shapes, up), 1))
    ]


def _block(name: str, given: int, made: int) -> Wanted:
    yield from _norm(f"{name}.norm1", given)
    yield from _both(f"{name}.conv1", made, given, 3, 3)
    yield from _norm(f"{name}.norm2", made)
    yield from _both(f"{name}.conv2", made, made, 3, 3)
    if given != made and given and made:
        yield from _both(f"{name}.nin_shortcut", made, given, 1, 1)


def _norm(name: str, channels: int) -> Wanted:
    return _both(name, channels)


def _both(name: str, *shape: int) -> Wanted:
    """Weight and bias; 0 in a shape stands for a width that nothing tells."""
    yield f"{name}.weight", shape if all(shape) else None
    yield f"{name}.bias", shape[:1] if shape[0] else None


def _last(shape: Shape) -> int:
    return shape[-1] if shape else 0


def _count(names: Collection[str], prefix: str) -> int:
    """One more than the highest number that follows a prefix."""
    found = {name.removeprefix(prefix).partition(".")[0] for name in names if prefix in name}
    return max((int(n) for n in found if n.isdecimal() and len(n) < 4), default=-1) + 1
