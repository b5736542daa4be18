"""Downloads small pictures from a server on this machine that answers badly, is killed in the
middle, and goes on.

    python benchmarks/download.py
    python benchmarks/download.py --rows 1000 --folder somewhere

Of 10,000 rows 5 % are slow, 10 % are errors of six kinds and 1 % are damaged. The server counts who
asks for what. The last line is JSON. Exit status 1 means that a good picture is missing or was
fetched twice, or that a bad one has not its own reason.
"""

from __future__ import annotations

import sys

# Run by its path, this file's folder would put its select.py before the standard library's.
sys.path.insert(0, sys.path.pop(0).removesuffix("benchmarks"))

import argparse
import asyncio
import io
import json
import os
import platform
import random
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from trainer.data.fetch import job as download_job
from trainer.data.fetch.results import read_results
from trainer.data.fetch.settings import DownloadSettings
from trainer.files import write_json
from trainer.jobs import process
from trainer.jobs.job import ACTIVE

KINDS = {
    "slow": 5.0,
    "404": 4.0,
    "403": 2.0,
    "410": 1.0,
    "500": 1.0,
    "reset": 1.0,
    "robots": 1.0,
    "truncated": 0.5,
    "page": 0.5,
}
"""Percent of the rows; the others are good at once."""
REASONS = {
    "good": "ok",
    "slow": "ok",
    "404": "http_404",
    "403": "http_403",
    "410": "http_410",
    "500": "http_500",
    "reset": "connection",
    "robots": "robots",
    "truncated": "corrupt",
    "page": "not_an_image",
}
SLOW_S = 1.0


def kind_of(number: int) -> str:
    """How the server answers for a row: the same at every run."""
    place = random.Random(f"kind/{number}").random() * 100
    for kind, percent in KINDS.items():
        place -= percent
        if place < 0:
            return kind
    return "good"


def picture(number: int, side: int) -> bytes:
    """A PNG of its own for every row, about 3 bytes a pixel."""
    from PIL import Image

    image = Image.frombytes("RGB", (side, side), random.Random(number).randbytes(3 * side * side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


async def serve(side: int) -> None:
    """Answer until standard input ends; prints the port first. /asked tells how often each path was
    asked for.
    """
    from aiohttp import web

    asked: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/asked":
            return web.json_response(asked)
        asked[request.path] += 1
        _, kind, number = request.path.split("/")
        if kind == "slow":
            await asyncio.sleep(SLOW_S)
        if kind.isdigit():
            return web.Response(status=int(kind))
        if kind == "reset" and request.transport:
            request.transport.abort()
        body = picture(int(number), side)
        if kind == "truncated":
            body = body[: len(body) // 2]
        if kind == "page":
            body = b"<html>This content is no longer available.</html>"
        headers = {"X-Robots-Tag": "noai"} if kind == "robots" else {}
        return web.Response(body=body, content_type="image/png", headers=headers)

    application = web.Application()
    application.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


def measure(folder: Path, rows: int, side: int, port: int) -> dict[str, Any]:
    """Download, kill halfway, resume, and check everything against the server's own count."""
    import duckdb

    kinds = {row: kind_of(row) for row in range(1, rows + 1)}
    urls = [(row, f"http://127.0.0.1:{port}/{kind}/{row}") for row, kind in kinds.items()]
    write_json(folder / "urls.json", [{"row": row, "image": url} for row, url in urls])
    with duckdb.connect() as database:
        database.execute(
            f"COPY (SELECT row, image FROM read_json('{folder / 'urls.json'}')) "
            f"TO '{folder / 'selection.parquet'}' (FORMAT parquet)"
        )
    write_json(folder / "network.json", {"download": True, "private_addresses": True})
    settings = DownloadSettings(timeout_s=5.0)
    job = download_job.create_download(folder, "benchmark", folder / "selection.parquet", settings)
    before_s = time_until(job, lambda: job.state().done >= rows // 2)
    process.kill(job.folder)
    while job.is_alive():
        time.sleep(0.01)
    images = job.folder / "images"
    there = {int(file.stem) for file in images.rglob("[0-9]*.*")}
    after_s = time_until(job, lambda: job.state().status not in ACTIVE)
    state, results = job.state(), read_results(job.folder)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/asked") as answer:
        asked = json.load(answer)
    good = {row for row, kind in kinds.items() if REASONS[kind] == "ok"}
    times = {row: asked.get(f"/{kinds[row]}/{row}", 0) for row in good}
    return {
        "status": state.status,
        "rows": rows,
        "good": len(good),
        "arrived": sum(
            (job.folder / results[row].file).read_bytes() == picture(row, side)
            for row in good
            if row in results and results[row].status == "ok"
        ),
        "wrong_reason": sum(
            row not in results or results[row].status != REASONS[kind]
            for row, kind in kinds.items()
        ),
        "there_when_killed": len(there),
        "those_fetched_again": sum(times[row] > 1 for row in there),
        "in_flight_fetched_again": sum(
            count > 1 for row, count in times.items() if row not in there
        ),
        "seconds_until_killed": round(before_s, 1),
        "seconds_after": round(after_s, 1),
        "rows_per_second": round(rows / (before_s + after_s)),
        "megabytes": round(state.bytes / 1e6, 1),
        "errors": state.errors,
    }


def time_until(job: download_job.DownloadJob, done: Any) -> float:
    """Seconds from the start of the download's process until `done`."""
    began = time.monotonic()
    download_job.start(job, job.folder.parent / "network.json")
    while not done():
        time.sleep(0.05)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=48, help="pixels of each side of a picture")
    parser.add_argument("--folder", type=Path, help="where to keep it all (a temporary folder)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.side))
        return 0
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", "--side", str(options.side)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    try:
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            figures = measure(folder, options.rows, options.side, port)
    finally:
        server.communicate("")
    import aiohttp

    figures["machine"] = (
        f"{os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}"
    )
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):28} {value}")
    print(json.dumps(figures))
    sound = figures["arrived"] == figures["good"] and not figures["wrong_reason"]
    return 0 if sound and not figures["those_fetched_again"] else 1


if __name__ == "__main__":
    sys.exit(main())
