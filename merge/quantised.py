"""Quantised tensors: stored numbers and scales that are weights only together.

`with_numbers` shows a file as if it held the weights themselves, in float32; whoever reads such a
tensor gets them from `decode`, a piece at a time. What is known, by the names of its tensors:

- ComfyUI's scaled types (comfy/ops.py: scaled_fp8_ops and mixed_precision_ops; comfy/quant_ops.py):
  LAYER.weight in fp8 or int8 times LAYER.weight_scale, or LAYER.scale_weight beside a tensor
  scaled_fp8. compressed-tensors writes the same names with a scale for each row or group of a row.
- bitsandbytes' int8: LAYER.weight times the row's LAYER.SCB / 127 (bitsandbytes/functional.py,
  int8_vectorwise_dequant).
- bitsandbytes' NF4 and FP4: see four_bits.py.
- optimum-quanto's int8 and fp8: LAYER.weight._data times LAYER.weight._scale.
- MXFP8 and NVFP4 of ComfyUI, NVFP4 of compressed-tensors: see block_scaled.py.
- int4 and turned int8 of ComfyUI, int4 and int8 of compressed-tensors: see by_rows.py.

Anything else that looks like a part of a quantised tensor is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any, TypeAlias, TypeGuard

from . import block_scaled, by_rows, four_bits
from .block_scaled import Blocked
from .by_rows import ByRows
from .errors import MergeError, listed
from .four_bits import Indexed
from .key_names import TEXT_PREFIXES, UNET, VAE
from .safetensors_file import FLOATS, ITEM_BYTES, Header, Read, Tensor, stored_numbers

METADATA = "_quantization_metadata"
"""ComfyUI's metadata field with the format of every layer."""
SCALES = (".weight_scale", ".scale_weight", ".SCB", ".weight._scale")
UNUSED = (
    ".input_scale", ".scale_input", ".output_scale", ".comfy_quant", ".weight_format", "scaled_fp8",
)  # fmt: skip
"""Of quantised layers: what only their activations or a reader of the file needs."""
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
"""Of quantised layers: what has to belong to a weight that is known."""
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
BLOCK_FORMATS = ("mxfp8", "nvfp4")
FOUR_BIT_ROWS, GROUPED_ROWS = "convrot_w4a4", "asym_w4a8_int8"
HARMLESS = ("format", "full_precision_matrix_mult")
TURNED = ("convrot", "convrot_groupsize")
OF_ROWS = (*HARMLESS, *TURNED, "linear_dtype", "group_size", "params")
SMALL_BYTES = 1 << 20
FP8 = ("F8_E4M3", "F8_E5M2")
IN_PARTS = (UNET, VAE, *TEXT_PREFIXES)
NO_WEIGHTS = ("I8", "U8", "I16", "U16", "I32", "U32", "F8_E8M0")
"""Types in which no checkpoint has a matrix of weights."""
NO_MATRIX = re.compile(r"(ids|index|mask|bias)$")
"""How the names of tensors end that may be whole numbers: positions, masks."""
BESIDE = re.compile(r"scale|quant|absmax|zero|shift|codebook|qdata", re.IGNORECASE)
"""In the names of what quantisers put beside or in place of a weight."""


@dataclass(frozen=True)
class Scaled(Tensor):
    """stored x scale x factor; each number of the scale is for as many elements one after another.

    As a `Tensor` it is the weight in float32, whose `offset` is that of the stored numbers.
    """

    stored: Tensor
    scale: Tensor
    factor: float = 1.0


Quantised: TypeAlias = Scaled | Indexed | Blocked | ByRows


def is_quantised(tensor: Tensor) -> TypeGuard[Quantised]:
    """Whether a tensor's numbers have to come from `decode`."""
    return isinstance(tensor, Quantised)


