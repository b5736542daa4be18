"""Quantised tensors of a base, read as the weights that they mean: which kinds there are, and where
their formulas come from, is told in merge/quantised.py, block_scaled.py, four_bits.py and
by_rows.py.

The merge engine reads a tensor a piece at a time and writes quantised files too; the trainer reads
whole tensors once. Neither imports the other; a test holds both to the same weights, bit for bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from . import decoding
from .decoding import Quantised, Read
from .header import Contents, Stored

METADATA, UNET = "_quantization_metadata", "model.diffusion_model."
SCALES = (".weight_scale", ".scale_weight", ".SCB", ".weight._scale")
UNUSED = (
    ".input_scale", ".scale_input", ".output_scale", ".comfy_quant", ".weight_format", "scaled_fp8",
)  # fmt: skip
FOUR_BITS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
STATE = ".quant_state.bitsandbytes__"
SCALE, SECOND_SCALE, GLOBAL_SCALE = ".weight_scale", ".weight_scale_2", ".weight_global_scale"
PACKED, ZERO, SHAPE = ".weight_packed", ".weight_zero_point", ".weight_shape"
GROUP_SCALE, ROW_SCALE, CODEBOOK = ".weight_s_rel", ".weight_s_channel", ".weight_codebook"
UNKNOWN = (
    SECOND_SCALE, GLOBAL_SCALE, PACKED, ZERO, SHAPE, GROUP_SCALE, ROW_SCALE, CODEBOOK,
    ".weight_scale_inv", ".weight_correction", ".weight_g_idx", ".qweight", ".qzeros", ".g_idx",
    ".W_q", ".weight._shift", ".weight._zeropoint", ".weight_svd_up", ".weight_svd_down",
    ".pre_quant_scale", ".weight._data._data",
)  # fmt: skip
FORMATS, BLOCK_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise"), ("mxfp8", "nvfp4")
FOUR_BIT_ROWS, GROUPED_ROWS = "convrot_w4a4", "asym_w4a8_int8"
HARMLESS = ("format", "full_precision_matrix_mult")
OF_ROWS = (
    *HARMLESS, "convrot", "convrot_groupsize", "linear_dtype", "group_size", "params",
)  # fmt: skip
SMALL_BYTES = 1 << 20
FP8 = ("F8_E4M3", "F8_E5M2")
IN_PARTS = (
    UNET, "first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.",
    "text_encoder.",
)  # fmt: skip
NO_WEIGHTS = ("I8", "U8", "I16", "U16", "I32", "U32", "F8_E8M0")
NO_MATRIX = re.compile(r"(ids|index|mask|bias)$")
BESIDE = re.compile(r"scale|quant|absmax|zero|shift|codebook|qdata", re.IGNORECASE)


class NotKnown(ValueError):
    """The tensors that cannot be read as weights, and why."""


def with_weights(contents: Contents, read: Read) -> dict[str, Stored | Quantised]:
    """The tensors of a file with every quantised weight in its place and without what says how to
    read it. Raises NotKnown.
    """
    tensors = contents.tensors
    sides = {name for name in tensors if _is_side(name)}
    if not sides:
        _refuse_odd(tensors)
        return {**tensors}
    described, used = _described(contents, read)
    if unknown := [name for name in tensors if name.endswith(UNKNOWN) and name not in used]:
        raise _refusal(unknown)
    made = _four_bits(tensors, read) | _scaled(contents, read, described) | described
    for name in tensors:
        layer = name.removesuffix(".comfy_quant")
        if layer != name and f"{layer}.weight" not in made:
            _check_described(layer, _json(name, tensors[name], read), FORMATS)
    found: dict[str, Stored | Quantised] = {}
    for name, tensor in tensors.items():
        weight = name.removesuffix("._data")
        if name.endswith(PACKED):
            weight = f"{name.removesuffix(PACKED)}.weight"
        if weight in made:
            found[weight] = made[weight]
        elif name not in sides:
            found[name] = tensor
    _refuse_odd(found)
    return found


def _refuse_odd(tensors: Mapping[str, Stored | Quantised]) -> None:
    """Refuse weights that are stored in a type that needs a scale, but have none that is known."""
    if found := list(_odd(tensors)):
        raise _refusal(found, "a part of a weight in a format that is not known")


def _odd(tensors: Mapping[str, Stored | Quantised]) -> Iterator[str]:
    """The names of tensors that cannot be weights as they are stored: matrices of whole numbers,
    and what lies beside fp8 in an unknown way.
    """
    in_parts = any(name.startswith(UNET) for name in tensors)
    stored = {name: t.dtype for name, t in tensors.items() if isinstance(t, Stored)}
    in_fp8 = {name for name, dtype in stored.items() if dtype in FP8}
    quantised = in_fp8 | (tensors.keys() - stored.keys())
    for name, tensor in tensors.items():
        if in_parts and not name.startswith(IN_PARTS):
            continue
        layer, _, last = name.rpartition(".")
        weight = f"{layer.removesuffix('.weight')}.weight"
        is_matrix = len(tensor.shape) > 1 and not NO_MATRIX.search(name)
        is_beside = last not in ("weight", "bias") and BESIDE.search(last)
        is_data = name in in_fp8 and "data" in last
        if (is_matrix and stored.get(name) in NO_WEIGHTS) or (
            is_beside and (weight in quantised or is_data)
        ):
            yield name


def _is_side(name: str) -> bool:
    return name.endswith((*SCALES, *UNUSED, *FOUR_BITS, *UNKNOWN)) or STATE in name


def _refusal(names: list[str], why: str = "") -> NotKnown:
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return NotKnown(f"{', '.join(names[:3])}{more}{f' ({why})' if why else ''}")


def _described(contents: Contents, read: Read) -> tuple[dict[str, Quantised], set[str]]:
    """The weights whose kind ComfyUI tells, or that compressed-tensors has packed, by name, but for
    those with a plain scale; and the names of all tensors that belong to them.
    """
    found: dict[str, Quantised] = {}
    used: set[str] = set()
    layers = _layers(contents)
    for name in contents.tensors:
        ending = next((e for e in (SCALE, PACKED, GROUP_SCALE) if name.endswith(e)), None)
        if ending is None:
            continue
        layer = name.removesuffix(ending)
        own = _Layer(contents.tensors, layer, read)
        told = None if ending == PACKED else _told(contents.tensors, layer, layers, read)
        try:
            made = own.packed() if ending == PACKED else own.described(told)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            if isinstance(error, NotKnown):
                raise
            raise _refusal([f"{layer}.weight"], f"{error} is missing or wrong") from None
        if made:
            found[f"{layer}.weight"] = made
            used |= own.used
    return found, used


class _Layer:
    """A quantised layer, and the names of those of its tensors that were asked for."""

    def __init__(self, tensors: Mapping[str, Stored], name: str, read: Read) -> None:
        self.tensors, self.name, self.read = tensors, name, read
        self.used: set[str] = set()

    def tensor(self, ending: str) -> Stored:
        """Raises KeyError."""
        self.used.add(self.name + ending)
        return self.tensors[self.name + ending]

    def optional(self, ending: str) -> Stored | None:
        return self.tensor(ending) if self.name + ending in self.tensors else None

    def packed(self) -> Quantised:
        """A weight of compressed-tensors."""
        stored, scale = self.tensor(PACKED), self.tensor(SCALE)
        if whole := self.optional(GLOBAL_SCALE):
            return decoding.nvfp4(stored, scale, 1 / decoding.one_number(whole, self.read), False)
        shape = self.tensor(SHAPE)
        if shape.dtype not in ("I32", "I64") or shape.size_bytes > SMALL_BYTES:
            raise ValueError("the type or shape of weight_shape")
        sides = tuple(decoding.numbers_of(shape, self.read).flatten().tolist())
        return decoding.packed(stored, scale, self.optional(ZERO), sides)

    def described(self, told: Any) -> Quantised | None:
        """A weight as ComfyUI tells of it; None if it has a plain scale, or is not told of."""
        form = told.get("format") if isinstance(told, dict) else None
        if form in BLOCK_FORMATS:
            _check_described(self.name, told, BLOCK_FORMATS)
            stored, scale = self.tensor(".weight"), self.tensor(SCALE)
            if form == "mxfp8":
                return decoding.mxfp8(stored, scale)
            return decoding.nvfp4(
                stored, scale, decoding.one_number(self.tensor(SECOND_SCALE), self.read), True
            )
        own = told.get("params") if form else None
        params = {**(own if isinstance(own, dict) else {}), **told} if form else {}
        is_turned = form in (FOUR_BIT_ROWS, GROUPED_ROWS) or params.get("convrot")
        if not is_turned or form not in (FOUR_BIT_ROWS, GROUPED_ROWS, "int8_tensorwise"):
            return None
        if unknown := {*params} - {*OF_ROWS}:
            raise ValueError(f"{', '.join(sorted(unknown))} of its format")
        size, stored = int(params.get("convrot_groupsize", 256)), self.tensor(".weight")
        if form != GROUPED_ROWS:
            return decoding.turned(
                stored, self.tensor(SCALE), 4 if form == FOUR_BIT_ROWS else 8, size
            )
        scale, channel = self.tensor(GROUP_SCALE), self.tensor(ROW_SCALE)
        group = int(params.get("group_size", 16))
        return decoding.grouped(stored, scale, channel, self.optional(CODEBOOK), group, size)


def _scaled(contents: Contents, read: Read, known: Collection[str]) -> dict[str, Quantised]:
    """The weights with a scale beside them, by name, but for those that are known already."""
    found: dict[str, Quantised] = {}
    layers, tensors = _layers(contents), contents.tensors
    for name, scale in tensors.items():
        ending = next((e for e in SCALES if name.endswith(e)), None)
        if ending is None:
            continue
        layer = name.removesuffix(ending)
        weight = f"{layer}.weight"
        if weight in known:
            continue
        key = f"{weight}._data" if ending == ".weight._scale" else weight
        stored = tensors.get(key)
        if stored is None or weight in found:
            raise _refusal([name], "its weight is missing or has two scales")
        if (told := _told(tensors, layer, layers, read)) is not None:
            _check_described(layer, told, FORMATS)
        try:
            found[weight] = decoding.scaled(stored, scale, 1 / 127 if ending == ".SCB" else 1.0)
        except ValueError as error:
            raise _refusal([key, name], str(error)) from None
    return found


def _told(tensors: Mapping[str, Stored], layer: str, layers: Mapping[str, Any], read: Read) -> Any:
    """ComfyUI's own description of a layer, None without one."""
    tensor = tensors.get(f"{layer}.comfy_quant")
    if tensor is not None:
        return _json(f"{layer}.comfy_quant", tensor, read)
    return layers.get(layer, layers.get(layer.removeprefix(UNET)))


