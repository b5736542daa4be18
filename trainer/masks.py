"""Masks in latents: how much each place of a picture's latent counts in its loss."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache import TensorCache, file_bytes
from .data.image import fit, open_rgb, read_file
from .data.manifest import TRAIN, Dataset, Pair
from .errors import TrainerError
from .latents import Form, Latents, Picture, jittered

if TYPE_CHECKING:
    import torch

FOLDER = "masks-1"
"""The folder of masks in a cache. The number changes when the same mask gives other bits."""
BLOCK = 8
"""Pixels along a side of what one place of a latent stands for."""


class Masks:
    """The masks of a dataset in the sizes and crops of its latents. White pixels count 1, black
    ones `outside`, grey ones in between; all of a picture without a mask counts 1.
    """

    def __init__(self, dataset: Dataset, latents: Latents, outside: float, cache: Path) -> None:
        self.dataset, self.latents, self.outside = dataset, latents, outside
        self.cache = TensorCache(cache / FOLDER)

    def key(self, pair: Pair, variant: int) -> str:
        """The key of a mask in the cache: it is scaled to its picture and cropped with it."""
        width, height = self.latents.buckets[pair.id]
        crop = f"-{pair.image_hash}-jitter{self.latents.jitter:g}-{variant}" if variant else ""
        return f"{pair.mask_hash}-{pair.width}x{pair.height}-{width}x{height}{crop}"

    def missing(self) -> dict[str, list[tuple[Pair, int]]]:
        """The pairs and the crop of each mask that the cache lacks, by key: several pairs may have
        the same mask. Pictures to validate with need none.
        """
        found: dict[str, list[tuple[Pair, int]]] = {}
        for pair in self.dataset.pairs:
            for variant in range(self.latents.variants):
                if pair.mask and pair.split == TRAIN:
                    key = self.key(pair, variant)
                    if not self.cache.holds(key, self._shape(pair)):
                        found.setdefault(key, []).append((pair, variant))
        return found

    def missing_bytes(self) -> int:
        """How much the cache will grow when these are prepared."""
        return sum(file_bytes(self._shape(pair)) for (pair, _), *_ in self.missing().values())

    def _shape(self, pair: Pair) -> tuple[int, int]:
        width, height = self.latents.buckets[pair.id]
        return height // BLOCK, width // BLOCK

    def prepare(self, progress: Callable[[int, int], None]) -> dict[str, str]:
        """Fill the cache. Returns the pairs, by id, whose mask is missing, damaged or changed since
        the dataset was made, and why.
        """
        missing = self.missing()
        skipped: dict[str, str] = {}
        for done, (key, shown) in enumerate(missing.items()):
            progress(done, len(missing))
            failed: dict[str, str] = {}
            for pair, variant in shown:
                try:
                    self.cache.put(key, self._encode(pair, variant))
                    break
                except TrainerError as error:
                    failed[pair.id] = f"{pair.mask}, the mask of {pair.image}: {error}"
            else:
                skipped |= failed
        return skipped

    def _encode(self, pair: Pair, variant: int) -> torch.Tensor:
        """A mask as its picture is shown: the mean of its pixels, from 0 to 1, at every place of
        the latent, (height / 8, width / 8). Raises TrainerError.
        """
        import torch

        picture = open_mask(self.dataset.mask_path(pair), pair)
        bucket = self.latents.buckets[pair.id]
        cropped = jittered(picture, Form(bucket, False, variant, self.latents.jitter), pair)
        return torch.from_numpy(in_places(fit(cropped, *bucket)))

    def load(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """How much each place of these pictures' latents counts, (batch, 1, height / 8, width / 8)
        in fp32: outside + (1 - outside) mask, mirrored with the picture.
        """
        import torch

        found = []
        for pair, mirrored, variant in pictures:
            if pair.mask:
                mask = self.cache.get(self.key(pair, variant))
                mask = self.outside + (1 - self.outside) * mask
            else:
                mask = torch.ones(self._shape(pair))
            found.append(mask.flip(1) if mirrored else mask)
        return torch.stack(found)[:, None]


def open_mask(file: Path, pair: Pair) -> Any:
    """A pair's mask in grey, in the size of its picture; transparent is black. Raises TrainerError
    when it cannot be read, or is not the one that the dataset was made with.
    """
    from PIL import Image

    try:
        data = read_file(file)
    except OSError as error:
        raise TrainerError(f"it cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != pair.mask_hash:
        raise TrainerError("it has changed since the dataset was made; load the pairs again")
    grey = open_rgb(data, None, "#000000").convert("L")
    size = (pair.width, pair.height)
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR)


def in_places(grey: Any) -> Any:
    """The mean of a grey picture in every block of 8 x 8 pixels, from 0 to 1, as fp32."""
    import numpy

    pixels = numpy.asarray(grey, dtype=numpy.float32) / 255
    high, wide = pixels.shape[0] // BLOCK, pixels.shape[1] // BLOCK
    return pixels.reshape(high, BLOCK, wide, BLOCK).mean(axis=(1, 3))
