"""Validation loss that can be compared: the same pairs, noise and noise levels in every epoch and
every run with the same seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from .data.manifest import Pair
from .latents import Latents, Picture
from .loss import Schedule, pair_losses
from .model.text import Text
from .noise import TIMESTEPS, keyed_generator
from .settings.groups import LossSettings
from .workers import Workers

Losses = Mapping[str, float]
"""The loss of each pair, by its id."""
Levels = Mapping[str, Sequence[float]]
"""The losses of each pair at its noise levels, from little noise to much, by the pair's id."""


class Validation:
    """Measures each pair at `timesteps` noise levels, one in each equal stretch of the schedule.

    The loss is the plain mean squared error whatever the run minimises, without dropout, mirroring
    and extra noise.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        latents: Latents,
        text: Text,
        timesteps: int,
        seed: int,
        loss: LossSettings,
        schedule: Schedule,
    ) -> None:
        self.latents = latents
        self.text = text
        self.seed = seed
        self.loss = LossSettings(
            prediction=loss.prediction, zero_terminal_snr=loss.zero_terminal_snr
        )
        self.schedule = schedule
        self.measurements = [
            (pair, self._timestep(pair, index, timesteps))
            for pair in sorted(pairs, key=lambda pair: (latents.buckets[pair.id], pair.id))
            for index in range(timesteps)
        ]

    def _timestep(self, pair: Pair, index: int, count: int) -> int:
        """A noise level within stretch `index`, at a place in it that depends on the pair alone."""
        import torch

        place = torch.rand(1, generator=keyed_generator(self.seed, "level", pair.id)).item()
        return int((index + place) / count * TIMESTEPS)

    def losses(
        self,
        unet: Any,
        workers: Workers,
        batch_size: int,
        progress: Callable[[int, int], None],
    ) -> dict[str, list[float]]:
        """The losses of each pair at its noise levels, from little noise to much, by pair id. The
        processes share the work.
        """
        batches = self._batches(batch_size)
        measured: list[tuple[str, int, float]] = []
        done = 0
        for number, batch in enumerate(batches):
            if number % workers.count == workers.index:
                losses = self._measure(unet, batch, workers.device)
                measured += [
                    (pair.id, timestep, loss)
                    for (pair, timestep), loss in zip(batch, losses, strict=True)
                ]
            done += len(batch)
            progress(done, len(self.measurements))
        levels: dict[str, list[float]] = {pair.id: [] for pair, _ in self.measurements}
        for pair_id, _, loss in sorted(workers.gather(measured)):
            levels[pair_id].append(loss)
        return levels

    def _measure(self, unet: Any, batch: Sequence[tuple[Pair, int]], device: Any) -> list[float]:
        import torch

        latents = self.latents.load([Picture(pair) for pair, _ in batch])
        noise = [
            torch.randn(
                latents.shape[1:],
                generator=keyed_generator(self.seed, "validation", pair.id, timestep),
            )
            for pair, timestep in batch
        ]
        with torch.no_grad():
            embeddings, mask = self.text.embed([pair.caption for pair, _ in batch], device)
            losses = pair_losses(
                unet,
                latents.to(device),
                torch.stack(noise).to(device),
                torch.tensor([timestep for _, timestep in batch]).to(device),
                embeddings,
                self.loss,
                self.schedule,
                mask,
            )
        return losses.tolist()

    def _batches(self, size: int) -> list[list[tuple[Pair, int]]]:
        """The measurements in batches of one bucket."""
        batches: list[list[tuple[Pair, int]]] = []
        for pair, timestep in self.measurements:
            bucket = self.latents.buckets[pair.id]
            last = batches[-1] if batches else []
            if last and len(last) < size and self.latents.buckets[last[0][0].id] == bucket:
                last.append((pair, timestep))
            else:
                batches.append([(pair, timestep)])
        return batches


def measured_training_pairs(pairs: Sequence[Pair], share: float, seed: int) -> tuple[Pair, ...]:
    """The training pairs to measure like validation pairs: a share drawn by (seed, id), rounded
    up.
    """
    count = ceil(share * len(pairs))
    return tuple(
        sorted(pairs, key=lambda p: hashlib.sha256(f"{seed}/measured/{p.id}".encode()).digest())[
            :count
        ]
    )


def over_levels(levels: Levels) -> dict[str, float]:
    """The mean loss of each pair over its noise levels."""
    return {pair_id: sum(losses) / len(losses) for pair_id, losses in levels.items()}


def mean(losses: Losses) -> float:
    return sum(losses.values()) / len(losses)