def with_numbers(header: Header) -> Header:
    """The header with every quantised weight as a float32 tensor and without its side tensors, and
    a note that says how many there are. Names are the usual ones.

    Raises MergeError, which names the tensors, for a kind of quantisation that is not known.
    """
    tensors = dict(header.tensors)
    sides = [name for name in tensors if _is_side(name)]
    if not sides:
        _refuse_odd(header, tensors)
        return header
    with header.path.open("rb") as file:
        read = reader(file)
        described, used = _described(header, read)
        _refuse_unknown(header, used)
        made = _four_bits(header, read) | _scaled(header, read, described) | described
        _refuse_unread(header, read, made)
    for name in sides:
        if not name.endswith(PACKED):
            del tensors[name]
    ordered = {}
    for name, tensor in tensors.items():
        plain = name.removesuffix("._data")
        weight = made.get(
            f"{plain.removesuffix(PACKED)}.weight" if plain.endswith(PACKED) else plain
        )
        ordered[weight.name if weight else name] = weight or tensor
    _refuse_odd(header, ordered)
    kinds = sorted({_kind(tensor) for tensor in made.values()})
    note = f"{len(made)} quantised tensors ({', '.join(kinds)}) were read as the weights they mean"
    notes = (*header.notes, note) if made else header.notes
    metadata = {key: value for key, value in header.metadata.items() if key != METADATA}
    return replace(header, tensors=ordered, metadata=metadata, notes=notes)


def reader(file: IO[bytes]) -> Read:
    """How an open file is read."""

    def read(offset: int, size: int) -> bytearray:
        file.seek(offset)
        return bytearray(file.read(size))

    return read


def decode(tensor: Tensor, start: int, count: int, read: Read) -> Any:
    """Elements `start` up to `start + count` of a quantised weight, in float32."""
    if isinstance(tensor, Blocked):
        return block_scaled.decode(tensor, start, count, read)
    if isinstance(tensor, Indexed):
        return four_bits.decode(tensor, start, count, read)
    if isinstance(tensor, ByRows):
        return by_rows.decode(tensor, start, count, read)
    assert isinstance(tensor, Scaled)
    values = stored_numbers(tensor.stored, start, count, read)
    scale = _spread(tensor.scale, tensor.elements, start, count, read)
    return values.mul_(scale.mul_(tensor.factor) if tensor.factor != 1 else scale)


def _spread(scale: Tensor, elements: int, start: int, count: int, read: Read) -> Any:
    """The scale of each of these elements; a single one as it is."""
    each = elements // scale.elements
    first, last = start // each, (start + count - 1) // each
    values = stored_numbers(scale, first, last - first + 1, read)
    if len(values) == 1:
        return values
    return values.repeat_interleave(each)[start - first * each :][:count]


def _kind(tensor: Tensor) -> str:
    if isinstance(tensor, Blocked):
        return "nvfp4" if tensor.packed else "mxfp8"
    if isinstance(tensor, Indexed):
        return "4 bits"
    if isinstance(tensor, ByRows):
        return f"int{tensor.bits}"
    assert isinstance(tensor, Scaled)
    return {"I8": "int8", "F8_E4M3": "scaled fp8", "F8_E5M2": "scaled fp8"}.get(
        tensor.stored.dtype, f"scaled {tensor.stored.dtype}"
    )


def _is_side(name: str) -> bool:
    return name.endswith((*SCALES, *UNUSED, *FOUR_BITS, *UNKNOWN)) or STATE in name


def _refuse_unknown(header: Header, used: Collection[str]) -> None:
    unknown = [name for name in header.tensors if name.endswith(UNKNOWN) and name not in used]
    if unknown:
        raise _refusal(header, unknown)


