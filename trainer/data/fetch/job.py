"""Fetching the pictures of a selection in a process of its own: a job (see jobs/job.py) that can be
stopped, killed and resumed.

job.json            what is fetched and how; written before anything starts
selection.parquet   the rows; `row` and `image` are read here, the other columns are for others
images/ and results.jsonl   the pictures and what became of every row (see download.py)
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...errors import TrainerError
from ...files import sha256_file, write_json
from ...jobs import job as jobs
from ...jobs.job import ACTIVE, NAME, QUEUED, RESUMABLE, Job, State, described
from ...jobs.work import Work, work
from ...litter import sweep, temporary
from ..table.selection import read_columns
from .attempt import TRANSIENT
from .download import DEAD, EXPIRED, Fetched, download
from .network import require_download
from .results import OK, read_results
from .settings import DownloadSettings

FORMAT = 1
SELECTION = "selection.parquet"
_REMEDY = "Move the folder away and download again."


@dataclass(frozen=True)
class DownloadState(State):
    """How a download stands: `done` of `total` rows are settled, `ok` of them with a picture;
    `errors` counts the others by their reason. `bytes` are on the disk.
    """

    message: str = "Made, not started yet"
    done: int = 0
    total: int = 0
    ok: int = 0
    bytes: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    rows_per_second: float | None = None


@dataclass(frozen=True)
class DownloadJob(Job[DownloadState]):
    """An existing download folder. `id` is the SHA-256 of its selection."""

    id: str
    rows: int
    settings: DownloadSettings

    states = DownloadState
    noun = "download"
    dead_when = (QUEUED, *ACTIVE)

    @property
    def name(self) -> str:
        return self.folder.name

    @classmethod
    def open(cls, folder: Path) -> DownloadJob:
        """Raises TrainerError when the folder holds no download, or one that cannot be read."""
        value = described(folder, "job.json", "download", FORMAT, _REMEDY)
        try:
            settings = DownloadSettings.from_json(value["settings"])
            if not isinstance(value["id"], str) or not isinstance(value["rows"], int):
                raise TypeError("id must be a text and rows a number")
            return cls(folder, value["id"], value["rows"], settings)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrainerError(
                f"job.json of the download {folder.name} is damaged ({type(error).__name__}: "
                f"{error}). {_REMEDY}"
            ) from error

    def urls(self) -> list[tuple[int, str]]:
        """Row and URL of everything that is wanted."""
        return read_urls(self.folder / SELECTION)

    def has_work(self) -> bool:
        """Whether a start would ask for anything: rows that are not settled, or failed ones that
        are to be retried.
        """
        state = self.state()
        if state.status in RESUMABLE:
            return True
        again = self.settings.retry_failed
        retried = state.errors if again == "all" else TRANSIENT & set(state.errors)
        return state.status == "finished" and again != "nothing" and bool(retried)


def read_urls(selection: Path) -> list[tuple[int, str]]:
    """Row and image of a selection file, by row; a row without an image has "".

    Raises TrainerError when it is not a selection, when a row is repeated, and when no image is an
    http or https URL.
    """
    rows = read_columns(selection, "image")
    for before, (number, _) in zip([None, *(row for row, _ in rows)], rows, strict=False):
        if number is None or number == before:
            raise TrainerError(f"{selection.name} has a row without a number, or {before} twice.")
    if not any(image.strip().lower().startswith(("http://", "https://")) for _, image in rows):
        raise TrainerError(
            f"None of the {len(rows)} images in {selection.name} is a URL; the first is "
            f"{rows[0][1]!r}. For pictures on this machine, join a local folder instead."
        )
    return [(number, image.strip()) for number, image in rows]


def create_download(
    datasets_dir: Path, name: str, selection: Path, settings: DownloadSettings
) -> DownloadJob:
    """The download of that name for this selection, made or taken up again; nothing is started. The
    folder appears whole.

    The same selection with other settings keeps what is there and goes on with the new ones. Raises
    TrainerError when the name is taken by something else, or when the settings would change while
    the download is at work.
    """
    if not NAME.fullmatch(name):
        raise TrainerError(
            f"{name!r} cannot name a download: use up to 64 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit."
        )
    rows, identity, folder = read_urls(selection), sha256_file(selection), datasets_dir / name
    value = {
        "format": FORMAT,
        "name": name,
        "id": identity,
        "rows": len(rows),
        "created": time.time(),
        "settings": settings.to_json(),
        # For older versions only, which do not open a download without it.
        "network_file": "",
    }
    if (folder / "job.json").exists():
        former = DownloadJob.open(folder)
        if former.id != identity:
            raise TrainerError(
                f"The name {name} is taken by the download of another selection ({former.rows} "
                f"rows there, {len(rows)} here). Choose another name; the existing download stays "
                "as it is."
            )
        if former.settings != settings:
            if former.state().status in ACTIVE:
                raise TrainerError(
                    f"The download {name} is at work with other settings. Stop it, or wait until "
                    "it has finished."
                )
            write_json(folder / "job.json", value)
        return DownloadJob.open(folder)
    if folder.exists():
        raise TrainerError(
            f"The name {name} is taken: {folder} exists and is not a download. Choose another name."
        )
    sweep(datasets_dir)
    part = temporary(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(selection, part / SELECTION)
    write_json(part / "job.json", value)
    write_json(part / "state.json", asdict(DownloadState(total=len(rows), updated=time.time())))
    part.rename(folder)
    return DownloadJob.open(folder)


def start(job: DownloadJob, network_file: Path) -> None:
    """Start fetching in a process of its own, which outlives this one; nothing happens when one is
    at work. `network_file` is where this server's owner allows the network (see network.py).

    One that has ended and is only not gone yet is waited for. Raises TrainerError when the network
    is off, or when its state cannot be read.
    """
    require_download(network_file)
    if job.state().status not in ACTIVE:
        jobs.start(job, "download", ["--network", str(network_file)])


def images(folder: Path) -> dict[int, str]:
    """The pictures that have come so far: row to path below `folder`, with forward slashes."""
    return {row: result.file for row, result in read_results(folder).items() if result.status == OK}


def main(folder: Path, network_file: Path) -> int:
    """Fetch what is not settled yet in a download folder; returns the exit status of the process.

    Whether the network may be used is read from `network_file`, whatever the folder says: it may
    have come from anywhere.
    """
    job = DownloadJob.open(folder.resolve())
    return work(job, lambda progress: _fetch(job, progress, network_file))


def _fetch(job: DownloadJob, work: Work[DownloadState], network_file: Path) -> str:
    work.update(status="running", message="")
    network = require_download(network_file)
    began: list[tuple[float, int]] = []

    def report(progress: Fetched) -> None:
        """Write how far it is; the rate is that of this process."""
        now = time.monotonic()
        began[:] = began or [(now, progress.done)]
        (start, before) = began[0]
        stopping = work.control.asked_to_stop() and progress.done < progress.total
        work.update(
            status="stopping" if stopping else "running",
            done=progress.done,
            total=progress.total,
            ok=progress.ok,
            bytes=progress.bytes,
            errors=progress.errors or {},
            rows_per_second=(progress.done - before) / (now - start) if now > start else None,
        )

    progress = download(
        job.urls(), job.folder, job.settings, network, report, work.control.asked_to_stop
    )
    errors = progress.errors or {}
    reasons = ", ".join(f"{count} x {reason}" for reason, count in errors.items())
    if not progress.ok:
        hint = f" {EXPIRED}" if set(errors) <= set(DEAD) else ""
        raise TrainerError(f"None of {progress.total} rows got a picture: {reasons}.{hint}")
    message = f"{progress.ok} of {progress.total} rows have a picture"
    return f"{message}; {reasons}" if reasons else message
