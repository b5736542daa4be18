"""Stages of a benchmark on a real ComfyUI: their time, peak memory and disk."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from tests.comfy import Comfy

POLL_S = 0.5


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A node of an API prompt."""
    return {"class_type": kind, "inputs": inputs}


class Peaks:
    """Resident memory of a server and of the largest other process that works below its folder."""

    def __init__(self, server: Comfy) -> None:
        self.server, self.base = server.process.pid, str(server.base)
        self.of_server = self.of_others = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._over.wait(POLL_S):
            for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
                found = process.info
                if not found["memory_info"]:
                    continue
                size = found["memory_info"].rss
                if found["pid"] == self.server:
                    self.of_server = max(self.of_server, size)
                elif any(self.base in word for word in found["cmdline"] or ()):
                    self.of_others = max(self.of_others, size)


def disk(folder: Path) -> int:
    """Bytes that the files in a folder take, without links to others."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)


def measured(server: Comfy, stage: str, work: Callable[[], str]) -> dict[str, Any]:
    """Do one stage on a ComfyUI that starts anew. `work` returns what was made, in words."""
    before = disk(server.base)
    server.start()
    try:
        with Peaks(server) as peaks:
            started = time.perf_counter()
            what = work()
            seconds = time.perf_counter() - started
    finally:
        server.stop()
    print(f"{stage}: {seconds:.1f} s, {what}", flush=True)
    return {
        "stage": stage, "seconds": seconds, "server_gb": peaks.of_server / 1e9,
        "other_gb": peaks.of_others / 1e9, "disk_gb": (disk(server.base) - before) / 1e9,
        "what": what,
    }  # fmt: skip


def table(found: Iterable[dict[str, Any]]) -> Iterable[str]:
    """The lines of a Markdown table, the machine first."""
    yield f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n"
    yield "| stage | seconds | server GB | other GB | disk GB | what |\n|---|---|---|---|---|---|"
    for one in found:
        figures = (f"{one[key]:.2f}" for key in ("server_gb", "other_gb", "disk_gb"))
        yield f"| {one['stage']} | {one['seconds']:.1f} | {' | '.join(figures)} | {one['what']} |"
