"""LoRA files: the difference of two checkpoints in few numbers, and adding such a file to a
checkpoint.

A LoRA holds for a weight W the matrices up and down, and alpha: W + strength x alpha / rank x up @
down, where rank is the number of down's rows (Hu et al., "LoRA: low-rank adaptation of large
language models", 2021; file layout of kohya's sd-scripts). Names of weights are those of the
checkpoint with _ for dots, which ComfyUI's own LoraLoader reads; diffusers' names, which kohya
writes for SD1.5, are read too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .blocks import BlockWeights, values_text
from .errors import MergeError, listed
from .family import LORA, family_of
from .hashing import Progress
from .health import POSITION_IDS, check_finite
from .key_names import TEXT, UNET
from .lora_kinds import check_kind
from .plan import own_type, positions_of
from .quantised import is_quantised, with_numbers
from .reading import open_checkpoint, read_values
from .safetensors_file import FLOATS, Header, Tensor, lay_out, new_file, read_header, torch_type

LAYER = re.compile(r"text_model\.encoder\.layers\.\d+\.(self_attn|mlp)\.")
TEXT_L = "conditioner.embedders.0.transformer."
PARTS_OF_RESNET = {
    "norm1": "in_layers_0", "conv1": "in_layers_2", "time_emb_proj": "emb_layers_1",
    "norm2": "out_layers_0",
    "conv2": "out_layers_3", "conv_shortcut": "skip_connection",
}  # fmt: skip
DIFFUSERS = re.compile(
    r"lora_unet_(?P<side>down|up|mid)_blocks?_((?P<block>\d)_)?"
    r"(?P<kind>attentions|resnets|downsamplers|upsamplers)_(?P<number>\d)_(?P<rest>\w+)"
)

LARGEST_RANK = 1024


@dataclass(frozen=True)
class Baked:
    """The names in the LoRA that were added to a weight, and those that match no weight."""

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]


def extract_lora(
    tuned: Path, base: Path, out: Path, rank: int, progress: Progress | None = None
) -> int:
    """Write the LoRA with `rank` that comes closest to tuned - base (in the sum of squares) to
    `out`; the number of weights in it.

    It holds linear layers and convolutions of the UNet and of CLIP-L. Weights that are equal are
    left out, and a LoRA cannot hold biases and norms. `progress(done, total)` counts weights.
    Raises MergeError when the two are of different families or have equal weights, or `out` exists.
    """
    if not 1 <= rank <= LARGEST_RANK:
        raise MergeError(f"The rank must be from 1 to {LARGEST_RANK}; it is {rank}.")
    headers = [open_checkpoint(path) for path in (tuned, base)]
    families = [family_of(header) for header in headers]
    if LORA in families:
        raise MergeError("A LoRA is extracted from two checkpoints. Choose those, not LoRA files.")
    if families[0].kind != families[1].kind:
        raise MergeError(
            f"{tuned.name} is {families[0].name} and {base.name} is {families[1].name}. "
            "Choose a checkpoint and the base it was trained from."
        )
    names = {
        name: lora
        for name, lora in _lora_names(headers[1]).items()
        if name in headers[0].tensors
        and headers[0].tensors[name].shape == headers[1].tensors[name].shape
    }
    found: dict[str, Any] = {}
    for number, (name, lora) in enumerate(names.items(), 1):
        difference = read_values(headers[0], name).sub_(read_values(headers[1], name))
        if difference.any():
            up, down = low_rank(difference.flatten(1), rank)
            kernel = difference.shape[2:]
            found[f"{lora}.lora_up.weight"] = up.reshape(*up.shape, *[1] * len(kernel)).half()
            found[f"{lora}.lora_down.weight"] = down.reshape(len(down), -1, *kernel).half()
            found[f"{lora}.alpha"] = up.new_tensor(float(len(down))).half()
        if progress:
            progress(number, len(names))
    if not found:
        raise MergeError(
            f"{tuned.name} and {base.name} have the same weights: there is nothing to extract."
        )
    metadata = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "cocktail.extracted_from": f"{tuned.name} - {base.name}",
    }
    write_lora(out, found, metadata)
    return len(found) // 3


def low_rank(matrix: Any, rank: int) -> tuple[Any, Any]:
    """up [m, r] and down [r, n] whose product is the matrix of rank r (at most `rank`) that is
    nearest to `matrix` [m, n].
    """
    import torch

    exact = matrix.double()
    turned = exact.shape[0] > exact.shape[1]
    short = exact.T if turned else exact
    values, vectors = torch.linalg.eigh(short @ short.T)
    count = min(rank, len(values))
    values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
    # Both factors get the root of the singular value, so that neither falls below what fp16 can
    # hold.
    root = values.clamp(min=1e-30).pow(0.25)
    first, second = vectors * root, (vectors.T @ short) / root[:, None]
    return (second.T.float(), first.T.float()) if turned else (first.float(), second.float())


def bake_lora(
    checkpoint: Path,
    lora: Path,
    out: Path,
    strength: float = 1.0,
    progress: Progress | None = None,
    blocks: BlockWeights | None = None,
) -> Baked:
    """Write `checkpoint` with `lora` added at `strength` to `out`, times the number of each block
    with `blocks`. Every weight keeps its type, and everything else is copied byte for byte.

    `progress(done, total)` counts tensors. Raises MergeError when the LoRA holds anything but up
    and down matrices (the message names it), when nothing in it fits, or `out` exists.
    """
    header, patch = open_checkpoint(checkpoint), with_numbers(read_header(lora))
    fits = _targets(header, patch)
    other = {n.split(".", 1)[0] for n in patch.tensors} - set(fits)
    positions = {
        name: positions_of(tensor)
        for name, tensor in header.tensors.items()
        if name.endswith(POSITION_IDS)
    }
    title = f"{lora.name} at {strength:g}"
    if blocks:
        check_layout(blocks, header)
        title += f" by blocks [{values_text(blocks)}{''.join(f'; {r}' for r in blocks.rules)}]"
    start, places = _laid_out(header, positions, title)
    by_target = {target: name for name, target in fits.items()}

    def product(name: str) -> tuple[Any, float] | None:
        """What the LoRA adds to a weight, and how often; None when nothing."""
        if name not in by_target:
            return None
        share = strength * float(blocks.of(name)) if blocks else strength
        return _product(patch, by_target[name]), share

    size = len(start) + sum(place.size_bytes for place in places.values())
    with (
        new_file(out, size) as temporary,
        temporary.open("r+b") as file,
        checkpoint.open("rb") as source,
    ):
        file.write(start)
        for number, place in enumerate(places.values(), 1):
            file.seek(place.offset)
            if place.name in positions:
                file.write(positions[place.name])
            else:
                file.write(_with_product(header, place, source, product(place.name)))
            if progress:
                progress(number, len(places))
        file.flush()
    return Baked(tuple(fits), tuple(sorted(other)))


def _laid_out(
    header: Header, positions: Mapping[str, bytes], title: str
) -> tuple[bytes, dict[str, Tensor]]:
    """The beginning of a checkpoint with the tensors of another, and where each of them goes."""
    tensors = [
        (name, "I64" if name in positions else own_type(tensor), tensor.shape)
        for name, tensor in header.tensors.items()
    ]
    # The file's own recipe no longer describes its weights.
    metadata = {
        k: v for k, v in header.metadata.items() if not k.startswith(("cocktail.", "sd_merge_"))
    }
    return lay_out(tensors, {**metadata, "format": "pt", "cocktail.baked": title})


def _with_product(
    header: Header, place: Tensor, source: BinaryIO, product: tuple[Any, float] | None
) -> bytes | memoryview:
    """The bytes of a weight with what a LoRA adds to it, or as they are in the file."""
    tensor = header.tensors[place.name]
    if product is None and not is_quantised(tensor):
        check_finite(header, tensor)
        source.seek(tensor.offset)
        return source.read(place.size_bytes)
    weight = read_values(header, place.name)
    if product is not None:
        added, share = product
        weight.add_(added.reshape(weight.shape), alpha=share)
    return _bytes(weight.to(torch_type(place.dtype)), place.name)


def _targets(header: Header, patch: Header) -> dict[str, str]:
    """The checkpoint's weight for each layer of a LoRA that fits one. Raises MergeError if none
    does.
    """
    check_kind(patch)
    own = {lora_name: name for name, lora_name in _lora_names(header).items()}
    own |= {
        k.replace("lora_te_", "lora_te1_"): v for k, v in own.items() if k.startswith("lora_te_")
    }
    ending = ".lora_down.weight"
    told = sorted(name.removesuffix(ending) for name in patch.tensors if name.endswith(ending))
    targets = {name: own.get(usual_name(name)) for name in told}
    fits = {
        name: target
        for name, target in targets.items()
        if target and _fits(patch, name, header.tensors[target])
    }
    if not fits:
        raise MergeError(
            f"Nothing in {patch.path.name} fits {header.path.name} ({family_of(header).name}): "
            f"{listed(told or list(patch.tensors), 3)}. Choose a LoRA for this family."
        )
    return fits


def check_layout(blocks: BlockWeights, header: Header) -> None:
    """Raise MergeError if block weights are for another kind of UNet than the checkpoint's."""
    family = family_of(header)
    if (blocks.layout == "SDXL") != (family.kind == "SDXL"):
        raise MergeError(
            f"These block weights are for {blocks.layout}, but {header.path.name} is "
            f"{family.name}. SD1.5 and SD2 have 25 blocks, SDXL has 19."
        )


