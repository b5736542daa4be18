"""The tensors in a file of weights, which nobody has to trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .....merge.errors import MergeError
from .....merge.pickled import is_pickled, load_tensors
from ..errors import GridError

if TYPE_CHECKING:
    from torch import Tensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickled one, by name. Of a pickle only tensors are
    read. Raises GridError for a file that holds anything else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_tensors(path) if is_pickled(path) else load_file(path)
    except MergeError as error:
        raise GridError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise GridError(
            f"The weights in {path.name} cannot be read ({error}). Copy or download the file again."
        ) from error
