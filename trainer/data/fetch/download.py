"""Pictures from URLs into a folder: every row of a selection ends with a picture or with the reason
why there is none.

images/000123.png   the picture of row 123, byte for byte as it came; below images/000/ when there are many rows
results.jsonl       one line for every row that is settled; append-only

A picture gets its name only when it is whole, checked and on disk, and its line follows within a
second. Whatever is killed in between is found by the next call: the file is checked and taken as it
is, nothing is fetched twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import heapq
import io
import json
import os
import shutil
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import TrainerError
from ...files import publish
from .network import (
    BadURL,
    Failure,
    NetworkSettings,
    check_url,
    connector,
    network_errors,
    retry_after_s,
    robots_tags,
)

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

USER_AGENT = "Cocktail/0.1 (ComfyUI extension; fetches pictures that its user has selected)"
ROBOTS = ("noai", "noimageai", "noindex", "noimageindex")
RETRY = ("nothing", "transient", "all")
SUFFIX_OF = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
}
"""The formats that are kept, by Pillow's name. No other decoder of Pillow ever sees what came from
the network.
"""
IMAGES = "images"
RESULTS = "results.jsonl"
OK = "ok"
BUSY = (408, 425, 429, 500, 502, 503, 504, 522, 524)
TRANSIENT = frozenset(
    ("timeout", "connection", "incomplete", "dns", *(f"http_{status}" for status in BUSY))
)
DEAD = ("http_403", "http_404")
DEAD_FIRST = 50
"""So many links that are all dead, and nothing else before them, end the download."""
EXPIRED = (
    "Discord's unsigned links (cdn.discordapp.com, media.discordapp.net) have expired since 22 Feb 2024 and cannot be "
    "fetched any more. If you have the pictures as files, join their folder to the table instead: by row index, "
    "attachment id, job uuid or file name."
)
SHARDED_ABOVE = 5_000
MAX_REDIRECTS = 5
PIECE_BYTES = 1 << 16
FLUSH_LINES = 64
TICK_S = 0.5


@dataclass(frozen=True)
class DownloadSettings:
    """How to fetch. `per_host` is the share of `concurrency` that one host gets at most.

    `timeout_s` is the longest silence (while connecting, or between two pieces), `total_timeout_s`
    the longest time for one attempt. A transient failure is tried `retries` more times, after
    `backoff_s`, twice that, and so on; neither this nor a server's Retry-After waits longer than
    `longest_wait_s`. `retry_failed` says which rows that have failed in an earlier call are asked
    for again: "nothing", "transient" (timeouts, broken connections, busy servers) or "all".
    """

    concurrency: int = 32
    per_host: int = 16
    timeout_s: float = 20.0
    total_timeout_s: float = 300.0
    retries: int = 3
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    max_bytes: int = 50_000_000
    max_pixels: int = 64_000_000
    refused_robots_tags: tuple[str, ...] = ROBOTS
    retry_failed: str = "nothing"
    stop_when_dead: bool = True
    keep_free_bytes: int = 500_000_000

    def __post_init__(self) -> None:
        """Raises TrainerError for values that no download can have."""
        for name in ("concurrency", "per_host", "timeout_s", "total_timeout_s"):
            if getattr(self, name) <= 0:
                raise TrainerError(f"{name} is {getattr(self, name)}; it must be more than 0.")
        for name in ("retries", "backoff_s", "longest_wait_s", "keep_free_bytes"):
            if getattr(self, name) < 0:
                raise TrainerError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise TrainerError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.retry_failed not in RETRY:
            raise TrainerError(
                f"retry_failed is {self.retry_failed!r}; it must be one of {', '.join(RETRY)}."
            )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DownloadSettings:
        tags = tuple(value.get("refused_robots_tags", ROBOTS))
        return cls(**{**value, "refused_robots_tags": tags})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "refused_robots_tags": list(self.refused_robots_tags)}


@dataclass(frozen=True)
class Result:
    """What became of a row. `status` is "ok" or the reason, `message` says more; `attempts` counts
    requests.

    `bytes` and `sha256` are of the file as it came, `width` and `height` in pixels after EXIF
    orientation, `file` is relative to the folder with forward slashes. Rows that share a URL share
    its file.
    """

    row: int
    url: str
    status: str
    message: str = ""
    attempts: int = 0
    bytes: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    file: str = ""

    def line(self) -> dict[str, Any]:
        """As JSON, without what is not known."""
        values = asdict(self)
        return {key: values[key] for key in values if key in ("row", "url") or values[key]}


@dataclass(frozen=True)
class Progress:
    """How far a download is: `done` of `total` rows are settled, `ok` of them with a picture,
    `errors` counts the others by their reason. `bytes` lie on disk.
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
            lines.append(f"{self.total - self.done} are still to do")
        return "\n".join(lines)


