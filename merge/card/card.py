"""A release card as data: everything that is known of a checkpoint, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MergeError
from ..family import Family, family_of
from ..hashing import Hashes, file_hashes, legacy_hash
from ..key_names import with_usual_names
from ..licence import Licence
from ..metadata import RECIPE_HASH
from ..recipe import short_name
from ..safetensors_file import read_header
from . import licences
from .dataset import read_captions
from .graph import plain
from .grids import Cell, Field, Grid, find_grids
from .lineage import Find, Lineage, trace
from .pictures import Picture, copy
from .reading import Unreadable, inside, text
from .rounds import MOST_CANDIDATES
from .runs import Run
from .votes import Decisive, Rank, Votes, compared, decisive, ranked, read_votes

MOST_PICTURES = 48
DECISIVE = 6
MOST_GRIDS = 40
"""With votes or pictures, that a card tells of."""


@dataclass(frozen=True)
class Wishes:
    """What a person says about a card."""

    title: str = ""
    trigger_words: str = ""
    notes: str = ""
    licence: Licence | None = None
    licences: Mapping[str, Licence] = field(default_factory=dict)
    """Those of ingredients, by name."""
    grid: str = ""
    """The grid to show; the one with the most votes, or else pictures, if it is empty."""
    pictures: int = 12
    captions: int = 0


@dataclass(frozen=True)
class Sources:
    """Where a card may look: the file of a checkpoint's name, and the folders of runs and grids."""

    find: Find
    runs: Path | None = None
    grids: Path | None = None
    hash_of: Callable[[Path], Hashes] = file_hashes


@dataclass(frozen=True)
class Ranked:
    """The votes on a grid: how many of them are on what it compares, and how many judges cast
    those.
    """

    grid: Grid
    field: Field
    votes: Votes
    counted: int
    judges: int
    ranks: tuple[Rank, ...]
    strengths: Any

    @property
    def in_rounds(self) -> bool:
        return bool(self.votes.rounds.get(self.field.axis))

    @property
    def cast(self) -> str:
        """How many votes of how many judges, in words."""
        judges = "1 judge" if self.judges == 1 else f"{self.judges} judges"
        return f"{self.counted} vote{'s' * (self.counted != 1)} by {judges}"

    def place_of(self, number: int) -> int:
        return 1 + next(n for n, rank in enumerate(self.ranks) if rank.number == number)


@dataclass(frozen=True)
class Shown:
    """A picture with the cell that it is, and what stands under it."""

    picture: Picture
    cell: Cell
    label: str


@dataclass(frozen=True)
class Comparison:
    """Two pictures of one place, the released checkpoint's first, and the votes on them."""

    ours: Shown
    theirs: Shown
    votes: Decisive
    place: Mapping[str, str]


@dataclass(frozen=True)
class Card:
    """Everything that a card says."""

    title: str
    name: str
    """The checkpoint's file name."""
    family: Family
    legacy: str
    lineage: Lineage
    wishes: Wishes
    licence: Licence | None
    licences: Mapping[str, Licence | None]
    warnings: tuple[str, ...]
    ranked: tuple[Ranked, ...]
    """Every grid with votes on a model of the lineage; the one that is shown first."""
    grids: tuple[Grid, ...]
    shown: tuple[Shown, ...]
    comparisons: tuple[Comparison, ...]
    captions: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def final(self) -> Ranked | None:
        """The votes on the released checkpoint itself, None if there are none."""
        return next((one for one in self.ranked if self.number_in(one) is not None), None)

    def number_in(self, ranked: Ranked) -> int | None:
        return ranked.field.number_of(contents_of(self.lineage))

    @property
    def rival(self) -> int | None:
        """The first other candidate of the vote on it."""
        if self.final is None:
            return None
        ours = self.number_in(self.final)
        return next((r.number for r in self.final.ranks if r.number != ours), None)

    @property
    def cover(self) -> Picture | None:
        return self.shown[0].picture if self.shown else None

    @property
    def pictures(self) -> list[Picture]:
        """Every picture once."""
        every = [one.picture for one in self.shown]
        every += [side.picture for one in self.comparisons for side in (one.ours, one.theirs)]
        return list({one.file: one for one in every}.values())

    @property
    def runs(self) -> list[Run]:
        return list(self.lineage.runs.values())


