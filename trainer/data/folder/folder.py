"""A folder of pictures with captions becomes a dataset."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from ...errors import TrainerError
from ..captions import chosen
from ..image import SUFFIXES
from ..manifest import Dataset, Pair, pair_ids
from ..tokens import LIMIT, count_tokens
from .everydream import everydream_sign, pair_list, read_everydream
from .facts import Examination, Pace
from .hugging_face import metadata_files, names_pictures, read_hugging_face
from .kohya import folders_of_repeats, holds_repeats, looks_like_repeats, metadata_file, read_kohya
from .listing import (
    LINK_AGAIN,
    LINK_OUT,
    LINK_TO_NOTHING,
    NO_FILE,
    Listing,
    folder_state,
    has_picture,
    list_folder,
    suffix,
)
from .masks import add_masks, no_masks
from .orphans import add_orphans, may_matter
from .plain import read_plain
from .reading import (
    CAPTION_TEXTS,
    DRAWN,
    LAYOUTS,
    Entry,
    Problem,
    Reading,
    count_notes,
    listed,
    shown,
)

__all__ = [
    "CAPTION_TEXTS",
    "LAYOUTS",
    "ON_PROBLEM",
    "LoadReport",
    "Problem",
    "check_background",
    "check_layout",
    "folder_state",
    "has_picture",
    "load_folder",
]
ON_PROBLEM = ("stop", "skip")
ENTRY = re.compile(rb'\{\s*"[^"]*"\s*:\s*\{\s*("(caption|tags|train_resolution|image_size)"|\})')
"""How kohya's metadata begins: a picture, and an object with one of the keys that its tools write.
"""
HARMLESS = frozenset((LINK_AGAIN, LINK_TO_NOTHING, NO_FILE))
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class LoadReport:
    """What was found in a folder: pictures, why some are not pairs, and other files by suffix.

    `captions_from_names` counts the pairs whose picture has no caption file. `layout` is how the
    folder was read, and `why` the reason for it; `unread` lists files of settings that could not be
    understood, `notes` what else a person should know.
    """

    found: int
    problems: tuple[Problem, ...]
    other_files: dict[str, int]
    captions_from_names: int = 0
    layout: str = "plain"
    why: str = ""
    unread: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def reasons(self) -> dict[str, int]:
        """How often each reason occurred, the most frequent first."""
        return dict(Counter(problem.reason for problem in self.problems).most_common())

    def __str__(self) -> str:
        skipped = len(self.problems)
        lines = [f"{self.found} pictures found, {self.found - skipped} pairs, {skipped} skipped"]
        if self.why:
            lines.append(f"read as {self.layout}: {self.why}")
        for reason, count in self.reasons().items():
            which = [problem for problem in self.problems if problem.reason == reason]
            where = "; ".join(f"{p.file}: {p.detail}" if p.detail else p.file for p in which[:3])
            more = f" and {count - 3} more" if count > 3 else ""
            lines.append(f"skipped: {count} x {shown(reason)} ({shown(where)}{more})")
        lines += [f"could not be read, ignored: {problem}" for problem in self.unread]
        if self.captions_from_names:
            whose = "their folder names" if self.layout == "kohya" else "their names"
            lines.append(
                f"pictures without a caption file, captioned by {whose}: {self.captions_from_names}"
            )
        lines += self.notes
        if self.other_files:
            others = (f"{count} {shown(end)}" for end, count in self.other_files.items())
            lines.append(f"other files, not read: {', '.join(others)}")
        return "\n".join(lines)


def load_folder(
    folder: Path,
    name: str,
    caption_text: str = "first line",
    on_problem: str = "stop",
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    layout: str = "auto",
    caption_column: str = "",
    background: str = "#ffffff",
    tokenizer: Path | None = None,
) -> tuple[Dataset, LoadReport]:
    """The pictures below `folder`, each with its caption, in the order of their paths or of the
    rows that name them.

    The `layout` (LAYOUTS) says how to find the captions; "auto" looks at what the folder holds.
    `caption_text` says how much of a caption file is used, or that each showing draws a line,
    `caption_column` which column of a table of pairs holds the captions. `background` is the colour
    that transparency becomes. A pair's group is the folder of its picture. With CLIP's `tokenizer`
    (a folder), the report counts the captions that are longer than CLIP reads at once. Every
    picture is decoded once; the facts are kept in the JSON file `cache` for as long as the
    picture's size and time stay the same, even when `progress` ends the work by raising. Names that
    begin with a dot are skipped. Raises TrainerError when there is no picture, when no pair is
    left, or, unless `on_problem` is "skip", for any problem.
    """
    background = check_background(background)
    check_layout(layout)
    listing = list_folder(folder)
    if not listing.pictures:
        raise TrainerError(
            f"There is no picture in {name}. Put pictures ({', '.join(sorted(SUFFIXES))}) there, "
            "each with a caption in a .txt file of the same name." + _instead(listing)
        )

    def read(listing: Listing) -> Reading:
        reading = read_layout(listing, layout, caption_text, caption_column, progress)
        _check_links(listing, reading, name)
        return reading

    listing, reading, results = _read_and_examine(listing, read, cache, progress)
    found = len(reading.entries) + len(reading.problems)
    facts = _facts(listing, reading, results)
    good = [entry for entry in reading.entries if entry.file in facts]
    if tokenizer:
        reading.notes += _long_captions(good, tokenizer)
    report = _report(listing, reading, found, good)
    if (report.problems or report.unread) and (on_problem == "stop" or not good):
        raise TrainerError(_complaint(name, report))
    if not good:
        raise TrainerError(f"There is no pair in {name}.\n{report}")
    ids = pair_ids((facts[entry.file][2], entry.caption) for entry in good)
    pairs = tuple(
        _pair(pair_id, entry, facts[entry.file]) for pair_id, entry in zip(ids, good, strict=True)
    )
    return Dataset(name, str(folder.resolve()), pairs, background), report


def _check_links(listing: Listing, reading: Reading, name: str) -> None:
    """Raise TrainerError when pictures would be captioned by their names although their captions
    may be in a file that is not read because it is a link.
    """
    folders = {posixpath.dirname(file) for file in reading.named}
    above = {"", *folders, *(str(path) for one in folders for path in PurePosixPath(one).parents)}
    found = [
        file
        for file, why in sorted(listing.odd.items())
        if why == LINK_OUT and may_matter(file) and posixpath.dirname(file) in above
    ]
    if folders and found:
        raise TrainerError(
            f"{len(reading.named)} pictures in {name} would be captioned by their names, but "
            f"{listed(found)} may hold their captions: {LINK_OUT}."
        )


def _long_captions(entries: list[Entry], tokenizer: Path) -> list[str]:
    """The line about captions with more tokens than CLIP reads at once; none without such. Of
    choices, the longest line counts, with the longest words.
    """
    texts = [_longest(entry) for entry in entries]
    tokens = count_tokens([text for several in texts for text in several], tokenizer)
    places = iter(tokens)
    counts = [max(islice(places, len(several))) for several in texts]
    long = sum(count > LIMIT for count in counts)
    if not long:
        return []
    chunks = -(-max(counts) // LIMIT)
    return [
        f"captions of more than {LIMIT} CLIP tokens, cut off there unless data.text_chunks is "
        f"raised: {long} (the longest has {max(counts)}, for {chunks} chunks)"
    ]


def _longest(entry: Entry) -> list[str]:
    """The caption of a picture, or the longest form of each line that it is drawn from."""
    lines = str(entry.options.get("choices", "")).splitlines()
    drawn = (chosen(line, lambda several: max(several, key=len)) for line in lines)
    return [text for text in drawn if text] or [entry.caption]


def _instead(listing: Listing) -> str:
    """What is in a folder without pictures, as far as it may be meant for pictures."""
    reading = Reading("plain")
    add_orphans(listing, reading)
    found = [*reading.problems, *reading.unread][:5]
    return f" It has: {'; '.join(map(str, found))}." if found else ""


def _pair(pair_id: str, entry: Entry, facts: list) -> Pair:
    _, _, image_hash, width, height = facts
    return Pair(pair_id, entry.file, image_hash, width, height, entry.caption, **entry.options)


def check_layout(layout: str) -> str:
    """The layout, if it is one of LAYOUTS. Raises TrainerError otherwise."""
    if layout not in LAYOUTS:
        raise TrainerError(f"There is no layout {layout!r}. Choose one of {', '.join(LAYOUTS)}.")
    return layout


def check_background(colour: str) -> str:
    """A colour as #rrggbb in lower case. Raises TrainerError when it is not a colour."""
    if not COLOUR.fullmatch(colour.strip()):
        raise TrainerError(
            f"{shown(colour)!r} is not a colour. Write it as #rrggbb, such as #ffffff for white."
        )
    return colour.strip().lower()


