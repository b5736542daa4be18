"""What a picture looks like in a few numbers: a hash that similar pictures share, its colours, and
how much there is to see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import TrainerError
from ...jobs.lines import Lines
from ..image import open_rgb
from ..manifest import Dataset, Pair

if TYPE_CHECKING:
    import numpy
    from PIL import Image

BLOCK = 512
PART = 65_536
MOST_CHANGE = 16.0
"""Pictures can be similar up to this mean difference of colours (of 255); a picture that is a tenth
brighter differs by about 13.
"""


@dataclass(frozen=True)
class Look:
    """`difference_hash`: 64 bits, each of which says whether one of 8 x 8 fields is brighter than
    the next one to its right (dHash, Neal Krawetz 2013). `deviation`: the largest standard
    deviation of the three colours, from 0 to 127.5. `colours`: the mean red, green and blue of 4 x
    4 fields, 48 bytes.
    """

    difference_hash: int
    deviation: float
    colours: bytes


def look_at(image: Image.Image) -> Look:
    """The look of an RGB picture."""
    import numpy
    from PIL import Image

    grey = numpy.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=numpy.int16)
    bits = (grey[:, 1:] < grey[:, :-1]).flatten()
    small = numpy.asarray(image.resize((32, 32), Image.Resampling.BOX), dtype=numpy.float32)
    value = int.from_bytes(numpy.packbits(bits).tobytes(), "big")
    colours = image.resize((4, 4), Image.Resampling.BOX).tobytes()
    return Look(value, round(float(small.std(axis=(0, 1)).max()), 2), colours)


def looks(
    dataset: Dataset, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Look]:
    """The look of every picture by its hash; pictures that can no longer be read are left out.

    Every picture is decoded once, several at a time; the looks are kept as JSON lines in `cache`.
    """
    known = _known(cache) if cache else {}
    first: dict[str, Pair] = {}
    for pair in dataset.pairs:
        first.setdefault(pair.image_hash, pair)
    missing = [pair for image_hash, pair in first.items() if image_hash not in known]
    done = len(first) - len(missing)

    def measure(pair: Pair) -> Look | None:
        try:
            return look_at(open_rgb(dataset.path(pair), (64, 64), dataset.background))
        except (TrainerError, OSError):
            return None

    new: list[dict] = []
    try:
        with ThreadPoolExecutor() as pool:
            for pair, look in zip(missing, pool.map(measure, missing), strict=True):
                if look is not None:
                    known[pair.image_hash] = look
                    new.append(_line(pair.image_hash, look))
                done += 1
                if progress:
                    progress(done, len(first))
    finally:
        if cache and new:
            cache.parent.mkdir(parents=True, exist_ok=True)
            Lines(cache).append(*new)
    return {image_hash: known[image_hash] for image_hash in first if image_hash in known}


def _known(cache: Path) -> dict[str, Look]:
    """The looks in the cache. A cache whose lines are not looks is removed."""
    try:
        return {
            line["image"]: Look(
                int(line["hash"], 16), line["deviation"], bytes.fromhex(line["colours"])
            )
            for line in Lines(cache).read().lines
        }
    except (ValueError, KeyError, TypeError):
        cache.unlink(missing_ok=True)
        return {}


def _line(image_hash: str, look: Look) -> dict:
    return {
        "image": image_hash,
        "hash": f"{look.difference_hash:016x}",
        "deviation": look.deviation,
        "colours": look.colours.hex(),
    }


@dataclass(frozen=True)
class Likeness:
    """A picture that is similar to an earlier one: their places, and how many of 64 bits differ."""

    picture: int
    like: int
    distance: int


def near_duplicates(
    looks: Sequence[Look], distance: int, progress: Callable[[int, int], None] | None = None
) -> list[Likeness]:
    """The pictures that differ by at most `distance` bits from one before them that is not such a
    picture itself.

    Their colours must be close too: the same outline in other colours is another picture. Every
    picture is compared with every other, in blocks; 11,475 of them take about a second.
    """
    import numpy

    values = numpy.array([look.difference_hash for look in looks], dtype=numpy.uint64)
    colours = numpy.array([list(look.colours) for look in looks], dtype=numpy.int16)
    close: dict[int, list[tuple[int, int]]] = {}
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        differing = _bits(block[:, None] ^ values[None, : start + len(block)])
        rows, columns = numpy.nonzero(differing <= distance)
        before = columns < rows + start
        rows, columns = rows[before], columns[before]
        for part in range(0, len(rows), PART):
            some, others = rows[part : part + PART], columns[part : part + PART]
            change = numpy.abs(colours[some + start] - colours[others]).mean(axis=1)
            alike = change <= MOST_CHANGE
            for row, column in zip(some[alike].tolist(), others[alike].tolist(), strict=True):
                close.setdefault(start + row, []).append((int(differing[row, column]), column))
        if progress:
            progress(min(start + BLOCK, len(values)), len(values))
    found: dict[int, Likeness] = {}
    for picture in sorted(close):
        kept = [(bits, other) for bits, other in close[picture] if other not in found]
        if kept:
            bits, other = min(kept)
            found[picture] = Likeness(picture, other, bits)
    return list(found.values())


def _bits(values: numpy.ndarray) -> numpy.ndarray:
    """The number of bits that are set in each of these 64-bit numbers."""
    import numpy

    if hasattr(numpy, "bitwise_count"):
        return numpy.bitwise_count(values)
    table = numpy.array([bin(value).count("1") for value in range(1 << 16)], dtype=numpy.uint8)
    return table[values.view(numpy.uint16).reshape(*values.shape, 4)].sum(axis=-1)
