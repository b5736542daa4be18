"""A training at work: everything that its loop reads and changes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .data.buckets import Showing, batches, steps_of_epoch
from .data.manifest import Pair
from .identity import FileState
from .jobs.control import Control
from .journal import Journal
from .latents import Latents
from .loss import Schedule
from .masks import Masks
from .model.ema import Ema
from .model.layers import Weights
from .model.networks import Model
from .model.text import Text
from .optim.optimizers import evaluation_weights
from .resume import Component, PointWriter, Position
from .runs import Run
from .validation import Validation
from .workers import Workers

if TYPE_CHECKING:
    import torch

    from .sharing import Sharing


@dataclass
class Training:
    """`parts` are the modules that learn, as accelerate has prepared them, `trained` those of their
    parameters that do, `optimizers` what moves them, each by the part's name.

    The model has no text encoder when all captions are embedded already. `pairs` are those to train
    on, `sets` the ids of every validation set, `measured` training pairs that are measured like
    validation pairs, `masks` say what of the pictures to learn from, None when that is all of them,
    `base_seen` is the state of the base's file when it was last known to be the right one.
    """

    run: Run
    journal: Journal
    workers: Workers
    model: Model
    unet: Any
    parts: dict[str, Any]
    trained: dict[str, dict[str, torch.nn.Parameter]]
    optimizers: dict[str, Any]
    ema: Ema | None
    text: Text
    latents: Latents
    validation: Validation
    measured: Validation | None
    schedule: Schedule
    pairs: dict[str, Pair]
    caption_mix: tuple[tuple[str, float], ...]
    sets: dict[str, tuple[str, ...]]
    skipped: dict[str, str]
    writer: PointWriter
    masks: Masks | None = None
    base_seen: FileState | None = None
    position: Position = Position()
    total_steps: int = 0
    recorded: set[tuple[str, str]] = field(default_factory=set)
    epoch_began: float = 0.0
    waited_s: float = 0.0
    control: Control = field(default_factory=Control)
    sharing: Sharing | None = None
    safe_at: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)

    def components(self) -> dict[str, Component]:
        """Everything that changes from step to step, by its name in a resume point."""
        found: dict[str, Component] = {}
        for part, parameters in self.trained.items():
            found[part] = Weights(parameters)
            found[f"{part}-optimizer"] = self.optimizers[part]
        if self.ema is not None:
            found["ema"] = self.ema
        if self.workers.accelerator.scaler is not None:
            found["scaler"] = self.workers.accelerator.scaler
        return found

    def plan(self, epoch: int) -> list[list[list[Showing]]]:
        """The optimizer steps of an epoch, each a list of batches of one bucket."""
        settings = self.run.settings
        plan = batches(self._buckets(), settings.batch_size, settings.seed, epoch, self._weights())
        size = settings.data.accumulate
        return [plan[start : start + size] for start in range(0, len(plan), size)]

    def steps(self, first: int, last: int) -> int:
        """How many optimizer steps the epochs from `first` up to but not including `last` have."""
        settings = self.run.settings
        return sum(
            steps_of_epoch(
                self._buckets(),
                settings.batch_size,
                settings.seed,
                epoch,
                self._weights(),
                settings.data.accumulate,
            )
            for epoch in range(first, last)
        )

    def _buckets(self) -> dict[str, tuple[int, int]]:
        return {pair.id: self.latents.buckets[pair.id] for pair in self.pairs.values()}

    def _weights(self) -> dict[str, float]:
        return {pair.id: pair.weight for pair in self.pairs.values()}

    def modules(self) -> dict[str, Any]:
        """The parts that learn, as plain modules."""
        return {name: self.workers.unwrap(module) for name, module in self.parts.items()}

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """For a while the parameters are those to measure, draw with and save: a schedule-free
        optimizer keeps a mean of the ones it trains.
        """
        with contextlib.ExitStack() as stack:
            for optimizer in self.optimizers.values():
                stack.enter_context(evaluation_weights(optimizer))
            yield
