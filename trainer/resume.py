"""Resume points: what every component of a training has come to, and where in which epoch.

A component is anything with a state of its own: the weights that learn, an optimizer, the EMA, the
gradient scaler. A point is written under a temporary name, complete with its manifest, then
renamed. Nothing else is needed: every random choice is keyed by integers (noise.py) and every
learning rate is a function of the step, so a resumed run computes the same weights as one that was
never stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import bounded_json
from .errors import TrainerError
from .files import sync_folder, write_json
from .litter import temporary
from .runs import is_plain

if TYPE_CHECKING:
    import torch

FORMAT = 2
KEPT = 2
DAMAGED = ".damaged"
"""How the name of a point ends that was set aside."""
COPY_HEADROOM = 1.5
"""A point is written in the background when this many times its size is free in memory."""


class Component(Protocol):
    """A part of a training that changes from step to step and can go on from what it was."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True)
class Position:
    """Where training stands: `batch` optimizer steps of `epoch` (counted from 0) are done, and
    `step` in all.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Point:
    """All that training needs to go on: by component its tensors by name, and the rest of its
    state as JSON.
    """

    position: Position
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    values: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for part in self.tensors.values() for tensor in part.values())

    def copied(self) -> Point:
        """The same point in memory of its own, which training no longer changes."""
        tensors = {
            component: {name: tensor.detach().to("cpu", copy=True) for name, tensor in part.items()}
            for component, part in self.tensors.items()
        }
        return Point(self.position, tensors, json.loads(json.dumps(self.values)))


def take_point(position: Position, components: Mapping[str, Component]) -> Point:
    """The point as it is now; its tensors are those that training goes on to change."""
    tensors: dict[str, Mapping[str, torch.Tensor]] = {}
    values: dict[str, Any] = {}
    for name, component in components.items():
        found, rest = _taken_apart(component.state_dict())
        if found is not None:
            tensors[name] = found
        if rest is not None:
            values[name] = rest
    return Point(position, tensors, values)


def restore(point: Point, components: Mapping[str, Component]) -> None:
    """Bring every component to a point. Raises TrainerError when the point lacks one of them."""
    for name, component in components.items():
        tensors, rest = point.tensors.get(name), point.values.get(name)
        if tensors is not None and rest is not None:
            component.load_state_dict(restore_state(tensors, rest))
        elif tensors is not None or rest is not None:
            component.load_state_dict(rest if tensors is None else tensors)
        else:
            raise TrainerError(
                f"The resume point of step {point.position.step} has no {name}, which these "
                "settings need. Train under another name."
            )


def _taken_apart(state: Mapping[str, Any]) -> tuple[Mapping[str, torch.Tensor] | None, Any]:
    """A component's state as tensors and JSON: nothing but tensors (weights) or nothing but figures
    (a scaler) as it is, anything else through `flatten_state`.
    """
    import torch

    if all(isinstance(value, torch.Tensor) for value in state.values()):
        return {name: tensor.detach() for name, tensor in state.items()}, None
    if all(isinstance(value, int | float) for value in state.values()):
        return None, state
    return flatten_state(state)


def flatten_state(state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """A state dict as tensors by path, and the rest as JSON in which {"tensor": path} stands for
    each of them.

    A tensor that is in several places is kept once.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _flatten(state, "state", tensors, {})


