"""Validation loss that can be compared: the same pairs, noise and noise levels at every epoch and in every run of a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .data.manifest import Pair
from .latents import Latents, Picture
from .loss import noise_losses
from .noise import TIMESTEPS, keyed_generator
from .text import Text

if TYPE_CHECKING:
    import torch


class Validation:
    """Measures each validation pair at `timesteps` noise levels, one in each equal stretch of the schedule."""

    def __init__(
        self, pairs: Sequence[Pair], latents: Latents, text: Text, timesteps: int, seed: int
    ) -> None:
        self.latents = latents
        self.text = text
        self.seed = seed
        self.measurements = [
            (pair, self._timestep(pair, index, timesteps))
            for pair in sorted(pairs, key=lambda pair: (latents.buckets[pair.id], pair.id))
            for index in range(timesteps)
        ]

    def _timestep(self, pair: Pair, index: int, count: int) -> int:
        """A noise level within stretch `index`, at a place that depends on the pair alone."""
        import torch

        place = torch.rand(1, generator=keyed_generator(self.seed, "level", pair.id)).item()
        return int((index + place) / count * TIMESTEPS)

    def losses(
        self,
        unet: Any,
        alphas: torch.Tensor,
        device: Any,
        batch_size: int,
        progress: Callable[[int, int], None],
    ) -> dict[str, float]:
        """The mean loss of each pair over its noise levels, by pair id. No dropout, no gradients."""
        import torch

        sums: dict[str, list[float]] = {}
        position = 0
        while position < len(self.measurements):
            batch = self._batch(position, batch_size)
            pairs = [pair for pair, _ in batch]
            latents = self.latents.load([Picture(pair) for pair in pairs])
            noise = torch.stack(
                [
                    torch.randn(
                        latents.shape[1:],
                        generator=keyed_generator(self.seed, "validation", pair.id, timestep),
                    )
                    for pair, timestep in batch
                ]
            )
            timesteps = torch.tensor([timestep for _, timestep in batch])
            with torch.no_grad():
                losses = noise_losses(
                    unet,
                    latents.to(device),
                    noise.to(device),
                    timesteps.to(device),
                    self.text.embed([pair.caption for pair in pairs], device),
                    alphas,
                )
            for pair, loss in zip(pairs, losses.tolist(), strict=True):
                sums.setdefault(pair.id, []).append(loss)
            position += len(batch)
            progress(position, len(self.measurements))
        return {pair_id: sum(values) / len(values) for pair_id, values in sums.items()}

    def _batch(self, position: int, size: int) -> list[tuple[Pair, int]]:
        """The next measurements that share a bucket."""
        bucket = self.latents.buckets[self.measurements[position][0].id]
        batch = self.measurements[position : position + size]
        return [entry for entry in batch if self.latents.buckets[entry[0].id] == bucket]
