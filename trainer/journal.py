"""What the training process writes down while it works: state, metrics, TensorBoard events."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from .data.fetch.network import require_wandb
from .errors import TrainerError
from .files import DISK_FULL
from .jobs.lines import Lines
from .jobs.lock import Lock
from .jobs.work import check
from .notices import Notices
from .runs import Run, State

STATE_EVERY_S = 0.5
SMOOTHING = 0.98
"""Share of the smoothed loss and speed that stays at each step."""


class Journal:
    """Keeps a run's state.json current and appends to its metrics.jsonl; a silent one writes
    nothing.

    A full disk loses nothing: lines wait in memory until there is room.
    """

    def __init__(
        self,
        run: Run,
        lock: Lock | None = None,
        silent: bool = False,
        settings_file: Path | None = None,
    ) -> None:
        """`lock` is what makes the run this process' own: without it nothing more is written.
        `settings_file` says whether and where the run's end is told (see notices.py), and
        whether figures may be sent to Weights & Biases.
        """
        self.run, self.lock = run, lock
        self._settings_file = settings_file
        self._notices = Notices(run, None if silent else settings_file)
        self.silent = silent
        self.state: State = _taken_up(run.state())
        self._written = 0.0
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writing: Future[None] | None = None
        self._waiting: list[tuple[Path, dict[str, Any]]] = []
        self._events = None if silent else _tensorboard(run)
        self._wandb: Any = None
        self._bar: Any = None

    def start_wandb(self) -> None:
        """Open the run's page at Weights & Biases if the settings ask for it. Raises TrainerError
        without the package, and when the server's owner has not allowed it. Who starts a run by
        hand is the owner.
        """
        if self.run.settings.logging.wandb and not self.silent:
            if self._settings_file:
                require_wandb(self._settings_file)
            self._wandb = _wandb(self.run)

    def update(self, **changes: Any) -> None:
        """Change the state and write it at once."""
        before, self.state = self.state, replace(self.state, **changes)
        self._settle()
        self._write(self.state)
        self._notices.note(before, self.state)

    def progress(self, **changes: Any) -> None:
        """Change the state; it is written at most twice a second, beside the steps."""
        self.state = replace(self.state, **changes)
        if time.monotonic() - self._written >= STATE_EVERY_S:
            self._settle()
            self._written = time.monotonic()
            self._writing = self._aside.submit(self._write, self.state)

    def _settle(self) -> None:
        """Wait until the state that was written last is there; raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: State) -> None:
        if self.silent:
            return
        self._check()
        with _room_permitting():
            self.run.write_state(state)
        self._written = time.monotonic()

    def record(self, kind: str, epoch: int, step: int, **values: Any) -> None:
        """Append a line of that kind (step, validation, checkpoint, ...) to metrics.jsonl."""
        line = {"kind": kind, "epoch": epoch, "step": step, "time": time.time(), **values}
        self._append(self.run.folder / "metrics.jsonl", line)
        figures = {name: value for name, value in values.items() if isinstance(value, float)}
        if self._events:
            for name, value in figures.items():
                self._events.add_scalar(f"{name}/{kind}", value, step)
        if self._wandb and figures:
            self._wandb.log({f"{kind}/{name}": value for name, value in figures.items()}, step=step)

    def warn(self, epoch: int, step: int, text: str) -> None:
        """Record a warning, and print it for the log."""
        if not self.silent:
            print(text, file=sys.stderr)
        self.record("warning", epoch, step, text=text)

    def record_pairs(
        self,
        epoch: int,
        step: int,
        losses: Mapping[str, float],
        levels: Mapping[str, Sequence[float]],
        training: Mapping[str, Sequence[float]],
    ) -> None:
        """Append a validation to validation.jsonl: the loss of every validation pair, its losses at
        every noise level, and those of the training pairs that were measured too.
        """
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "pairs": {key: round(loss, 7) for key, loss in losses.items()},
            "levels": _rounded(levels),
        }
        if training:
            line["training"] = _rounded(training)
        self._append(self.run.folder / "validation.jsonl", line)

    def note_skipped(self, pair: str, reason: str) -> None:
        """Append a pair that cannot be shown to skipped.jsonl."""
        if not self.silent:
            print(f"skipped: {reason}", file=sys.stderr)
        self._append(self.run.folder / "skipped.jsonl", {"pair": pair, "reason": reason})

    def note_speed(
        self, step: int, steps: int, loss: float, seconds: float, memory: int | None = None
    ) -> None:
        """After a step: loss and speed, raw and smoothed, when the run will be done, and the bytes
        of memory in use; a bar when run by hand.
        """
        former = self.state
        speed = 1 / max(seconds, 1e-9)
        if former.steps_per_second is not None:
            speed = 0.9 * former.steps_per_second + 0.1 * speed
        smoothed = loss
        if former.smoothed_loss is not None:
            smoothed = SMOOTHING * former.smoothed_loss + (1 - SMOOTHING) * loss
        self.progress(
            step=step,
            loss=loss,
            smoothed_loss=smoothed,
            steps_per_second=speed,
            eta_s=max(0, steps - step) / speed,
            memory=memory,
        )
        if self._events:
            self._events.add_scalar("loss_smoothed/step", smoothed, step)
        if not self.silent and sys.stderr.isatty():
            self._show_bar(step, steps, smoothed)

    def _show_bar(self, step: int, steps: int, loss: float) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=steps, initial=step - 1, unit="step", desc=self.run.name)
        self._bar.set_postfix(loss=f"{loss:.4f}", epoch=self.state.epoch + 1, refresh=False)
        self._bar.update(step - self._bar.n)

    def _append(self, path: Path, line: dict[str, Any]) -> None:
        if self.silent:
            return
        self._check()
        self._waiting.append((path, line))
        with _room_permitting():
            while self._waiting:
                path, waiting = self._waiting[0]
                Lines(path).append(waiting)
                del self._waiting[0]

    def _check(self) -> None:
        if self.lock is not None:
            check(self.run, self.lock)

    def close(self) -> None:
        self._notices.close()
        self._aside.shutdown()
        if self._bar is not None:
            self._bar.close()
        if self._events:
            self._events.close()
        if self._wandb:
            self._wandb.finish()


def _rounded(levels: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {key: [round(loss, 7) for loss in losses] for key, losses in levels.items()}


def _taken_up(state: State) -> State:
    """A state as this process goes on from it. A best loss that was no number is beaten by any."""
    loss = (state.best or {}).get("loss")
    best = state.best if isinstance(loss, int | float) and math.isfinite(loss) else None
    return replace(state, at_rest=False, best=best)


@contextlib.contextmanager
def _room_permitting() -> Iterator[None]:
    """Let a write that fails for want of room on the disk pass: it is tried again with the next
    one.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise


def _tensorboard(run: Run) -> Any:
    """TensorBoard is an extra: without the package there are no events, and everything else is the
    same.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.folder / "tensorboard"))


def _wandb(run: Run) -> Any:
    """A Weights & Biases run that goes on where it stopped. Raises TrainerError without the
    package.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TrainerError(
            "The run is set to log to Weights & Biases (logging.wandb), but the package wandb is "
            "not installed. Run `pip install wandb`, or switch it off."
        ) from error
    return wandb.init(
        project="cocktail",
        name=run.name,
        id=run.id[:32],
        resume="allow",
        dir=str(run.folder),
        config=run.settings.to_json(),
    )
