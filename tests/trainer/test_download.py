"""Downloads against a real server that answers well, badly, slowly and not at all, and that keeps
count of who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import signal
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from aiohttp import web
from PIL import Image

from cocktail.trainer import command_line
from cocktail.trainer.data.fetch import disk, network
from cocktail.trainer.data.fetch import download as download_module
from cocktail.trainer.data.fetch import job as download_job
from cocktail.trainer.data.fetch.attempt import Asked
from cocktail.trainer.data.fetch.disk import DiskFull
from cocktail.trainer.data.fetch.download import Fetched, download
from cocktail.trainer.data.fetch.network import NetworkSettings
from cocktail.trainer.data.fetch.results import read_results
from cocktail.trainer.data.fetch.settings import DownloadSettings
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs import process
from cocktail.trainer.jobs.job import ACTIVE, LAUNCH_LOCK, Stopped
from cocktail.trainer.jobs.lock import Lock

ALLOWED = NetworkSettings(download=True, private_addresses=True)
QUICK = DownloadSettings(
    concurrency=8,
    per_host=8,
    timeout_s=30.0,
    retries=2,
    backoff_s=0.01,
    max_bytes=100_000,
    keep_free_bytes=0,
)


def picture(number: int, kind: str = "PNG", **options) -> bytes:
    """A small picture of its own for every number."""
    draw = random.Random(number)
    size = (draw.randint(20, 40), draw.randint(20, 40))
    image = Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1]))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    """A JPEG of 40 x 20 pixels that is to be shown upright, 20 x 40."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG that says it has 3,600 million pixels."""
    data = bytearray(picture(0))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


