"""Rows of a table and the images found for them become a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import TrainerError
from ..folder.facts import Examination
from ..folder.folder import LoadReport, Problem
from ..folder.listing import File
from ..manifest import Dataset, Pair, pair_ids
from ..table.selection import Row


def join(
    rows: Mapping[int, Row],
    files: Mapping[int, str],
    root: Path,
    name: str,
    on_problem: str = "stop",
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    background: str = "#ffffff",
) -> tuple[Dataset, LoadReport]:
    """A dataset of the rows that have a file below `root`, in the order of the rows.

    The caption is the row's prompt, the group is its user, and its further captions are columns.
    Every image is decoded once, as in `load_folder`, with the same cache. Raises TrainerError when
    no pair is left, or, unless `on_problem` is "skip", for any image that cannot be decoded and any
    row without a prompt.
    """
    wanted = [(rows[number], files[number]) for number in sorted(files) if number in rows]
    if not wanted:
        raise TrainerError(f"None of the {len(rows)} rows has an image in {name}.")
    images: dict[str, File | None] = {file: None for _, file in wanted}
    results = Examination(cache, images).all(root, images, progress)
    problems: list[Problem] = []
    found: list[tuple[Row, str, str, int, int]] = []
    for row, file in wanted:
        result = results[file]
        if isinstance(result, Problem):
            problems.append(result)
        elif row.prompt.strip():
            found.append((row, file, *result[2:5]))
        else:
            problems.append(Problem(file, "the row has no prompt", f"row {row.number}"))
    report = LoadReport(len(wanted), tuple(problems), {})
    if problems and (on_problem == "stop" or not found):
        shown = "\n".join(f"  {problem}" for problem in problems[:10])
        raise TrainerError(
            f"{len(problems)} of {len(wanted)} images in {name} cannot be used:\n{shown}\n"
            'Repair or remove them, or set on_problem to "skip" to continue without them.'
        )
    ids = pair_ids((image_hash, row.prompt.strip()) for row, _, image_hash, *_ in found)
    pairs = tuple(
        Pair(
            pair_id,
            file,
            image_hash,
            width,
            height,
            row.prompt.strip(),
            group=row.user,
            captions=dict(row.captions),
        )
        for pair_id, (row, file, image_hash, width, height) in zip(ids, found, strict=True)
    )
    return Dataset(name, str(root.resolve()), pairs, background), report
