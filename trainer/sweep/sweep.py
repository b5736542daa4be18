"""A sweep and its folder, which holds only what the sweep is: sweep.json. How its runs stand is in
the folders of the runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.manifest import Dataset
from ..errors import TrainerError
from ..files import write_json
from ..jobs.job import NAME, read_json
from ..runs import Base, Paths, Run, create_run
from ..settings.run_settings import RunSettings
from .variants import Variant, read_variants, run_names

FORMAT = 1
FILE = "sweep.json"
_REMEDY = "Queue the sweep's graph again: the file is written anew, and the runs stay."


@dataclass(frozen=True)
class Member:
    """A run of a sweep by its name. The baseline, which is the first, has the setting ""."""

    run: str
    setting: str
    value: Any
    label: str


@dataclass(frozen=True)
class Sweep:
    """A sweep by its definition; its members are its baseline and its variants in their order."""

    name: str
    base: str
    dataset: str
    members: tuple[Member, ...]
    settings: RunSettings

    @classmethod
    def open(cls, folder: Path) -> Sweep:
        """Raises TrainerError for a folder that is not a sweep's, damaged or of a newer version."""
        if not (folder / FILE).exists():
            raise TrainerError(f"There is no sweep in {folder}: {FILE} is missing.")
        try:
            value = read_json(folder / FILE)
        except TrainerError as error:
            raise TrainerError(f"{error} {_REMEDY}") from error
        if value.get("format") != FORMAT:
            raise TrainerError(
                f"The sweep {folder.name} was made by a newer Cocktail (format "
                f"{value.get('format')!s:.20}; this one reads {FORMAT}). Update Cocktail."
            )
        try:
            sweep = cls(
                folder.name,
                value["base"],
                value["dataset"],
                tuple(Member(**member) for member in value["members"]),
                RunSettings.from_json(value["settings"]),
            )
        except (KeyError, TypeError, TrainerError) as error:
            raise TrainerError(
                f"{FILE} of {folder.name} is damaged ({type(error).__name__}: {error}). {_REMEDY}"
            ) from error
        texts = [sweep.base, sweep.dataset]
        texts += [text for m in sweep.members for text in (m.run, m.setting, m.label)]
        if (
            not all(isinstance(text, str) for text in texts)
            or not all(NAME.fullmatch(member.run) for member in sweep.members)
            or [bool(member.setting) for member in sweep.members][:2] != [False, True]
        ):
            raise TrainerError(f"{FILE} of {folder.name} is damaged. {_REMEDY}")
        return sweep

    def save(self, sweeps_dir: Path) -> None:
        """Write the definition below the folder of all sweeps, or leave it if it is the same."""
        value = {
            "format": FORMAT,
            "base": self.base,
            "dataset": self.dataset,
            "settings": self.settings.to_json(),
            "members": [asdict(member) for member in self.members],
        }
        file = sweeps_dir / self.name / FILE
        try:
            if read_json(file) == value:
                return
        except TrainerError:
            pass
        write_json(file, value)


def create_sweep(
    folder: Path,
    name: str,
    base: Base,
    dataset: Dataset,
    baseline: RunSettings,
    text: str,
    paths: Paths,
) -> tuple[Sweep, list[Run]]:
    """The sweep of that name and its runs, made where they are not there yet; nothing is started.

    `folder` holds the folders `runs` and `sweeps`; `text` are the variants (see variants.py).
    Raises TrainerError for what read_variants, run_names and create_run refuse. Runs that exist are
    looked at first, so that a name that is taken leaves nothing new behind.
    """
    variants = read_variants(baseline, text)
    names = run_names(name, variants)
    planned = dict(zip(names, variants, strict=True))
    runs: dict[str, Run] = {}
    for run in sorted(planned, key=lambda run: not (folder / "runs" / run).exists()):
        settings = planned[run].settings
        runs[run] = create_run(folder / "runs", run, base, dataset, settings, paths)
    sweep = Sweep(name, base.name, dataset.name, _members(planned), baseline)
    sweep.save(folder / "sweeps")
    return sweep, [runs[run] for run in names]


def _members(planned: dict[str, Variant]) -> tuple[Member, ...]:
    return tuple(
        Member(run, variant.setting, variant.value, variant.label)
        for run, variant in planned.items()
    )


def list_sweeps(sweeps_dir: Path) -> list[Sweep | Unreadable]:
    """All sweeps by name; one that cannot be opened is listed with the reason."""
    try:
        folders = sorted(path for path in sweeps_dir.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[Sweep | Unreadable] = []
    for folder in folders:
        try:
            if (folder / FILE).exists():
                found.append(Sweep.open(folder))
        except (OSError, TrainerError) as error:
            found.append(Unreadable(folder.name, str(error)))
    return found


@dataclass(frozen=True)
class Unreadable:
    """A sweep that cannot be opened, and why."""

    name: str
    message: str
