"""Axes of checkpoints: chosen ones, and all that runs have saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from .....merge.safetensors_file import ENDINGS
from ..errors import GridError
from .axis import Axis, Value


def checkpoint_axis(chosen: Sequence[tuple[str, str]]) -> Axis:
    """The axis of (checkpoint name, label) pairs. A checkpoint without a label is called by its
    file.

    A checkpoint that is given twice, such as one that two rules have picked, is one value with both
    labels. Raises GridError if there is none.
    """
    labels: dict[str, list[str]] = {}
    for checkpoint, label in chosen:
        known = labels.setdefault(checkpoint, [])
        if label and label not in known:
            known.append(label)
    if not labels:
        raise GridError("The checkpoint axis is empty. Choose at least one checkpoint.")
    short = dict(zip(labels, file_labels(list(labels)), strict=True))
    values = tuple(
        Value(" / ".join(known) or short[name], {"checkpoint": name})
        for name, known in labels.items()
    )
    return Axis("checkpoint", "checkpoint", values)


def runs_axis(saved: Sequence[tuple[str, int, int, str]]) -> Axis:
    """The axis of saved checkpoints, given as (run name, epoch, step, checkpoint name).

    Two checkpoints of one epoch are told apart by their steps.
    """
    epochs = [(run, epoch) for run, epoch, _, _ in saved]
    return checkpoint_axis(
        [
            (
                checkpoint,
                f"{run} epoch {epoch}"
                + (f" step {step}" if epochs.count((run, epoch)) > 1 else ""),
            )
            for run, epoch, step, checkpoint in saved
        ]
    )


def file_labels(files: Sequence[str]) -> list[str]:
    """Files without folder and suffix, where that is enough to tell them apart."""
    paths = [PurePosixPath(file.replace("\\", "/")) for file in files]
    short = [
        path.stem if path.suffix in (*ENDINGS, ".ckpt", ".pt") else path.name for path in paths
    ]
    return [
        label if short.count(label) == 1 else str(path)
        for label, path in zip(short, paths, strict=True)
    ]
