"""Pictures to latents, once: every pair in its bucket, encoded by the base's VAE and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache import TensorCache, module_hash
from .data.buckets import choose_bucket, make_buckets
from .data.image import fit, open_rgb
from .data.manifest import Dataset, Pair
from .model import LATENT_SCALE

if TYPE_CHECKING:
    import torch

Bucket = tuple[int, int]


class Latents:
    """The latents of a dataset at one resolution. The VAE is needed only while they are prepared."""

    def __init__(self, dataset: Dataset, resolution: int, bucket_step: int, cache: Path, vae: Any):
        buckets = make_buckets(resolution, bucket_step)
        self.dataset = dataset
        self.buckets: dict[str, Bucket] = {
            pair.id: choose_bucket(pair.width, pair.height, buckets) for pair in dataset.pairs
        }
        self.cache = TensorCache(cache / "latents" / module_hash(vae)[:16])

    def _key(self, pair: Pair) -> str:
        width, height = self.buckets[pair.id]
        return f"{pair.image_hash}-{width}x{height}"

    def prepare(
        self, vae: Any, device: Any, batch_size: int, progress: Callable[[int, int], None]
    ) -> None:
        """Encode what is not cached yet: the mean of the VAE's posterior, in fp32, times 0.18215."""
        import torch

        missing = [pair for pair in self.dataset.pairs if self._key(pair) not in self.cache]
        missing.sort(key=lambda pair: self.buckets[pair.id])
        done = len(self.dataset.pairs) - len(missing)
        progress(done, len(self.dataset.pairs))
        for batch in self._batches(missing, batch_size):
            pixels = torch.stack([self._pixels(pair) for pair in batch]).to(device)
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.mean * LATENT_SCALE
            for pair, latent in zip(batch, latents.cpu(), strict=True):
                self.cache.put(self._key(pair), latent)
            done += len(batch)
            progress(done, len(self.dataset.pairs))

    def _batches(self, pairs: Sequence[Pair], size: int) -> list[list[Pair]]:
        batches: list[list[Pair]] = []
        for pair in pairs:
            bucket = self.buckets[pair.id]
            if batches and len(batches[-1]) < size and self.buckets[batches[-1][0].id] == bucket:
                batches[-1].append(pair)
            else:
                batches.append([pair])
        return batches

    def _pixels(self, pair: Pair) -> torch.Tensor:
        """A picture in its bucket, (3, height, width) in -1..1."""
        import numpy
        import torch

        bucket = self.buckets[pair.id]
        image = fit(open_rgb(Path(self.dataset.root) / pair.image, cover=bucket), *bucket)
        array = numpy.asarray(image, dtype=numpy.float32) / 127.5 - 1.0
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    def load(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The latents of pairs of one bucket, (batch, 4, height / 8, width / 8) fp32."""
        import torch

        return torch.stack([self.cache.get(self._key(pair)) for pair in pairs])