def _flatten(value: Any, path: str, tensors: dict[str, torch.Tensor], paths: dict[Any, str]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        memory = (value.data_ptr(), value.dtype, tuple(value.shape)) if value.numel() else path
        if memory not in paths:
            paths[memory] = path
            tensors[path] = value.detach()
        return {"tensor": paths[memory]}
    if isinstance(value, dict):
        return {
            "dict": [
                [_flatten(key, "", {}, {}), _flatten(entry, f"{path}.{key}", tensors, paths)]
                for key, entry in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        entries = [_flatten(v, f"{path}.{n}", tensors, paths) for n, v in enumerate(value)]
        return {type(value).__name__: entries}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} of a state is a {type(value)}, which a resume point cannot hold")


def restore_state(tensors: Mapping[str, torch.Tensor], rest: Any) -> Any:
    """What `flatten_state` took apart, in memory of its own.

    A tensor read from a file may begin at any address, and sums over it (torch.dot in D-Adapt Lion
    and Prodigy) round differently there than over memory that torch has allocated. What was in
    several places is one tensor again.
    """
    return _restored({path: tensor.clone() for path, tensor in tensors.items()}, rest)


def _restored(tensors: Mapping[str, torch.Tensor], rest: Any) -> Any:
    if not isinstance(rest, dict):
        return rest
    ((kind, value),) = rest.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {_restored(tensors, key): _restored(tensors, entry) for key, entry in value}
    entries = [_restored(tensors, entry) for entry in value]
    return tuple(entries) if kind == "tuple" else entries


class PointWriter:
    """Writes points into a folder, in the background if memory allows, and keeps the newest two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resume point")
        self._pending: Future[None] | None = None

    def write(self, point: Point, wait: bool) -> bool:
        """Write a point; with `wait` it is on disk afterwards. Returns whether it is being written
        in the background.

        Raises OSError or SafetensorError for this point, or for the one before if writing that one
        in the background failed.
        """
        import psutil

        self.wait()
        if wait or psutil.virtual_memory().available < COPY_HEADROOM * point.bytes:
            write_point(self.folder, point)
            return False
        self._pending = self._thread.submit(write_point, self.folder, point.copied())
        return True

    def wait(self) -> None:
        """Wait until nothing is being written."""
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
    part = temporary(final)
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    # Without parents: a run's folder that somebody has deleted does not come back.
    folder.mkdir(exist_ok=True)
    try:
        part.mkdir()
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
    """Delete all but the newest `keep` complete points, and damaged ones that were set aside and
    that the run has passed again. A finished run keeps one, for more epochs later.
    """
    complete = [point for point in _points(folder) if _manifest(point) is not None]
    for old in _points(folder):
        if old not in complete[:keep]:
            shutil.rmtree(old, ignore_errors=True)
    for aside in folder.glob(f".step-*{DAMAGED}"):
        if complete and aside.name.removeprefix(".").removesuffix(DAMAGED) <= complete[0].name:
            shutil.rmtree(aside, ignore_errors=True)


def set_aside(folder: Path, names: Iterable[str]) -> None:
    """Take damaged points out of the way: one whose files have the right sizes would be taken for
    whole, kept instead of an older one, and never be written again.
    """
    for name in names:
        aside = folder / f".{name}{DAMAGED}"
        shutil.rmtree(aside, ignore_errors=True)
        (folder / name).rename(aside)


def drop_torn_points(folder: Path) -> None:
    """Delete what a kill has left of a point that was being written."""
    for torn in folder.glob(".*.part"):
        shutil.rmtree(torn, ignore_errors=True)


def load_point(folder: Path) -> tuple[Point | None, list[str]]:
    """The newest complete point, or None, and the names of newer ones that were cut off or damaged
    and are passed over.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    passed_over = []
    for path in _points(folder):
        manifest = _manifest(path)
        if manifest is None:
            passed_over.append(path.name)
            continue
        try:
            tensors = {
                file.removesuffix(".safetensors"): load_file(path / file)
                for file in manifest["sizes"]
            }
        except (OSError, SafetensorError):
            passed_over.append(path.name)
            continue
        point = Point(Position(**manifest["position"]), tensors, manifest["values"])
        return point, passed_over
    return None, passed_over


def _points(folder: Path) -> list[Path]:
    """Resume points, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _manifest(point: Path) -> dict[str, Any] | None:
    """A point's manifest, or None when the point is incomplete."""
    try:
        manifest = bounded_json.read(point / "manifest.json")
        if manifest.get("format") == FORMAT and all(
            is_plain(name)
            and stat.S_ISREG((found := (point / name).stat()).st_mode)
            and found.st_size == size
            for name, size in manifest["sizes"].items()
        ):
            return manifest
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return None