def contents_of(lineage: Lineage) -> frozenset[str]:
    """What a grid knows the released checkpoint by: its hash, and that of its recipe."""
    metadata = lineage.released.metadata
    return frozenset(filter(None, (lineage.released.key, metadata.get(RECIPE_HASH))))


def make_card(checkpoint: Path, sources: Sources, wishes: Wishes, name: str = "") -> Card:
    """The card of a checkpoint file. `name` is that by which it is listed. Raises MergeError when
    the file, or the grid that is asked for, cannot be read.
    """
    lineage = trace(
        checkpoint, name or checkpoint.name, sources.find, sources.hash_of, sources.runs
    )
    header = read_header(checkpoint)
    problems = [f"The run {run}: {why}." for run, why in lineage.missing_runs.items()]
    problems += [
        f"The pairs of the run {run.name}: {run.dataset_problem}."
        for run in lineage.runs.values()
        if run.dataset_problem
    ]
    if lineage.cut:
        problems.append(
            "The lineage has more checkpoints than a card can tell of; some are absent."
        )
    grids, ranked, more = _grids(lineage, sources, wishes)
    chooser = _Chooser(lineage, wishes)
    shown = chooser.shown(grids)
    comparisons = chooser.comparisons(ranked)
    of_lineage = licences.of_lineage(lineage, wishes.licences)
    own = wishes.licence or lineage.released.licence
    untold = licences.nowhere(lineage, wishes.licences)
    captions, trouble = _captions(lineage, wishes.captions)
    return Card(
        title=plain(wishes.title) or _title(lineage),
        name=name.replace("\\", "/").split("/")[-1] or checkpoint.name,
        family=family_of(with_usual_names(header)),
        legacy=legacy_hash(checkpoint),
        lineage=lineage,
        wishes=wishes,
        licence=own,
        licences=of_lineage,
        warnings=tuple(licences.told(of_lineage, own)),
        ranked=tuple(ranked),
        grids=tuple(grids),
        shown=tuple(shown),
        comparisons=tuple(comparisons),
        captions=tuple(captions),
        problems=tuple([*problems, *untold, *more, *chooser.problems, *trouble]),
    )


def _title(lineage: Lineage) -> str:
    told = plain(text(lineage.released.metadata.get("modelspec.title"), 200))
    return told or plain(short_name(lineage.released.name))


def _grids(
    lineage: Lineage, sources: Sources, wishes: Wishes
) -> tuple[list[Grid], list[Ranked], list[str]]:
    """Grids with pictures of the lineage, those with votes, and what cannot be read."""
    if sources.grids is None:
        return [], [], []
    ours = contents_of(lineage)
    wanted = [*ours, *lineage.models]
    grids, problems = find_grids(sources.grids, wanted)
    if wishes.grid and wishes.grid not in (grid.name for grid in grids):
        why = next((p for p in problems if f"grid {wishes.grid} " in p), "")
        raise MergeError(
            f"The grid {wishes.grid} has no picture of this checkpoint or of what it is made of. "
            f"{why or 'Choose the grid that compares it, or none.'}"
        )
    # A base is compared in many grids that have nothing to do with this release.
    bases = {model.base for model in lineage.models.values()}
    known = ours | (lineage.models.keys() - bases)
    found: list[Ranked] = []
    for grid in grids:
        compares = grid.field
        if compares is None or compares.number_of(known) is None:
            continue
        try:
            votes = read_votes(inside(grid.folder, "votes.jsonl"))
        except Unreadable as error:
            problems.append(f"The votes on the grid {grid.name}: {error}.")
            continue
        if votes.problem:
            problems.append(f"The votes on the grid {grid.name}: {votes.problem}")
        made = compared(compares, votes.standing)
        if made and (count := len(compares.candidates)) > MOST_CANDIDATES:
            problems.append(
                f"The votes on the grid {grid.name}: they are on {count:,} models, and "
                f"{MOST_CANDIDATES} is the most that are ranked."
            )
        elif made:
            round_votes = votes.rounds.get(compares.axis, 0)
            comparisons = [comparison for _, comparison in made]
            ranks, strengths = ranked(comparisons, len(compares.candidates), round_votes)
            judges = len({vote.judge for vote, _ in made})
            found.append(Ranked(grid, compares, votes, len(made), judges, tuple(ranks), strengths))

    def first(grid: Grid, count: int, compares: Field | None) -> tuple[Any, ...]:
        is_ours = compares is not None and compares.number_of(ours) is not None
        return grid.name != wishes.grid, not is_ours, -count, grid.name

    found.sort(key=lambda one: first(one.grid, one.counted, one.field))
    counts = {one.grid.name: one.counted for one in found}
    grids.sort(key=lambda grid: first(grid, counts.get(grid.name, 0), grid.field))
    return grids[:MOST_GRIDS], found[:MOST_GRIDS], problems


