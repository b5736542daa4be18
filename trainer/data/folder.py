"""A folder of pictures with captions becomes a dataset."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import TrainerError
from ..files import write_json
from .image import SUFFIXES, open_rgb
from .manifest import Dataset, Pair, pair_ids

CAPTION_TEXTS = ("first line", "whole file")
ON_PROBLEM = ("stop", "skip")


@dataclass(frozen=True)
class Problem:
    """Why a picture is not a pair. `reason` is what others may share, `detail` belongs to this file alone."""

    file: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


@dataclass(frozen=True)
class LoadReport:
    """What was found in a folder: pictures, those that are not pairs and why, and files of other kinds by suffix.

    `captions_from_names` counts the pairs whose picture has no .txt file.
    """

    found: int
    problems: tuple[Problem, ...]
    other_files: dict[str, int]
    captions_from_names: int = 0

    def reasons(self) -> dict[str, int]:
        """How often each reason occurred, the most frequent first."""
        return dict(Counter(problem.reason for problem in self.problems).most_common())

    def __str__(self) -> str:
        lines = [
            f"{self.found} pictures found, {self.found - len(self.problems)} pairs, {len(self.problems)} skipped"
        ]
        lines += [f"skipped: {count} x {reason}" for reason, count in self.reasons().items()]
        if self.captions_from_names:
            lines.append(
                f"without a .txt file, captioned by their names: {self.captions_from_names}"
            )
        if self.other_files:
            others = (f"{count} {suffix}" for suffix, count in self.other_files.items())
            lines.append(f"other files, not read: {', '.join(others)}")
        return "\n".join(lines)


def load_folder(
    folder: Path,
    name: str,
    caption_text: str = "first line",
    on_problem: str = "stop",
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Dataset, LoadReport]:
    """The pictures below `folder`, in order of their paths, each with its caption.

    The caption of `a.png` is in `a.txt`, UTF-8; without that file it is the picture's name up to the first `_`, as in
    EveryDream2. Every picture is decoded once; what was learned is kept in the JSON file `cache` for as long as the
    picture's size and time stay the same. Names that begin with a dot are passed over.
    Raises TrainerError when there is no picture, when none is left, or, unless `on_problem` is "skip", at any problem.
    """
    pictures, others = _listing(folder)
    if not pictures:
        raise TrainerError(
            f"There is no picture in {name}. Put pictures ({', '.join(sorted(SUFFIXES))}) there, "
            "each with a caption in a .txt file of the same name."
        )
    known = read_cache(cache)
    facts: dict[str, list] = {}
    found: list[tuple[str, str, str, int, int]] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor() as pool:
        examined = pool.map(lambda file: examine(folder, file, known.get(file)), pictures)
        for number, (file, result) in enumerate(zip(pictures, examined, strict=True), start=1):
            caption = _caption(folder / file, caption_text)
            if isinstance(result, list):
                facts[file] = result
            if isinstance(caption, Problem) or isinstance(result, Problem):
                bad = [value for value in (result, caption) if isinstance(value, Problem)]
                problems.append(Problem(file, bad[0].reason, bad[0].detail))
            else:
                found.append((file, caption, *result[2:]))
            if progress:
                progress(number, len(pictures))
    if cache and facts != known:
        write_json(cache, facts)
    named = sum(not (folder / file).with_suffix(".txt").is_file() for file, *_ in found)
    report = LoadReport(len(pictures), tuple(problems), others, named)
    if problems and (on_problem == "stop" or not found):
        raise TrainerError(_complaint(name, report))
    ids = pair_ids((image_hash, caption) for _, caption, image_hash, *_ in found)
    pairs = tuple(
        Pair(pair_id, file, image_hash, width, height, caption)
        for pair_id, (file, caption, image_hash, width, height) in zip(ids, found, strict=True)
    )
    return Dataset(name, str(folder.resolve()), pairs), report


def _listing(folder: Path) -> tuple[list[str], dict[str, int]]:
    """Relative paths of all pictures, sorted, and how many files there are of other kinds, captions left out."""
    pictures: list[str] = []
    others: Counter[str] = Counter()
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            pictures.append(relative.as_posix())
        elif suffix != ".txt":
            others[suffix or "without a suffix"] += 1
    return sorted(pictures), dict(others.most_common())


def folder_state(folder: Path) -> str:
    """A hash of names, sizes and times below a folder: the same while nothing in it changes. No file is opened."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            digest.update(
                f"{path.relative_to(folder).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()


def read_cache(cache: Path | None) -> dict[str, list]:
    """What is known of each picture: [size, time in ns, SHA-256, width, height]."""
    if cache is None:
        return {}
    try:
        return json.loads(cache.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def examine(folder: Path, file: str, known: list | None) -> list | Problem:
    """Size, time, hash, width and height of a picture, decoded in full unless it is known."""
    try:
        status = (folder / file).stat()
        if known and known[:2] == [status.st_size, status.st_mtime_ns]:
            return known
        data = (folder / file).read_bytes()
        image = open_rgb(data)
    except TrainerError as error:
        return Problem(file, "the picture is damaged or none", str(error))
    except OSError as error:
        return Problem(file, "the picture cannot be read", str(error))
    digest = hashlib.sha256(data).hexdigest()
    return [status.st_size, status.st_mtime_ns, digest, image.width, image.height]


def _caption(picture: Path, caption_text: str) -> str | Problem:
    """The caption of a picture, from its .txt file or its name."""
    file = picture.with_suffix(".txt")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        text = picture.stem.split("_", 1)[0]
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        where = f"{file.name}, byte {byte:#04x} at {error.start}; save it as UTF-8"
        return Problem(picture.name, "the caption is not UTF-8", where)
    except OSError as error:
        return Problem(picture.name, "the caption cannot be read", str(error))
    caption = text.strip()
    if caption_text == "first line":
        caption = caption.split("\n", 1)[0].strip()
    return caption or Problem(picture.name, "the caption is empty", file.name)


def _complaint(name: str, report: LoadReport) -> str:
    shown = [f"  {problem}" for problem in report.problems[:10]]
    if len(report.problems) > len(shown):
        shown.append(f"  and {len(report.problems) - len(shown)} more")
    if len(report.problems) == report.found:
        advice = "No pair is left: mend the files."
    else:
        advice = 'Mend or remove them, or set on_problem to "skip" to go on without them.'
    return "\n".join(
        [
            f"{len(report.problems)} of {report.found} pictures in {name} cannot be used:",
            *shown,
            advice,
        ]
    )


def has_picture(folder: Path) -> bool:
    """Whether there is at least one picture below a folder, by suffix."""
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("[!.]*"))
