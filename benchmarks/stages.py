"""Stages of a benchmark on a real ComfyUI: their time, peak memory and disk, noted one by one, so
that an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.comfy import Comfy

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.5
HOURS_S = 24 * 3600
Prompt = dict[str, dict[str, Any]]
Work = Callable[[Comfy], str]
"""Does a stage on a ComfyUI, and returns in words what it has made."""
Figures = dict[str, Any]


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A node of an API prompt."""
    return {"class_type": kind, "inputs": inputs}


def told(server: Comfy, prompt: Prompt) -> dict[str, Any]:
    """Run a prompt; what its last node reports."""
    return server.run(prompt, timeout=HOURS_S).get(list(prompt)[-1], {})


def parsed(text: str | None, arguments: Sequence[str], **fewer: str) -> argparse.Namespace:
    """The options of a benchmark. `fewer`: flags that make it smaller, with their help; `size` is
    the one that is given.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument(
        "--keep", type=Path, help="a folder to work in; what is finished there is not done again"
    )
    for flag, words in fewer.items():
        parser.add_argument(
            f"--{flag}", dest="size", action="store_const", const=flag, default="full", help=words
        )
    options = parser.parse_args(arguments)
    if not options.comfyui or not (Path(options.comfyui) / "main.py").is_file():
        parser.error("name ComfyUI's folder with --comfyui")
    return options


def carry_out(
    options: argparse.Namespace, prepare: Callable[[Path], None], stages: Mapping[str, Work]
) -> int:
    """Make what the stages start from, do those that are not finished, each on a ComfyUI that
    starts anew, and print their table.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with folder_of(options.keep) as base:
        noted = base / f"stages-{options.size}.json"
        if other := [file for file in base.glob("stages-*.json") if file != noted]:
            sys.exit(f"{base} has {other[0].name} of another size. Choose another folder.")
        found = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
        server = Comfy(Path(options.comfyui).resolve(), base, ROOT)
        prepare(base)
        for stage, work in stages.items():
            figures = found.setdefault(stage, {})
            if "what" not in figures:
                try:
                    measure(server, work, figures)
                finally:
                    noted.write_text(json.dumps(found), encoding="utf-8")
            print(f"{stage}: {figures['seconds']:.1f} s, {figures['what']}", flush=True)
        print("", *table(found), json.dumps(found), sep="\n")
    return 0


@contextlib.contextmanager
def folder_of(kept: Path | None) -> Iterator[Path]:
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def measure(server: Comfy, work: Work, figures: Figures) -> None:
    """Do one stage, and add it to its figures from before it was interrupted. It is finished when
    it has said `what` it made.
    """
    before = disk(server.base)
    server.start()
    peaks = Peaks(server)
    try:
        with peaks:
            what = work(server)
        figures["what"] = what
    finally:
        server.stop()
        for name, value in {
            "seconds": peaks.seconds,
            "processor_s": peaks.processor_s,
            "disk_gb": (disk(server.base) - before) / 1e9,
            "goes": 1,
        }.items():
            figures[name] = figures.get(name, 0) + value
        for name, size in (("server_gb", peaks.of_server), ("other_gb", peaks.of_others)):
            figures[name] = max(figures.get(name, 0), size / 1e9)


class Peaks:
    """How long something takes, the resident memory of a server and of the largest other process
    that works below its folder, and the processor time of all of them.
    """

    def __init__(self, server: Comfy) -> None:
        self.server, self.base = server.process.pid, str(server.base)
        self.of_server = self.of_others = 0
        self._first: dict[tuple[int, float], float] = {}
        self._last: dict[tuple[int, float], float] = {}
        self.seconds = 0.0
        self._begun, self._started = time.time(), time.perf_counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    @property
    def processor_s(self) -> float:
        return sum(self._last.values()) - sum(self._first.values())

    def __enter__(self) -> Peaks:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self._over.set()
        self._thread.join()
        self._look()

    def _poll(self) -> None:
        while not self._over.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        wanted = ["pid", "cmdline", "memory_info", "cpu_times", "create_time"]
        for process in psutil.process_iter(wanted):
            found = process.info
            if found["pid"] == os.getpid() or not (found["memory_info"] and found["cpu_times"]):
                continue
            if found["pid"] == self.server:
                self.of_server = max(self.of_server, found["memory_info"].rss)
            elif any(self.base in word for word in found["cmdline"] or ()):
                self.of_others = max(self.of_others, found["memory_info"].rss)
            else:
                continue
            key, used = (found["pid"], found["create_time"]), sum(found["cpu_times"][:2])
            self._first.setdefault(key, used if found["create_time"] < self._begun else 0.0)
            self._last[key] = used


def disk(folder: Path) -> int:
    """Bytes that the files in a folder take, without links to others."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)


def table(found: Mapping[str, Figures]) -> Iterable[str]:
    """The lines of a Markdown table, the machine first."""
    machine = platform.processor() or platform.machine()
    yield f"{machine}, {os.cpu_count()} cores, {time.strftime('%d %B %Y')}\n"
    yield "| stage | seconds | processor seconds | server GB | other GB | disk GB | what |"
    yield "|---|---|---|---|---|---|---|"
    for stage, one in found.items():
        times = f"{one['seconds']:.1f} | {one['processor_s']:.1f}"
        sizes = " | ".join(f"{one[key]:.2f}" for key in ("server_gb", "other_gb", "disk_gb"))
        goes = f" (in {one['goes']} goes)" if one["goes"] > 1 else ""
        yield f"| {stage} | {times} | {sizes} | {one['what']}{goes} |"
