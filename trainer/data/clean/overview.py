"""What a dataset is made of, as text and as one picture: sizes, aspect ratios, captions, and how
the pictures are spread over buckets.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from ...errors import TrainerError
from ..buckets import BucketUse, bucket_use, make_buckets
from ..manifest import Dataset
from ..tokens import LIMIT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORANGE = "#D55E00"
MOST_BUCKETS = 20
"""The most buckets that a chart shows."""


@dataclass(frozen=True)
class Overview:
    """The figures of a dataset: `tokens` of each pair, `buckets` by resolution."""

    dataset: Dataset
    tokens: tuple[int, ...]
    buckets: dict[int, list[BucketUse]]

    def __str__(self) -> str:
        pairs = self.dataset.pairs
        shown = sum(pair.weight for pair in self.dataset.train)
        pictures = {pair.image_hash for pair in pairs}
        lines = [
            f"{self.dataset.name}: {len(pairs)} pairs of {len(pictures)} pictures, "
            f"fingerprint {self.dataset.fingerprint[:12]}",
            f"to train on: {len(self.dataset.train)}, shown {shown:g} times an epoch",
        ]
        lines += [
            f"held back, {name}: {len(found)}"
            for name, found in self.dataset.validation_sets.items()
        ]
        megapixels = sorted(pair.width * pair.height / 1e6 for pair in pairs)
        words = [len(pair.caption.split()) for pair in pairs]
        lines += [
            f"megapixels: {megapixels[0]:.2f} to {megapixels[-1]:.2f}, "
            f"median {median(megapixels):.2f}",
            f"words in a caption: {min(words)} to {max(words)}, median {median(words):g}",
        ]
        if self.tokens:
            long = sum(count > LIMIT for count in self.tokens)
            lines.append(
                f"CLIP tokens in a caption: {min(self.tokens)} to {max(self.tokens)}, "
                f"more than {LIMIT} in {long}"
            )
        captions = Counter(pair.caption for pair in pairs)
        repeated = sum(count for count in captions.values() if count > 1)
        lines.append(f"pairs that share their caption with another: {repeated}")
        columns = Counter(name for pair in pairs for name, text in pair.captions.items() if text)
        lines += [f"captions in column {name}: {count}" for name, count in sorted(columns.items())]
        for resolution, uses in self.buckets.items():
            upscaled = sum(use.upscaled for use in uses)
            cropped = sum(use.cropped * use.pairs for use in uses) / len(pairs)
            lines.append(
                f"buckets at {resolution}: {len(uses)}, {upscaled} pictures enlarged, "
                f"{cropped:.1%} cropped away in all"
            )
            lines += [
                f"  {use.bucket[0]} x {use.bucket[1]}: {use.pairs} pairs"
                + (f", {use.upscaled} enlarged" if use.upscaled else "")
                + f", {use.cropped:.1%} cropped away"
                for use in uses
            ]
        lines += [f"history: {line}" for line in self.dataset.history]
        return "\n".join(lines)


def overview(
    dataset: Dataset,
    resolutions: Sequence[int] = (512,),
    bucket_step: int = 64,
    table: str = "generated",
    count_tokens: Callable[[Sequence[str]], Sequence[int]] | None = None,
) -> Overview:
    """The overview of a dataset. Raises TrainerError for one without pairs."""
    if not dataset.pairs:
        raise TrainerError(f"{dataset.name} has no pairs.")
    sizes = [(pair.width, pair.height) for pair in dataset.pairs]
    buckets = {
        resolution: bucket_use(sizes, make_buckets(resolution, bucket_step, table=table), table)
        for resolution in resolutions
    }
    tokens = count_tokens([pair.caption for pair in dataset.pairs]) if count_tokens else ()
    return Overview(dataset, tuple(tokens), buckets)


def draw_overview(facts: Overview, width: int = 1200) -> bytes:
    """The charts of `overview_figure` as a PNG, `width` pixels wide."""
    picture = io.BytesIO()
    overview_figure(facts, width).savefig(picture, format="png")
    return picture.getvalue()


def overview_figure(facts: Overview, width: int = 1200) -> Figure:
    """Histograms of aspect ratios, sizes and caption lengths, and bars for the fullest buckets of
    each resolution.
    """
    from matplotlib.figure import Figure

    pairs = facts.dataset.pairs
    charts = 3 + len(facts.buckets)
    lines = math.ceil(charts / 2)
    figure = Figure(figsize=(width / 100, 3.6 * lines), dpi=100, layout="constrained")
    figure.suptitle(f"{facts.dataset.name}: {len(pairs)} pairs")
    axes = list(figure.subplots(lines, 2, squeeze=False).flat)
    for unused in axes[charts:]:
        unused.set_visible(False)
    ratios, sizes, lengths = axes[:3]
    ratios.hist(
        [math.log2(pair.width / pair.height) for pair in pairs], bins=41, range=(-2.05, 2.05)
    )
    ratios.set_xticks([-2, -1, 0, 1, 2], ["1:4", "1:2", "1:1", "2:1", "4:1"])
    ratios.set_title("aspect ratio (width : height)")
    sizes.hist([math.sqrt(pair.width * pair.height) for pair in pairs], bins=40)
    for resolution in facts.buckets:
        sizes.axvline(resolution, color=ORANGE, linewidth=1)
    sizes.set_title("size in pixels (square root of the area; lines: resolutions)")
    counts = facts.tokens or [len(pair.caption.split()) for pair in pairs]
    lengths.hist(counts, bins=40)
    if facts.tokens:
        lengths.axvline(LIMIT, color=ORANGE, linewidth=1)
    lengths.set_title(
        f"CLIP tokens in a caption (line: {LIMIT})" if facts.tokens else "words in a caption"
    )
    for chart, (resolution, uses) in zip(axes[3:], facts.buckets.items(), strict=False):
        _draw_buckets(chart, resolution, uses)
    for chart in axes[:charts]:
        chart.grid(alpha=0.3)
    return figure


def _draw_buckets(chart: Any, resolution: int, uses: Sequence[BucketUse]) -> None:
    shown = uses[:MOST_BUCKETS][::-1]
    names = [f"{use.bucket[0]} x {use.bucket[1]}" for use in shown]
    chart.barh(names, [use.pairs for use in shown], label="pairs")
    chart.barh(names, [use.upscaled for use in shown], color=ORANGE, label="of these enlarged")
    chart.tick_params(axis="y", labelsize=7)
    chart.legend(fontsize=8, loc="lower right")
    chart.set_title(f"buckets at {resolution}")
