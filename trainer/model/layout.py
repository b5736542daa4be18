"""The tensors that SD1.5 has in a single file: whether a base is whole, told from its header alone,
in no time and before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import TrainerError, nearest
from .decoding import FLOATS, Quantised
from .header import Stored
from .single_file import (
    TEXT_ENCODER,
    UNET,
    UNKNOWN,
    VAE,
    Level,
    Shapes,
    family_of,
    read_weights,
    single_file_name,
    unet_levels,
)

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

VOCABULARY, TOKENS, WIDTH, FEED_FORWARD = 49408, 77, 768, 3072
"""Of CLIP ViT-L/14's text half."""
MOST_DIGITS = 4
SIDE = re.compile(r"scale|quant|absmax|SCB|packed|zero|g_idx|weight\._")
"""In the names of what quantised checkpoints have beside or in place of their weights."""
READ = re.compile(
    re.escape(UNET)
    + "|"
    + re.escape(TEXT_ENCODER)
    + r"(embeddings\.(token|position)_embedding\.|encoder\.|final_layer_norm\.)|"
    + re.escape(VAE)
    + r"(encoder|decoder|quant_conv|post_quant_conv)\."
)
"""How the names begin that a run reads; whatever else a file holds is only copied."""


def check_sd15(path: Path) -> str:
    """Raise TrainerError unless a run can start from this file: SD1.5, whole, with its text encoder
    and VAE. The header alone is read, and how quantised weights are stored.

    Returns what a person should know of the file, "" when that is nothing.
    """
    tensors = {single_file_name(name): tensor for name, tensor in read_weights(path).items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    family = family_of(shapes)
    if family.name in ("SD1.5", UNKNOWN) and (told := _unread(tensors)):
        raise TrainerError(
            f"{path.name} cannot be trained: {told}. Choose a checkpoint in fp32, fp16 or bf16."
        )
    if family.name != "SD1.5":
        raise TrainerError(
            f"{path.name} is {family.name} ({family.reason}). "
            "A run starts from a full Stable Diffusion 1.5 checkpoint: choose one of that kind."
        )
    for part, prefix in (("text encoder", "cond_stage_model."), ("VAE", VAE)):
        if not any(name.startswith(prefix) for name in shapes):
            raise TrainerError(
                f"{path.name} has no {part} ({prefix}*). "
                "Choose a full checkpoint that contains UNet, text encoder and VAE."
            )
    if wrong := fault(shapes):
        raise TrainerError(
            f"{path.name} cannot be trained: {wrong}. "
            "Choose a full Stable Diffusion 1.5 checkpoint."
        )
    return _quantised(path, tensors.values())


def _unread(tensors: Mapping[str, Stored | Quantised]) -> str:
    """What shows that weights are stored as quantised numbers of a kind that is not known: a tensor
    beside them that says how to read them, or their type; "" when nothing does.
    """
    read = [name for name in tensors if READ.match(name)]
    for name in read:
        if not name.endswith((".weight", ".bias")) and SIDE.search(name):
            return f"its weights are quantised, as {name} shows"
    for name in read:
        tensor = tensors[name]
        if isinstance(tensor, Stored) and tensor.dtype not in FLOATS:
            return f"{name} is stored as {tensor.dtype}, so it is quantised or damaged"
    return ""


def _quantised(path: Path, tensors: Iterable[Stored | Quantised]) -> str:
    """What is told of a file with quantised weights."""
    kinds = [tensor.kind for tensor in tensors if isinstance(tensor, Quantised)]
    if not kinds:
        return ""
    count = f"{len(kinds)} weight{'s' if kinds[1:] else ''}"
    return (
        f"{path.name} is quantised ({count}: {', '.join(sorted({*kinds}))}). It is read as the "
        "weights that are meant; a run trains and saves them in full."
    )


def fault(shapes: Shapes) -> str:
    """What keeps a run from reading these tensors of an SD1.5 checkpoint, "" when nothing does.

    The names are those of `single_file_name`. Missing tensors, other shapes, and tensors that would
    be left out count; 1 x 1 convolutions may be stored as matrices.
    """
    if gap := _gap(shapes):
        return f"{gap} is missing"
    try:
        wanted = dict(sd15_tensors(shapes))
    except KeyError as error:
        return f"{error.args[0]} is missing"
    surplus = sorted(name for name in shapes if READ.match(name) and name not in wanted)
    for name, shape in wanted.items():
        if name not in shapes:
            return f"{name} is missing{_instead(name, surplus)}"
        if _bare(shapes[name]) != _bare(shape):
            return f"{name} has the shape {list(shapes[name])}, not {list(shape)}"
    return f"{surplus[0]} has no place in Stable Diffusion 1.5" if surplus else ""


def _instead(name: str, surplus: Iterable[str]) -> str:
    """What may be the same tensor under another name."""
    hint = nearest(name, surplus)
    return f" ({hint.removeprefix(' Did you mean ').rstrip('?')} is there instead)" if hint else ""


def _bare(shape: Shape) -> Shape:
    """A shape without the ones at its end."""
    while shape[1:] and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _gap(shapes: Shapes) -> str:
    """The first tensor of a block of the UNet that is missing while a later block is there."""
    prefix = UNET + "input_blocks."
    for number in range(1, _count(shapes, prefix)):
        block = f"{prefix}{number}.0."
        if block + "op.weight" not in shapes and block + "in_layers.0.weight" not in shapes:
            return block + "in_layers.0.weight"
    return ""


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered blocks the names with a prefix tell of, those between included."""
    numbers = {int(n) for name in shapes if (n := _number(name, prefix)) is not None}
    return max(numbers, default=-1) + 1


def _number(name: str, prefix: str) -> str | None:
    """The number of a name's block. One of more digits than any model has blocks is none: names are
    made for every block up to the last.
    """
    number = name.removeprefix(prefix).partition(".")[0]
    known = name.startswith(prefix) and number.isdecimal() and len(number) <= MOST_DIGITS
    return number if known else None


def sd15_tensors(shapes: Shapes) -> Named:
    """The names and shapes of SD1.5's three parts, with as many levels, layers and channels as
    these tensors have. Raises KeyError with the name of a tensor that would tell.
    """
    for name, shape in _unet(unet_levels(shapes)):
        yield UNET + name, shape
    for name, shape in _text_encoder(_count(shapes, TEXT_ENCODER + "encoder.layers.")):
        yield TEXT_ENCODER + name, shape
    down = VAE + "encoder.down."
    widths = [
        shapes[f"{down}{level}.block.0.conv1.weight"][0] for level in range(_count(shapes, down))
    ]
    for name, shape in _vae(widths):
        yield VAE + name, shape


def _with_bias(name: str, *shape: int) -> Named:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _norm(name: str, channels: int) -> Named:
    return _with_bias(name, channels)


def _convolution(name: str, inner: int, outer: int, side: int = 3) -> Named:
    return _with_bias(name, outer, inner, side, side)


def _unet(levels: tuple[Level, ...]) -> Named:
    first, blocks = levels[0].channels, levels[0].blocks
    yield from _with_bias("time_embed.0", 4 * first, first)
    yield from _with_bias("time_embed.2", 4 * first, 4 * first)
    yield from _convolution("input_blocks.0.0", 4, first)
    skips, channels, number = [first], first, 1
    for index, level in enumerate(levels):
        for _ in range(blocks):
            block = f"input_blocks.{number}"
            yield from _unet_block(block, channels, level, first)
            channels, number = level.channels, number + 1
            skips.append(channels)
        if index < len(levels) - 1:
            yield from _convolution(f"input_blocks.{number}.0.op", channels, channels)
            skips.append(channels)
            number += 1
    middle = Level(channels, 1, True)
    yield from _unet_block("middle_block", channels, middle, first)
    yield from _residual("middle_block.2", channels, channels, 4 * first)
    for index, level in enumerate(reversed(levels)):
        for place in range(blocks + 1):
            number = (blocks + 1) * index + place
            block = f"output_blocks.{number}"
            yield from _unet_block(block, channels + skips.pop(), level, first)
            channels = level.channels
        if index < len(levels) - 1:
            upsampler = f"{block}.{2 if level.attention else 1}.conv"
            yield from _convolution(upsampler, channels, channels)
    yield from _norm("out.0", first)
    yield from _convolution("out.2", first, 4)


def _unet_block(block: str, inner: int, level: Level, first: int) -> Named:
    """A residual block, and the attention of a level that has it."""
    yield from _residual(f"{block}.0", inner, level.channels, 4 * first)
    if level.attention:
        yield from _attention(f"{block}.1", level.channels)


def _residual(block: str, inner: int, outer: int, embedding: int) -> Named:
    yield from _norm(f"{block}.in_layers.0", inner)
    yield from _convolution(f"{block}.in_layers.2", inner, outer)
    yield from _with_bias(f"{block}.emb_layers.1", outer, embedding)
    yield from _norm(f"{block}.out_layers.0", outer)
    yield from _convolution(f"{block}.out_layers.3", outer, outer)
    if inner != outer:
        yield from _convolution(f"{block}.skip_connection", inner, outer, 1)


def _attention(block: str, channels: int) -> Named:
    yield from _norm(f"{block}.norm", channels)
    yield from _convolution(f"{block}.proj_in", channels, channels, 1)
    inner = f"{block}.transformer_blocks.0"
    for number in (1, 2, 3):
        yield from _norm(f"{inner}.norm{number}", channels)
    for name, context in (("attn1", channels), ("attn2", WIDTH)):
        yield f"{inner}.{name}.to_q.weight", (channels, channels)
        yield f"{inner}.{name}.to_k.weight", (channels, context)
        yield f"{inner}.{name}.to_v.weight", (channels, context)
        yield from _with_bias(f"{inner}.{name}.to_out.0", channels, channels)
    yield from _with_bias(f"{inner}.ff.net.0.proj", 8 * channels, channels)
    yield from _with_bias(f"{inner}.ff.net.2", channels, 4 * channels)
    yield from _convolution(f"{block}.proj_out", channels, channels, 1)


def _text_encoder(layers: int) -> Named:
    yield "embeddings.token_embedding.weight", (VOCABULARY, WIDTH)
    yield "embeddings.position_embedding.weight", (TOKENS, WIDTH)
    for number in range(layers):
        layer = f"encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _with_bias(f"{layer}.self_attn.{name}", WIDTH, WIDTH)
        yield from _with_bias(f"{layer}.mlp.fc1", FEED_FORWARD, WIDTH)
        yield from _with_bias(f"{layer}.mlp.fc2", WIDTH, FEED_FORWARD)
        yield from _norm(f"{layer}.layer_norm1", WIDTH)
        yield from _norm(f"{layer}.layer_norm2", WIDTH)
    yield from _norm("final_layer_norm", WIDTH)


def _vae(widths: list[int]) -> Named:
    if not widths:
        raise KeyError(VAE + "encoder.down.0.block.0.conv1.weight")
    last = widths[-1]
    yield from _convolution("encoder.conv_in", 3, widths[0])
    yield from _vae_levels("encoder.down", "downsample", widths, 2, widths[0])
    yield from _vae_middle("encoder.mid", last)
    yield from _norm("encoder.norm_out", last)
    yield from _convolution("encoder.conv_out", last, 8)
    yield from _convolution("quant_conv", 8, 8, 1)
    yield from _convolution("post_quant_conv", 4, 4, 1)
    yield from _convolution("decoder.conv_in", 4, last)
    yield from _vae_middle("decoder.mid", last)
    yield from _vae_levels("decoder.up", "upsample", widths[::-1], 3, last)
    yield from _norm("decoder.norm_out", widths[0])
    yield from _convolution("decoder.conv_out", widths[0], 3)


def _vae_levels(side: str, between: str, widths: list[int], blocks: int, channels: int) -> Named:
    """The levels of one side in the order in which they compute; the last is not resampled."""
    for index, width in enumerate(widths):
        number = index if between == "downsample" else len(widths) - 1 - index
        for block in range(blocks):
            yield from _vae_block(f"{side}.{number}.block.{block}", channels, width)
            channels = width
        if index < len(widths) - 1:
            yield from _convolution(f"{side}.{number}.{between}.conv", width, width)


def _vae_middle(middle: str, channels: int) -> Named:
    yield from _vae_block(f"{middle}.block_1", channels, channels)
    yield from _norm(f"{middle}.attn_1.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        yield from _convolution(f"{middle}.attn_1.{name}", channels, channels, 1)
    yield from _vae_block(f"{middle}.block_2", channels, channels)


def _vae_block(block: str, inner: int, outer: int) -> Named:
    yield from _norm(f"{block}.norm1", inner)
    yield from _convolution(f"{block}.conv1", inner, outer)
    yield from _norm(f"{block}.norm2", outer)
    yield from _convolution(f"{block}.conv2", outer, outer)
    if inner != outer:
        yield from _convolution(f"{block}.nin_shortcut", inner, outer, 1)
