"""Checkpoints whose stored numbers are weights only together with their scales."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cocktail.merge.block_scaled import nvfp4 as nvfp4_of
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint, notes_of
from cocktail.merge.command_line import main
from cocktail.merge.comparison import compare
from cocktail.merge.conversion import convert
from cocktail.merge.errors import MergeError
from cocktail.merge.in_memory import MergeBuffer
from cocktail.merge.inspection import inspect_file, report
from cocktail.merge.lora import bake_lora, extract_lora
from cocktail.merge.quantised import Scaled, decode
from cocktail.merge.reading import open_checkpoint, read_values
from cocktail.merge.requantise import _data, _made, quantise, quantise_like
from cocktail.merge.safetensors_file import Tensor
from cocktail.merge.text import name_finder, parse

from .conftest import UNET, sd15_tensors

LAYER = UNET + "middle_block.1.transformer_blocks.0.attn2.to_k"
WEIGHT = LAYER + ".weight"


def weight(seed, shape=(32, 768)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def scaled(value, ending=".weight_scale", dtype=torch.float8_e4m3fn, rows=False):
    """The tensors of a layer in a scaled type, and the weight that they mean."""
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    most = value.abs().amax(1, keepdim=True) if rows else value.abs().amax()
    scale = most / largest
    stored = (value / scale).round() if dtype == torch.int8 else value / scale
    stored = stored.to(dtype)
    return {WEIGHT: stored, LAYER + ending: scale}, stored.float() * scale


def comfy(value):
    tensors, meant = scaled(value)
    told = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    return {**tensors, LAYER + ".comfy_quant": told}, meant


CUBES = torch.linspace(-1, 1, 16) ** 3
FP4_MAP = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3]) / 12
"""bitsandbytes' own, in the order of its bits: not sorted, and with two zeros."""