def read_layout(
    listing: Listing,
    layout: str,
    caption_text: str,
    caption_column: str,
    progress: Callable[[int, int], None] | None = None,
) -> Reading:
    """What the folder's layout says about its pictures, before any of them is opened."""
    reading = Reading(*detect(listing)) if layout == "auto" else Reading(layout, "as asked")
    if progress:
        reading.awake = Pace(lambda: progress(0, len(listing.files)))
    if caption_text == DRAWN and reading.layout not in ("plain", "kohya"):
        raise TrainerError(
            f'caption_text "{DRAWN}" is for the layouts plain and kohya, but the folder is read as '
            f"{reading.layout} ({reading.why}). Choose another layout or caption_text."
        )
    if reading.layout == "hugging face":
        read_hugging_face(listing, reading, caption_column)
    elif reading.layout == "kohya":
        read_kohya(listing, reading, caption_text)
    elif reading.layout == "everydream":
        read_everydream(listing, reading, caption_text)
    else:
        read_plain(listing, reading, caption_text)
    if reading.cut_lines:
        everydream = reading.layout == "everydream"
        also = "EveryDream2 uses all: caption_text" if everydream else "caption_text: whole file"
        reading.notes.append(
            "caption files with more than one line, of which only the first is used: "
            f"{reading.cut_lines} ({also})"
        )
    if layout == "auto" and reading.layout == "plain":
        for above in folders_of_repeats(listing):
            why = "its folders are named like 10_cat: load it by itself to have them shown so often"
            if holds_repeats(listing, above):
                reading.unread.append(Problem(above, why, "or choose the layout plain"))
            else:
                reading.notes.append(f"{shown(above)}: {why}")
    add_orphans(listing, reading)
    return reading


