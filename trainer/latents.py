"""Pictures to latents: each encoded once, in its bucket, by the base's VAE and kept on disk."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .cache import TensorCache, file_bytes, module_hash
from .data.buckets import choose_bucket, make_buckets
from .data.image import fit, open_rgb, read_file, reduction
from .data.manifest import TRAIN, Dataset, Pair
from .errors import TrainerError
from .model.networks import LATENT_SCALE, load_vae

if TYPE_CHECKING:
    import numpy
    import torch

Bucket = tuple[int, int]

FOLDER = "latents-2"
"""The folder of latents in a cache. The number changes when the same picture gives other bits."""
WORKERS = min(8, cpu_count() or 1)
AHEAD = 2 * WORKERS
"""At most this many pictures are decoded, or about to be, ahead of the VAE."""
PIXELS_AHEAD = 64_000_000
"""Together they have at most this many pixels, unless a single picture has more."""


class Picture(NamedTuple):
    """The picture of a pair, mirrored or not. Variant 0 is cropped around its centre, others are
    cropped elsewhere.
    """

    pair: Pair
    mirrored: bool = False
    variant: int = 0


class Latents:
    """The latents of a dataset at one resolution. Only `prepare` needs the VAE."""

    def __init__(
        self,
        dataset: Dataset,
        resolution: int,
        bucket_step: int,
        cache: Path,
        vae: Any,
        table: str = "generated",
        variants: int = 1,
        jitter: float = 0.0,
    ):
        buckets = make_buckets(resolution, bucket_step, table=table)
        self.dataset = dataset
        self.buckets: dict[str, Bucket] = {
            pair.id: choose_bucket(pair.width, pair.height, buckets, table)
            for pair in dataset.pairs
        }
        self.variants = variants
        self.jitter = jitter
        self.cache = TensorCache(cache / FOLDER / module_hash(vae)[:16])

    def key(self, pair: Pair, mirrored: bool, variant: int = 0) -> str:
        """The key of a latent in the cache."""
        width, height = self.buckets[pair.id]
        colour = self.dataset.background
        background = "" if colour == "#ffffff" else f"-{colour[1:]}"
        crop = f"-jitter{self.jitter:g}-{variant}" if variant else ""
        return (
            f"{pair.image_hash}-{width}x{height}{background}{crop}{'-mirrored' if mirrored else ''}"
        )

    def missing_bytes(self) -> int:
        """How much the cache will grow when what it lacks is encoded."""
        missing = _missing([self], _works([self]))
        return sum(file_bytes(f.shape) for work in missing for f in work.forms.values())

    def prepare(
        self, vae: Any, device: Any, batch_size: int, progress: Callable[[int, int], None]
    ) -> dict[str, str]:
        """`encode_missing` for these alone."""
        return encode_missing([self], vae, device, batch_size, progress)

    def load(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """The latents of pictures of one bucket, (batch, 4, height / 8, width / 8) fp32."""
        import torch

        return torch.stack([self.cache.get(self.key(*picture)) for picture in pictures])


class Form(NamedTuple):
    """One way to show a picture: its size, whether it is mirrored, and which part of it is shown.

    `variant` numbers the crops: 0 cuts off only what the size requires, others up to `jitter` of
    the shorter side.
    """

    bucket: Bucket
    mirrored: bool
    variant: int = 0
    jitter: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of its latent."""
        width, height = self.bucket
        return 4, height // 8, width // 8


@dataclass(frozen=True)
class Work:
    """A picture file and the forms to encode, by their key in the cache; `pairs` are all that show
    it.
    """

    file: Path
    pair: Pair
    pairs: list[str] = field(default_factory=list)
    forms: dict[str, Form] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        return self.pair.width * self.pair.height


