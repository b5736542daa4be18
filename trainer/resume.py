"""Points from which training goes on exactly: fp32 weights, optimizer state and where in which epoch.

A point is written under a temporary name, complete with its manifest, then renamed. Nothing else is needed: every
random choice is keyed by integers (noise.py), so a resumed run computes the same weights as one that was never stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .files import sync_folder, write_json

KEPT = 2


@dataclass(frozen=True)
class Position:
    """Where training stands: `batch` batches of `epoch` (counted from 0) are done, `step` in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


def save_point(folder: Path, position: Position, parts: dict[str, Any], optimizer: Any) -> None:
    """Write the point of this step and delete all but the newest two."""
    from safetensors.torch import save_file

    point = folder / f"step-{position.step:08d}"
    if point.exists():
        return
    part = folder / f".{point.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, module in parts.items():
        save_file(
            {key: tensor.contiguous() for key, tensor in module.state_dict().items()},
            part / f"{name}.safetensors",
        )
    state = optimizer.state_dict()
    save_file(
        {
            f"{parameter}.{name}": tensor
            for parameter, values in state["state"].items()
            for name, tensor in values.items()
        },
        part / "optimizer.safetensors",
    )
    sizes = {file.name: file.stat().st_size for file in part.iterdir()}
    for name in sizes:
        with (part / name).open("rb+") as file:
            os.fsync(file.fileno())
    manifest = {"position": asdict(position), "sizes": sizes, "groups": state["param_groups"]}
    write_json(part / "manifest.json", manifest)
    part.rename(point)
    sync_folder(folder)
    drop_points(folder, KEPT)


def drop_points(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` points; a finished run needs one, to be given more epochs."""
    for old in _points(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def load_point(folder: Path, parts: dict[str, Any], optimizer: Any) -> Position:
    """Bring weights and optimizer to the newest complete point; the start when there is none."""
    from safetensors.torch import load_file

    for point in _points(folder):
        manifest = _manifest(point)
        if manifest is None:
            continue
        for name, module in parts.items():
            module.load_state_dict(load_file(point / f"{name}.safetensors"))
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in load_file(point / "optimizer.safetensors").items():
            parameter, name = key.split(".")
            state.setdefault(int(parameter), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": manifest["groups"]})
        return Position(**manifest["position"])
    return Position()


def _points(folder: Path) -> list[Path]:
    """Resume points, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _manifest(point: Path) -> dict[str, Any] | None:
    """A point's manifest, or None when the point is not whole."""
    try:
        manifest = json.loads((point / "manifest.json").read_text(encoding="utf-8"))
        if all((point / n).stat().st_size == size for n, size in manifest["sizes"].items()):
            return manifest
    except (OSError, ValueError):
        pass
    return None
