"""Whether the cells on disk are what rendering them alone gives: the check, its result, and why a
cell may differ.

The check runs in a process of its own, so that nothing which this ComfyUI has in memory takes part
in it.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .....trainer import bounded_json
from .....trainer.jobs import process
from ..errors import GridError
from ..store.store import Store

if TYPE_CHECKING:
    import numpy

COMMAND = Path(__file__).with_name("command.py")
SAME = "equal"


@dataclass(frozen=True)
class Checked:
    """A cell beside what it is when it is rendered again.

    `alone` and `shuffled` are the largest differences of a pixel's colour, of 255: to the cell
    rendered with nothing before it, and to the cell rendered among the others in another order.
    None if it could not be rendered.
    """

    key: str
    label: str
    alone: int | None
    shuffled: int | None
    cause: str
    """Why it differs, in words; "equal" when it does not."""

    def sentence(self) -> str:
        if self.cause == SAME:
            return f"{self.label}: equal"
        if self.alone is None or self.shuffled is None:
            return f"{self.label}: NOT CHECKED. {self.cause}"
        return (
            f"{self.label}: DIFFERS by up to {max(self.alone, self.shuffled)} of 255. {self.cause}"
        )


@dataclass(frozen=True)
class Result:
    """What a check has found, cell by cell."""

    name: str
    checked: tuple[Checked, ...]
    finished: int

    @property
    def equal(self) -> int:
        return sum(cell.cause == SAME for cell in self.checked)

    def text(self) -> str:
        head = (
            f"{self.equal} of {len(self.checked)} checked cells are equal, alone and in shuffled "
            f"order ({self.finished} finished cells in all)"
        )
        return "\n".join([head, *(cell.sentence() for cell in self.checked if cell.cause != SAME)])

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "equal": self.equal, "text": self.text()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Result:
        checked = tuple(Checked(**cell) for cell in found["checked"])
        return cls(found["name"], checked, found["finished"])


def chosen(cells: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Mapping[str, Any]]:
    """`count` of the finished cells of a manifest, drawn by the seed, each picture once."""
    finished = {cell["key"]: cell for cell in cells if cell["status"] == "finished"}
    return random.Random(seed).sample(list(finished.values()), min(count, len(finished)))


def largest_difference(one: numpy.ndarray, other: numpy.ndarray) -> int:
    """The largest difference of two pictures' colours, 255 for pictures of different sizes."""
    import numpy

    if one.shape != other.shape:
        return 255
    return int(numpy.abs(one.astype(numpy.int16) - other.astype(numpy.int16)).max())


def cause(
    alone: int,
    shuffled: int,
    between: int,
    batched: bool,
    then: Mapping[str, Any] | None,
    now: Mapping[str, Any],
) -> str:
    """Why a cell differs, the most likely reason first.

    `between` is the difference of the two new pictures; `then` and `now` are the numerics classes
    that the cell was made in and is made in here.
    """
    if not alone and not shuffled:
        return SAME
    if between:
        return (
            "Likely cause: what was rendered before a cell changes it here. Start ComfyUI with "
            "--disable-dynamic-vram, and without nodes that patch models."
        )
    changed = (
        []
        if then is None
        else [
            f"{name} was {then.get(name)} and is {now.get(name)}"
            for name in sorted(set(then) | set(now))
            if then.get(name) != now.get(name)
        ]
    )
    if changed:
        return f"Likely cause: {'; '.join(changed)}."
    if batched:
        return "Likely cause: it was sampled in a batch, which can move the last bits."
    return (
        "Likely cause: the file has been edited, or a custom node had taken the place of one of "
        "ComfyUI's own when it was rendered."
    )


def in_fresh_process(
    store: Store,
    count: int,
    seed: int,
    show: Callable[[str], None],
    stop_if_interrupted: Callable[[], None],
) -> Result:
    """Check some random cells with another ComfyUI that is given this one's arguments. Raises
    GridError.

    It runs this pack's own `command.py`, without a shell. All that a user or a request decides in
    that command are the checked name of the grid and two numbers.
    """
    import folder_paths

    with tempfile.TemporaryDirectory() as temporary:
        answer = Path(temporary, "result.json")
        command = [sys.executable, "-u", COMMAND, store.folder.name]
        command += ["--cells", count, "--seed", seed, "--json", answer]
        command += ["--comfyui", Path(folder_paths.__file__).parent, "--", *sys.argv[1:]]
        status, said = process.follow([str(part) for part in command], show, stop_if_interrupted)
        if not answer.is_file():
            raise GridError(
                f"The check of {store.folder.name} ended early: {said or f'status {status}'}"
            )
        return Result.from_json(bounded_json.read(answer))
