"""Tensors kept on disk by content, so that another run or a resumed one finds them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainerError
from .files import write_bytes
from .litter import temporary

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
PROBE_BYTES = 16 << 20


class TensorCache:
    """One fp32 tensor a file. The folder's name says what else than their key the tensors depend
    on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def holds(self, key: str, shape: Shape) -> bool:
        """Whether the tensor of a key is there, whole and of this shape. A file that was cut off
        does not count: whoever asks makes it again.
        """
        try:
            size = self._file(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return False
        return size == file_bytes(shape) or self._reads(key, shape)

    def _reads(self, key: str, shape: Shape) -> bool:
        """Whether a file of another size than expected, such as one by another version of
        safetensors, has the tensor nevertheless.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return tuple(load(self._file(key).read_bytes())["tensor"].shape) == shape
        except (OSError, SafetensorError, KeyError):
            return False

    def get(self, key: str) -> torch.Tensor:
        """Raises TrainerError when it is not there, or damaged; a damaged file is removed."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self._file(key)
        try:
            return load(file.read_bytes())["tensor"]
        except (FileNotFoundError, SafetensorError, KeyError) as error:
            file.unlink(missing_ok=True)
            raise TrainerError(
                f"{file.name} of the cache {self.folder} has been damaged or removed while the run "
                "was at work. Resume the run: it is made again."
            ) from error

    def put(self, key: str, tensor: torch.Tensor) -> None:
        from safetensors.torch import save

        write_bytes(self._file(key), save({"tensor": tensor.contiguous()}))


@lru_cache(maxsize=1024)
def file_bytes(shape: Shape) -> int:
    """The size of the file of a tensor of this shape."""
    import torch
    from safetensors.torch import save

    return len(save({"tensor": torch.zeros(shape)}))


def check_room(folder: Path) -> None:
    """Raise OSError while there is no room for some more files."""
    probe = temporary(folder / "room")
    try:
        write_bytes(probe, bytes(PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def module_hash(module: Any) -> str:
    """Hex SHA-256 over the names and fp32 values of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