def _captions(lineage: Lineage, count: int) -> tuple[list[str], list[str]]:
    """Captions of the run nearest to the released checkpoint, if any are asked for."""
    if count < 1 or not lineage.runs:
        return [], []
    run = next(iter(lineage.runs.values()))
    try:
        return read_captions(inside(run.folder, "dataset.parquet"), min(count, 100)), []
    except Unreadable as error:
        return [], [f"The captions of the run {run.name}: {error}."]


class _Chooser:
    """Chooses the pictures of a card and copies each once."""

    def __init__(self, lineage: Lineage, wishes: Wishes) -> None:
        self.contents, self.wishes = contents_of(lineage), wishes
        self.most = max(0, min(wishes.pictures, MOST_PICTURES))
        self.problems: list[str] = []
        self._copies: dict[tuple[str, str], Picture] = {}

    def shown(self, grids: Sequence[Grid]) -> list[Shown]:
        """Pictures of the released checkpoint: of different prompts first, then other seeds."""
        found: list[Shown] = []
        for grid in grids:
            own = [c for c in grid.cells if grid.contents_of(c.settings) in self.contents]
            for cell in _varied(own):
                if len(found) >= self.most:
                    return found
                if all(one.cell.key != cell.key for one in found):
                    picture = self._copy(grid, cell.key)
                    if picture is not None:
                        found.append(Shown(picture, cell, ""))
        return found

    def comparisons(self, ranked: Sequence[Ranked]) -> list[Comparison]:
        """The pairs of pictures on which the votes were clearest."""
        voted = [one for one in ranked if one.field.number_of(self.contents) is not None]
        if not voted or not self.most:
            return []
        vote = voted[0]
        ours = vote.field.number_of(self.contents)
        rival = next((r.number for r in vote.ranks if r.number != ours), None)
        if ours is None or rival is None:
            return []
        cells = {cell.key: cell for cell in vote.grid.cells}
        found = []
        for told in decisive(vote.field, vote.votes.standing, ours, rival):
            place, sides = vote.field.places[told.place], []
            for number in (ours, rival):
                key = place.keys[number]
                picture = self._copy(vote.grid, key) if key else None
                if key and picture:
                    label = vote.field.candidates[number].label
                    sides.append(Shown(picture, cells[key], label))
            if len(sides) == 2:
                found.append(Comparison(sides[0], sides[1], told, place.labels))
            if len(found) >= DECISIVE:
                break
        return found

    def _copy(self, grid: Grid, key: str) -> Picture | None:
        at = (grid.name, key)
        if at in self._copies:
            return self._copies[at]
        path = grid.picture(key)
        if path is None:
            return None
        file = f"pictures/{len(self._copies) + 1:02d}.webp"
        source = path.relative_to(grid.folder.parent).as_posix()
        try:
            self._copies[at] = copy(path, file, key, grid.name, source)
        except Unreadable as error:
            self.problems.append(f"A picture of the grid {grid.name}, {key[:12]}...: {error}.")
            return None
        return self._copies[at]


def _varied(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in an order in which every prompt comes once before any comes again."""
    seen: dict[str, int] = {}
    rounds = []
    for cell in cells:
        prompt = str(cell.settings.get("prompt", ""))
        seen[prompt] = seen.get(prompt, 0) + 1
        rounds.append((seen[prompt], cell))
    return [cell for _, cell in sorted(rounds, key=lambda one: one[0])]
