"""What the training process writes down while it works: state, metrics, TensorBoard events."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from .files import append_line
from .runs import Run, State

STATE_EVERY_S = 0.5


class Journal:
    """Keeps a run's state.json current and appends to its metrics.jsonl."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.state: State = run.state()
        self._written = 0.0
        self._events = _tensorboard(run)

    def update(self, **changes: Any) -> None:
        """Change the state and write it at once."""
        self.state = replace(self.state, **changes)
        self.run.write_state(self.state)
        self._written = time.monotonic()

    def progress(self, **changes: Any) -> None:
        """Change the state; it is written at most twice a second."""
        self.state = replace(self.state, **changes)
        if time.monotonic() - self._written >= STATE_EVERY_S:
            self.update()

    def record(self, kind: str, epoch: int, step: int, **values: Any) -> None:
        """Append a line of that kind (step, validation, checkpoint) to metrics.jsonl."""
        line = {"kind": kind, "epoch": epoch, "step": step, "time": time.time(), **values}
        append_line(self.run.folder / "metrics.jsonl", line)
        if self._events:
            for name, value in values.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{name}/{kind}", value, step)

    def record_pairs(self, epoch: int, step: int, losses: dict[str, float]) -> None:
        """Append the loss of every validation pair to validation.jsonl."""
        append_line(
            self.run.folder / "validation.jsonl",
            {
                "epoch": epoch,
                "step": step,
                "pairs": {key: round(loss, 7) for key, loss in losses.items()},
            },
        )

    def close(self) -> None:
        if self._events:
            self._events.close()


def _tensorboard(run: Run) -> Any:
    """TensorBoard is an extra: without the package there are no events, and everything else is the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.folder / "tensorboard"))
