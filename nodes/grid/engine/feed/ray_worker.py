"""One worker of a Ray cluster: on the machine where Ray places it, it runs a ComfyUI that renders
prompts and ends with the worker.

This file and `remote` travel to the machines of the cluster, which need a ComfyUI with the model
files but no code of ours.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from .remote import Failed, Gone, Refused, Server

POLL_S = 0.1
START_S = 600.0
"""A ComfyUI with many packs on a slow disk takes minutes to start."""

RENDERS_ONLY = "COCKTAIL_RENDERS_ONLY"
"""Set for a ComfyUI that only renders for another one: there the pack resumes no grids and no
trainings.
"""

LAUNCH = """
import os, runpy, shutil, sys, threading

def end_with_worker():
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)

folder = sys.argv[1]
threading.Thread(target=end_with_worker, daemon=True).start()
sys.argv = ["main.py", *sys.argv[2:]]
sys.path[0] = os.getcwd()
try:
    runpy.run_path("main.py", run_name="__main__")
finally:
    shutil.rmtree(folder, ignore_errors=True)
"""
"""Runs ComfyUI, and ends it when the pipe from the worker closes: on every system, even if the
worker is killed.
"""


class RayWorker:
    """A ComfyUI of its own. Ray starts another worker, here or on another machine, when this
    process ends unexpectedly.
    """

    def __init__(self, comfyui: str, arguments: list[str], threads: str | None) -> None:
        """Returns when ComfyUI answers. `threads` becomes OMP_NUM_THREADS, which Ray would set to
        1. Raises RuntimeError.
        """
        self.forgotten: set[str] = set()
        self.is_closing = False
        if not Path(comfyui, "main.py").is_file():
            raise RuntimeError(f"there is no ComfyUI in {comfyui} on {socket.gethostname()}")
        log = tempfile.TemporaryFile()  # noqa: SIM115
        port = _free_port()
        self.process = _launch(comfyui, arguments, threads, port, log)
        self.server = Server(f"http://127.0.0.1:{port}")
        self._wait_until_up(log)
        threading.Thread(target=self._end_with_comfyui, daemon=True).start()

    def _wait_until_up(self, log: IO[bytes]) -> None:
        end = time.monotonic() + START_S
        while True:
            try:
                self.server.known()
                return
            except Gone:
                if self.process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    lines = log.read().decode("utf-8", "replace").strip().splitlines()
                    raise RuntimeError(
                        f"ComfyUI did not start on {socket.gethostname()}: "
                        + " / ".join(lines[-3:])[-300:]
                    ) from None
                time.sleep(POLL_S)

    def _end_with_comfyui(self) -> None:
        self.process.wait()
        if not self.is_closing:
            os._exit(1)

    def numerics(self) -> dict[str, Any]:
        return self.server.numerics()

    def sizes(self, folder: str) -> dict[str, int | None]:
        return self.server.sizes(folder)

    def render(self, prompt: dict[str, Any], id: str, output: str) -> dict[str, Any]:
        """What became of a prompt: "picture" and "seconds", or "refused", or "failed" and
        "interrupted".

        A ComfyUI that does not answer is busy. If it were gone, this process would have ended too,
        and Ray would ask another worker.
        """
        taken = ""
        while True:
            try:
                if not taken and (id in self.server.known() or self.server.has_ended(id)):
                    taken = id
                taken = taken or self.server.send(prompt, id, output)
                if (found := self.server.result(taken, output)) is not None:
                    return {"picture": found[0], "seconds": found[1]}
            except Refused as error:
                return {"refused": str(error)}
            except Failed as error:
                return {"failed": str(error), "interrupted": error.interrupted}
            except Gone:
                pass
            if id in self.forgotten:
                return {"failed": "cancelled", "interrupted": True}
            time.sleep(POLL_S)

    def forget(self, ids: list[str], interrupt: bool) -> None:
        """Give up prompts: take them out of the queue, and stop the one that runs."""
        self.server.forget(ids, interrupt)
        self.forgotten.update(ids)

    def close(self) -> None:
        """End ComfyUI, which removes its temporary folder."""
        self.is_closing = True
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _launch(
    comfyui: str, arguments: list[str], threads: str | None, port: str, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start ComfyUI with a temporary folder of its own."""
    folder = tempfile.mkdtemp(prefix="cocktail-ray-")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    own = [
        *("--listen", "127.0.0.1", "--port", port, "--temp-directory", folder),
        *("--database-url", "sqlite:///:memory:", "--disable-auto-launch"),
    ]
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, folder, *arguments, *own],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=comfyui,
        env=environment | {RENDERS_ONLY: "1"},
    )