def _product(patch: Header, name: str) -> Any:
    """alpha / rank x up @ down, as a matrix of out x (in x kernel)."""
    up, down, scale, _ = factors(patch, name)
    return (up @ down).mul_(scale)


def factors(patch: Header, name: str) -> tuple[Any, Any, float, tuple[int, ...]]:
    """up [out, rank] and down [rank, in x kernel], alpha / rank, and the kernel of a convolution.
    Raises MergeError if a side is missing or they do not fit each other.
    """
    sides = [f"{name}.lora_{side}.weight" for side in ("up", "down")]
    if any(side not in patch.tensors for side in sides):
        raise MergeError(f"{name} in {patch.path.name} lacks up or down. Use another file.")
    up, down = (read_values(patch, side) for side in sides)
    kernel = tuple(down.shape[2:])
    if min(up.ndim, down.ndim) < 2 or up.flatten(1).shape[1] != down.shape[0] or not down.shape[0]:
        raise MergeError(f"up and down of {name} in {patch.path.name} do not fit each other.")
    rank = down.shape[0]
    alpha = float(rank)
    if f"{name}.alpha" in patch.tensors:
        told = read_values(patch, f"{name}.alpha")
        if told.numel() != 1:
            raise MergeError(
                f"{name}.alpha in {patch.path.name} must be one number, but has {told.numel()}."
            )
        alpha = float(told)
    return up.flatten(1), down.flatten(1), alpha / rank, kernel