def detect(listing: Listing) -> tuple[str, str]:
    """The layout of a folder, and the sign by which it was recognized.

    The first of these signs counts: a metadata file of Hugging Face that names pictures, kohya's
    metadata file, a file that only EveryDream2 uses, and all pictures in folders named like
    kohya's.
    """
    signs: list[tuple[str, str]] = []
    metadata = [file for file in metadata_files(listing) if names_pictures(listing, file)]
    if metadata:
        signs.append(("hugging face", f"{listed(metadata[:1])} names pictures"))
    if (kohya := metadata_file(listing)) and looks_like_metadata(listing, kohya):
        signs.append(("kohya", f"{kohya} has captions"))
    if sign := everydream_sign(listing):
        signs.append(("everydream", f"it has {shown(sign)}"))
    elif (pairs := pair_list(listing)) and not metadata:
        signs.append(("everydream", f"{pairs} is a list of pairs"))
    if looks_like_repeats(listing):
        signs.append(("kohya", "all pictures are in folders named like 10_cat"))
    if not signs:
        return "plain", "it has no files of another layout"
    layout, why = signs[0]
    others = [f"{other} ({sign})" for other, sign in signs[1:] if other != layout]
    return layout, f"{why}{f'; it could also be {listed(others)}' if others else ''}"