def four_bits(value, is_nested=False, table=CUBES, block=64, kind="nf4"):
    """NF4 or FP4 as bitsandbytes stores it, made number by number."""
    flat = value.flatten()
    absmax = torch.stack([part.abs().max() for part in flat.split(block)])
    exact = absmax.repeat_interleave(block)[: len(flat)]
    state = {"quant_type": kind, "blocksize": block, "dtype": "float16", "shape": [*value.shape]}
    tensors = {WEIGHT + ".quant_map": table}
    if is_nested:
        codes, offset = torch.linspace(-1, 1, 256), float(absmax.mean())
        outer = torch.stack([part.abs().max() for part in (absmax - offset).split(128)])
        index = [
            int((codes - (a - offset) / outer[n // 128]).abs().argmin())
            for n, a in enumerate(absmax.tolist())
        ]
        absmax = torch.stack([codes[i] * outer[n // 128] for n, i in enumerate(index)]) + offset
        state |= {"nested_blocksize": 128, "nested_dtype": "float32", "nested_offset": offset}
        tensors |= {
            WEIGHT + ".absmax": torch.tensor(index, dtype=torch.uint8),
            WEIGHT + ".nested_absmax": outer,
            WEIGHT + ".nested_quant_map": codes,
        }
    else:
        tensors[WEIGHT + ".absmax"] = absmax
    indices = ((flat / exact)[:, None] - table).abs().argmin(1)
    zero = [int(table.abs().argmin())] * (len(flat) % 2)
    pairs = torch.tensor([*indices.tolist(), *zero]).reshape(-1, 2)
    told = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    tensors |= {
        WEIGHT: (pairs[:, :1] * 16 + pairs[:, 1:]).to(torch.uint8),
        f"{WEIGHT}.quant_state.bitsandbytes__{kind}": told,
    }
    meant = table[indices] * absmax.repeat_interleave(block)[: len(flat)]
    return tensors, meant.reshape(value.shape)


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def tiled(scales):
    """Scales in cuBLAS' order, each put into its place one by one: its documentation says that the
    scale of row r and block b is at (r mod 32) x 16 + (r div 32) x 4 + b of a tile of 128 x 4.
    """
    rows, blocks = scales.shape
    wide, high = -(-blocks // 4), -(-rows // 128)
    found = torch.zeros(high * wide * 512, dtype=torch.uint8)
    for r in range(rows):
        for b in range(blocks):
            tile = r // 128 * wide + b // 4
            found[tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + b % 4] = scales[r, b]
    return found.reshape(high * 128, wide * 4)


def mxfp8(value):
    """ComfyUI's, made block by block."""
    rows, columns = value.shape
    blocks = value.reshape(rows, columns // 32, 32)
    exponents = torch.floor(torch.log2(blocks.abs().amax(2))) - 8
    stored = (blocks / 2 ** exponents[..., None]).to(torch.float8_e4m3fn)
    told = torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)
    tensors = {
        WEIGHT: stored.reshape(rows, columns),
        LAYER + ".weight_scale": tiled((exponents + 127).to(torch.uint8)),
        LAYER + ".comfy_quant": told,
    }
    return tensors, (stored.float() * 2 ** exponents[..., None]).reshape(rows, columns)


def nvfp4(value, of="comfy"):
    """ComfyUI's or compressed-tensors', made block by block."""
    rows, columns = value.shape
    blocks = value.reshape(rows, columns // 16, 16)
    whole = blocks.abs().amax() / (448 * 6)
    scales = (blocks.abs().amax(2) / 6 / whole).to(torch.float8_e4m3fn)
    spread = (scales.float() * whole)[..., None]
    indices = ((blocks / spread)[..., None] - FP4).abs().argmin(-1)
    meant = (FP4[indices] * spread).reshape(rows, columns)
    first, second = indices.reshape(rows, -1, 2).unbind(-1)
    if of == "comfy":
        told = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
        return {
            WEIGHT: (first * 16 + second).to(torch.uint8),
            LAYER + ".weight_scale": tiled(scales.view(torch.uint8)).view(torch.float8_e4m3fn),
            LAYER + ".weight_scale_2": whole,
            LAYER + ".comfy_quant": told,
        }, meant
    return {
        LAYER + ".weight_packed": (first + second * 16).to(torch.uint8),
        LAYER + ".weight_scale": scales,
        LAYER + ".weight_global_scale": (1 / whole).reshape(1),
    }, meant


def described(**format):
    return torch.tensor(list(json.dumps(format).encode()), dtype=torch.uint8)


def turn(value):
    """Rows times comfy_kitchen's regular Hadamard matrix, written as a matrix."""
    size = 256 if value.shape[1] % 256 == 0 else 16
    matrix = small = torch.tensor(
        [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64
    )
    while len(matrix) < size:
        matrix = torch.kron(matrix, small)
    parts = value.double().reshape(len(value), -1, size) @ (matrix / size**0.5)
    return parts.reshape(value.shape).float(), size


def power_of_two(scale):
    """A scale with which no sum is rounded."""
    return 2 ** torch.ceil(torch.log2(scale))


def in_halves(codes):
    """Two codes in a byte, the first in its lower half."""
    return (codes[:, ::2] % 16 + 16 * (codes[:, 1::2] % 16)).to(torch.uint8).view(torch.int8)


def turned(value, bits):
    """ComfyUI's convrot_w4a4, or its int8 with convrot."""
    rows, size = turn(value)
    scale = power_of_two(rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1))
    codes = (rows / scale).round()
    form = {"format": "convrot_w4a4"} if bits == 4 else {"format": "int8_tensorwise"}
    return {
        WEIGHT: in_halves(codes) if bits == 4 else codes.to(torch.int8),
        LAYER + ".weight_scale": scale[:, 0] if bits == 4 else scale,
        LAYER + ".comfy_quant": described(**form, convrot=True, convrot_groupsize=size),
    }, turn(codes * scale)[0]


def with_groups(value, codebook: torch.Tensor | None = CUBES):
    """ComfyUI's asym_w4a8_int8, with a codebook or with plain numbers."""
    rows, size = turn(value)
    channel = power_of_two(rows.abs().amax(1) / 127)
    parts = rows.reshape(len(rows), -1, 16) / channel[:, None, None]
    table = torch.arange(16.0) - 8 if codebook is None else codebook
    scale = (parts.abs().amax(2) / table.abs().max()).to(torch.float8_e4m3fn)
    levels = (table * scale.float()[..., None]).round().clamp(-127, 127)[:, :, None]
    codes = (parts[..., None] - levels).abs().argmin(-1)
    found = levels.expand(*parts.shape, 16).gather(-1, codes[..., None])[..., 0]
    tensors = {
        WEIGHT: in_halves(codes.reshape(rows.shape)),
        LAYER + ".weight_s_rel": scale,
        LAYER + ".weight_s_channel": channel,
        LAYER + ".comfy_quant": described(
            format="asym_w4a8_int8", group_size=16, convrot_groupsize=size
        ),
    }
    if codebook is not None:
        tensors[LAYER + ".weight_codebook"] = codebook
    return tensors, turn((found * channel[:, None, None]).reshape(rows.shape))[0]


def in_words(codes, bits):
    """Numbers in int32 as compressed-tensors packs them, the first in the lowest bits, each plus
    half of the range; the last word is filled up with 0.
    """
    each = 32 // bits
    words = torch.zeros(len(codes), -(-codes.shape[1] // each), dtype=torch.int64)
    for place, column in enumerate(codes.long().T):
        words[:, place // each] += column + 2 ** (bits - 1) << bits * (place % each)
    return torch.where(words < 1 << 31, words, words - (1 << 32)).int()


def pack_quantized(value, bits, has_zero=False, group=32):
    """compressed-tensors' pack-quantized."""
    rows, half = len(value), 2 ** (bits - 1)
    parts = value.reshape(rows, -1, group)
    low, high = parts.amin(2).clamp(max=0), parts.amax(2).clamp(min=0)
    scale = (high - low) / (2 * half - 1) if has_zero else parts.abs().amax(2) / (half - 1)
    zero = (-half - low / scale).round().clamp(-half, half - 1) * has_zero
    codes = ((parts / scale[..., None]).round() + zero[..., None]).clamp(-half, half - 1)
    tensors = {
        LAYER + ".weight_packed": in_words(codes.reshape(value.shape), bits),
        LAYER + ".weight_scale": scale,
        LAYER + ".weight_shape": torch.tensor(value.shape),
    }
    if has_zero:
        tensors[LAYER + ".weight_zero_point"] = in_words(zero.T, bits).T.contiguous()
    return tensors, ((codes - zero[..., None]) * scale[..., None]).reshape(value.shape)


KINDS = {
    "int4 of ComfyUI": lambda v: turned(v, 4),
    "turned int8 of ComfyUI": lambda v: turned(v, 8),
    "int4 in groups of ComfyUI": with_groups,
    "int4 in groups without a codebook": lambda v: with_groups(v, None),
    "int4 of compressed-tensors": lambda v: pack_quantized(v, 4),
    "int4 with zero points": lambda v: pack_quantized(v, 4, True),
    "int8 of compressed-tensors": lambda v: pack_quantized(v, 8),
    "int8 with zero points": lambda v: pack_quantized(v, 8, True),
    "mxfp8": mxfp8,
    "nvfp4": nvfp4,
    "nvfp4 of compressed-tensors": lambda v: nvfp4(v, "compressed-tensors"),
    "comfy": comfy,
    "fp8 with a marker": lambda v: _with_marker(scaled(v, ".scale_weight")),
    "fp8 e5m2": lambda v: scaled(v, dtype=torch.float8_e5m2),
    "fp8 by rows": lambda v: scaled(v, rows=True),
    "int8": lambda v: scaled(v, dtype=torch.int8),
    "int8 by rows": lambda v: scaled(v, dtype=torch.int8, rows=True),
    "bitsandbytes int8": lambda v: _with_rows_of_127(scaled(v, dtype=torch.int8, rows=True)),
    "quanto": lambda v: _with_names_of_quanto(scaled(v, dtype=torch.int8, rows=True)),
    "nf4": four_bits,
    "nf4 nested": lambda v: four_bits(v, True),
    "fp4": lambda v: four_bits(v, table=FP4_MAP, kind="fp4"),
}
BY_ROWS = list(KINDS)[:8]


def _with_marker(made):
    marker = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return {**made[0], UNET + "scaled_fp8": marker, LAYER + ".scale_input": torch.ones(())}, made[1]


def _with_rows_of_127(made):
    tensors, meant = made
    scale = tensors[LAYER + ".weight_scale"]
    return {WEIGHT: tensors[WEIGHT], LAYER + ".SCB": 127 * scale[:, 0]}, meant


def _with_names_of_quanto(made):
    tensors, meant = made
    names = {WEIGHT: WEIGHT + "._data", LAYER + ".weight_scale": WEIGHT + "._scale"}
    more = {LAYER + ".input_scale": torch.ones(()), LAYER + ".output_scale": torch.ones(())}
    return {names[k]: v for k, v in tensors.items()} | more, meant


def checkpoint(write, name, seed, kind, value, metadata=None):
    made, meant = KINDS[kind](value)
    tensors = {k: v for k, v in sd15_tensors(seed).items() if k != WEIGHT and "model_ema" not in k}
    return write(name, tensors | made, metadata), meant


def merged(tmp_path, text, precision="fp32"):
    names = [path.name for path in tmp_path.glob("*.safetensors")]
    bound = bind_to_files(parse(text, name_finder(names)), tmp_path.joinpath)
    out = tmp_path / "made" / "out.safetensors"
    make_checkpoint(bound, out, precision)
    return bound, load_file(out)


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_are_mixed_as_the_weights_they_mean(write, tmp_path, kind):
    _, a = checkpoint(write, "a", 1, kind, weight(1))
    _, b = checkpoint(write, "b", 2, kind, 8 * weight(2))
    bound, made = merged(tmp_path, "0.5 a + 0.5 b")
    torch.testing.assert_close(made[WEIGHT], (a + b) / 2, rtol=1e-6, atol=1e-7)
    assert {name for name in made if name.startswith(LAYER)} == {WEIGHT}
    assert not any("scaled_fp8" in name for name in made)
    words = r"a: 1 quantised tensors \((.+)\) were read as the weights they mean\."
    (read_as,) = [one[1] for note in notes_of(bound, "fp32") if (one := re.fullmatch(words, note))]
    assert read_as in ("4 bits", "int4", "int8", "mxfp8", "nvfp4", "scaled fp8")
    memory = MergeBuffer().merge(bound, "fp32")
    assert torch.equal(memory.tensors[WEIGHT], made[WEIGHT])


def test_methods_take_the_weights_that_are_meant(write, tmp_path):
    _, a = checkpoint(write, "a", 1, "comfy", weight(1))
    _, b = checkpoint(write, "b", 2, "nf4", weight(2))
    write("c", {k: v for k, v in sd15_tensors(3).items()} | {WEIGHT: weight(3).half()})
    for name, seed, meant in (("plain_a", 1, a), ("plain_b", 2, b)):
        write(name, sd15_tensors(seed) | {WEIGHT: meant})
    _, made = merged(tmp_path, "ties(c, a, b; keep 0.5, strength 1)")
    (tmp_path / "made" / "out.safetensors").unlink()
    _, plain = merged(tmp_path, "ties(c, plain_a, plain_b; keep 0.5, strength 1)")
    assert torch.equal(made[WEIGHT], plain[WEIGHT])


@pytest.mark.parametrize("kind", KINDS)
def test_prune_writes_the_weights_or_keeps_the_bytes(write, tmp_path, kind):
    path, meant = checkpoint(write, "a", 1, kind, weight(1))
    convert(path, tmp_path / "half.safetensors", "fp16")
    half = load_file(tmp_path / "half.safetensors")
    torch.testing.assert_close(half[WEIGHT], meant.half(), rtol=0, atol=0)
    assert {name for name in half if name.startswith(LAYER)} == {WEIGHT}
    convert(path, tmp_path / "same.safetensors")
    before, same = load_file(path), load_file(tmp_path / "same.safetensors")
    for name, tensor in before.items():
        if name.startswith(LAYER):
            assert same[name].dtype == tensor.dtype
            assert torch.equal(same[name].float(), tensor.float())


def test_a_dequantised_copy_does_not_claim_to_be_quantised(write, tmp_path):
    told = {"_quantization_metadata": json.dumps({"layers": {LAYER: {"format": "float8_e4m3fn"}}})}
    path, _ = checkpoint(write, "a", 1, "comfy", weight(1), told)
    convert(path, tmp_path / "half.safetensors", "fp16")
    assert "_quantization_metadata" not in open_checkpoint(tmp_path / "half.safetensors").metadata
    convert(path, tmp_path / "same.safetensors")
    assert inspect_file(tmp_path / "same.safetensors").notes


def test_loras_are_added_to_and_taken_from_the_weights_that_are_meant(write, tmp_path):
    path, meant = checkpoint(write, "a", 1, "comfy", weight(1))
    up, down = weight(5, (32, 2)).half(), weight(6, (2, 768)).half()
    name = "lora_unet_" + LAYER.removeprefix(UNET).replace(".", "_")
    save_file(
        {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down},
        lora := tmp_path / "lora.safetensors",
    )
    bake_lora(path, lora, tmp_path / "baked.safetensors", 0.5)
    baked = load_file(tmp_path / "baked.safetensors")
    expected = meant + 0.5 * up.float() @ down.float()
    torch.testing.assert_close(baked[WEIGHT].float(), expected, rtol=1e-3, atol=1e-3)
    extract_lora(tmp_path / "baked.safetensors", path, tmp_path / "again.safetensors", 2)
    again = load_file(tmp_path / "again.safetensors")
    product = again[f"{name}.lora_up.weight"].float() @ again[f"{name}.lora_down.weight"].float()
    torch.testing.assert_close(product, expected - meant, rtol=0.02, atol=0.02)


def test_compare_and_inspect_see_the_weights_that_are_meant(write, tmp_path):
    path, meant = checkpoint(write, "a", 1, "comfy", weight(1))
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith(LAYER)}
    plain = write("plain", tensors | {WEIGHT: meant})
    found = compare(open_checkpoint(path), open_checkpoint(plain))
    assert found.is_equal
    told = report(inspect_file(path))
    assert "1 F8_E4M3" in told and "quantised tensors (scaled fp8)" in told


OTHER, IN_FP8 = UNET + "other", torch.ones(2, 2).to(torch.float8_e4m3fn)
ONES_U8 = torch.ones(2, 1, dtype=torch.uint8)
NOT_KNOWN = [
    {LAYER + ".weight._data._data": torch.ones(2, 2, dtype=torch.uint8)},
    {"x.comfy_quant": described(format="some_int3"), "x.weight": torch.ones(2, 2)},
    {LAYER + ".weight_codebook": torch.ones(16)},
    {LAYER + ".weight_scale_2": torch.ones(())},
    {LAYER + ".weight_global_scale": torch.ones(1)},
    {LAYER + ".qweight": torch.ones(2, 2, dtype=torch.int32)},
    {LAYER + ".weight_scale": torch.ones(31)},
    {LAYER + ".comfy_quant": torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)},
    {
        LAYER + ".comfy_quant": torch.tensor(
            list(b'{"format": "int8_tensorwise", "convrot": true}'), dtype=torch.uint8
        )
    },
    {WEIGHT + ".absmax": torch.ones(4)},
    {"model.diffusion_model.nowhere.weight_scale": torch.ones(())},
    {WEIGHT + "._shift": torch.ones(32, 1), WEIGHT + "._data._data": torch.ones(16, 768).byte()},
    {LAYER + ".weight_scales": torch.ones(32)},
    {OTHER + ".scale": torch.ones(2), OTHER + ".weight": IN_FP8},
    {OTHER + ".weight.scale": torch.ones(2), OTHER + ".weight": IN_FP8},
    {OTHER + "._weight_qdata": IN_FP8, OTHER + "._weight_scale": torch.ones(2, 1)},
    {OTHER + ".weight:qdata": IN_FP8, OTHER + ".weight:scale": torch.ones(2, 1)},
    {OTHER + "_blocks": torch.ones(2, 2, 16).byte(), OTHER + "_scales": torch.ones(2, 2).byte()},
    {OTHER + ".weight_q": torch.ones(2, 4).char(), OTHER + ".weight_s": torch.ones(2, 1)},
    {OTHER + ".codes": torch.ones(2, 4, 1).short(), OTHER + ".codebooks": torch.ones(1, 9, 1, 8)},
    {OTHER + ".weight_packed": torch.ones(2, 2).byte(), OTHER + ".weight_scale": ONES_U8},
    {OTHER + ".weight": torch.ones(2, 2).byte(), OTHER + ".weight_scale": ONES_U8},
    {OTHER + ".weight": torch.ones(2, 2).char()},
]
"""Beside the layer of `comfy`."""


@pytest.mark.parametrize("more", NOT_KNOWN)
def test_what_is_not_known_is_refused_by_name(write, tmp_path, capsys, more):
    path, _ = checkpoint(write, "a", 1, "comfy", weight(1))
    path = write("a", load_file(path) | more)
    name = next(iter(more)).removesuffix(".comfy_quant").replace("weight_packed", "weight")
    sides = ("up", "down")
    lora = write("lora", {f"lora_unet_x.lora_{side}.weight": torch.ones(2, 2) for side in sides})
    for arguments in (
        ["run", "a", str(tmp_path / "out.safetensors"), "--models", str(tmp_path)],
        ["prune", str(path), str(tmp_path / "out.safetensors"), "--precision", "fp16"],
        ["compare", str(path), str(path)],
        ["bake-lora", str(path), str(lora), str(tmp_path / "out.safetensors")],
        ["extract-lora", str(path), str(path), str(tmp_path / "out.safetensors")],
        ["inspect", str(path)],
    ):
        is_told = main(arguments) == (0 if arguments[0] == "inspect" else 1)
        told = "".join(capsys.readouterr())
        assert is_told and "is quantised in a way that cannot be read" in told and name in told
        assert "Use the checkpoint before it was quantised." in told
    assert not (tmp_path / "out.safetensors").exists()


def test_whole_numbers_and_scales_that_belong_to_no_weight_are_read(write):
    """As other families have them, in fp8 too."""
    kept = {
        "double_blocks.0.img_attn.norm.query_norm.scale": IN_FP8[0].clone(),
        "double_blocks.0.img_attn.qkv.weight": IN_FP8,
        "text.relative_position_index": torch.ones(2, 2, dtype=torch.int32),
        "text.embeddings.position_ids": torch.ones(1, 77, dtype=torch.int32),
        "spiece_model": torch.ones(99, dtype=torch.uint8),
    }
    assert open_checkpoint(write("a", kept)).tensors.keys() == kept.keys()


def test_whole_numbers_without_scales_are_not_taken_for_weights(write, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        made = {WEIGHT: (100 * weight(seed)).to(torch.int8)}
        write(name, {k: v for k, v in sd15_tensors(seed).items()} | made)
    with pytest.raises(MergeError, match="to_k.weight .a part of a weight in a format"):
        merged(tmp_path, "0.5 a + 0.5 b")


@settings(deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 40),
    by=st.sampled_from(["one", "rows", "groups"]),
    piece=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_any_piece_of_any_scale_is_the_product(tmp_path_factory, rows, columns, by, piece, seed):
    from cocktail.merge.reading import numbers

    columns *= 2
    stored = weight(seed, (rows, columns)).to(torch.float8_e4m3fn)
    shape = {"one": (), "rows": (rows, 1), "groups": (rows, 2)}[by]
    scale = weight(seed + 1, shape)
    path = tmp_path_factory.mktemp("q") / "a.safetensors"
    save_file({"x.weight": stored, "x.weight_scale": scale}, path)
    header = open_checkpoint(path)
    spread = scale.repeat_interleave(columns // 2, 1) if by == "groups" else scale
    expected = stored.float() * spread
    assert torch.equal(read_values(header, "x.weight"), expected)
    cut = torch.cat(list(numbers(header, header.tensors["x.weight"], piece)))
    assert torch.equal(cut, expected.flatten())


@settings(max_examples=15, deadline=None)
@given(
    piece=st.integers(200, 9000), kind=st.sampled_from(["mxfp8", "nvfp4", "compressed", *BY_ROWS])
)
def test_any_piece_of_a_weight_with_scales_for_parts_is_the_product(tmp_path_factory, piece, kind):
    from cocktail.merge.reading import numbers

    value = weight(1, (261, 160))  # three tiles high, two or three wide, none of them full
    made, meant = KINDS.get(kind, lambda v: nvfp4(v, kind))(value)
    path = tmp_path_factory.mktemp("blocks") / "a.safetensors"
    save_file({name.replace(LAYER, "x"): tensor for name, tensor in made.items()}, path)
    header = open_checkpoint(path)
    torch.testing.assert_close(read_values(header, "x.weight"), meant, rtol=1e-6, atol=0)
    cut = torch.cat(list(numbers(header, header.tensors["x.weight"], piece)))
    assert torch.equal(cut, read_values(header, "x.weight").flatten())


def half_step(value, kind):
    """Half the distance of neighbours where each number is, in types with a scale for a block; a
    scale of NVFP4 in fp8 is off by a 16th at most.
    """
    block = 32 if kind == "mxfp8" else 16
    most = value.reshape(-1, block).abs().amax(1).repeat_interleave(block).reshape(value.shape)
    if kind == "mxfp8":
        step = 2.0 ** torch.ceil(torch.log2(most / 448))
        return torch.maximum(value.abs() * 2.0**-4, step * 2.0**-10)
    scale = most / 6
    sizes = value.abs() / scale
    return scale * 17 / 16 * torch.where(sizes < 1.9, 0.25, torch.where(sizes < 3.7, 0.5, 1.0))


def by_rows_step(value, kind):
    """The most that numbers are off in int4 and int8: half a step, and as much again where a zero
    point was rounded too.
    """
    largest = 7 if "int4" in kind else 127
    parts = turn(value)[0] if "ComfyUI" in kind else value.reshape(len(value), -1, 32)
    if "zero" in kind:
        step = (parts.amax(2).clamp(min=0) - parts.amin(2).clamp(max=0)) / (2 * largest + 1)
        return step.repeat_interleave(32, 1)
    step = parts.abs().amax(-1, keepdim=True) / largest / 2
    return step.expand(parts.shape).reshape(value.shape)


def four_bits_step(value, table, is_nested, block=64):
    """How far each number over the largest of its block is from the nearest of the table. Where
    absmax is stored in evenly spaced numbers, half of their distance is added.
    """
    flat = value.flatten()
    absmax = torch.stack([part.abs().max() for part in flat.split(block)])
    most = absmax.repeat_interleave(block)[: len(flat)]
    step = ((flat / most)[:, None] - table).abs().amin(1) * most
    if is_nested:
        step += (absmax - absmax.mean()).abs().max() / 255
    return (step + most * 1e-6).reshape(value.shape)


@pytest.mark.parametrize(
    "kind",
    [
        "comfy",
        "fp8 with a marker",
        "fp8 e5m2",
        "fp8 by rows",
        "int8",
        "int8 by rows",
        "bitsandbytes int8",
        "quanto",
        "mxfp8",
        "nvfp4",
        "nvfp4 of compressed-tensors",
        "nf4",
        "nf4 nested",
        "fp4",
        *(kind for kind in BY_ROWS if "in groups" not in kind),
    ],
)
def test_a_mix_is_quantised_again_like_an_ingredient(write, tmp_path, capsys, kind):
    _, a = checkpoint(write, "a", 1, kind, weight(1))
    path, b = checkpoint(write, "b", 2, kind, 8 * weight(2))
    merged(tmp_path, "0.5 a + 0.5 b")
    mix, out = tmp_path / "made" / "out.safetensors", tmp_path / "made" / "again.safetensors"
    assert main(["prune", str(mix), str(out), "--like", str(path)]) == 0
    assert "1 tensors quantised" in capsys.readouterr().out
    made, given, whole = load_file(out), load_file(path), load_file(mix)
    names = {name for name in given if name.startswith(LAYER) or "scaled_fp8" in name}
    assert {name for name in made if name.startswith(LAYER) or "scaled_fp8" in name} == names
    for name in names - {WEIGHT + ".quant_state.bitsandbytes__nf4"}:
        assert (made[name].dtype, made[name].shape) == (given[name].dtype, given[name].shape)
    # By an independent formula: no number is further off than half a step of its type.
    expected, found = (a + b) / 2, read_values(open_checkpoint(out), WEIGHT)
    most = (
        expected.abs().amax(1, keepdim=True)
        if "rows" in kind or kind in ("bitsandbytes int8", "quanto")
        else expected.abs().amax()
    )
    if kind in BY_ROWS:
        step = by_rows_step(expected, kind)
        found, expected = (turn(v)[0] if "Comfy" in kind else v for v in (found, expected))
    elif kind in ("nf4", "nf4 nested", "fp4"):
        step = four_bits_step(expected, given[WEIGHT + ".quant_map"], "nested" in kind)
    elif "fp4" in kind or "mx" in kind:
        step = half_step(expected, kind)
    elif given[next(n for n in (WEIGHT, WEIGHT + "._data") if n in given)].dtype == torch.int8:
        step = most / 127 / 2
    else:
        bits = 2 if kind == "fp8 e5m2" else 3
        step = torch.maximum(expected.abs() * 2.0 ** -(bits + 1), most * 2.0**-16)
    assert bool(((found - expected).abs() <= step * 1.01).all())
    for name in whole.keys() - {WEIGHT}:
        assert torch.equal(made[name], whole[name]), name


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 50),
    block=st.sampled_from([1, 3, 32, 64, 4096]),
    is_nested=st.booleans(),
    table=st.sampled_from([CUBES, FP4_MAP]),
    seed=st.integers(0, 99),
)
def test_four_bits_of_any_shape_are_written_as_they_were_read(
    tmp_path_factory, rows, columns, block, is_nested, table, seed
):
    folder, value = tmp_path_factory.mktemp("bits"), weight(seed, (rows, columns))
    least = min(float(part.abs().max()) for part in value.flatten().split(block))
    # An absmax near 0 becomes negative if it is quantised too, and its block changes its sign.
    is_nested = is_nested and least > 0.01
    given, meant = four_bits(value, is_nested, table, block)
    save_file(given, like := folder / "like.safetensors")
    assert torch.equal(read_values(open_checkpoint(like), WEIGHT), meant)
    save_file({WEIGHT: meant}, plain := folder / "plain.safetensors")
    made = quantise_like(plain, like, folder / "made.safetensors")
    assert made.error == 0
    if not is_nested or bool((given[WEIGHT + ".nested_absmax"] > 0).all()):
        assert_same(load_file(folder / "made.safetensors"), given)


def assert_same(made, given):
    """But for which of the two zeros of FP4 stands where (bitsandbytes takes now one, now the
    other), and for spaces behind a short offset.
    """
    is_fp4 = any(name.endswith("__fp4") for name in given)
    assert made.keys() == given.keys()
    for name, tensor in given.items():
        pair = [made[name], tensor]
        if is_fp4 and name == WEIGHT:
            halves = [torch.cat((packed >> 4, packed & 15)) for packed in pair]
            pair = [half.masked_fill(half == 8, 0) for half in halves]
        if ".quant_state." in name:
            assert text_of(made[name]).rstrip() == text_of(tensor)
        else:
            assert made[name].dtype == tensor.dtype and torch.equal(*pair), name


def text_of(state):
    return state.numpy().tobytes().decode()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("is_nested", [False, True], ids=["plain", "nested"])
def test_four_bits_are_those_of_bitsandbytes(tmp_path, kind, is_nested):
    """Its own writer gives the bytes, and its own reader reads what is written here."""
    functional = pytest.importorskip("bitsandbytes.functional")

    def written(name, value):
        stored, state = functional.quantize_4bit(
            value, compress_statistics=is_nested, quant_type=kind
        )
        sides = {f"{WEIGHT}.{key}": side for key, side in state.as_dict(packed=True).items()}
        save_file({WEIGHT: stored, **sides}, path := tmp_path / f"{name}.safetensors")
        return path, functional.dequantize_4bit(stored, state)

    def again(value, name):
        save_file({WEIGHT: value}, plain := tmp_path / f"{name}_plain.safetensors")
        quantise_like(plain, like, tmp_path / f"{name}_made.safetensors")
        return load_file(tmp_path / f"{name}_made.safetensors")

    like, meant = written("like", weight(1, (64, 640)))
    assert torch.equal(read_values(open_checkpoint(like), WEIGHT), meant)
    assert_same(again(meant, "like"), load_file(like))
    other, _ = written("other", value := 3 * weight(2, (64, 640)))
    made, wanted = again(value, "other"), load_file(other)
    if is_nested:
        # Its library for CPUs takes the neighbour of the nearest now and then.
        apart = (made[WEIGHT + ".absmax"].int() - wanted.pop(WEIGHT + ".absmax").int()).abs()
        assert int(apart.max()) <= 1 and int(apart.sum()) < len(apart) / 100
        wanted[WEIGHT + ".absmax"] = made[WEIGHT + ".absmax"]
    assert_same(made, wanted)
    sides = {k.removeprefix(WEIGHT + "."): v for k, v in made.items() if k != WEIGHT}
    state = functional.QuantState.from_dict(sides, torch.device("cpu"))
    found = read_values(open_checkpoint(tmp_path / "other_made.safetensors"), WEIGHT)
    assert torch.equal(functional.dequantize_4bit(made[WEIGHT], state), found)


def test_odd_sizes_in_the_state_of_four_bits_are_read_or_refused(tmp_path):
    given, meant = four_bits(weight(1, (4, 8)))
    state = WEIGHT + ".quant_state.bitsandbytes__nf4"
    told = json.loads(text_of(given[state]))

    def opened(**odd):
        text = json.dumps({**told, **odd}).encode()
        given[state] = torch.tensor(list(text), dtype=torch.uint8)
        save_file(given, path := tmp_path / "odd.safetensors")
        return open_checkpoint(path)

    assert torch.equal(read_values(opened(blocksize=1 << 60), WEIGHT), meant)
    for odd in ({"shape": [-4, -8]}, {"shape": [0, 8]}, {"blocksize": 0}, {"blocksize": -64}):
        with pytest.raises(MergeError, match="quantised in a way that cannot be read"):
            opened(**odd)


@pytest.mark.parametrize("offset", ["0", "1.5", "0.10000000149011612"])
def test_another_offset_has_room_in_the_state(tmp_path, offset):
    given, _ = four_bits(weight(1, (64, 640)), True)
    state = WEIGHT + ".quant_state.bitsandbytes__nf4"
    text = re.sub('(?<="nested_offset": )[^,}]+', offset, text_of(given[state]))
    given[state] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    save_file(given, like := tmp_path / "like.safetensors")
    value = 1e-4 * weight(2, (64, 640))
    save_file({WEIGHT: value}, plain := tmp_path / "plain.safetensors")
    told = quantise_like(plain, like, out := tmp_path / "made.safetensors").error
    before, after = json.loads(text), json.loads(text_of(load_file(out)[state]))
    most = torch.stack([part.abs().max() for part in value.flatten().split(64)])
    assert after.pop("nested_offset") == pytest.approx(float(most.mean()), rel=1e-6)
    assert before.pop("nested_offset") == float(offset) and before == after
    off = (read_values(open_checkpoint(out), WEIGHT) - value).norm() / value.norm()
    assert told < 0.3 and float(off) == pytest.approx(told, rel=1e-5)


@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        (".absmax", lambda t: t.half(), "cannot be stored as F16"),
        (".absmax", lambda t: t.to(torch.float8_e4m3fn), "cannot be stored as F8_E4M3"),
        (".nested_absmax", lambda t: t.half(), "cannot be stored as F16"),
        (".quant_map", lambda t: t * 2, "can be read but not written"),
        (".quant_map", lambda t: t.clone().fill_(torch.nan), "can be read but not written"),
        (".nested_quant_map", lambda t: t / 2, "can be read but not written"),
        (".nested_absmax", lambda t: t.int(), "the type of nested_absmax"),
    ],
)
def test_what_four_bits_cannot_hold_is_refused_by_name(tmp_path, ending, change, words):
    value = weight(1, (64, 640))
    given, _ = four_bits(value, is_nested="nested" in ending)
    given[WEIGHT + ending] = change(given[WEIGHT + ending])
    save_file(given, like := tmp_path / "like.safetensors")
    size = 1e-4 if "F8" in words else 1e6
    save_file({WEIGHT: size * value}, plain := tmp_path / "plain.safetensors")
    with pytest.raises(MergeError, match=words) as told:
        quantise_like(plain, like, tmp_path / "made.safetensors")
    assert WEIGHT in str(told.value)
    assert not (tmp_path / "made.safetensors").exists()


def by_rows(stored, scale, size):
    """A weight whose rows are of about this size, and a kind with a scale for each of them."""
    value = size * torch.linspace(0.5, 2, 64)[:, None] * torch.linspace(-1, 1, 33)
    kind = Scaled(
        "x.weight",
        "F32",
        (64, 33),
        0,
        Tensor("x.weight", stored, (64, 33), 0),
        Tensor("x.weight_scale", scale, (64, 1), 0),
    )
    return value, kind


def test_a_weight_that_is_too_small_for_a_scale_in_fp8_is_refused():
    with pytest.raises(MergeError, match="too small"):
        quantise(*by_rows("I8", "F8_E4M3", 1e-3))


@pytest.mark.parametrize("stored", ["I8", "F8_E4M3"])
@pytest.mark.parametrize(
    ("scale", "size"),
    [("F16", 2e-4), ("F16", 1e-3), ("F16", 1e-6), ("F16", 1e-30), ("BF16", 1e-5), ("F32", 1e-5)],
)
def test_a_scale_with_few_digits_cuts_no_number_off(stored, scale, size):
    """Below 6e-5 fp16 has few digits, below 6e-8 none: a scale rounded down would make the largest
    smaller.
    """
    value, kind = by_rows(stored, scale, size)
    _, scales, meant = quantise(value, kind)
    step = scales.float() * (0.5 if stored == "I8" else 448 * 2**-4)
    assert bool(((meant - value).abs() <= 1.01 * step).all())


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("tiled", [True, False])
def test_what_a_written_factor_means_is_what_is_read(tiled, dtype):
    """Also where the type of the factor has few digits."""
    value = 0.07 * torch.linspace(-1, 1, 128 * 64).reshape(128, 64)
    stored = Tensor("x.weight", "U8", (128, 32), 0)
    scale = Tensor("x.weight_scale", "F8_E4M3", (128, 4), stored.size_bytes)
    kind = nvfp4_of("x.weight", stored, scale, 1.0, tiled)
    factor = Tensor("x.factor", dtype, (1,), 0)
    made, meant = _made(value, kind, factor)
    data = b"".join(_data(made[one.name]) for one in (stored, scale))
    by = float(made[factor.name])
    read = replace(kind, factor=by if tiled else 1 / by)
    found = decode(read, 0, value.numel(), lambda at, size: bytearray(data[at : at + size]))
    assert torch.equal(found.reshape(value.shape), meant)
    assert float((meant - value).norm() / value.norm()) < 0.2
    wrong = [value.clone().fill_(float("nan")), value.clone().fill_(float("inf"))]
    for bad in (*wrong, *([value * 1e-4] if dtype == "F16" else [])):
        with pytest.raises(MergeError, match="cannot be stored with a scale for a block"):
            _made(bad, kind, factor)


def test_what_cannot_be_quantised_like_another_is_refused(write, tmp_path, capsys):
    plain = write("plain", sd15_tensors(3))
    nf4, _ = checkpoint(write, "nf4", 1, "nf4", weight(1))
    command = ["prune", str(plain), str(tmp_path / "o.safetensors")]
    assert main([*command, "--like", str(plain)]) == 1
    assert "no quantised weight" in capsys.readouterr().err
    assert main([*command, "--like", str(nf4), "--precision", "fp16"]) == 1
    assert "goes without --precision" in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize("has_zero", [False, True])
@pytest.mark.parametrize(("bits", "columns"), [(4, 12), (8, 6), (4, 40), (4, 1000), (8, 1000)])
def test_rows_that_do_not_fill_whole_words_are_read_and_written(tmp_path, bits, columns, has_zero):
    made, meant = pack_quantized(weight(1, (5, columns)), bits, has_zero, columns // 2)
    save_file(made, like := tmp_path / "like.safetensors")
    assert torch.equal(read_values(open_checkpoint(like), WEIGHT), meant)
    save_file({WEIGHT: meant}, plain := tmp_path / "plain.safetensors")
    quantise_like(plain, like, out := tmp_path / "made.safetensors")
    again = load_file(out)
    assert {n: (t.shape, t.dtype) for n, t in again.items()} == {
        n: (t.shape, t.dtype) for n, t in made.items()
    }
    found = read_values(open_checkpoint(out), WEIGHT)
    parts = meant.reshape(5, 2, -1)
    most = parts.abs().amax(2) / (2 ** (bits - 1) - 1) / 2
    if has_zero:
        most = (parts.amax(2).clamp(min=0) - parts.amin(2).clamp(max=0)) / (2**bits - 1)
    assert bool(((found - meant).reshape(parts.shape).abs() <= 1.001 * most[..., None]).all())


@pytest.mark.parametrize(
    ("ending", "wrong"),
    [
        (".weight_shape", torch.tensor([32, 700])),
        (".weight_shape", torch.tensor([32, 768, 1])),
        (".weight_shape", torch.tensor([-32, 768])),
        (".weight_shape", torch.tensor([32.0, 768.0])),
        (".weight_scale", torch.ones(32, 5)),
        (".weight_zero_point", torch.ones(32, 24, dtype=torch.int32)),
        (".weight_g_idx", torch.ones(768, dtype=torch.int32)),
        (".weight_shape", None),
    ],
)
def test_numbers_in_words_that_do_not_fit_are_refused(tmp_path, ending, wrong):
    made, _ = pack_quantized(weight(1), 4, True)
    made[LAYER + ending] = wrong
    made = {name: tensor for name, tensor in made.items() if tensor is not None}
    save_file(made, path := tmp_path / "a.safetensors")
    with pytest.raises(MergeError, match=f"cannot be read: {re.escape(LAYER)}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"convrot_groupsize": 8},
        {"convrot_groupsize": 1024},
        {"convrot_groupsize": "x"},
        {"convrot_groupsize": 1e999},
        {"group_size": 5, "format": "asym_w4a8_int8"},
        {"block": 3},
    ],
)
def test_an_odd_description_of_int4_is_refused(tmp_path, wrong):
    made, _ = turned(weight(1), 4)
    if "format" in wrong:
        made, _ = with_groups(weight(1))
    form = {"format": "convrot_w4a4", "convrot_groupsize": 256}
    made[LAYER + ".comfy_quant"] = described(**{**form, **wrong})
    save_file(made, path := tmp_path / "a.safetensors")
    with pytest.raises(MergeError, match=f"cannot be read: {re.escape(WEIGHT)}"):
        open_checkpoint(path)


def test_int4_in_groups_is_read_but_not_written(tmp_path):
    made, meant = with_groups(weight(1))
    save_file(made, like := tmp_path / "like.safetensors")
    save_file({WEIGHT: meant}, plain := tmp_path / "plain.safetensors")
    with pytest.raises(MergeError, match="asym_w4a8_int8, which can be read but not written"):
        quantise_like(plain, like, tmp_path / "made.safetensors")
    assert not (tmp_path / "made.safetensors").exists()


@pytest.mark.parametrize("name", [WEIGHT, UNET + "out.2.weight"], ids=["quantised", "copied"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_nan_or_infinity_is_not_quantised(write, tmp_path, capsys, name, value):
    like, _ = checkpoint(write, "like", 1, "comfy", weight(1))
    tensors = sd15_tensors(2)
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[1] = value
    out = tmp_path / "made" / "out.safetensors"
    assert main(["prune", str(write("bad", tensors)), str(out), "--like", str(like)]) == 1
    assert f"contain NaN or infinity: {name} in bad.safetensors" in capsys.readouterr().err
    assert not out.exists()
