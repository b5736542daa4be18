"""Whether the pictures of a dataset are still there and unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...files import sha256_file
from ..manifest import Dataset
from .facts import read_cache


@dataclass(frozen=True)
class PictureCheck:
    """What became of a dataset's pictures; files are relative to its root.

    `unknown` counts those that are there but were not compared, because their size and time are
    not known.
    """

    pictures: int
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unknown: int = 0

    @property
    def fine(self) -> bool:
        return not self.missing and not self.changed

    def __str__(self) -> str:
        lines = []
        for files, what in ((self.missing, "are missing"), (self.changed, "have changed")):
            if files:
                lines.append(f"{len(files)} of {self.pictures} pictures {what}:")
                lines += [f"  {file}" for file in files[:SHOWN]]
        if self.fine:
            lines.append(f"all {self.pictures} pictures are there")
            if self.unknown:
                lines.append(f"{self.unknown} of them could not be compared with the dataset")
        return "\n".join(lines)


SHOWN = 10


def check_pictures(
    dataset: Dataset,
    caches: Iterable[Path] = (),
    read_all: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PictureCheck:
    """Look for the pictures of a dataset.

    `caches` are the files of facts that loading its folder has left (see `Examination`). A picture
    with the known size and time counts as unchanged; any other is read and compared, and with
    `read_all` every picture is. `progress` is called with (done, all) pictures and may raise, which
    ends the work.
    """
    wanted = {pair.image: pair.image_hash for pair in dataset.pairs}
    known = [read_cache(cache) for cache in caches]
    root = Path(dataset.root)
    missing, changed, unknown = [], [], 0
    for done, (image, image_hash) in enumerate(wanted.items(), start=1):
        facts = [found for table in known if len(found := table.get(image, [])) == 5]
        same = None if read_all else _unread(root / image, facts, image_hash)
        if same is None:
            same = _read(root / image, image_hash)
        if same == "missing":
            missing.append(image)
        elif same == "changed":
            changed.append(image)
        unknown += same == "unknown"
        if progress:
            progress(done, len(wanted))
    return PictureCheck(len(wanted), tuple(missing), tuple(changed), unknown)


def _unread(file: Path, facts: list[list], image_hash: str) -> str | None:
    """What can be said about a picture without opening it; None when it must be read."""
    try:
        status = file.stat()
    except OSError:
        return "missing"
    if not facts:
        return "unknown"
    now = [status.st_size, status.st_mtime_ns]
    for size_and_time, known_hash in ((known[:2], known[2]) for known in facts):
        if size_and_time == now:
            return "same" if known_hash == image_hash else "changed"
    return None


def _read(file: Path, image_hash: str) -> str:
    try:
        return "same" if sha256_file(file) == image_hash else "changed"
    except OSError:
        return "missing"