def _check_described(layer: str, told: Any, formats: tuple[str, ...]) -> None:
    if not isinstance(told, dict):
        raise _refusal([f"{layer}.weight"], "its format cannot be read")
    if told.get("format") not in formats or any(told[k] for k in told if k not in HARMLESS):
        raise _refusal([f"{layer}.weight"], json.dumps(told)[:80])


def _layers(contents: Contents) -> Mapping[str, Any]:
    try:
        told = json.loads(contents.metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        told = {}
    layers = told.get("layers") if isinstance(told, dict) else None
    return layers if isinstance(layers, dict) else {}


def _json(name: str, tensor: Stored, read: Read) -> dict[str, Any]:
    try:
        told = json.loads(bytes(read(tensor))) if tensor.size_bytes <= SMALL_BYTES else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise _refusal([name], "it cannot be read")
    return told


def _four_bits(tensors: Mapping[str, Stored], read: Read) -> dict[str, Quantised]:
    """The weights of bitsandbytes' NF4 and FP4, by name."""
    found: dict[str, Quantised] = {}
    for name, tensor in tensors.items():
        weight, is_state, _ = name.partition(STATE)
        if not is_state:
            continue
        state = _json(name, tensor, read)
        try:
            found[weight] = decoding.indexed(tensors, weight, state)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _refusal([weight], f"{error} is missing or wrong") from None
    lost = [n for n in tensors if n.endswith(FOUR_BITS) and n.rpartition(".")[0] not in found]
    if lost:
        raise _refusal(lost, "quant_state is missing")
    return found
