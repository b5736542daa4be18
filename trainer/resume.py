"""Points from which training goes on exactly: fp32 weights, optimizer state, EMA, and where in
which epoch.

A point is written under a temporary name, complete with its manifest, then renamed. Nothing else is
needed: every random choice is keyed by integers (noise.py), so a resumed run computes the same
weights as one that was never stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import sync_folder, write_json

if TYPE_CHECKING:
    import torch

FORMAT = 2
KEPT = 2
COPY_HEADROOM = 1.5
"""A point is copied and written in the background when so many times its size is free in memory."""


@dataclass(frozen=True)
class Position:
    """Where training stands: `batch` optimizer steps of `epoch` (counted from 0) are done, `step`
    in all.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Point:
    """All that training needs to go on: tensors by component and name, and what is no tensor, by
    component.
    """

    position: Position
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    values: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for part in self.tensors.values() for tensor in part.values())

    def copied(self) -> Point:
        """The same point in memory of its own, which training does not change any more."""
        tensors = {
            component: {name: tensor.detach().to("cpu", copy=True) for name, tensor in part.items()}
            for component, part in self.tensors.items()
        }
        return Point(self.position, tensors, json.loads(json.dumps(self.values)))


class PointWriter:
    """Writes points into a folder, in the background where memory allows, and keeps the newest two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resume point")
        self._pending: Future[None] | None = None

    def write(self, point: Point, wait: bool) -> bool:
        """Write a point; with `wait` it is on disk afterwards. Returns whether it is being written
        in the background.

        Raises OSError or SafetensorError for this point, or for the one before if that went wrong
        in the background.
        """
        import psutil

        self.wait()
        if wait or psutil.virtual_memory().available < COPY_HEADROOM * point.bytes:
            write_point(self.folder, point)
            return False
        self._pending = self._thread.submit(write_point, self.folder, point.copied())
        return True

    def wait(self) -> None:
        """Until nothing is being written any more."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)


def write_point(folder: Path, point: Point) -> None:
    """Write a point and delete all but the newest two."""
    from safetensors.torch import save_file

    final = folder / f"step-{point.position.step:08d}"
    if _manifest(final) is not None:
        return
    part = folder / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for component, tensors in point.tensors.items():
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                part / f"{component}.safetensors",
            )
        sizes = {file.name: file.stat().st_size for file in part.iterdir()}
        for name in sizes:
            with (part / name).open("rb+") as file:
                os.fsync(file.fileno())
        manifest = {
            "format": FORMAT,
            "position": asdict(point.position),
            "sizes": sizes,
            "values": point.values,
        }
        write_json(part / "manifest.json", manifest)
        part.rename(final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(folder)
    drop_points(folder, KEPT)


def drop_points(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` points; a finished run needs one, to be given more epochs."""
    for old in _points(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def load_point(folder: Path) -> Point | None:
    """The newest point that is whole, None when there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for path in _points(folder):
        manifest = _manifest(path)
        if manifest is None:
            continue
        try:
            tensors = {
                file.removesuffix(".safetensors"): load_file(path / file)
                for file in manifest["sizes"]
            }
        except (OSError, SafetensorError):
            continue
        return Point(Position(**manifest["position"]), tensors, manifest["values"])
    return None


def _points(folder: Path) -> list[Path]:
    """Resume points, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _manifest(point: Path) -> dict[str, Any] | None:
    """A point's manifest, or None when the point is not whole."""
    try:
        manifest = json.loads((point / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("format") == FORMAT and all(
            (point / name).stat().st_size == size for name, size in manifest["sizes"].items()
        ):
            return manifest
    except (OSError, ValueError):
        pass
    return None