class Server:
    """A web server in a thread. The first part of a path says how it answers; `asked` counts the
    paths. Requests beyond the first `most` wait until it is None.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.at: dict[str, list[float]] = {}
        self.agents: set[str] = set()
        self.busiest = self._busy = 0
        self.delay_s = 0.0
        self.most: int | None = None
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._ready.wait(60)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._end = asyncio.Event()
        application = web.Application()
        application.router.add_get("/{tail:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path[1:]
        self.asked[path] += 1
        self.at.setdefault(path, []).append(time.monotonic())
        self.agents.add(request.headers["User-Agent"])
        self._busy += 1
        self.busiest = max(self.busiest, self._busy)
        try:
            while self.most is not None and self.asked.total() > self.most:
                await asyncio.sleep(0.005)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            kind, _, rest = path.partition("/")
            return await getattr(self, f"_{kind}")(request, rest)
        finally:
            self._busy -= 1

    async def _good(self, request, rest):
        return web.Response(body=picture(int(rest)), content_type="image/png")

    async def _as(self, request, rest):
        """as/JPEG: a picture of that format, called plain text."""
        return web.Response(body=picture(1, rest), content_type="text/plain")

    async def _turned(self, request, rest):
        return web.Response(body=turned())

    async def _status(self, request, rest):
        return web.Response(status=int(rest.split("/")[0]), text="no")

    async def _flaky(self, request, rest):
        """Two errors, then the picture."""
        if self.asked[request.path[1:]] <= 2:
            return web.Response(status=503)
        return web.Response(body=picture(2))

    async def _busy_until(self, request, rest):
        if self.asked[request.path[1:]] == 1:
            return web.Response(status=429, headers={"Retry-After": rest})
        return web.Response(body=picture(3))

    async def _wait_until(self, request, rest):
        return web.Response(status=503, headers={"Retry-After": rest})

    async def _in_odd_words(self, request, rest):
        """A reason that is no UTF-8."""
        request.transport.write(b"HTTP/1.1 404 N\xf6t \xff\r\nContent-Length: 0\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def _silent(self, request, rest):
        await asyncio.sleep(60)
        return web.Response()

    async def _stalled(self, request, rest):
        """Half a picture, and then nothing."""
        response = web.StreamResponse(headers={"Content-Length": str(len(picture(1)))})
        await response.prepare(request)
        await response.write(picture(1)[:50])
        await asyncio.sleep(60)
        return response

    async def _dribble(self, request, rest):
        """Never silent for long, and never done."""
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    async def _endless(self, request, rest):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(picture(1) * 10)

    async def _announced(self, request, rest):
        """Says it is too large, and counts as asked for its body when that is read."""
        response = web.StreamResponse(headers={"Content-Length": "100001"})
        await response.prepare(request)
        return response

    async def _raw(self, request, head: bytes, body: bytes):
        request.transport.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)
        request.transport.close()
        return web.Response()

    async def _promises(self, request, rest):
        """A Content-Length that is more than what comes."""
        return await self._raw(request, b"Content-Length: 5000", picture(1)[:700])

    async def _understates(self, request, rest):
        """A Content-Length that is less than what comes."""
        return await self._raw(request, b"Content-Length: 200", picture(1))

    async def _unsized(self, request, rest):
        """No Content-Length; the body ends with the connection."""
        return await self._raw(request, b"Connection: close", picture(4))

    async def _reset(self, request, rest):
        request.transport.abort()
        return web.Response()

    async def _truncated(self, request, rest):
        data = picture(1, rest)
        return web.Response(body=data[: len(data) // 2])

    async def _damaged(self, request, rest):
        data = bytearray(picture(1))
        data[60:90] = bytes(30)
        return web.Response(body=bytes(data))

    async def _bomb(self, request, rest):
        return web.Response(body=bomb())

    async def _page(self, request, rest):
        return web.Response(text="<html>sorry</html>", content_type="image/png")

    async def _empty(self, request, rest):
        return web.Response(body=b"", content_type="image/png")

    async def _packed(self, request, rest):
        """Not what was asked for, and what a small answer can unpack to has no end."""
        packed = gzip.compress(picture(5) if rest == "picture" else b"\0" * 50_000_000)
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async def _script(self, request, rest):
        """PostScript, which Pillow would hand to Ghostscript."""
        return web.Response(
            body=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
        )

    async def _robots(self, request, rest):
        return web.Response(body=picture(5), headers={"X-Robots-Tag": rest})

    async def _to(self, request, rest):
        return web.Response(status=302, headers={"Location": f"/{rest}"})

    async def _loop_back(self, request, rest):
        return web.Response(status=307, headers={"Location": request.path})

    async def _away(self, request, rest):
        place = {
            "metadata": "http://169.254.169.254/latest/",
            "mapped": "http://[::ffff:127.0.0.1]/",
            "file": "file:///etc/passwd",
            "nowhere": "",
        }[rest]
        return web.Response(status=301, headers={"Location": place} if place else {})


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def fetch(folder: Path, urls: list[str], settings: DownloadSettings = QUICK, **options) -> Fetched:
    """Download `urls` as rows 1, 2, 3 ..."""
    return download(enumerate(urls, start=1), folder, settings, ALLOWED, **options)


def only(folder: Path, url: str, settings: DownloadSettings = QUICK):
    """The result of one URL."""
    fetch(folder, [url], settings)
    return read_results(folder)[1]


def kept(folder: Path) -> list[str]:
    """Everything in the images folder."""
    images = folder / "images"
    return sorted(p.relative_to(images).as_posix() for p in images.rglob("*") if p.is_file())


def test_a_picture_is_kept_byte_for_byte_under_its_row_and_its_real_suffix(tmp_path, server):
    progress = fetch(tmp_path, [server.url("good/7"), server.url("as/JPEG"), server.url("as/WEBP")])
    assert kept(tmp_path) == ["000001.png", "000002.jpg", "000003.webp"]
    data = (tmp_path / "images" / "000001.png").read_bytes()
    assert data == picture(7)
    result = read_results(tmp_path)[1]
    with Image.open(io.BytesIO(data)) as image:
        assert (result.width, result.height) == image.size
    assert result == dataclasses.replace(
        result,
        row=1,
        url=server.url("good/7"),
        status="ok",
        attempts=1,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        file="images/000001.png",
    )
    assert progress == Fetched(3, 3, 3, sum(r.bytes for r in read_results(tmp_path).values()), {})
    assert server.agents == {download_module.USER_AGENT}
    assert "Cocktail" in download_module.USER_AGENT


def test_width_and_height_are_those_of_the_picture_as_it_is_shown(tmp_path, server):
    result = only(tmp_path, server.url("turned"))
    assert (result.width, result.height) == (20, 40)
    assert (tmp_path / result.file).read_bytes() == turned()


@pytest.mark.parametrize(
    ("path", "status", "attempts"),
    [
        ("status/404", "http_404", 1),
        ("status/403", "http_403", 1),
        ("status/410", "http_410", 1),
        ("status/500", "http_500", 3),
        ("status/204", "http_204", 1),
        ("announced", "too_large", 1),
        ("endless", "too_large", 1),
        ("promises", "incomplete", 3),
        ("unsized", "ok", 1),
        ("reset", "connection", 3),
        ("truncated/PNG", "corrupt", 1),
        ("truncated/JPEG", "corrupt", 1),
        ("truncated/WEBP", "corrupt", 1),
        ("damaged", "corrupt", 1),
        ("bomb", "too_many_pixels", 1),
        ("page", "not_an_image", 1),
        ("packed/picture", "not_an_image", 1),
        ("packed/zeros", "not_an_image", 1),
        ("empty", "not_an_image", 1),
        ("script", "not_an_image", 1),
        ("to/good/1", "ok", 1),
        ("to/to/to/good/1", "ok", 1),
        ("to/status/404", "http_404", 1),
        ("loop_back", "too_many_redirects", 1),
        ("away/file", "bad_redirect", 1),
        ("away/nowhere", "bad_redirect", 1),
        ("robots/noai", "robots", 1),
        ("robots/noindex", "robots", 1),
        ("robots/googlebot:noai", "ok", 1),
        ("flaky", "ok", 3),
        ("in_odd_words", "http_404", 1),
        ("wait_until/Mon, 01 Jan 2024 00:00:00 +99999999999999999999", "http_503", 3),
    ],
)
def test_every_url_ends_with_a_picture_or_the_reason_why_there_is_none(
    tmp_path, server, path, status, attempts
):
    result = only(tmp_path, server.url(path))
    assert (result.status, result.attempts) == (status, attempts)
    assert len(kept(tmp_path)) == (status == "ok")
    assert bool(result.file) == (status == "ok")


def test_a_length_that_is_too_short_gives_no_picture(tmp_path, server):
    """What stands behind the announced end may already spoil the answer, depending on what has
    arrived when.
    """
    assert only(tmp_path, server.url("understates")).status in ("corrupt", "connection")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("path", ["silent", "stalled", "dribble"])
def test_a_server_that_takes_too_long_is_left(tmp_path, server, path):
    settings = dataclasses.replace(QUICK, timeout_s=0.8, total_timeout_s=1.2, retries=1)
    result = only(tmp_path, server.url(path), settings)
    assert (result.status, result.attempts, server.asked[path]) == ("timeout", 2, 2)
    assert kept(tmp_path) == []


def test_what_cannot_be_asked_at_all(tmp_path):
    urls = ["", "images/1.png", "ftp://example.com/a.png", "http://127.0.0.1:1/a.png"]
    fetch(tmp_path, [*urls, "http://nowhere.invalid/a.png"])
    statuses = [read_results(tmp_path)[row].status for row in range(1, 6)]
    assert statuses == ["bad_url", "bad_url", "bad_url", "connection", "dns"]


def test_robots_headers_can_be_overruled_by_a_setting(tmp_path, server):
    settings = dataclasses.replace(QUICK, refused_robots_tags=("noimageai",))
    assert only(tmp_path / "a", server.url("robots/noai"), settings).status == "ok"
    assert only(tmp_path / "b", server.url("robots/noimageai"), settings).status == "robots"


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(tmp_path, server):
    assert only(
        tmp_path, server.url("good/1"), dataclasses.replace(QUICK, max_pixels=399)
    ).status == ("too_many_pixels")


def test_an_address_of_a_private_network_is_not_connected_to(tmp_path, server):
    network = NetworkSettings(download=True)
    rows = [(1, server.url("good/1")), (2, f"http://localhost:{server.port}/good/2")]
    download(rows, tmp_path, QUICK, network)
    assert [read_results(tmp_path)[row].status for row in (1, 2)] == ["refused_address"] * 2
    assert not server.asked


@pytest.mark.parametrize("place", ["metadata", "mapped"])
def test_a_redirect_to_a_private_network_is_not_followed(tmp_path, server, monkeypatch, place):
    really = network.is_public
    monkeypatch.setattr(network, "is_public", lambda text: text == "127.0.0.1" or really(text))
    download([(1, server.url(f"away/{place}"))], tmp_path, QUICK, NetworkSettings(download=True))
    result = read_results(tmp_path)[1]
    assert (result.status, result.attempts) == ("refused_address", 1)
    assert server.asked == {f"away/{place}": 1}


def test_nothing_is_asked_while_the_network_is_off(tmp_path, server):
    with pytest.raises(TrainerError, match="off"):
        download([(1, server.url("good/1"))], tmp_path, QUICK, NetworkSettings())
    assert not server.asked


def test_a_server_that_asks_for_time_gets_it_up_to_a_limit(tmp_path, server):
    settings = dataclasses.replace(QUICK, longest_wait_s=0.4)
    assert only(tmp_path, server.url("busy_until/3600"), settings).status == "ok"
    first, second = server.at["busy_until/3600"]
    assert 0.4 <= second - first < 600


def test_attempts_are_further_and_further_apart_and_each_row_waits_its_own_time(tmp_path, server):
    settings = dataclasses.replace(QUICK, backoff_s=0.1, retries=3)
    fetch(tmp_path, [server.url("status/500/a"), server.url("status/500/b")], settings)
    gaps = {}
    for path in ("status/500/a", "status/500/b"):
        at = server.at[path]
        gaps[path] = [later - earlier for earlier, later in itertools.pairwise(at)]
        for gap, least in zip(gaps[path], (0.05, 0.1, 0.2), strict=True):
            assert least <= gap
    first, second = (Asked("u", (row,), attempts=1) for row in (1, 2))
    assert download_module.backoff_s(first, settings) == download_module.backoff_s(first, settings)
    assert download_module.backoff_s(first, settings) != download_module.backoff_s(second, settings)


def test_no_more_than_the_limit_are_asked_of_one_host_at_the_same_time(tmp_path, server):
    server.delay_s = 0.02
    urls = [server.url(f"good/{number}") for number in range(40)]
    fetch(tmp_path, urls, dataclasses.replace(QUICK, concurrency=20, per_host=3))
    assert server.busiest == 3


def test_a_url_that_many_rows_want_is_fetched_once(tmp_path, server):
    urls = [server.url(path) for path in ("good/1", "good/2", "good/1", "status/404", "status/404")]
    progress = fetch(tmp_path, urls)
    assert server.asked == {"good/1": 1, "good/2": 1, "status/404": 1}
    results = read_results(tmp_path)
    assert results[3] == dataclasses.replace(results[1], row=3)
    assert (results[3].file, results[5].status) == ("images/000001.png", "http_404")
    assert (progress.done, progress.ok, progress.errors) == (5, 3, {"http_404": 2})
    assert progress.bytes == len(picture(1)) + len(picture(2))


def test_many_rows_are_spread_over_folders(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download_module, "SHARDED_ABOVE", 1)
    rows = [(7, server.url("good/7")), (1_234_567, server.url("good/8"))]
    download(rows, tmp_path, QUICK, ALLOWED)
    assert kept(tmp_path) == ["000/000007.png", "1234/1234567.png"]
    download(rows, tmp_path, QUICK, ALLOWED)
    assert server.asked.total() == 2


def test_rows_that_are_settled_are_not_asked_again(tmp_path, server):
    urls = [server.url(path) for path in ("good/1", "status/404", "status/500", "page")]
    first = fetch(tmp_path, urls)
    before = server.asked.copy()
    assert fetch(tmp_path, urls) == first
    assert server.asked == before


@pytest.mark.parametrize(
    ("retry", "again"),
    [("transient", {"status/500"}), ("all", {"status/500", "status/404", "page"})],
)
def test_failed_rows_are_asked_again_when_that_is_wanted(tmp_path, server, retry, again):
    paths = ("good/1", "status/404", "status/500", "page")
    urls = [server.url(path) for path in paths]
    first = fetch(tmp_path, urls)
    before = server.asked.copy()
    assert fetch(tmp_path, urls, dataclasses.replace(QUICK, retry_failed=retry)) == first
    assert {path for path in paths if server.asked[path] > before[path]} == again


def test_a_file_whose_line_was_lost_is_kept_as_it_is(tmp_path, server):
    """A process killed between the renaming of a file and the writing of its line."""
    urls = [server.url(f"good/{number}") for number in range(6)]
    fetch(tmp_path, urls)
    results = tmp_path / "results.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    lost = json.loads(lines[-1])["row"], json.loads(lines[-2])["row"]
    results.write_bytes(b"".join(lines[:-2]) + lines[-1][:20])
    before = {row: result.sha256 for row, result in read_results(tmp_path).items()}
    assert set(lost) & set(before) == set()
    progress = fetch(tmp_path, urls)
    assert (progress.ok, set(server.asked.values())) == (6, {1})
    for row in lost:
        assert read_results(tmp_path)[row].sha256 == hashlib.sha256(picture(row - 1)).hexdigest()
    assert sorted(read_results(tmp_path)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["my [runs]", "*", "{a,b} 100%20 #1 ~ 'x' ="])
def test_a_folder_with_an_odd_name_is_taken_up_again(tmp_path, server, name):
    (tmp_path / "my r" / "images").mkdir(parents=True)
    (tmp_path / "my r" / "images" / "000002.png").write_bytes(picture(3))
    urls = [server.url("good/1"), server.url("good/2")]
    fetch(tmp_path / name, urls[:1])
    assert fetch(tmp_path / name, urls).ok == 2
    assert kept(tmp_path / name) == ["000001.png", "000002.png"]
    assert (tmp_path / name / "images" / "000002.png").read_bytes() == picture(2)


def test_half_a_file_is_thrown_away_and_fetched_again(tmp_path, server):
    urls = [server.url(f"good/{number}") for number in range(1, 4)]
    fetch(tmp_path, urls)
    images = tmp_path / "images"
    (images / "000001.png").write_bytes(picture(1)[:300])
    (images / "000002.png").unlink()
    (images / ".000003.part").write_bytes(picture(3)[:100])
    progress = fetch(tmp_path, urls)
    assert (progress.ok, kept(tmp_path)) == (3, ["000001.png", "000002.png", "000003.png"])
    assert (images / "000001.png").read_bytes() == picture(1)
    assert server.asked == {"good/1": 2, "good/2": 2, "good/3": 1}


def test_a_file_that_is_not_a_picture_is_fetched_again(tmp_path, server):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000001.png").write_bytes(picture(1)[:300])
    assert only(tmp_path, server.url("good/1")).status == "ok"
    assert (tmp_path / "images" / "000001.png").read_bytes() == picture(1)


def test_a_journal_with_nonsense_in_it_is_read_around(tmp_path, server):
    urls = [server.url("good/1"), server.url("good/2")]
    fetch(tmp_path, urls)
    results = tmp_path / "results.jsonl"
    results.write_bytes(b'\0\0\0\n{"row": 9}\n[1]\n' + results.read_bytes() + b'{"row": 2, "url"')
    assert fetch(tmp_path, [*urls, server.url("good/3")]).ok == 3
    assert server.asked == {"good/1": 1, "good/2": 1, "good/3": 1}
    assert sorted(read_results(tmp_path)) == [1, 2, 3]


def test_a_folder_of_another_selection_is_refused(tmp_path, server):
    fetch(tmp_path, [server.url("good/1")])
    with pytest.raises(TrainerError, match="belongs to another selection: its row 1"):
        fetch(tmp_path, [server.url("good/2")])


WAY_OUT = "stopped working on 22 Feb 2024 .* join their folder to the table instead"


def test_fifty_dead_links_at_the_beginning_end_the_download(tmp_path, server):
    urls = [server.url(f"status/{403 + number % 2}/{number}") for number in range(300)]
    with pytest.raises(TrainerError, match=f"^The first [0-9]+ links are all dead .*{WAY_OUT}"):
        fetch(tmp_path, urls)
    assert 50 <= server.asked.total() < 50 + 2 * QUICK.concurrency
    asked = server.asked.total()
    with pytest.raises(TrainerError, match=WAY_OUT):
        fetch(tmp_path, urls)
    assert server.asked.total() == asked
    progress = fetch(tmp_path, urls, dataclasses.replace(QUICK, stop_when_dead=False))
    assert progress.done == len(server.asked) == 300


def test_one_living_link_among_the_first_fifty_keeps_the_download_going(tmp_path, server):
    urls = [server.url("good/1"), *(server.url(f"status/404/{number}") for number in range(120))]
    settings = dataclasses.replace(QUICK, concurrency=1)
    assert fetch(tmp_path, urls, settings).errors == {"http_404": 120}


def test_other_errors_are_no_dead_links(tmp_path, server):
    urls = [server.url(f"status/{404 + number % 2}/{number}") for number in range(80)]
    assert fetch(tmp_path, urls).done == 80


def test_stopping_keeps_what_is_there_and_leaves_no_parts(tmp_path, server):
    server.most = 60
    urls = [server.url(f"good/{number}") for number in range(400)]
    with pytest.raises(Stopped):
        fetch(tmp_path, urls, asked_to_stop=lambda: len(server.asked) > 20)
    there = kept(tmp_path)
    assert 0 < len(there) <= 60
    assert not [name for name in there if "part" in name]
    asked = server.asked.copy()
    server.most = None
    assert fetch(tmp_path, urls).ok == 400
    assert all(server.asked[f"good/{int(name[:6]) - 1}"] == 1 for name in there), asked


def test_progress_is_reported_and_ends_with_all(tmp_path, server):
    seen: list[Fetched] = []
    urls = [server.url("good/1"), server.url("status/404"), server.url("status/404/2")]
    last = fetch(tmp_path, urls, report=seen.append)
    assert (seen[0].done, seen[0].total) == (0, 3)
    assert seen[-1] == last
    assert str(last).splitlines() == [
        f"1 of 3 rows have a picture ({last.bytes / 1e6:.1f} MB)",
        "2 x http_404",
    ]


def test_a_disk_that_is_nearly_full_stops_the_download_before_it_is(tmp_path, server, monkeypatch):
    server.most = 100
    urls = [server.url(f"good/{number}") for number in range(200)]
    monkeypatch.setattr(
        download_module, "free_bytes", lambda folder: 2_000_000 if len(server.asked) < 20 else 999
    )
    settings = dataclasses.replace(QUICK, keep_free_bytes=1_000_000)
    with pytest.raises(DiskFull, match="must stay free"):
        fetch(tmp_path, urls, settings)
    assert len(server.asked) < 200
    monkeypatch.undo()
    server.most = None
    assert fetch(tmp_path, urls).ok == 200


def test_a_disk_that_is_full_is_said_so_and_no_row_is_blamed(tmp_path, server, monkeypatch):
    urls = [server.url(f"good/{number}") for number in range(30)]
    write, written = disk.write_all, Counter()

    def full(file, data):
        if str(file.name).endswith(".part"):
            written["parts"] += 1
            if written["parts"] > 10:
                raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(disk, "write_all", full)
    with pytest.raises(DiskFull, match="The disk is full"):
        fetch(tmp_path, urls)
    assert {result.status for result in read_results(tmp_path).values()} <= {"ok"}
    assert not [name for name in kept(tmp_path) if name.endswith(".part")]
    monkeypatch.undo()
    assert fetch(tmp_path, urls).ok == 30


@pytest.mark.parametrize(
    "change",
    [
        {"concurrency": 0},
        {"per_host": 0},
        {"timeout_s": 0},
        {"retries": -1},
        {"max_bytes": 0},
        {"max_pixels": 0},
        {"retry_failed": "yes"},
    ],
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(TrainerError, match=next(iter(change))):
        DownloadSettings(**change)


def test_settings_survive_json():
    settings = dataclasses.replace(QUICK, refused_robots_tags=("noai",), retry_failed="transient")
    assert DownloadSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def select(file: Path, images: list[str | None]) -> Path:
    """A selection file with these images as rows 1, 2, 3 ..."""
    with duckdb.connect() as database:
        database.execute(
            "CREATE TABLE rows (row BIGINT, image VARCHAR, prompt VARCHAR, user VARCHAR, kind "
            "VARCHAR, attachment VARCHAR, job VARCHAR, file VARCHAR, stars INTEGER)"
        )
        values = [(number, image) for number, image in enumerate(images, start=1)]
        database.executemany(
            "INSERT INTO rows VALUES (?, ?, 'a prompt', 'somebody', 'single', NULL, NULL, NULL, 5)",
            values,
        )
        database.execute(f"COPY rows TO '{file}' (FORMAT parquet)")
    return file


@pytest.fixture
def network_file(tmp_path) -> Path:
    file = tmp_path / "cocktail" / "network.json"
    file.parent.mkdir()
    file.write_text('{"download": true, "private_addresses": true}', encoding="utf-8")
    return file


@pytest.fixture
def make(tmp_path):
    """Makes a download of these images; its process is ended with the test, unless that is the
    test's own.
    """
    made = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def make(images, settings=QUICK, name="set"):
        selection = select(tmp_path / f"{name} [1].parquet", images)
        job = download_job.create_download(tmp_path / "datasets", name, selection, settings)
        made.append(job)
        return job

    yield make
    for job in made:
        noted = job.folder / "process.json"
        if noted.exists() and json.loads(noted.read_text(encoding="utf-8"))["pid"] != os.getpid():
            process.kill(job.folder)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def wait_for(true, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.01)


def test_one_that_has_failed_is_started_again_before_its_process_is_gone(
    make, server, network_file
):
    """The state says "failed" a moment before the process ends; a start in that moment must not be
    lost.
    """
    job = make([server.url(f"good/{number}") for number in range(4)])
    job.write_state(dataclasses.replace(job.state(), status="failed", message="it did not work"))
    former = Lock(job.folder / LAUNCH_LOCK)
    assert former.take()
    starting = threading.Thread(target=download_job.start, args=(job, network_file))
    starting.start()
    starting.join(0.2)
    assert starting.is_alive() and job.state().status == "failed"
    former.let_go()
    starting.join(120)
    wait_for(lambda: job.state().status == "finished")


def test_a_download_runs_in_a_process_of_its_own(make, server, network_file):
    job = make([server.url("good/1"), server.url("good/2"), None, server.url("status/404")])
    assert (job.state().status, job.state().total) == ("stopped", 4)
    assert job.has_work()
    download_job.start(job, network_file)
    wait_for(lambda: job.state().status not in ACTIVE)
    state = job.state()
    assert state.status == "finished", job.folder.joinpath("log.txt").read_text(encoding="utf-8")
    assert (state.done, state.total, state.ok) == (4, 4, 2)
    assert state.errors == {"bad_url": 1, "http_404": 1}
    assert download_job.images(job.folder) == {1: "images/000001.png", 2: "images/000002.png"}
    assert not job.has_work()
    with duckdb.connect() as database:
        file = str(job.folder / "selection.parquet")
        found = database.execute("SELECT sum(stars) FROM read_parquet(?)", [file]).fetchone()
    assert found == (20,)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_killed_in_the_middle_and_resumed_nothing_good_is_fetched_twice(
    make, server, share, network_file
):
    server.most = int(400 * share) + 20
    kinds = ["good"] * 8 + ["status/404", "damaged"]
    paths = [f"{kinds[number % 10]}/{number}" for number in range(400)]
    job = make([server.url(path) for path in paths])
    download_job.start(job, network_file)
    wait_for(lambda: len(server.asked) > share * len(paths))
    process.kill(job.folder)
    wait_for(lambda: not job.is_alive())
    assert job.state().status == "interrupted"
    there = [int(name[:6]) for name in kept(job.folder) if not name.startswith(".")]
    lines = {row for row, r in read_results(job.folder).items() if r.status == "ok"}
    assert 0 < len(there) < 320 and lines <= set(there)
    server.most = None
    assert job.has_work()
    download_job.start(job, network_file)
    wait_for(lambda: job.state().status not in ACTIVE)
    state = job.state()
    assert (state.status, state.ok) == ("finished", 320)
    assert state.errors == {"http_404": 40, "corrupt": 40}
    assert all(server.asked[paths[row - 1]] == 1 for row in there)
    twice = [path for path in paths if path.startswith("good") and server.asked[path] > 1]
    assert len(twice) <= QUICK.concurrency
    for row, file in download_job.images(job.folder).items():
        assert (job.folder / file).read_bytes() == picture(int(paths[row - 1].split("/")[1]))
    assert not [name for name in kept(job.folder) if name.startswith(".")]


def test_a_download_is_stopped_and_started_again(make, server, network_file):
    server.most = 60
    job = make([server.url(f"good/{number}") for number in range(400)])
    download_job.start(job, network_file)
    wait_for(lambda: len(server.asked) > 20)
    job.stop()
    wait_for(lambda: job.state().status == "stopped")
    wait_for(lambda: not job.is_alive())
    assert 0 < job.state().done <= 60
    server.most = None
    download_job.start(job, network_file)
    wait_for(lambda: job.state().status == "finished")
    assert job.state().ok == 400


def test_a_download_at_work_is_not_started_a_second_time(make, server, network_file):
    job = make([server.url("silent")], dataclasses.replace(QUICK, timeout_s=90))
    download_job.start(job, network_file)
    wait_for(lambda: job.state().status == "running" and server.asked)
    noted = (job.folder / "process.json").read_bytes()
    download_job.start(job, network_file)
    assert (job.folder / "process.json").read_bytes() == noted
    with pytest.raises(TrainerError, match="Another process works on the download set"):
        download_job.main(job.folder, network_file)
    with pytest.raises(TrainerError, match="at work with other settings"):
        make([server.url("silent")], QUICK)


def test_a_download_does_not_start_while_the_network_is_off(make, server, network_file):
    job = make([server.url("good/1")])
    network_file.unlink()
    with pytest.raises(TrainerError, match="is off"):
        download_job.start(job, network_file)
    assert job.state().status == "stopped"
    assert download_job.main(job.folder, network_file) == 1
    assert job.state().status == "failed"
    assert "network.json" in job.state().message
    assert not server.asked


def test_a_folder_that_was_received_does_not_say_where_the_network_is_allowed(
    make, server, network_file, tmp_path, capsys
):
    """It names a network.json of its own, as folders of older versions do."""
    job = make([server.url("good/1")])
    own = job.folder / "network.json"
    own.write_text('{"download": true, "private_addresses": true}', encoding="utf-8")
    told = job.folder / "job.json"
    value = json.loads(told.read_text(encoding="utf-8"))
    told.write_text(json.dumps(value | {"network_file": str(own)}), encoding="utf-8")
    with pytest.raises(SystemExit):
        command_line.main(["download", str(job.folder)])
    assert "--network" in capsys.readouterr().err
    network_file.unlink()
    assert command_line.main(["download", str(job.folder), "--network", str(network_file)]) == 1
    state = download_job.DownloadJob.open(job.folder).state()
    assert (state.status, str(network_file) in state.message) == ("failed", True)
    assert not server.asked


def test_dead_links_fail_the_download_with_the_way_out(make, server, network_file):
    job = make([server.url(f"status/404/{number}") for number in range(90)])
    assert download_job.main(job.folder, network_file) == 1
    assert (job.state().status, "22 Feb 2024" in job.state().message) == ("failed", True)
    few = make([server.url(f"status/404/{number}") for number in range(9)], name="few")
    assert download_job.main(few.folder, network_file) == 1
    assert (few.state().status, "22 Feb 2024" in few.state().message) == ("failed", True)


def test_a_full_disk_is_a_state_and_no_crash(make, server, monkeypatch, capfd, network_file):
    job = make([server.url("good/1")], dataclasses.replace(QUICK, keep_free_bytes=10**18))
    assert download_job.main(job.folder, network_file) == 1
    assert job.state().status == "failed" and "Make room" in job.state().message
    assert "Traceback" not in capfd.readouterr().err


def test_the_same_selection_takes_up_the_same_download_and_another_is_refused(
    make, server, network_file
):
    job = make([server.url("good/1"), server.url("status/503")])
    assert make([server.url("good/1"), server.url("status/503")]) == job
    assert download_job.main(job.folder, network_file) == 0
    assert server.asked["status/503"] == 3
    again = make(
        [server.url("good/1"), server.url("status/503")],
        dataclasses.replace(QUICK, retry_failed="transient", retries=0),
    )
    assert again.has_work()
    assert download_job.main(again.folder, network_file) == 0
    assert server.asked == {"good/1": 1, "status/503": 4}
    with pytest.raises(TrainerError, match="the download of another selection"):
        make([server.url("good/2")])


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "x" * 65])
def test_a_name_that_is_a_path_is_refused(make, server, tmp_path, name):
    selection = select(tmp_path / "s.parquet", [server.url("good/1")])
    with pytest.raises(TrainerError, match="cannot name a download"):
        download_job.create_download(tmp_path / "datasets", name, selection, QUICK)
    assert not (tmp_path / "datasets").exists()


def test_a_folder_of_another_kind_is_not_touched(make, server, tmp_path):
    (tmp_path / "datasets" / "set").mkdir(parents=True)
    with pytest.raises(TrainerError, match="is not a download"):
        make([server.url("good/1")])
    assert list((tmp_path / "datasets" / "set").iterdir()) == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT 1 AS row, 'a/b.png' AS image", "None of the 1 images .* is a URL"),
        ("SELECT 1 AS row", "is not a selection"),
        ("SELECT 1 AS row, 'http://x' AS image WHERE false", "has no row"),
        ("SELECT unnest([1, 1]) AS row, 'http://x' AS image", "or 1 twice"),
        ("SELECT NULL::BIGINT AS row, 'http://x' AS image", "without a number"),
    ],
)
def test_a_file_that_is_not_a_selection_is_refused(tmp_path, query, words):
    file = tmp_path / "s.parquet"
    duckdb.sql(f"COPY ({query}) TO '{file}' (FORMAT parquet)")
    with pytest.raises(TrainerError, match=words):
        download_job.create_download(tmp_path / "datasets", "set", file, QUICK)
    with contextlib.suppress(FileNotFoundError):
        assert list((tmp_path / "datasets").iterdir()) == []