def _refuse_odd(header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are stored in a type that needs a scale, but have none that is known."""
    if found := list(_odd(tensors)):
        raise _refusal(header, found, "a part of a weight in a format that is not known")


def _odd(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """The names of tensors that cannot be weights as they are stored: matrices of whole numbers,
    and what lies beside fp8 in an unknown way.
    """
    in_parts = any(name.startswith(UNET) for name in tensors)
    stored = {name: t.dtype for name, t in tensors.items() if not is_quantised(t)}
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


def _refuse_unread(header: Header, read: Read, made: Collection[str]) -> None:
    """Refuse a layer that ComfyUI describes as quantised while it has no scale, unless its format
    may have none.
    """
    for name in header.tensors:
        layer = name.removesuffix(".comfy_quant")
        if layer != name and f"{layer}.weight" not in made:
            _check_described(header, layer, _json(header, header.tensors[name], read), FORMATS)


def _refusal(header: Header, names: list[str], why: str = "") -> MergeError:
    return MergeError(
        f"{header.path.name} is quantised in a way that cannot be read: {listed(names, 3)}"
        f"{f' ({why})' if why else ''}. Use the checkpoint before it was quantised."
    )


def _described(header: Header, read: Read) -> tuple[dict[str, Blocked | ByRows], set[str]]:
    """The weights whose kind ComfyUI tells, or that compressed-tensors has packed, by name, but for
    those with a plain scale; and the names of all tensors that belong to them.
    """
    found: dict[str, Blocked | ByRows] = {}
    used: set[str] = set()
    layers = _layers(header)
    for name in header.tensors:
        ending = next((e for e in (SCALE, PACKED, GROUP_SCALE) if name.endswith(e)), None)
        if ending is None:
            continue
        layer = name.removesuffix(ending)
        own = _Layer(header, layer, read)
        told = None if ending == PACKED else _told(header, layer, layers, read)
        try:
            made = own.packed() if ending == PACKED else own.described(told)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise _refusal(header, [f"{layer}.weight"], f"{error} is missing or wrong") from None
        if made:
            found[made.name] = made
            used |= own.used
    return found, used


class _Layer:
    """A quantised layer, and the names of those of its tensors that were asked for."""

    def __init__(self, header: Header, name: str, read: Read) -> None:
        self.header, self.name, self.read = header, name, read
        self.used: set[str] = set()

    def tensor(self, ending: str) -> Tensor:
        """Raises KeyError."""
        self.used.add(self.name + ending)
        return self.header.tensors[self.name + ending]

    def optional(self, ending: str) -> Tensor | None:
        return self.tensor(ending) if self.name + ending in self.header.tensors else None

    def packed(self) -> Blocked | ByRows:
        """A weight of compressed-tensors."""
        weight, stored, scale = f"{self.name}.weight", self.tensor(PACKED), self.tensor(SCALE)
        if whole := self.optional(GLOBAL_SCALE):
            factor = 1 / _one_number(whole, self.read)
            return block_scaled.nvfp4(weight, stored, scale, factor, False)
        shape = _whole_numbers(self.tensor(SHAPE), self.read)
        return by_rows.packed(weight, stored, scale, self.optional(ZERO), shape)

    def described(self, told: Any) -> Blocked | ByRows | None:
        """A weight as ComfyUI tells of it; None if it has a plain scale, or is not told of."""
        form = told.get("format") if isinstance(told, dict) else None
        weight = f"{self.name}.weight"
        if form in BLOCK_FORMATS:
            _check_described(self.header, self.name, told, BLOCK_FORMATS)
            stored, scale = self.tensor(".weight"), self.tensor(SCALE)
            if form == "mxfp8":
                return block_scaled.mxfp8(weight, stored, scale)
            factor = _one_number(self.tensor(SECOND_SCALE), self.read)
            return block_scaled.nvfp4(weight, stored, scale, factor, True)
        params = {**_dict(told, "params"), **told} if form else {}
        is_turned = form in (FOUR_BIT_ROWS, GROUPED_ROWS) or params.get("convrot")
        if not is_turned or form not in (FOUR_BIT_ROWS, GROUPED_ROWS, "int8_tensorwise"):
            return None
        if unknown := {*params} - {*OF_ROWS}:
            raise ValueError(f"{', '.join(sorted(unknown))} of its format")
        size, stored = int(params.get("convrot_groupsize", 256)), self.tensor(".weight")
        if form != GROUPED_ROWS:
            bits = 4 if form == FOUR_BIT_ROWS else 8
            return by_rows.of_comfy(weight, stored, self.tensor(SCALE), bits, size)
        scale, channel = self.tensor(GROUP_SCALE), self.tensor(ROW_SCALE)
        table, group = self.optional(CODEBOOK), int(params.get("group_size", 16))
        return by_rows.with_groups(weight, stored, scale, channel, table, group, size)


def _dict(told: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = told.get(key)
    return value if isinstance(value, dict) else {}


def _whole_numbers(tensor: Tensor, read: Read) -> tuple[int, ...]:
    """The numbers of a small tensor of whole numbers."""
    size = ITEM_BYTES[tensor.dtype]
    if tensor.dtype not in ("I32", "I64") or tensor.size_bytes > SMALL_BYTES:
        raise ValueError(f"the type or shape of {tensor.name}")
    data = read(tensor.offset, tensor.size_bytes)
    cuts = range(0, len(data), size)
    return tuple(int.from_bytes(data[at : at + size], "little", signed=True) for at in cuts)


def _one_number(tensor: Tensor, read: Read) -> float:
    if tensor.elements != 1 or tensor.dtype not in FLOATS:
        raise ValueError(f"the shape or type of {tensor.name}")
    return float(stored_numbers(tensor, 0, 1, read)[0])


def _scaled(header: Header, read: Read, known: Collection[str]) -> dict[str, Tensor]:
    """The weights with a scale beside them, by name, but for those that are known already."""
    found: dict[str, Tensor] = {}
    layers = _layers(header)
    for name, scale in header.tensors.items():
        ending = next((e for e in SCALES if name.endswith(e)), None)
        if ending is None:
            continue
        layer = name.removesuffix(ending)
        weight = f"{layer}.weight"
        if weight in known:
            continue
        stored = header.tensors.get(f"{weight}._data" if ending == ".weight._scale" else weight)
        if stored is None or weight in found:
            raise _refusal(header, [name], "its weight is missing or has two scales")
        _check_format(header, layer, layers, read)
        is_known = stored.dtype in (*FLOATS, "I8") and scale.dtype in FLOATS
        if not is_known or not _fits(scale.shape, stored.shape):
            shapes = f"{stored.dtype} {list(stored.shape)} and {scale.dtype} {list(scale.shape)}"
            raise _refusal(header, [stored.name, name], shapes)
        factor = 1 / 127 if ending == ".SCB" else 1.0
        found[weight] = Scaled(weight, "F32", stored.shape, stored.offset, stored, scale, factor)
    return found


def _fits(scale: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether a scale has one number in all, or one for every row or every group of a row."""
    count = math.prod(scale)
    if not math.prod(weight):
        return False
    if count == 1:
        return True
    if not weight or not scale or scale[0] != weight[0] or not count:
        return False
    row = math.prod(weight[1:])
    groups = math.prod(scale[1:])
    return groups == 1 or (len(scale) == 2 and len(weight) == 2 and row % groups == 0)


def _check_format(header: Header, layer: str, layers: Mapping[str, Any], read: Read) -> None:
    """Refuse what ComfyUI's own description of a layer says, unless it is a plain scale."""
    told = _told(header, layer, layers, read)
    if told is not None:
        _check_described(header, layer, told, FORMATS)


def _told(header: Header, layer: str, layers: Mapping[str, Any], read: Read) -> Any:
    """ComfyUI's own description of a layer, None without one."""
    tensor = header.tensors.get(f"{layer}.comfy_quant")
    if tensor is not None:
        return _json(header, tensor, read)
    return layers.get(layer, layers.get(layer.removeprefix(UNET)))


def _check_described(header: Header, layer: str, told: Any, formats: tuple[str, ...]) -> None:
    if not isinstance(told, dict):
        raise _refusal(header, [f"{layer}.weight"], "its format cannot be read")
    if told.get("format") not in formats or any(told[k] for k in told if k not in HARMLESS):
        raise _refusal(header, [f"{layer}.weight"], json.dumps(told)[:80])


def _layers(header: Header) -> Mapping[str, Any]:
    try:
        told = json.loads(header.metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        told = {}
    layers = told.get("layers") if isinstance(told, dict) else None
    return layers if isinstance(layers, dict) else {}


def _json(header: Header, tensor: Tensor, read: Read) -> dict[str, Any]:
    try:
        told = json.loads(bytes(read(tensor.offset, min(tensor.size_bytes, SMALL_BYTES))))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise _refusal(header, [tensor.name], "it cannot be read")
    return told


def _four_bits(header: Header, read: Read) -> dict[str, Tensor]:
    """The weights of bitsandbytes' NF4 and FP4, by name."""
    found: dict[str, Tensor] = {}
    for name, tensor in header.tensors.items():
        weight, is_state, _ = name.partition(STATE)
        if not is_state:
            continue
        state = _json(header, tensor, read)
        try:
            found[weight] = four_bits.indexed(header.tensors, weight, tensor, state)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _refusal(header, [weight], f"{error} is missing or wrong") from None
    lost = [
        name
        for name in header.tensors
        if name.endswith(FOUR_BITS) and name.rpartition(".")[0] not in found
    ]
    if lost:
        raise _refusal(header, lost, "quant_state is missing")
    return found
