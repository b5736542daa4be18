"""What a forked training process does."""

from __future__ import annotations

import os
from pathlib import Path


def train_quietly(folder: str, disk_full_while: str | None = None, room_bytes: int = 0) -> None:
    """Train a run like `python -m trainer run`, its words in log.txt; the exit status is the
    process'.

    One thread: several trainings at a time would fight for the cores. While the file
    `disk_full_while` is there, writing tensors fails as it does on a full disk. `room_bytes` is how
    much more memory the process may take, 0 = all there is.
    """
    import torch

    from cocktail.trainer.loop import train

    log = (Path(folder) / "log.txt").open("a", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    if disk_full_while:
        fill_disk(Path(disk_full_while))
    if room_bytes:
        import resource

        import psutil

        limit = psutil.Process().memory_info().vms + room_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    raise SystemExit(train(Path(folder)))


def fill_disk(while_there: Path) -> None:
    """Let safetensors fail in its own words for as long as a file is there."""
    import safetensors.torch

    write = safetensors.torch.save_file

    def save_file(tensors, filename, *rest, **options):
        if while_there.exists():
            Path(filename).write_bytes(b"a part")
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        return write(tensors, filename, *rest, **options)

    safetensors.torch.save_file = save_file