def looks_like_metadata(listing: Listing, file: str) -> bool:
    """Whether a JSON file maps pictures to captions, judging by its beginning."""
    try:
        with (listing.root / file).open("rb") as opened:
            head = opened.read(65536)
    except OSError:
        return False
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(ENTRY.search(head))


def _read_and_examine(
    listing: Listing,
    read: Callable[[Listing], Reading],
    cache: Path | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Listing, Reading, dict[str, list | Problem]]:
    """What a layout says of a folder, and the facts about its pictures and masks. The folder is
    read again when files turn out to be pictures that their names let seem masks.
    """
    results: dict[str, list | Problem] = {}
    while True:
        reading = read(listing)
        wanted = dict.fromkeys(
            [entry.file for entry in reading.entries]
            + [problem.file for problem in reading.problems if suffix(problem.file) in SUFFIXES]
            + [mask for entry in reading.entries if (mask := listing.masks.mask(entry.file))]
        )
        new = (file for file in wanted if file in listing.files and file not in results)
        files = {file: listing.files[file] for file in new}
        results |= Examination(cache, listing.files).all(listing.root, files, progress)
        more = no_masks(listing, reading, results)
        if not more:
            return listing, reading, results
        listing = replace(listing, no_masks=listing.no_masks | more)


def _facts(
    listing: Listing, reading: Reading, results: dict[str, list | Problem]
) -> dict[str, list]:
    """The facts about each picture that can be read; the others are added to the reading's
    problems.
    """
    for file, why in listing.odd.items():
        results[file] = Problem(file, "the picture cannot be read", why)
    bad = {file: result for file, result in results.items() if isinstance(result, Problem)}
    reading.problems[:] = [bad.get(problem.file, problem) for problem in reading.problems]
    reading.problems += [bad[entry.file] for entry in reading.entries if entry.file in bad]
    add_masks(listing, reading, results)
    reading.problems.sort(key=lambda problem: _natural(problem.file))
    for file, why in sorted(listing.odd.items()):
        if suffix(file) in SUFFIXES or file in reading.read:
            continue
        if why in HARMLESS or (why == LINK_OUT and not may_matter(file)):
            reading.notes.append(f"not read: {shown(file)} ({why})")
        else:
            reading.unread.append(Problem(file, why))
    return {file: result for file, result in results.items() if isinstance(result, list)}


def _natural(file: str) -> list[tuple[int, str]]:
    """A sort key that puts line 10 after line 2."""
    parts = re.split(r"0*(\d+)", file)
    return [(len(part) if place % 2 else 0, part) for place, part in enumerate(parts)]


def _report(listing: Listing, reading: Reading, found: int, good: list[Entry]) -> LoadReport:
    named = {entry.file for entry in reading.entries} | {p.file for p in reading.problems}
    others = Counter(
        suffix(file) or "without a suffix"
        for file in listing.files
        if file not in named and file not in reading.read
    )
    return LoadReport(
        found,
        tuple(reading.problems),
        dict(sorted(others.items(), key=lambda end: (-end[1], end[0]))),
        sum(entry.file in reading.named for entry in good),
        reading.layout,
        reading.why,
        tuple(reading.unread),
        (*reading.notes, *count_notes(+reading.unused)),
    )


def _complaint(name: str, report: LoadReport) -> str:
    lines: list[str] = []
    for what, problems in (
        (
            f"{len(report.problems)} of {report.found} pictures in {name} cannot be used",
            report.problems,
        ),
        (f"{len(report.unread)} other files in {name} cannot be used", report.unread),
    ):
        if problems:
            lines += [f"{what}:", *(f"  {problem}" for problem in problems[:10])]
        if len(problems) > 10:
            lines.append(f"  and {len(problems) - 10} more")
    if len(report.problems) == report.found:
        lines.append("No pair is left: repair the files.")
    else:
        lines.append('Repair or remove them, or set on_problem to "skip" to continue without them.')
    return "\n".join(lines)
