"""The files that a cell is made of: found by name, checked, and known by the hash of their
content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .....merge.errors import MergeError
from .....merge.hashing import file_sha256
from .....merge.pickled import check_torch, is_pickled
from .....merge.safetensors_file import ENDINGS, read_header
from .....trainer.errors import nearest
from ....host import names
from ....host.progress import Progress, show_text
from ..errors import GridError

NONE = "none"
"""The entry for no file in a list of files."""

FOLDERS = {"checkpoint": "checkpoints", "vae": "vae", "lora": "loras"}
"""ComfyUI's model folders by the kind of file."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def listed(kind: str) -> list[str]:
    """The files of a kind - "checkpoint", "vae", "lora" or "image" - that ComfyUI lists."""
    import folder_paths

    if kind == "image":
        folder = Path(folder_paths.get_input_directory())
        found = [file.name for file in folder.iterdir() if file.suffix.lower() in PICTURES]
        return sorted(found) if folder.is_dir() else []
    return folder_paths.get_filename_list(FOLDERS[kind])


def path_of(kind: str, name: str) -> Path:
    """The file of a name. Raises GridError, which suggests the nearest name, if there is none."""
    import folder_paths

    try:
        if kind == "checkpoint":
            return names.checkpoint_path(name)
        if kind == "image":
            path = names.within(Path(folder_paths.get_input_directory()), name, "Image")
            found = path if path.is_file() else None
        else:
            for root in folder_paths.get_folder_paths(FOLDERS[kind]):
                names.within(Path(root), name, kind)
            full = folder_paths.get_full_path(FOLDERS[kind], name.replace("\\", "/"))
            found = Path(full) if full else None
    except names.BadName as error:
        raise GridError(str(error)) from None
    if found is None:
        where = "input folder" if kind == "image" else f"{FOLDERS[kind]} folders"
        hint = nearest(name, listed(kind))
        raise GridError(f"There is no {kind} {name!r} in ComfyUI's {where}.{hint}")
    return found


def readable(kind: str, name: str) -> Path:
    """The file of a name. Raises GridError if it is missing or damaged."""
    path = path_of(kind, name)
    try:
        if path.suffix.lower() in ENDINGS:
            read_header(path)
        elif is_pickled(path):
            check_torch(path)  # ComfyUI's own loader opens it
    except MergeError as error:
        raise GridError(str(error)) from None
    return path


def content_sha256(kind: str, name: str) -> str:
    """Hex SHA-256 of a file's bytes, remembered until the file changes. Shows progress on the node
    that is running.
    """
    show_text(f"reading {name}")
    return quiet_sha256(kind, name, Progress())


def quiet_sha256(kind: str, name: str, progress: Callable[[int, int], None] | None = None) -> str:
    """The same without showing progress on a node."""
    try:
        return file_sha256(readable(kind, name), names.hashes_file(), progress)
    except MergeError as error:
        raise GridError(str(error)) from None


def check_unchanged(
    found: Iterable[tuple[str, str]],
    contents: Mapping[str, Mapping[str, str]],
    sha256_of: Callable[[str, str], str],
) -> None:
    """Raise GridError for the first of these files, given as (kind, name), whose content is not the
    one in `contents`.
    """
    for kind, name in found:
        if sha256_of(kind, name) != contents[kind].get(name):
            raise GridError(
                f"{Path(name).name} has been replaced by another file since the grid was planned."
                " Start the grid again."
            )


def state(kind: str, name: str | None) -> list[int]:
    """Size and modification time of a chosen file; nothing for a linked or missing one."""
    if not name or name == NONE:
        return []
    try:
        status = path_of(kind, name).stat()
    except (GridError, OSError):
        return []
    return [status.st_size, status.st_mtime_ns]
