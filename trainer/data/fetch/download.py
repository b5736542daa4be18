"""Pictures from URLs into a folder: every row of a selection ends with a picture or with the reason
why there is none.

images/000123.png   the picture of row 123, byte for byte as it came; with many rows in images/000/
results.jsonl       one line for every row that is settled; append-only

A picture gets its name only when it is whole, checked and on disk, and its line follows within a
second. Whatever a kill leaves in between is found by the next call: the file is checked and kept,
nothing is fetched twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import TrainerError
from ...jobs.job import Stopped
from ..image import read_file
from .attempt import TRANSIENT, Asked, Fetcher, examine
from .disk import DiskFull, free_bytes
from .network import Failure, NetworkSettings, connector
from .results import OK, Result, ResultsWriter, read_results
from .settings import DownloadSettings

USER_AGENT = "Cocktail/0.1 (ComfyUI extension; fetches pictures that its user has selected)"
IMAGES = "images"
DEAD = ("http_403", "http_404")
DEAD_FIRST = 50
"""When this many links are all dead, and nothing else came before them, the download ends."""
EXPIRED = (
    "Discord's unsigned links (cdn.discordapp.com, media.discordapp.net) stopped working on "
    "22 Feb 2024 and cannot be fetched any more. If you have the pictures as files, join their "
    "folder to the table instead: by row index, attachment id, job uuid or file name."
)
SHARDED_ABOVE = 5_000
FLUSH_LINES = 64
TICK_S = 0.5


@dataclass(frozen=True)
class Fetched:
    """How far a download has come: `done` of `total` rows are settled, `ok` of them with a picture,
    `errors` counts the others by their reason. `bytes` is the size of the pictures on disk.
    """

    total: int
    done: int = 0
    ok: int = 0
    bytes: int = 0
    errors: dict[str, int] | None = None

    def __str__(self) -> str:
        lines = [f"{self.ok} of {self.total} rows have a picture ({self.bytes / 1e6:.1f} MB)"]
        lines += [f"{count} x {reason}" for reason, count in (self.errors or {}).items()]
        if self.done < self.total:
            lines.append(f"{self.total - self.done} left")
        return "\n".join(lines)


def download(
    rows: Iterable[tuple[int, str]],
    folder: Path,
    settings: DownloadSettings,
    network: NetworkSettings,
    report: Callable[[Fetched], None] = lambda progress: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Fetched:
    """Fetch the picture of every (row, URL) that is not settled in `folder` yet, each URL once.

    Only one call at a time may work on a folder. `report` and `asked_to_stop` are called about
    twice a second. Raises Stopped, DiskFull, and TrainerError when the network is off or the first
    links are all dead. Whatever is raised, the folder holds what has been settled, and the next
    call goes on from there.
    """
    if not network.download:
        raise TrainerError("Fetching pictures from the network is off.")
    work = _Download(rows, folder, settings, network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work.take_up()
        report(work.progress())
        asyncio.run(work.run(report, asked_to_stop))
    return work.progress()


class _Download:
    """One call of `download`: the URLs that are still to be fetched, and the results so far."""

    def __init__(
        self,
        rows: Iterable[tuple[int, str]],
        folder: Path,
        settings: DownloadSettings,
        network: NetworkSettings,
    ) -> None:
        wanted: dict[str, list[int]] = {}
        for row, url in sorted(rows):
            wanted.setdefault(url, []).append(row)
        self.asked = [Asked(url, tuple(numbers)) for url, numbers in wanted.items()]
        self.total = sum(len(asked.rows) for asked in self.asked)
        self.folder, self.settings, self.network = folder, settings, network
        self.sharded = self.total > SHARDED_ABOVE
        self.results = ResultsWriter(folder)
        self.fresh: deque[Asked] = deque()
        self.delayed: list[tuple[float, int, Asked]] = []
        self.statuses: Counter[str] = Counter()
        self.bytes = 0
        self.finished_urls = self.dead_urls = 0

    def take_up(self) -> None:
        """Find what earlier calls have settled; the rest goes to `fresh`."""
        images = self.folder / IMAGES
        images.mkdir(parents=True, exist_ok=True)
        self._remove_parts()
        files = {
            int(path.stem): path
            for path in sorted(images.rglob("[0-9]*.*"))
            if path.stem.isdigit() and path.is_file()
        }
        known = read_results(self.folder)
        for asked in self.asked:
            result = known.get(asked.row)
            if result and result.url != asked.url:
                raise TrainerError(
                    f"{self.folder} belongs to another selection: its row {asked.row} is "
                    f"{result.url}, not {asked.url}. Choose another folder."
                )
            result = self._standing(asked, result, files.get(asked.row))
            if result is None:
                self.fresh.append(asked)
            else:
                self._settle(asked, result, [row for row in asked.rows if row not in known])
        self.results.flush()

    def _remove_parts(self) -> None:
        for part in (self.folder / IMAGES).rglob(".*.part"):
            part.unlink()

    def _standing(self, asked: Asked, result: Result | None, file: Path | None) -> Result | None:
        """The result of a URL from earlier calls, or None when it has to be fetched."""
        if result and result.status != OK:
            retry = self.settings.retry_failed
            again = retry == "all" or (retry == "transient" and result.status in TRANSIENT)
            return None if again else result
        if result and file and file.stat().st_size == result.bytes:
            return result
        if file is None:
            return None
        if result is None:
            with contextlib.suppress(Failure):
                return self._found(asked, file)
        file.unlink()
        return None

    def _found(self, asked: Asked, file: Path) -> Result:
        """The result of a picture that a call before a kill has left. Raises Failure."""
        _, width, height = examine(file, self.settings.max_pixels)
        relative = file.relative_to(self.folder).as_posix()
        digest = hashlib.sha256(read_file(file)).hexdigest()
        size = file.stat().st_size
        what = "found whole on disk"
        return Result(
            asked.row, asked.url, OK, what, asked.attempts, size, digest, width, height, relative
        )

    def _settle(self, asked: Asked, result: Result, rows: Sequence[int]) -> None:
        """Count a URL's result for all its rows, and write it down for `rows`."""
        self.statuses[result.status] += len(asked.rows)
        self.bytes += result.bytes
        self.finished_urls += 1
        self.dead_urls += result.status in DEAD
        for row in rows:
            self.results.add(replace(result, row=row))

    def progress(self) -> Fetched:
        errors = {status: n for status, n in self.statuses.most_common() if status != OK}
        return Fetched(self.total, self.statuses.total(), self.statuses[OK], self.bytes, errors)

    async def run(
        self, report: Callable[[Fetched], None], asked_to_stop: Callable[[], bool]
    ) -> None:
        """Fetch all that is fresh, many at a time, until nothing is left."""
        import aiohttp

        self._give_up_on_dead_links()
        timeout = aiohttp.ClientTimeout(
            total=self.settings.total_timeout_s,
            sock_connect=self.settings.timeout_s,
            sock_read=self.settings.timeout_s,
        )
        session = aiohttp.ClientSession(
            connector=connector(self.network, self.settings.concurrency),
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
        )
        try:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                images = self.folder / IMAGES
                fetcher = Fetcher(session, pool, images, self.sharded, self.settings, self.network)
                async with session:
                    workers = [
                        asyncio.create_task(self._work(fetcher))
                        for _ in range(min(self.settings.concurrency, len(self.fresh)))
                    ]
                    try:
                        await self._watch(workers, report, asked_to_stop)
                    finally:
                        for worker in workers:
                            worker.cancel()
                        await asyncio.gather(*workers, return_exceptions=True)
        finally:
            self._remove_parts()
            self.results.flush()
            report(self.progress())

    async def _watch(
        self,
        workers: Iterable[asyncio.Task],
        report: Callable[[Fetched], None],
        asked_to_stop: Callable[[], bool],
    ) -> None:
        """Until all workers are done: write results down, watch the disk, report, and stop when
        asked to.
        """
        waiting = set(workers)
        while waiting:
            self._check_disk()
            done, waiting = await asyncio.wait(
                waiting, timeout=TICK_S, return_when=asyncio.FIRST_EXCEPTION
            )
            for worker in done:
                worker.result()
            await asyncio.to_thread(self.results.flush)
            report(self.progress())
            if waiting and asked_to_stop():
                raise Stopped

    async def _work(self, fetcher: Fetcher) -> None:
        """Take URLs, one after the other, until none is left."""
        while self.fresh or self.delayed:
            if self.delayed and self.delayed[0][0] <= time.monotonic():
                asked = heapq.heappop(self.delayed)[2]
            elif self.fresh:
                asked = self.fresh.popleft()
            else:
                await asyncio.sleep(min(TICK_S, self.delayed[0][0] - time.monotonic()))
                continue
            asked.attempts += 1
            try:
                result = await fetcher.fetch(asked)
            except Failure as failure:
                if failure.status in TRANSIENT and asked.attempts <= self.settings.retries:
                    due = time.monotonic() + max(failure.wait_s, backoff_s(asked, self.settings))
                    heapq.heappush(self.delayed, (due, asked.row, asked))
                    continue
                result = Result(
                    asked.row, asked.url, failure.status, failure.message, asked.attempts
                )
            self._settle(asked, result, asked.rows)
            self._give_up_on_dead_links()
            if len(self.results.lines) >= FLUSH_LINES:
                await asyncio.to_thread(self.results.flush)

    def _give_up_on_dead_links(self) -> None:
        """The rule of the first fifty: when they are all dead links, so are the others."""
        if self.settings.stop_when_dead and self.dead_urls == self.finished_urls >= DEAD_FIRST:
            raise TrainerError(
                f"The first {self.dead_urls} links are all dead (403 or 404). {EXPIRED}"
            )

    def _check_disk(self) -> None:
        free = free_bytes(self.folder)
        if free < self.settings.keep_free_bytes:
            raise DiskFull(
                f"The disk of {self.folder} has {free / 1e6:.0f} MB left, and "
                f"{self.settings.keep_free_bytes / 1e6:.0f} MB must stay free. Make room and start "
                "again: what has been fetched so far is kept."
            )


def backoff_s(asked: Asked, settings: DownloadSettings) -> float:
    """Seconds before the next attempt: twice as long every time, minus up to a half that depends on
    row and attempt, so that not all ask again at once.
    """
    key = hashlib.sha256(f"{asked.row}/{asked.attempts}".encode()).digest()
    share = 1 - int.from_bytes(key[:8], "big") / 2**65
    wait_s = settings.backoff_s * 2 ** (asked.attempts - 1)
    return share * min(wait_s, settings.longest_wait_s)
