"""Writes a table of the shape of the public Midjourney exports, of any size, clean or damaged in
known ways.

    python benchmarks/make_table.py big.csv --bytes 2000000000
    python benchmarks/make_table.py dirty.csv --rows 3000 --dirt all

The same arguments give the same bytes. Twelve columns, the first without a name, as pandas leaves
it; about one record in twenty spans several lines, one in sixteen holds quotes and one in twelve
holds letters that are not Latin.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from collections.abc import Iterator
from pathlib import Path

COLUMNS = (
    "",
    "AuthorID",
    "Author",
    "Date",
    "Content",
    "Attachments",
    "Reactions",
    "version",
    "aspect",
    "clean_prompts",
    "width",
    "height",
)
DIRT = (
    "bad bytes",
    "stray quotes",
    "nul",
    "short rows",
    "long rows",
    "truncated end",
    "crlf",
    "bom",
)
DAMAGED = 0.05
"""Share of the records of a dirty table that are damaged."""
BOT = "936929561302675456"

SUBJECTS = (
    "portrait of an old fisherman",
    "a glass city at dusk",
    "two foxes in the snow",
    "an empty diner at night",
    "close-up of a dewdrop on a leaf",
    "a steam locomotive crossing a viaduct",
    "adult wizard walking on a beach",
    "isometric cutaway of a lighthouse",
    "a bowl of ramen on a wooden counter",
    "astronaut repairing a satellite",
    "young woman reading in a window seat",
    "a ruined temple under water",
)
STYLES = (
    "cinematic light",
    "35mm film grain",
    "hyper detailed",
    "soft pastel colours",
    "in the style of ukiyo-e",
    "volumetric fog",
    "golden hour",
    "macro photography",
    "muted earth tones",
    "dramatic rim lighting",
    "shot from below",
    "wide angle lens",
    "studio backdrop",
    "oil on canvas",
    "low poly render",
    "high contrast black and white",
    "octane render, 8k, sharp focus",
    "double exposure with a forest",
)
FOREIGN = (
    "日本の古い家、雨の夜",
    "старый город зимой",
    "مدينة قديمة عند الغروب",
    "ผู้หญิงในสวน",
    "café crème à Montréal",
    "🦊 in the snow ❄️",
)
QUOTED = (
    'a sign that says "OPEN"',
    'a "dreamy" look',
    'the word "hello" in neon',
)
LINES = ("first line\nsecond line", "top\n\nbottom, with a comma")
PARAMETERS = ("--ar 16:9", "--ar 2:3", "--aspect 3:2", "—ar 9:16", "--q 2", "--c 20", "--seed 4711")
VERSIONS = ("--v 5.1", "--v 5", "--v 5.2", "--niji 5", "--version 4", "")
KINDS = (
    "Image #{number} <@{user}>",
    "Upscaled (Beta) by <@{user}> (fast)",
    "Upscaled by <@{user}> (relaxed)",
    "<@{user}> (fast)",
    "<@{user}> (relaxed, stealth)",
    "Variations by <@{user}> (fast)",
    "Variations (Strong) by <@{user}> (turbo)",
    "Remix by <@{user}> (relaxed)",
    "Pan Left by <@{user}> (fast)",
    "Zoom Out by <@{user}> (fast)",
    "<@{user}> (31%) (fast)",
    "<@{user}> (Waiting to start)",
    "<@{user}> (Stopped)",
    "Image #{number} [(Open on website for full quality)]"
    "(<https://www.midjourney.com/app/>) <@{user}>",
)
KIND_WEIGHTS = (22, 3, 4, 34, 4, 12, 3, 2, 2, 3, 4, 2, 2, 3)
SIZES = ((1024, 1024), (1456, 816), (816, 1456), (1232, 928), (928, 1232))


def prompt(draw: random.Random) -> str:
    """What somebody typed: the text with, sometimes, picture links, weights, and parameters behind
    it.
    """
    parts = [draw.choice(SUBJECTS), *draw.sample(STYLES, draw.randint(1, 9))]
    chance = draw.random()
    if chance < 0.08:
        parts.append(draw.choice(FOREIGN))
    elif chance < 0.14:
        parts.append(draw.choice(QUOTED))
    elif chance < 0.19:
        parts.append(draw.choice(LINES))
    elif chance < 0.24:
        parts.insert(0, f"<https://s.mj.run/{draw.randrange(16**8):08x}>")
    elif chance < 0.27:
        parts[0] += draw.choice(("::2", "::-0.5", ":: "))
    elif chance < 0.30:
        parts = parts[:1]
    text = draw.choice((", ", ", ", ", ", "  ", " and ")).join(parts)
    if draw.random() < 0.5:
        text += f", number {draw.randrange(10**6)}"
    if draw.random() < 0.01:
        return text + "..."
    parameters = draw.sample(PARAMETERS, draw.choice((0, 0, 1, 1, 2)))
    parameters.append(draw.choice(VERSIONS))
    if draw.random() < 0.3:
        parameters.append(draw.choice(("--style raw", "--raw", "--style raw --s 50")))
    elif draw.random() < 0.3:
        parameters.append(f"--s{draw.choice(('', ' '))}{draw.choice((0, 50, 250, 750))}")
    return " ".join([text, *filter(None, parameters)])


def records(seed: int, users: int = 60_000) -> Iterator[tuple[str, ...]]:
    """Endless records. A few people make most pictures, as in the real exports."""
    draw = random.Random(seed)
    pool = [prompt(draw) for _ in range(20_000)]
    number = 0
    while True:
        typed = draw.choice(pool) if draw.random() < 0.7 else prompt(draw)
        user = 200_000_000_000_000_000 + int(users * draw.random() ** 3) * 7_919_000_003
        tail = draw.choices(KINDS, KIND_WEIGHTS)[0].format(number=draw.randint(1, 4), user=user)
        slug = "_".join(typed.split()[:8]).replace('"', "")[:60].replace(",", "")
        job = f"{draw.getrandbits(128):032x}"
        job = "-".join((job[:8], job[8:12], job[12:16], job[16:20], job[20:]))
        image = (
            f"https://cdn.discordapp.com/attachments/{10**18 + number % 50}"
            f"/{11 * 10**17 + number * 977}"
            f"/someone_{slug}_{job}.png"
        )
        if number % 97 == 0:
            image += "," + image.replace("someone", "second")
        width, height = draw.choice(SIZES)
        yield (
            str(number),
            BOT,
            "Midjourney Bot#9282",
            f"{1 + number % 28:02d}-May-23 {number % 12 + 1:02d}:{number % 60:02d} AM",
            f"**{typed}** - {tail}",
            image,
            "",
            draw.choice(("5.1", "5.2", "5", "")),
            draw.choice(("16:9", "1:1", "")),
            typed.split(" --")[0],
            str(width),
            str(height),
        )
        number += 1


def write_table(
    path: Path,
    seed: int = 1,
    rows: int | None = None,
    size_bytes: int | None = None,
    dirt: tuple[str, ...] = (),
    delimiter: str = ",",
) -> int:
    """Write records until there are `rows` of them or the file is `size_bytes` long; returns how
    many there are.
    """
    end = "\r\n" if "crlf" in dirt else "\n"
    draw = random.Random(f"{seed}/dirt")
    written = count = 0
    with path.open("wb") as file:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end)
        if "bom" in dirt:
            file.write(b"\xef\xbb\xbf")
        writer.writerow(COLUMNS)
        every_record = records(seed)
        while count < rows if rows is not None else written < (size_bytes or 0):
            for _ in range(1000 if rows is None else min(1000, rows - count)):
                record = next(every_record)
                if dirt and draw.random() < DAMAGED:
                    buffer.write(_damaged(record, draw, dirt, delimiter) + end)
                else:
                    writer.writerow(record)
                count += 1
            block = buffer.getvalue().encode("utf-8", "surrogateescape")
            buffer.seek(0)
            buffer.truncate()
            written += file.write(block)
        if "truncated end" in dirt:
            file.flush()
            file.truncate(file.tell() - draw.randint(100, 300))
    return count


def _damaged(
    record: tuple[str, ...], draw: random.Random, dirt: tuple[str, ...], delimiter: str
) -> str:
    """One record as text with one fault of a kind in `dirt`; bytes that are not UTF-8 stand as
    surrogates.
    """
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerow(record)
    line = buffer.getvalue().removesuffix("\n")
    place = draw.randrange(len(line))
    faults = [fault for fault in DIRT[:5] if fault in dirt]
    fault = draw.choice(faults) if faults else ""
    if fault == "bad bytes":
        return line[:place] + "\udcff" + line[place:]
    if fault == "stray quotes":
        return (
            line.replace(" ", ' "', 1) if draw.random() < 0.5 else line[:place] + '"' + line[place:]
        )
    if fault == "nul":
        return line[:place] + "\0" + line[place:]
    if fault == "short rows":
        return line.rsplit(delimiter, draw.randint(1, 3))[0]
    if fault == "long rows":
        return line + delimiter.join(("", "more", "than there should be"))
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--bytes", type=int, dest="size_bytes", default=100_000_000)
    parser.add_argument("--delimiter", default=",")
    parser.add_argument("--dirt", nargs="*", default=[], choices=[*DIRT, "all"])
    options = parser.parse_args()
    dirt = DIRT if "all" in options.dirt else tuple(options.dirt)
    count = write_table(
        options.path, options.seed, options.rows, options.size_bytes, dirt, options.delimiter
    )
    print(f"{options.path}: {count} records, {options.path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
