"""Pictures to latents, once: every pair in its bucket, encoded by the base's VAE and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .cache import TensorCache, module_hash
from .data.buckets import choose_bucket, make_buckets
from .data.image import fit, open_rgb
from .data.manifest import Dataset, Pair
from .model import LATENT_SCALE

if TYPE_CHECKING:
    import torch

Bucket = tuple[int, int]


class Picture(NamedTuple):
    """The picture of a pair, as it is or mirrored."""

    pair: Pair
    mirrored: bool = False


class Latents:
    """The latents of a dataset at one resolution. The VAE is needed only while they are prepared."""

    def __init__(
        self,
        dataset: Dataset,
        resolution: int,
        bucket_step: int,
        cache: Path,
        vae: Any,
        table: str = "generated",
    ):
        buckets = make_buckets(resolution, bucket_step, table=table)
        self.dataset = dataset
        self.buckets: dict[str, Bucket] = {
            pair.id: choose_bucket(pair.width, pair.height, buckets, table)
            for pair in dataset.pairs
        }
        self.cache = TensorCache(cache / "latents" / module_hash(vae)[:16])

    def _key(self, pair: Pair, mirrored: bool) -> str:
        width, height = self.buckets[pair.id]
        colour = self.dataset.background
        background = "" if colour == "#ffffff" else f"-{colour[1:]}"
        return f"{pair.image_hash}-{width}x{height}{background}{'-mirrored' if mirrored else ''}"

    def prepare(
        self, vae: Any, device: Any, batch_size: int, progress: Callable[[int, int], None]
    ) -> None:
        """Encode what is not cached yet: the mean of the VAE's posterior, in fp32, times 0.18215.

        Pairs that can be shown mirrored are encoded both ways.
        """
        import torch

        wanted = [Picture(pair, False) for pair in self.dataset.pairs]
        wanted += [Picture(pair, True) for pair in self.dataset.train if pair.flip > 0]
        missing = [picture for picture in wanted if self._key(*picture) not in self.cache]
        missing.sort(key=lambda picture: self.buckets[picture.pair.id])
        done = len(wanted) - len(missing)
        progress(done, len(wanted))
        for batch in self._batches(missing, batch_size):
            pixels = torch.stack([self._pixels(*picture) for picture in batch]).to(device)
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.mean * LATENT_SCALE
            for picture, latent in zip(batch, latents.cpu(), strict=True):
                self.cache.put(self._key(*picture), latent)
            done += len(batch)
            progress(done, len(wanted))

    def _batches(self, pictures: Sequence[Picture], size: int) -> list[list[Picture]]:
        batches: list[list[Picture]] = []
        for picture in pictures:
            bucket = self.buckets[picture.pair.id]
            if (
                batches
                and len(batches[-1]) < size
                and self.buckets[batches[-1][0].pair.id] == bucket
            ):
                batches[-1].append(picture)
            else:
                batches.append([picture])
        return batches

    def _pixels(self, pair: Pair, mirrored: bool) -> torch.Tensor:
        """A picture in its bucket, (3, height, width) in -1..1."""
        import numpy
        import torch

        bucket = self.buckets[pair.id]
        image = open_rgb(self.dataset.path(pair), cover=bucket, background=self.dataset.background)
        array = numpy.asarray(fit(image, *bucket), dtype=numpy.float32) / 127.5 - 1.0
        if mirrored:
            array = array[:, ::-1]
        return torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous()

    def load(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """The latents of pictures of one bucket, (batch, 4, height / 8, width / 8) fp32."""
        import torch

        return torch.stack([self.cache.get(self._key(*picture)) for picture in pictures])
