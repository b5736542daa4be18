"""One attempt to fetch a picture: the request, its redirects, the answer, and the file that is
checked and kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import publish
from ...litter import temporary
from ..decoding import too_costly
from ..image import ORIENTATION, open_file
from . import disk
from .network import (
    BadURL,
    Failure,
    NetworkSettings,
    check_url,
    network_errors,
    retry_after_s,
    robots_tags,
)
from .results import OK, Result
from .settings import DownloadSettings

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

SUFFIX_OF = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
}
"""The formats that are kept, by Pillow's name. Pillow's other decoders never see what came from the
network.
"""
BUSY = (408, 425, 429, 500, 502, 503, 504, 522, 524)
TRANSIENT = frozenset(
    ("timeout", "connection", "incomplete", "dns", *(f"http_{status}" for status in BUSY))
)
MAX_REDIRECTS = 5
PIECE_BYTES = 1 << 16


@dataclass
class Asked:
    """A URL on its way, and the rows that want it; the first of them names the file."""

    url: str
    rows: tuple[int, ...]
    attempts: int = 0

    @property
    def row(self) -> int:
        return self.rows[0]


class Fetcher:
    """Fetches pictures into `images` (with a folder for every thousand rows when `sharded`), at
    most `per_host` at a time from one host, and none from a host that has asked for a pause.
    """

    def __init__(
        self,
        session: ClientSession,
        pool: ThreadPoolExecutor,
        images: Path,
        sharded: bool,
        settings: DownloadSettings,
        network: NetworkSettings,
    ) -> None:
        """`pool` decodes the pictures."""
        self.session, self.pool = session, pool
        self.images, self.sharded = images, sharded
        self.settings, self.network = settings, network
        self.hosts: dict[str, asyncio.Semaphore] = {}
        self.paused: dict[str, float] = {}

    async def fetch(self, asked: Asked) -> Result:
        """One attempt; when it returns, the picture is in its place. Raises Failure."""
        folder = self.images
        if self.sharded:
            folder = folder / f"{asked.row // 1000:03d}"
            folder.mkdir(exist_ok=True)
        part = temporary(folder / f"{asked.row:06d}")
        try:
            with network_errors():
                digest = await self._request(asked.url, part)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, self._keep, asked, part, digest)

    async def _request(self, address: str, part: Path) -> str:
        """Follow a URL through its redirects and write the answer into `part`; returns its
        SHA-256.
        """
        url = check_url(address, self.network)
        for _ in range(MAX_REDIRECTS + 1):
            host = url.host or ""
            while (wait_s := self.paused.get(host, 0.0) - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            places = self.hosts.setdefault(host, asyncio.Semaphore(self.settings.per_host))
            async with places, self.session.get(url, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    self._check_answer(response)
                    return await self._receive(response, part)
                target = response.headers.get("Location")
            if not target:
                raise Failure("bad_redirect", "the redirect has no address")
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
        with disk.disk_errors(part):
            file = part.open("wb", buffering=0)
        with file:
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                size += len(piece)
                if size > self.settings.max_bytes:
                    raise Failure("too_large", f"more than {self.settings.max_bytes} bytes")
                digest.update(piece)
                with disk.disk_errors(part):
                    disk.write_all(file, piece)
        return digest.hexdigest()

    def _keep(self, asked: Asked, part: Path, digest: str) -> Result:
        """Check a whole `part` and give it its name. Raises Failure."""
        try:
            suffix, width, height = examine(part, self.settings.max_pixels)
            kept = part.with_name(f"{asked.row:06d}{suffix}")
            with disk.disk_errors(part), part.open("rb+") as file:
                os.fsync(file.fileno())
                size = file.seek(0, os.SEEK_END)
            with disk.disk_errors(part):
                publish(part, kept)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        relative = kept.relative_to(self.images.parent).as_posix()
        return Result(
            asked.row, asked.url, OK, "", asked.attempts, size, digest, width, height, relative
        )


def examine(file: Path, max_pixels: int) -> tuple[str, int, int]:
    """The suffix of a picture's format, and its width and height in pixels after EXIF orientation.

    All of it is decoded, so that a truncated picture is found out. Raises Failure (not_an_image,
    too_many_pixels, corrupt).
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        formats = [kind for kind in SUFFIX_OF if kind in Image.OPEN]
        with open_file(file) as opened, Image.open(opened, formats=formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Failure("too_many_pixels", f"{width} x {height}")
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            suffix = SUFFIX_OF[image.format or ""]
            if costly := too_costly(image):
                raise Failure("corrupt", costly)
            if image.format == "JPEG":
                image.draft(None, (1, 1))
            image.load()
    except Failure:
        raise
    except Image.DecompressionBombError as error:
        raise Failure("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        with file.open("rb") as again:
            begin = again.read(24)
        raise Failure("not_an_image", f"it begins with {begin!r}") from error
    except Exception as error:
        raise Failure("corrupt", f"it cannot be decoded: {error}") from error
    return suffix, height if turned else width, width if turned else height