def _fits(patch: Header, name: str, weight: Tensor) -> bool:
    """Whether up and down are there and make a matrix of the weight's size."""
    sides = [patch.tensors.get(f"{name}.lora_{side}.weight") for side in ("up", "down")]
    if None in sides or len(weight.shape) < 2:
        return False
    up, down = (side.shape for side in sides if side)
    if (
        len(up) < 2
        or not down
        or not down[0]
        or up[1] != down[0]
        or any(size != 1 for size in up[2:])
    ):
        return False
    return up[0] == weight.shape[0] and up[0] * down_size(down) == weight.elements


def down_size(shape: tuple[int, ...]) -> int:
    """The columns of a down matrix: its inputs times the size of its kernel."""
    size = 1
    for length in shape[1:]:
        size *= length
    return size


def _lora_names(header: Header) -> dict[str, str]:
    """The name in a LoRA of every weight that one can change, by the weight's name."""
    found = {}
    for tensor in header.tensors.values():
        if (
            not tensor.name.endswith(".weight")
            or len(tensor.shape) < 2
            or tensor.dtype not in FLOATS
        ):
            continue
        name = tensor.name.removesuffix(".weight")
        if name.startswith(UNET):
            found[tensor.name] = "lora_unet_" + name.removeprefix(UNET).replace(".", "_")
        for prefix, told in ((TEXT, "lora_te_"), (TEXT_L, "lora_te1_")):
            if name.startswith(prefix) and LAYER.match(name.removeprefix(prefix)):
                found[tensor.name] = told + name.removeprefix(prefix).replace(".", "_")
    return found


def usual_name(name: str) -> str:
    """A name in diffusers' layout as one in that of SD1.5 checkpoints; another name as it is."""
    match = DIFFUSERS.fullmatch(name)
    if not match:
        return name
    side, kind, rest = match["side"], match["kind"], match["rest"]
    block, number = int(match["block"] or 0), int(match["number"])
    if kind == "resnets":
        rest = PARTS_OF_RESNET.get(rest, rest)
    place = 0 if kind == "resnets" else 1
    if side == "mid":
        return f"lora_unet_middle_block_{1 if kind == 'attentions' else 2 * number}_{rest}"
    if kind == "downsamplers":
        return f"lora_unet_input_blocks_{3 * block + 3}_0_op"
    if kind == "upsamplers":
        return f"lora_unet_output_blocks_{3 * block + 2}_{1 if block == 0 else 2}_conv"
    if side == "down":
        return f"lora_unet_input_blocks_{3 * block + number + 1}_{place}_{rest}"
    return f"lora_unet_output_blocks_{3 * block + number}_{place}_{rest}"


def write_lora(
    out: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str], dtype: str = "F16"
) -> None:
    """Write these tensors of that type as a new file. Raises MergeError if it exists."""
    start, places = lay_out([(k, dtype, tuple(t.shape)) for k, t in tensors.items()], metadata)
    size = len(start) + sum(place.size_bytes for place in places.values())
    with new_file(out, size) as temporary, temporary.open("r+b") as file:
        file.write(start)
        for place in places.values():
            file.seek(place.offset)
            file.write(_bytes(tensors[place.name], place.name))
        file.flush()


def _bytes(tensor: Any, name: str) -> memoryview:
    import torch

    if not bool(torch.isfinite(tensor.float()).all()):
        raise MergeError(
            f"{name} would contain NaN or infinity. Use a smaller strength, or files that are not "
            "broken."
        )
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
