"""Tensors kept on disk by content, so that another run or a resumed one finds them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_bytes

if TYPE_CHECKING:
    import torch


class TensorCache:
    """One file a tensor. The folder's name says what else than their key the tensors depend on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self._file(key).is_file()

    def get(self, key: str) -> torch.Tensor:
        from safetensors.torch import load

        return load(self._file(key).read_bytes())["tensor"]

    def put(self, key: str, tensor: torch.Tensor) -> None:
        from safetensors.torch import save

        write_bytes(self._file(key), save({"tensor": tensor.contiguous()}))


def module_hash(module: Any) -> str:
    """Hex SHA-256 over the names and fp32 values of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
