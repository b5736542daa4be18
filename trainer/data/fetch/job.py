"""Fetching the pictures of a selection in a process of its own: a folder that can be stopped,
killed and resumed.

job.json            what is fetched and how; written before anything starts
selection.parquet   the rows; `row` and `image` are read here, the other columns are for those who use the pictures
state.json          how it stands, replaced twice a second while it works
process.json        pid and start time of the process that works on it
control.json        what somebody asks of that process: stop
images/ and results.jsonl   the pictures and what became of every row (see download.py)
log.txt             what the process printed
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import TrainerError
from ...files import sha256_file, write_json
from ...jobs import process
from ...runs import NAME
from .attempt import TRANSIENT
from .disk import disk_errors
from .download import DEAD, EXPIRED, Progress, Stopped, download
from .network import require_download
from .results import OK, read_results
from .settings import DownloadSettings

FORMAT = 1
ACTIVE = ("queued", "running", "stopping")
"""States in which a process must be alive; without one the download has been interrupted."""
RESUMABLE = ("stopped", "interrupted", "failed")
STARTS_WITHIN_S = 5.0
SELECTION = "selection.parquet"


@dataclass(frozen=True)
class DownloadState:
    """How a download stands. `status` is queued, running, stopping, stopped, finished, failed or
    interrupted.

    `done` of `total` rows are settled, `ok` of them with a picture; `errors` counts the others by
    their reason. `bytes` lie on disk. `updated` is the heartbeat, in seconds since 1970.
    """

    status: str = "stopped"
    message: str = "Made, not started yet"
    done: int = 0
    total: int = 0
    ok: int = 0
    bytes: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    rows_per_second: float | None = None
    updated: float = 0.0


@dataclass(frozen=True)
class DownloadJob:
    """An existing download folder. `id` is the SHA-256 of its selection."""

    folder: Path
    id: str
    rows: int
    settings: DownloadSettings
    network_file: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @classmethod
    def open(cls, folder: Path) -> DownloadJob:
        """Raises TrainerError when the folder is not a download's."""
        try:
            value = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TrainerError(f"There is no download in {folder}: job.json is missing.") from error
        if value["format"] != FORMAT:
            raise TrainerError(
                f"The download {folder.name} was made by a newer Cocktail (format {value['format']})."
            )
        settings = DownloadSettings.from_json(value["settings"])
        return cls(folder, value["id"], value["rows"], settings, Path(value["network_file"]))

    def state(self) -> DownloadState:
        """As its process wrote it; a download whose process is gone reads as interrupted."""
        value = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        state = DownloadState(**value)
        starting = state.status == "queued" and time.time() - state.updated < STARTS_WITHIN_S
        if state.status in ACTIVE and not starting and not process.is_alive(self):
            return replace(
                state,
                status="interrupted",
                message="The download's process is gone (killed, crashed or the machine went down). "
                "Start it again: it goes on with the rows that are not settled yet.",
            )
        return state

    def write_state(self, state: DownloadState) -> None:
        """For the process that works on the download; others only while there is none."""
        write_json(self.folder / "state.json", asdict(replace(state, updated=time.time())))

    def stop(self) -> None:
        """Ask the process to stop within a second; nothing happens when none is at work."""
        if self.state().status in ACTIVE:
            write_json(self.folder / "control.json", {"command": "stop", "time": time.time()})

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

    Raises TrainerError when it is no such file, when a row is there twice, and when no image is an
    http or https URL.
    """
    import duckdb

    try:
        with duckdb.connect() as database:
            rows = database.execute(
                'SELECT CAST("row" AS BIGINT), CAST(image AS VARCHAR) FROM read_parquet(?) ORDER BY 1',
                [str(selection)],
            ).fetchall()
    except duckdb.Error as error:
        raise TrainerError(
            f"{selection.name} is not a selection (a Parquet file with the columns row and image): {error}"
        ) from error
    if not rows:
        raise TrainerError(f"{selection.name} has no row. Select more.")
    for before, (number, _) in zip([None, *(row for row, _ in rows)], rows, strict=False):
        if number is None or number == before:
            raise TrainerError(f"{selection.name} has a row without a number, or {before} twice.")
    if not any(
        (image or "").strip().lower().startswith(("http://", "https://")) for _, image in rows
    ):
        raise TrainerError(
            f"None of the {len(rows)} images in {selection.name} is a URL; the first is {rows[0][1]!r}. "
            "For pictures on this machine join a local folder instead."
        )
    return [(number, (image or "").strip()) for number, image in rows]


def create_download(
    datasets_dir: Path,
    name: str,
    selection: Path,
    settings: DownloadSettings,
    network_file: Path,
) -> DownloadJob:
    """The download of that name for this selection, made or taken up again; nothing is started. The
    folder appears whole.

    The same selection with other settings keeps what is there and goes on with the new ones.
    `network_file` is where the server's owner allows the network (see network.py). Raises
    TrainerError when the name is taken by something else, or when the settings would change while
    the download is at work.
    """
    if not NAME.fullmatch(name):
        raise TrainerError(
            f"{name!r} cannot name a download: use up to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit."
        )
    rows, identity, folder = read_urls(selection), sha256_file(selection), datasets_dir / name
    value = {
        "format": FORMAT,
        "name": name,
        "id": identity,
        "rows": len(rows),
        "created": time.time(),
        "settings": settings.to_json(),
        "network_file": str(network_file),
    }
    if (folder / "job.json").exists():
        former = DownloadJob.open(folder)
        if former.id != identity:
            raise TrainerError(
                f"The name {name} is taken by the download of another selection ({former.rows} rows there, {len(rows)} here). "
                "Choose another name; what is there is left as it is."
            )
        if former.settings != settings or former.network_file != network_file:
            if former.state().status in ACTIVE:
                raise TrainerError(
                    f"The download {name} is at work with other settings. Stop it, or wait until it has finished."
                )
            write_json(folder / "job.json", value)
        return DownloadJob.open(folder)
    if folder.exists():
        raise TrainerError(
            f"The name {name} is taken: {folder} is there and is not a download. Choose another name."
        )
    part = datasets_dir / f".{name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(selection, part / SELECTION)
    write_json(part / "job.json", value)
    write_json(part / "state.json", asdict(DownloadState(total=len(rows), updated=time.time())))
    part.rename(folder)
    return DownloadJob.open(folder)


def list_downloads(datasets_dir: Path) -> list[DownloadJob]:
    """All downloads, by name."""
    return [DownloadJob.open(file.parent) for file in sorted(datasets_dir.glob("[!.]*/job.json"))]


def start(job: DownloadJob) -> None:
    """Start fetching in a process of its own, which outlives this one; nothing happens when one is
    at work.

    One that has ended and is only not gone yet is waited for. Raises TrainerError when the network
    is off.
    """
    from filelock import FileLock

    require_download(job.network_file)
    with FileLock(job.folder / ".start.lock"):
        if job.state().status in ACTIVE:
            return
        process.wait_until_gone(job)
        (job.folder / "control.json").unlink(missing_ok=True)
        job.write_state(replace(job.state(), status="queued", message="Starts"))
        process.start(job, "download")


def images(folder: Path) -> dict[int, str]:
    """The pictures that have come so far: row to path below `folder`, with forward slashes."""
    return {row: result.file for row, result in read_results(folder).items() if result.status == OK}


def main(folder: Path) -> int:
    """Fetch what is not settled yet in a download folder; returns the process' exit status.

    Whatever happens is in the download's state afterwards: finished, stopped, or failed with the
    reason.
    """
    folder = folder.resolve()
    job = DownloadJob.open(folder)
    with _exclusive(job):
        writer = _StateWriter(job)
        try:
            _fetch(job, writer)
            return 0
        except Stopped:
            writer.write("stopped", "Stopped on request; start it again to go on")
            return 0
        except TrainerError as error:
            print(f"error: {error}", file=sys.stderr)
            writer.write("failed", str(error))
            return 1
        except Exception as error:
            traceback.print_exc()
            writer.write("failed", f"{type(error).__name__}: {error}")
            return 1
        finally:
            (folder / "control.json").unlink(missing_ok=True)


def _fetch(job: DownloadJob, writer: _StateWriter) -> None:
    writer.write("running", "")
    network = require_download(job.network_file)
    _stop_on_signals(writer)
    progress = download(
        job.urls(), job.folder, job.settings, network, writer.report, writer.asked_to_stop
    )
    errors = progress.errors or {}
    reasons = ", ".join(f"{count} x {reason}" for reason, count in errors.items())
    if not progress.ok:
        hint = f" {EXPIRED}" if set(errors) <= set(DEAD) else ""
        raise TrainerError(f"None of {progress.total} rows got a picture: {reasons}.{hint}")
    message = f"{progress.ok} of {progress.total} rows have a picture"
    writer.write("finished", f"{message}; {reasons}" if reasons else message)


class _StateWriter:
    """Keeps a download's state.json current, and hears what is asked."""

    def __init__(self, job: DownloadJob) -> None:
        self.job = job
        self.state = job.state()
        self.stop_signal = False
        self._began: tuple[float, int] | None = None

    def write(self, status: str, message: str) -> None:
        self.state = replace(self.state, status=status, message=message)
        with disk_errors(self.job.folder / "state.json"):
            self.job.write_state(self.state)

    def report(self, progress: Progress) -> None:
        """Write how far it is; the rate is that of this process."""
        now = time.monotonic()
        began, before = self._began = self._began or (now, progress.done)
        self.state = replace(
            self.state,
            done=progress.done,
            total=progress.total,
            ok=progress.ok,
            bytes=progress.bytes,
            errors=progress.errors or {},
            rows_per_second=(progress.done - before) / (now - began) if now > began else None,
        )
        stopping = self.asked_to_stop() and progress.done < progress.total
        self.write("stopping" if stopping else "running", self.state.message)

    def asked_to_stop(self) -> bool:
        return self.stop_signal or (self.job.folder / "control.json").exists()


def _stop_on_signals(writer: _StateWriter) -> None:
    """SIGTERM and Ctrl-C (Ctrl-Break on Windows) stop the download within a second."""

    def stop(*_: Any) -> None:
        writer.stop_signal = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, stop)


@contextlib.contextmanager
def _exclusive(job: DownloadJob) -> Iterator[None]:
    """Work on a download alone; the lock goes with the process that holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(job.folder / "process.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrainerError(f"Another process works on the download {job.name} already.") from error
    try:
        process.record(job, os.getpid())
        yield
    finally:
        lock.release()
