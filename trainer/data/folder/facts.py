"""Facts about picture files: size, time, hash, width and height, found by decoding each of them
once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any

from ...errors import TrainerError
from ...files import sha256_file, write_json
from ..image import MOST_FILE_BYTES, open_file, open_rgb, read_file, read_formats
from .listing import File
from .reading import Problem

WORKERS = min(4, os.cpu_count() or 1)
PIXELS_AT_ONCE = 6_000_000
"""Pixels that are decoded at the same time; a larger picture is decoded alone. Each takes about ten
bytes meanwhile.
"""
LARGE_PIXELS = 3_000_000
"""Larger pictures are all decoded by one thread: the system's allocator keeps the memory that a
thread has freed for that thread.
"""
WHOLE_BYTES = 8 << 20
"""Larger files are not held in memory together with their pixels."""
SAVE_EVERY_S = 15.0


class Examination:
    """The facts about pictures of one folder, kept in a JSON file for as long as each one's size
    and time stay the same.
    """

    def __init__(self, cache: Path | None, there: Container[str]) -> None:
        """`there` holds the files that exist; facts about others are forgotten."""
        self.cache = cache
        self.known = read_cache(cache)
        self.facts = {file: facts for file, facts in self.known.items() if file in there}
        self.saved = time.monotonic()

    def all(
        self,
        folder: Path,
        files: Mapping[str, File | None],
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, list | Problem]:
        """Facts or a problem for each file, by its path in the folder. Facts that have been found
        are kept, whatever happens.
        """
        found: dict[str, list | Problem] = {}
        try:
            for file, result in examine_all(folder, files, self.known, progress):
                found[file] = result
                if isinstance(result, Problem):
                    self.facts.pop(file, None)
                else:
                    self.facts[file] = result
                if time.monotonic() - self.saved > SAVE_EVERY_S:
                    self.save()
        finally:
            self.save()
            give_back()
        return found

    def save(self) -> None:
        self.saved = time.monotonic()
        if self.cache and self.facts != self.known:
            # Where nothing can be kept, the pictures are examined again next time.
            with contextlib.suppress(OSError):
                write_json(self.cache, self.facts)
            self.known = dict(self.facts)


def read_cache(cache: Path | None) -> dict[str, list]:
    """The known facts of each picture: [size, time in ns, SHA-256, width, height]."""
    if cache is None:
        return {}
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {file: facts for file, facts in known.items() if _are_facts(facts)}


def _are_facts(facts: Any) -> bool:
    if not isinstance(facts, list) or len(facts) != 5:
        return False
    size, time_ns, sha256, width, height = facts
    return isinstance(sha256, str) and all(
        isinstance(number, int) for number in (size, time_ns, width, height)
    )


def examine_all(
    folder: Path,
    files: Mapping[str, File | None],
    known: dict[str, list],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, list | Problem]]:
    """Each file with its facts or its problem, in order.

    Only a few files wait to be decoded at any time, for as many threads as there are processors.
    `progress` is called with (done, all) several times a second. It may raise, which ends the work:
    waiting files are dropped, those that are being decoded are left to finish.
    """
    done = 0
    pace = Pace(lambda: progress(done, len(files))) if progress else None
    large = ThreadPoolExecutor(1, thread_name_prefix="cocktail-examine-large")
    decoding = Decoding(large)
    waiting: deque[tuple[str, list | Future]] = deque()
    names = iter(files)
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="cocktail-examine")
    try:
        while True:
            while len(waiting) < 4 * WORKERS and (file := next(names, None)) is not None:
                facts, status = known.get(file), files[file]
                if (
                    facts
                    and len(facts) == 5
                    and status
                    and facts[:2] == [status.size, status.time_ns]
                ):
                    waiting.append((file, facts))
                else:
                    waiting.append((file, pool.submit(decoding.examine, folder, file, facts)))
            if not waiting:
                return
            file, result = waiting.popleft()
            while isinstance(result, Future):
                try:
                    result = result.result(timeout=0.2)
                except NotYet:
                    if progress:
                        progress(done, len(files))
            yield file, result
            done += 1
            if progress and done == len(files):
                progress(done, done)
            elif pace:
                pace()
    finally:
        decoding.stopped = True
        pool.shutdown(wait=False, cancel_futures=True)
        large.shutdown(wait=False, cancel_futures=True)


class Pace:
    """Passes a call on at most ten times a second."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call, self.last = call, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last > 0.1:
            self.last = time.monotonic()
            self.call()


class Decoding:
    """Limits how many pixels are decoded at once; large pictures go to the thread `large`."""

    def __init__(self, large: ThreadPoolExecutor) -> None:
        self.large = large
        self.free = threading.Condition()
        self.pixels = 0
        self.stopped = False

    def examine(self, folder: Path, file: str, known: list | None) -> list | Problem:
        """The facts about a picture (see `examine`), once there is room for its pixels."""
        size = _pixels(folder / file)
        pixels = min(size, PIXELS_AT_ONCE)
        with self.free:
            self.free.wait_for(lambda: self.stopped or self.pixels + pixels <= PIXELS_AT_ONCE)
            if self.stopped:
                return Problem(file, "the work was stopped")
            self.pixels += pixels
        try:
            if size > LARGE_PIXELS and not self.stopped:
                return self.large.submit(self.examine_large, folder, file, known).result()
            return examine(folder, file, known)
        finally:
            with self.free:
                self.pixels -= pixels
                self.free.notify_all()

    def examine_large(self, folder: Path, file: str, known: list | None) -> list | Problem:
        give_back()
        try:
            return examine(folder, file, known)
        finally:
            give_back()


def give_back() -> None:
    """Return freed memory to the system: glibc's allocator would keep up to 64 MB for every thread
    that decodes.
    """
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)


def _pixels(path: Path) -> int:
    """The number of pixels in the file's header; 0 when that cannot be read, as `examine` tells."""
    from PIL import Image

    try:
        with open_file(path) as file, Image.open(file, formats=read_formats()) as image:
            return image.width * image.height
    except Exception as error:
        logging.getLogger(__name__).debug("%s has no size: %s", path, error)
        return 0


def examine(folder: Path, file: str, known: list | None) -> list | Problem:
    """Size, time, hash, width and height of a picture, which is decoded unless they are known."""
    try:
        path = folder / file
        status = path.stat()
        if known and known[:2] == [status.st_size, status.st_mtime_ns]:
            return known
        if not status.st_size:
            return Problem(file, "the file is damaged or not a picture", "the file is empty")
        if status.st_size > MOST_FILE_BYTES:
            return Problem(file, "the file is larger than any picture")
        if status.st_size > WHOLE_BYTES:
            width, height = open_rgb(path).size
            digest = sha256_file(path)
        else:
            data = read_file(path)
            width, height = open_rgb(data).size
            digest = hashlib.sha256(data).hexdigest()
    except TrainerError as error:
        return Problem(file, "the file is damaged or not a picture", str(error))
    except OSError as error:
        return Problem(file, "the picture cannot be read", error.strerror or str(error))
    return [status.st_size, status.st_mtime_ns, digest, width, height]
