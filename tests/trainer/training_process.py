"""What a forked training process does."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def train_quietly(folder: str, disk_full_while: str | None = None, room_bytes: int = 0) -> None:
    """Train a run like `python -m trainer run`, its words in log.txt; the exit status is the
    process'.

    One thread: several trainings at a time would fight for the cores. While the file
    `disk_full_while` is there, writing tensors and to the cache fails as it does on a full disk.
    `room_bytes` is how much more memory the process may take, 0 = all there is.
    """
    import torch

    from cocktail.trainer.jobs.lines import Lines
    from cocktail.trainer.journal import Journal
    from cocktail.trainer.loop import train

    from .held import mind, mind_validations

    log = (Path(folder) / "log.txt").open("a", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    mind(Lines)
    mind_validations(Journal)
    if disk_full_while:
        fill_disk(Path(disk_full_while))
    if room_bytes:
        import resource

        import psutil

        limit = psutil.Process().memory_info().vms + room_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    raise SystemExit(train(Path(folder)))


def fill_disk(while_there: Path) -> None:
    """Let safetensors fail in its own words, and files of the cache as the system does, for as long
    as a file is there.
    """
    import safetensors.torch

    from cocktail.trainer import cache

    write_bytes = cache.write_bytes

    def write_to_cache(path, data):
        if while_there.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_bytes(path, data)

    cache.write_bytes = write_to_cache

    write = safetensors.torch.save_file

    def save_file(tensors, filename, *rest, **options):
        if while_there.exists():
            Path(filename).write_bytes(b"a part")
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        return write(tensors, filename, *rest, **options)

    safetensors.torch.save_file = save_file
