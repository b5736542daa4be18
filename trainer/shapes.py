"""Drawn pairs: "a red circle on a blue background", in several sizes and aspect ratios, and the
score of pictures made from such prompts.
"""

from __future__ import annotations

import contextlib
import csv
import io
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import bounded_json
from .errors import TrainerError
from .files import write_json, write_text
from .jobs.lines import Lines
from .litter import sweep, temporary

if TYPE_CHECKING:
    from PIL import Image

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 30),
    "magenta": (220, 40, 200),
    "cyan": (40, 210, 220),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle")
SIZES = ((128, 128), (160, 128), (128, 160), (192, 128), (128, 192), (96, 96), (256, 256))
USERS = 20
"""Of the messages."""
FORMAT = 1
CAPTION = re.compile(
    rf"\ba ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) on a ({'|'.join(COLOURS)}) background\b"
)


def draw_shapes(
    folder: Path, count: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Fill a new folder with `count` PNGs, a .txt caption for each, and `pairs.csv` (columns image,
    prompt, message).

    Picture i depends on (seed, i) alone. The folder appears complete or not at all; one that
    contains the same pairs is kept, and its table gets messages if it was drawn before there were
    any. Raises TrainerError when the folder contains anything else.
    """
    recipe = {"format": FORMAT, "count": count, "seed": seed}
    if folder.exists():
        if drawn_recipe(folder) == recipe:
            add_messages(folder, seed)
            return
        raise TrainerError(
            f"The folder {folder.name} exists, but does not contain {count} shapes drawn with seed "
            f"{seed}. Choose another name: nothing in it is overwritten."
        )
    sweep(folder.parent, only=folder.name)
    part = temporary(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    captions = []
    for index in range(count):
        image, caption = draw_pair(seed, index)
        name = f"{index:05d}"
        image.save(part / f"{name}.png", compress_level=1)
        (part / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
        captions.append(caption)
        if progress:
            progress(index + 1, count)
    write_text(part / "pairs.csv", table(captions, seed))
    write_json(part / "shapes.json", recipe)
    part.rename(folder)


def add_messages(folder: Path, seed: int) -> None:
    """Write the table of a drawn folder anew if it is exactly the one without messages."""
    file = folder / "pairs.csv"
    with contextlib.suppress(OSError, ValueError, csv.Error):
        old = file.read_bytes().decode("utf-8")
        if old.startswith("image,prompt\r\n"):
            captions = [row["prompt"] for row in csv.DictReader(io.StringIO(old))]
            if old == table(captions):
                write_text(file, table(captions, seed))


def table(captions: Sequence[str], seed: int | None = None) -> str:
    """The pairs as CSV, with a column of messages if there is a seed for them."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["image", "prompt"] if seed is None else ["image", "prompt", "message"])
    for index, caption in enumerate(captions):
        rest = [] if seed is None else [message(caption, seed, index)]
        rows.writerow([f"{index:05d}.png", caption, *rest])
    return text.getvalue()


def message(caption: str, seed: int, index: int) -> str:
    """A message as Midjourney would post it with the picture: two of three were upscaled, most are
    raw, and a few of its users post much.
    """
    choose = random.Random(f"{seed}/{index}/message")
    user = 1 + int(USERS * choose.random() ** 3)
    style = " --style raw" if choose.random() < 0.8 else ""
    tail = f"<@{user}> (fast)"
    if choose.random() < 2 / 3:
        tail = f"Image #{choose.randint(1, 4)} <@{user}>"
    return f"**{caption} --v 5.1{style}** - {tail}"


def drawn_recipe(folder: Path) -> dict[str, int] | None:
    """What `draw_shapes` filled this folder with, or None."""
    try:
        value = bounded_json.read(folder / "shapes.json", 1 << 20)
        return value if isinstance(value, dict) else None
    except (OSError, ValueError):
        return None


def draw_pair(seed: int, index: int) -> tuple[Image.Image, str]:
    """One picture and its caption."""
    from PIL import Image, ImageDraw

    choose = random.Random(f"{seed}/{index}")
    colour, background = choose.sample(list(COLOURS), 2)
    shape = choose.choice(SHAPES)
    width, height = choose.choice(SIZES)
    scale = 4
    canvas = Image.new("RGB", (width * scale, height * scale), COLOURS[background])
    side = min(canvas.size) * choose.uniform(0.45, 0.65)
    left = (canvas.width - side) * choose.uniform(0.4, 0.6)
    top = (canvas.height - side) * choose.uniform(0.4, 0.6)
    box = (left, top, left + side, top + side)
    pen = ImageDraw.Draw(canvas)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        apex = ((box[0] + box[2]) / 2, box[1])
        pen.polygon([apex, (box[2], box[3]), (box[0], box[3])], fill=COLOURS[colour])
    image = canvas.resize((width, height), Image.Resampling.LANCZOS)
    return image, f"a {colour} {shape} on a {background} background"


def border_colour(image: Image.Image) -> str:
    """The named colour nearest to the mean of the picture's border, an eighth of its shorter side
    wide.
    """
    import numpy

    pixels = numpy.asarray(image.convert("RGB"), dtype=numpy.float64)
    band = max(1, min(pixels.shape[:2]) // 8)
    inside = numpy.zeros(pixels.shape[:2], dtype=bool)
    inside[band:-band, band:-band] = True
    mean = pixels[~inside].mean(axis=0)
    return min(COLOURS, key=lambda name: float(((mean - COLOURS[name]) ** 2).sum()))


@dataclass(frozen=True)
class Score:
    """How many pictures of a checkpoint have the border colour that their prompt asks for."""

    checkpoint: str
    right: int
    asked: int


def judge_grid(folder: Path) -> list[Score]:
    """Score every checkpoint of a grid by the cells whose prompt describes a drawn pair."""
    from PIL import Image

    scores: dict[str, Score] = {}
    lines = {line["key"]: line for line in Lines(folder / "cells.jsonl").read().lines}
    for key, line in lines.items():
        asked = CAPTION.search(line["settings"]["prompt"])
        picture = folder / "cells" / key[:2] / f"{key}.png"
        if not asked or not picture.is_file():
            continue
        name = line["settings"]["checkpoint"]
        with Image.open(picture, formats=("PNG", "WEBP")) as image:
            right = border_colour(image) == asked.group(3)
        old = scores.get(name, Score(name, 0, 0))
        scores[name] = Score(name, old.right + right, old.asked + 1)
    return list(scores.values())
