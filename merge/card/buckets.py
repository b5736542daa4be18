"""The buckets of a run, by its settings as they are written.

They are the trainer's, which this core does not import; a test compares both.
"""

from __future__ import annotations

import math

Size = tuple[int, int]
MAX_ASPECT = 4.0
"""The longest bucket of a run."""
EVERYDREAM2: dict[int, str] = {
    256: "384x192 512x128",
    320: "384x256 448x192 576x128",
    384: "448x320 512x256 704x192",
    448: "512x384 640x320 768x256",
    512: "576x448 640x384 768x320 896x256 1024x256",
    576: "640x512 704x448 832x384 960x320 1152x256",
    640: "704x576 768x512 832x448 896x448 1024x384 1152x320 1280x320",
    704: "768x640 832x576 960x512 1088x448 1152x384 1280x384 1280x320",
    768: "832x704 896x640 960x576 1024x576 1152x512 1280x448 1408x384 1472x320",
    832: "896x768 960x704 1024x640 1152x576 1216x512 1344x512 1536x448 1600x384",
    896: "1024x768 1088x704 1216x640 1344x576 1536x512 1792x448",
    960: "1088x832 1152x768 1280x704 1408x640 1680x576 1792x512 2048x448",
    1024: "1152x896 1216x832 1344x768 1472x704 1600x640 1792x576 2048x512",
    1088: "1152x1024 1216x896 1408x832 1536x768 1664x704 1792x640 2048x576 2304x512",
    1152: "1280x1024 1344x960 1472x896 1536x832 1728x768 1856x704 2048x640 2304x576",
    1280: "1408x1152 1600x1024 1792x896 1920x832 2112x768 2304x704 2560x640",
    1408: "1536x1280 1664x1152 1920x1024 2048x960 2368x832 2560x768 2816x704",
    1536: "1728x1344 1792x1280 2048x1152 2304x1024 2432x960 2624x896 2816x832 3072x768",
}
"""EveryDream2's landscape sizes by resolution; it also has them upright, and the square."""


def buckets_of(table: str, resolution: int, step: int) -> list[Size]:
    """The buckets in the order in which equally near ones are chosen; none of a table that is not
    known.
    """
    if table == "EveryDream2":
        square = resolution // 64 * 64
        if square not in EVERYDREAM2:
            return []
        sizes = [tuple(map(int, size.split("x"))) for size in EVERYDREAM2[square].split()]
        chosen = {(square, square), *((w, h) for w, h in sizes), *((h, w) for w, h in sizes)}
    elif table == "generated" and 8 <= step <= resolution <= 8192:
        chosen = set()
        for width in range(step, int(resolution * math.sqrt(MAX_ASPECT)) + 1, step):
            height = resolution * resolution // width // step * step
            if height and max(width / height, height / width) <= MAX_ASPECT:
                chosen |= {(width, height), (height, width)}
    else:
        return []
    return sorted(chosen)


def nearest(size: Size, buckets: list[Size], table: str) -> Size:
    """The bucket of a picture: the nearest aspect ratio, of equal ones the largest."""
    measure = (lambda ratio: ratio) if table == "EveryDream2" else math.log
    ratio = measure(size[0] / size[1])
    return min(
        buckets,
        key=lambda one: (round(abs(measure(one[0] / one[1]) - ratio), 9), -one[0] * one[1]),
    )
