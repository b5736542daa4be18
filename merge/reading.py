"""A checkpoint as every command reads it, and the numbers of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import MergeError
from .key_names import with_usual_names
from .quantised import decode, is_quantised, with_numbers
from .safetensors_file import FLOATS, ITEM_BYTES, Header, Tensor, read_header, torch_type

CHUNK_ELEMENTS = 1 << 19


def open_checkpoint(path: Path) -> Header:
    """The header of a safetensors file with the usual names, and with quantised tensors as the
    weights they mean. Raises MergeError when the file is missing, damaged, or quantised in an
    unknown way.
    """
    return with_numbers(with_usual_names(read_header(path)))


def numbers(header: Header, tensor: Tensor, elements: int = CHUNK_ELEMENTS) -> Iterator[Any]:
    """The numbers of a floating point tensor of a file, flat and in order, `elements` at a time:
    in float64 where they are stored in it, otherwise in float32.

    Raises MergeError when the file has become shorter.
    """
    import torch

    with header.path.open("rb", buffering=0) as file:

        def read(offset: int, size: int) -> bytearray:
            data = bytearray(size)
            view, done = memoryview(data), 0
            file.seek(offset)
            while done < size:
                count = file.readinto(view[done:])
                if not count:
                    raise MergeError(
                        f"{header.path} became shorter while it was read. Run it again."
                    )
                done += count
            return data

        for start in range(0, tensor.elements, elements):
            count = min(elements, tensor.elements - start)
            if is_quantised(tensor):
                yield decode(tensor, start, count, read)
                continue
            item = ITEM_BYTES[tensor.dtype]
            data = read(tensor.offset + start * item, count * item)
            values = torch.frombuffer(data, dtype=torch_type(tensor.dtype))
            yield values if tensor.dtype == "F64" else values.float()


def read_values(header: Header, name: str) -> Any:
    """A tensor in float32 and in its shape. Raises MergeError for one of whole numbers, and for
    one that contains NaN or infinity.
    """
    import torch

    tensor = header.tensors[name]
    if tensor.dtype not in FLOATS:
        raise MergeError(
            f"{name} in {header.path.name} has the type {tensor.dtype}, which a weight cannot have."
        )
    found = [part.float() for part in numbers(header, tensor, max(tensor.elements, 1))]
    values = found[0].reshape(tensor.shape) if found else torch.zeros(tensor.shape)
    if not bool(values.isfinite().all()):
        raise MergeError(
            f"These tensors contain NaN or infinity: {name} in {header.path.name}. "
            "The file is broken; use another one."
        )
    return values