class Stopped(Exception):
    """Somebody asked to stop; everything so far is in the folder."""


class DiskFull(TrainerError):
    """There is no room for more pictures."""


def download(
    rows: Iterable[tuple[int, str]],
    folder: Path,
    settings: DownloadSettings,
    network: NetworkSettings,
    report: Callable[[Progress], None] = lambda progress: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Fetch the picture of every (row, URL) that is not settled in `folder` yet, each URL once.

    One call at a time may work on a folder. `report` and `asked_to_stop` are called about twice a
    second. Raises Stopped, DiskFull, and TrainerError when the network is off or the first links
    are all dead. Whatever is raised, the folder holds what was settled until then, and another call
    goes on from there.
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


def read_results(folder: Path) -> dict[int, Result]:
    """The last whole line of every settled row. Lines that make no sense (power loss) are left out."""
    found: dict[int, Result] = {}
    try:
        data = (folder / RESULTS).read_bytes()
    except FileNotFoundError:
        return found
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            value = json.loads(line)
            found[value["row"]] = Result(**value)
    return found


@dataclass
class _Asked:
    """A URL on its way: the rows that want it, the first of which names the file."""

    url: str
    rows: tuple[int, ...]
    attempts: int = 0

    @property
    def row(self) -> int:
        return self.rows[0]


class _Download:
    """One call of `download`: what is still to ask, what came of it so far, and the way between
    them.
    """

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
        self.asked = [_Asked(url, tuple(numbers)) for url, numbers in wanted.items()]
        self.total = sum(len(asked.rows) for asked in self.asked)
        self.folder, self.settings, self.network = folder, settings, network
        self.sharded = self.total > SHARDED_ABOVE
        self.journal = _Journal(folder / RESULTS)
        self.fresh: deque[_Asked] = deque()
        self.delayed: list[tuple[float, int, _Asked]] = []
        self.hosts: dict[str, asyncio.Semaphore] = {}
        self.paused: dict[str, float] = {}
        self.statuses: Counter[str] = Counter()
        self.bytes = 0
        self.finished_urls = self.dead_urls = 0

    def take_up(self) -> None:
        """Find out what earlier calls have settled; the rest becomes `fresh`."""
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
                    f"{self.folder} belongs to another selection: its row {asked.row} is {result.url}, not {asked.url}. "
                    "Choose another folder."
                )
            result = self._standing(asked, result, files.get(asked.row))
            if result is None:
                self.fresh.append(asked)
            else:
                self._settle(asked, result, [row for row in asked.rows if row not in known])
        self.journal.flush()

    def _remove_parts(self) -> None:
        for part in (self.folder / IMAGES).rglob(".*.part"):
            part.unlink()

    def _standing(self, asked: _Asked, result: Result | None, file: Path | None) -> Result | None:
        """The result of a URL from earlier calls, or None when it has to be asked for."""
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
                return self._result(asked, file, "found whole on disk")
        file.unlink()
        return None

    def _result(self, asked: _Asked, file: Path, message: str = "") -> Result:
        _, width, height = examine(file, self.settings.max_pixels)
        relative = file.relative_to(self.folder).as_posix()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        size = file.stat().st_size
        return Result(
            asked.row, asked.url, OK, message, asked.attempts, size, digest, width, height, relative
        )

    def _settle(self, asked: _Asked, result: Result, rows: Sequence[int]) -> None:
        """Count a URL's result for all its rows, and write it down for `rows`."""
        self.statuses[result.status] += len(asked.rows)
        self.bytes += result.bytes
        self.finished_urls += 1
        self.dead_urls += result.status in DEAD
        for row in rows:
            self.journal.add(replace(result, row=row))

    def progress(self) -> Progress:
        errors = {status: n for status, n in self.statuses.most_common() if status != OK}
        return Progress(self.total, self.statuses.total(), self.statuses[OK], self.bytes, errors)

    async def run(
        self, report: Callable[[Progress], None], asked_to_stop: Callable[[], bool]
    ) -> None:
        """Ask for all that is fresh, many at a time, until nothing is left."""
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
            headers={"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
        )
        try:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                async with session:
                    workers = [
                        asyncio.create_task(self._work(session, pool))
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
            self.journal.flush()
            report(self.progress())

    async def _watch(
        self,
        workers: Iterable[asyncio.Task],
        report: Callable[[Progress], None],
        asked_to_stop: Callable[[], bool],
    ) -> None:
        """Until all workers are done: keep the journal, the disk and whoever asks in view."""
        waiting = set(workers)
        while waiting:
            self._check_disk()
            done, waiting = await asyncio.wait(
                waiting, timeout=TICK_S, return_when=asyncio.FIRST_EXCEPTION
            )
            for worker in done:
                worker.result()
            await asyncio.to_thread(self.journal.flush)
            report(self.progress())
            if waiting and asked_to_stop():
                raise Stopped

    async def _work(self, session: ClientSession, pool: ThreadPoolExecutor) -> None:
        """Take URLs, one after the other, until there is none."""
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
                result = await self._ask(session, pool, asked)
            except Failure as failure:
                if failure.status in TRANSIENT and asked.attempts <= self.settings.retries:
                    due = time.monotonic() + max(failure.wait_s, self._backoff_s(asked))
                    heapq.heappush(self.delayed, (due, asked.row, asked))
                    continue
                result = Result(
                    asked.row, asked.url, failure.status, failure.message, asked.attempts
                )
            self._settle(asked, result, asked.rows)
            self._give_up_on_dead_links()
            if len(self.journal.lines) >= FLUSH_LINES:
                await asyncio.to_thread(self.journal.flush)

    def _backoff_s(self, asked: _Asked) -> float:
        """Seconds before the next attempt: doubled every time, less up to a half that is keyed by
        row and attempt.
        """
        key = hashlib.sha256(f"{asked.row}/{asked.attempts}".encode()).digest()
        share = 1 - int.from_bytes(key[:8], "big") / 2**65
        wait_s = self.settings.backoff_s * 2 ** (asked.attempts - 1)
        return share * min(wait_s, self.settings.longest_wait_s)

    def _give_up_on_dead_links(self) -> None:
        """The rule of the first fifty: if nothing but dead links was seen, the others are dead too."""
        if self.settings.stop_when_dead and self.dead_urls == self.finished_urls >= DEAD_FIRST:
            raise TrainerError(
                f"The first {self.dead_urls} links are all dead (403 or 404). {EXPIRED}"
            )

    def _check_disk(self) -> None:
        free = free_bytes(self.folder)
        if free < self.settings.keep_free_bytes:
            raise DiskFull(
                f"{free / 1e6:.0f} MB are free where {self.folder} lies, and {self.settings.keep_free_bytes / 1e6:.0f} MB "
                "are to stay free. Make room and start again: what is there is kept."
            )

    async def _ask(self, session: ClientSession, pool: ThreadPoolExecutor, asked: _Asked) -> Result:
        """One attempt: the picture is in its place afterwards. Raises Failure."""
        shard = self.folder / IMAGES
        if self.sharded:
            shard = shard / f"{asked.row // 1000:03d}"
            shard.mkdir(exist_ok=True)
        part = shard / f".{asked.row:06d}.part"
        try:
            with network_errors():
                digest = await self._fetch(session, asked.url, part)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, self._keep, asked, part, digest)

    async def _fetch(self, session: ClientSession, address: str, part: Path) -> str:
        """Write what a URL gives, redirects followed, into `part`; returns its SHA-256."""
        url = check_url(address, self.network)
        for _ in range(MAX_REDIRECTS + 1):
            host = url.host or ""
            while (wait_s := self.paused.get(host, 0.0) - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            places = self.hosts.setdefault(host, asyncio.Semaphore(self.settings.per_host))
            async with places, session.get(url, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    self._check_answer(response)
                    return await self._receive(response, part)
                target = response.headers.get("Location")
            if not target:
                raise Failure("bad_redirect", "it does not say where to")
            try:
                url = check_url(str(url.join(type(url)(target))), self.network)
            except (BadURL, ValueError) as error:
                raise Failure("bad_redirect", f"to {target!r}: {error}") from error
        raise Failure("too_many_redirects", f"more than {MAX_REDIRECTS}")

    def _check_answer(self, response: ClientResponse) -> None:
        """Raise Failure when the status or a header already says that there is nothing to fetch."""
        if response.status not in (200, 203):
            status, wait_s = f"http_{response.status}", 0.0
            if status in TRANSIENT:
                wait_s = retry_after_s(response.headers.get("Retry-After"))
                wait_s = min(wait_s, self.settings.longest_wait_s)
                self.paused[response.url.host or ""] = time.monotonic() + wait_s
            raise Failure(status, response.reason or "", wait_s)
        tags = robots_tags(response.headers.getall("X-Robots-Tag", ()))
        if refused := sorted(tags & set(self.settings.refused_robots_tags)):
            raise Failure("robots", f"X-Robots-Tag: {', '.join(refused)}")
        if (response.content_length or 0) > self.settings.max_bytes:
            raise Failure("too_large", f"{response.content_length} bytes")

    async def _receive(self, response: ClientResponse, part: Path) -> str:
        """Write the body into `part`; returns its SHA-256."""
        digest, size = hashlib.sha256(), 0
        with disk_errors(part):
            file = part.open("wb", buffering=0)
        with file:
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                size += len(piece)
                if size > self.settings.max_bytes:
                    raise Failure("too_large", f"more than {self.settings.max_bytes} bytes")
                digest.update(piece)
                with disk_errors(part):
                    _write(file, piece)
        return digest.hexdigest()

    def _keep(self, asked: _Asked, part: Path, digest: str) -> Result:
        """Check a whole `part` and give it its name. Raises Failure."""
        try:
            suffix, width, height = examine(part, self.settings.max_pixels)
            kept = part.with_name(f"{asked.row:06d}{suffix}")
            with disk_errors(part), part.open("rb+") as file:
                os.fsync(file.fileno())
                size = file.seek(0, os.SEEK_END)
            with disk_errors(part):
                publish(part, kept)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        relative = kept.relative_to(self.folder).as_posix()
        return Result(
            asked.row, asked.url, OK, "", asked.attempts, size, digest, width, height, relative
        )


class _Journal:
    """The file of results. Lines are collected and written together, each batch synced."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[bytes] = []
        self._one_at_a_time = threading.Lock()

    def add(self, result: Result) -> None:
        self.lines.append(json.dumps(result.line(), ensure_ascii=False).encode() + b"\n")

    def flush(self) -> None:
        """Raises DiskFull, and then keeps the lines for the next time."""
        with self._one_at_a_time:
            lines, self.lines = self.lines, []
            if not lines:
                return
            try:
                with disk_errors(self.file), self.file.open("ab", buffering=0) as file:
                    file.truncate(whole_lines(self.file))
                    _write(file, b"".join(lines))
                    os.fsync(file.fileno())
            except BaseException:
                self.lines = lines + self.lines
                raise


def whole_lines(file: Path) -> int:
    """The size in bytes of a file without a torn last line, which must not grow together with the
    next one.
    """
    with file.open("rb") as opened:
        size = position = opened.seek(0, os.SEEK_END)
        while position:
            position = max(0, position - PIECE_BYTES)
            opened.seek(position)
            block = opened.read(min(PIECE_BYTES, size - position))
            if (end := block.rfind(b"\n")) >= 0:
                return position + end + 1
    return 0


def examine(file: Path, max_pixels: int) -> tuple[str, int, int]:
    """The suffix that a picture's format asks for, and its width and height in pixels after EXIF
    orientation.

    All of it is decoded, so that a truncated one shows. Raises Failure (not_an_image,
    too_many_pixels, corrupt).
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        with Image.open(file, formats=[kind for kind in SUFFIX_OF if kind in Image.OPEN]) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Failure("too_many_pixels", f"{width} x {height}")
            turned = image.getexif().get(0x0112, 1) >= 5
            suffix = SUFFIX_OF[image.format or ""]
            if image.format == "JPEG":
                image.draft(None, (1, 1))
            image.load()
    except Failure:
        raise
    except Image.DecompressionBombError as error:
        raise Failure("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        with file.open("rb") as opened:
            begin = opened.read(24)
        raise Failure("not_an_image", f"it begins with {begin!r}") from error
    except Exception as error:
        raise Failure("corrupt", f"it does not decode: {error}") from error
    return suffix, height if turned else width, width if turned else height


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written where a folder lies."""
    return shutil.disk_usage(folder).free


def _write(file: io.FileIO, data: bytes) -> None:
    """All of `data`: an unbuffered file may take a part, and a buffered one would complain at
    closing only.
    """
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@contextlib.contextmanager
def disk_errors(file: Path) -> Iterator[None]:
    """Turn an error of the disk into a message: it ends the download, it is not the picture's
    fault.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk is full: {file.parent}. Make room and start again: what is there is kept."
            ) from error
        raise TrainerError(f"{file} cannot be written: {error}") from error