def encode_missing(
    tables: Sequence[Latents],
    vae: Any,
    device: Any,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Encode what the cache lacks: the mean of the VAE's posterior, in fp32, times 0.18215.

    `tables` are the latents of one dataset at one or several resolutions; each picture is read and
    hashed once for all of them, and decoded once (a JPEG once for each size that it is decoded at).
    Pairs that can be shown mirrored are encoded both ways. Threads decode ahead of the VAE. Every
    latent is written as soon as it is computed, so after a kill the next call continues there. On
    a CPU pictures are encoded one by one, because there the bits of a latent depend on how many
    others share its batch; elsewhere in batches of one size.

    Returns what could not be encoded, and why, by the pairs' ids: pictures that are missing,
    damaged or changed since the dataset was made.
    """
    works = _works(tables)
    forms = {key: form for work in works for key, form in work.forms.items()}
    missing = _missing(tables, works)
    missing.sort(key=lambda work: [form.bucket for form in work.forms.values()])
    done = len(forms) - sum(len(work.forms) for work in missing)
    progress(done, len(forms))
    skipped: dict[str, str] = {}
    size = 1 if str(device).startswith("cpu") else batch_size
    with ThreadPoolExecutor(WORKERS) as pool:
        writes: deque[Future] = deque()
        try:
            pictures = _decoded(missing, tables[0].dataset.background, pool)
            for batch in _batches(pictures, missing, size, skipped):
                pixels = [pixels for _, pixels in batch]
                for (key, _), latent in zip(batch, _encode(vae, device, pixels), strict=True):
                    writes.append(pool.submit(tables[0].cache.put, key, latent))
                while len(writes) > AHEAD:
                    writes.popleft().result()
                done += len(batch)
                progress(done, len(forms))
            for write in writes:
                write.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return skipped


def _works(tables: Sequence[Latents]) -> list[Work]:
    """The forms of every picture, each picture once however many pairs show it."""
    dataset = tables[0].dataset
    works: dict[str, Work] = {}
    for pair in dataset.pairs:
        work = works.setdefault(pair.image_hash, Work(dataset.path(pair), pair))
        work.pairs.append(pair.id)
        for table in tables:
            learned = pair.split == TRAIN
            for mirrored in (False, True) if pair.flip > 0 and learned else (False,):
                for variant in range(table.variants if learned else 1):
                    form = Form(table.buckets[pair.id], mirrored, variant, table.jitter)
                    work.forms[table.key(pair, mirrored, variant)] = form
    return list(works.values())


def _missing(tables: Sequence[Latents], works: Sequence[Work]) -> list[Work]:
    """The pictures of which the cache lacks forms, with these forms only."""
    cache = tables[0].cache
    return [
        Work(work.file, work.pair, work.pairs, lacking)
        for work in works
        if (lacking := {k: f for k, f in work.forms.items() if not cache.holds(k, f.shape)})
    ]


Decoded = tuple[str, "numpy.ndarray"]
"""The key of a form and its pixels, (height, width, 3) in 0..255."""


def _decoded(
    works: Sequence[Work], background: str, pool: ThreadPoolExecutor
) -> Iterator[tuple[Work, list[Decoded] | TrainerError]]:
    """The forms of every picture, or why there are none, in order and decoded a little ahead."""
    coming: deque[tuple[Work, Future]] = deque()
    waiting = deque(works)
    while waiting or coming:
        while waiting and _has_room([work for work, _ in coming], waiting[0]):
            work = waiting.popleft()
            coming.append((work, pool.submit(_forms, work, background)))
        work, future = coming.popleft()
        try:
            yield work, future.result()
        except TrainerError as error:
            yield work, error


def _has_room(coming: Sequence[Work], work: Work) -> bool:
    pixels = sum(other.pixels for other in coming) + work.pixels
    return not coming or (len(coming) < AHEAD and pixels <= PIXELS_AHEAD)


def _forms(work: Work, background: str) -> list[Decoded]:
    """Read, check, decode, scale and crop a picture. Raises TrainerError when the file is not the
    one that the dataset was made from.
    """
    import numpy

    try:
        data = read_file(work.file)
    except OSError as error:
        raise TrainerError(f"it cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != work.pair.image_hash:
        raise TrainerError("it has changed since the dataset was made; load the pairs again")
    images: dict[int, Any] = {}
    fitted: dict[Form, numpy.ndarray] = {}
    found = []
    for key, form in work.forms.items():
        upright = form._replace(mirrored=False)
        if upright not in fitted:
            bucket = form.bucket
            smaller = reduction(data, (work.pair.width, work.pair.height), bucket)
            if smaller not in images:
                images[smaller] = open_rgb(data, bucket, background)
            image = jittered(images[smaller], form, work.pair)
            fitted[upright] = numpy.asarray(fit(image, *bucket))
        found.append((key, fitted[upright][:, ::-1] if form.mirrored else fitted[upright]))
    return found


def jittered(image: Any, form: Form, pair: Pair) -> Any:
    """The picture with a random part cut off at each side (as EveryDream2 does): up to the jitter
    times the shorter side, and never so much that the rest has to be enlarged. A function of the
    picture and the variant.
    """
    if not form.variant:
        return image
    spare = min(pair.width / form.bucket[0], pair.height / form.bucket[1]) - 1
    most = min(form.jitter, max(0.0, spare)) * min(image.size)
    draw = random.Random(f"{pair.image_hash}/crop/{form.variant}")
    left, top, right, bottom = (draw.random() * most for _ in range(4))
    return image.crop((int(left), int(top), image.width - int(right), image.height - int(bottom)))


def _batches(
    pictures: Iterator[tuple[Work, list[Decoded] | TrainerError]],
    works: Sequence[Work],
    size: int,
    skipped: dict[str, str],
) -> Iterator[list[Decoded]]:
    """Forms of one bucket, `size` at a time, the last batch smaller; failures go to `skipped`."""
    left = Counter(form.bucket for work in works for form in work.forms.values())
    open_batches: dict[Bucket, list[Decoded]] = {}
    for work, forms in pictures:
        if isinstance(forms, TrainerError):
            reason = f"{work.pair.image}: {forms}"
            skipped.update(dict.fromkeys(work.pairs, reason))
            forms = []
        for key, pixels in forms:
            open_batches.setdefault(work.forms[key].bucket, []).append((key, pixels))
        left.subtract(form.bucket for form in work.forms.values())
        for bucket in list(open_batches):
            while len(open_batches[bucket]) >= size:
                yield open_batches[bucket][:size]
                del open_batches[bucket][:size]
            if not left[bucket] and (last := open_batches.pop(bucket)):
                yield last


def _encode(vae: Any, device: Any, pixels: Sequence[numpy.ndarray]) -> torch.Tensor:
    """Latents (batch, 4, height / 8, width / 8) in fp32 on the CPU."""
    import numpy
    import torch

    values = torch.from_numpy(numpy.stack(pixels)).to(device).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return (vae.encode(values.float() / 127.5 - 1.0).latent_dist.mean * LATENT_SCALE).cpu()


def fill_cache(
    base: Path,
    dataset: Dataset,
    resolutions: Sequence[int],
    bucket_step: int,
    table: str,
    cache: Path,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Fill a cache with the latents that runs on this base will need at these resolutions.

    Returns what was skipped, as `encode_missing` does. Raises TrainerError when the base is not an
    SD1.5 checkpoint.
    """
    from accelerate import Accelerator

    device = Accelerator().device
    vae = load_vae(base)
    tables = [
        Latents(dataset, resolution, bucket_step, cache, vae, table)
        for resolution in dict.fromkeys(resolutions)
    ]
    return encode_missing(tables, vae.to(device), device, batch_size, progress)
