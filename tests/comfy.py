"""A real ComfyUI in a process of its own, and what a client can ask of it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


class ComfyError(Exception):
    """A prompt was refused or failed. `nodes` says why, by node id."""

    def __init__(self, nodes: dict[str, str]) -> None:
        super().__init__("\n".join(f"node {node}: {reason}" for node, reason in nodes.items()))
        self.nodes = nodes


class Comfy:
    """ComfyUI with a base directory of its own and at most one pack, linked in as
    custom_nodes/cocktail.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        pack: Path | None,
        frontend: Path | None = None,
        bound: bool = False,
    ) -> None:
        """`bound`: rights bind it even where the tests run as root."""
        self.comfyui, self.base, self.frontend, self.bound = comfyui, base, frontend, bound
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / "server.log"
        self.process: subprocess.Popen | None = None
        self.kept: set[Path] = set()
        for folder in ("custom_nodes", "models/checkpoints", "input", "output", "temp", "user"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        link = base / "custom_nodes" / "cocktail"
        if pack is not None and not link.exists():
            link.symlink_to(pack, target_is_directory=True)

    def start(self) -> None:
        """Returns when it answers."""
        command = [
            sys.executable, self.comfyui / "main.py", "--cpu", "--listen", "127.0.0.1",
            "--port", self.port, "--base-directory", self.base,
            "--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch",
            "--disable-all-custom-nodes", "--whitelist-custom-nodes", "cocktail",
        ]  # fmt: skip
        if self.frontend:
            command += ["--front-end-root", self.frontend]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=log,
                cwd=self.comfyui,
                preexec_fn=rights_given_up() if self.bound and sys.platform == "linux" else None,
            )
        while True:
            try:
                self.get("/system_stats")
                return
            except OSError:
                assert self.process.poll() is None, f"ComfyUI did not start:\n{self.log_tail()}"
                time.sleep(0.1)

    def stop(self) -> None:
        """End it and the trainings that it has started."""
        self.end()
        for file in self.base.glob("output/cocktail/runs/*/process.json"):
            noted = json.loads(file.read_text(encoding="utf-8"))
            if noted["pid"] != os.getpid():
                end(noted["pid"], noted["started"])

    def restart(self) -> None:
        """End it alone, as a crash or a person would, and start it again on the same port."""
        self.end()
        self.start()

    def end(self) -> None:
        """End it, unless it has ended: then its pid may be another's."""
        if self.process.poll() is None:
            end(self.process.pid)
            self.process.wait()

    def checkpoints(self) -> set[Path]:
        """The files and folders of models/checkpoints/cocktail."""
        folder = self.base / "models" / "checkpoints" / "cocktail"
        return set(folder.iterdir()) if folder.is_dir() else set()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return json.load(answer)

    def raw(self, path: str) -> bytes:
        """The body of an answer."""
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return answer.read()

    def failed(self, path: str) -> str:
        """What the answer to a request that is refused says."""
        try:
            self.raw(path)
        except urllib.error.HTTPError as error:
            return error.read().decode()
        raise AssertionError(f"{path} was answered")

    def post(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """The JSON of the answer, whatever its status."""
        request = urllib.request.Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")

    def queue(self, prompt: dict[str, Any]) -> str:
        """The id of a prompt that is taken whole; ComfyError if any of its nodes is refused."""
        answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        if answer.get("node_errors"):
            raise ComfyError(reasons(answer))
        assert "prompt_id" in answer, answer
        return answer["prompt_id"]

    def errors(self, prompt: dict[str, Any]) -> dict[str, str]:
        """Why each node of a prompt is refused, by node id; it must be refused before any of it
        runs.
        """
        answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        assert "prompt_id" not in answer, "the prompt was taken"
        return reasons(answer)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a prompt that has ended, None before that."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def wait(self, prompt_id: str, timeout: float = 600) -> dict[str, Any]:
        """What the nodes of a prompt report, by node id; ComfyError if it fails."""
        deadline = time.monotonic() + timeout
        while (entry := self.history(prompt_id)) is None:
            assert self.process.poll() is None, f"ComfyUI is gone:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"not done in {timeout} s:\n{self.log_tail()}"
            time.sleep(0.05)
        failed = {
            data["node_id"]: data.get("exception_message", "interrupted")
            for kind, data in entry["status"]["messages"]
            if kind in ("execution_error", "execution_interrupted")
        }
        if failed:
            raise ComfyError(failed)
        return entry["outputs"]

    def run(self, prompt: dict[str, Any], timeout: float = 600) -> dict[str, Any]:
        """Queue a prompt and wait for it; what its nodes report, by node id."""
        return self.wait(self.queue(prompt), timeout)

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def rights_given_up() -> Callable[[], None]:
    """What lets a process read and write only what it has the right to, also as root, from its next
    program on. Nothing is loaded in it: between fork and program other threads' locks stay taken.
    """
    drop, override, read_search = 24, 1, 2
    prctl = ctypes.CDLL(None).prctl

    def give_up() -> None:
        for capability in (override, read_search):
            prctl(drop, capability, 0, 0, 0)

    return give_up


def reasons(answer: dict[str, Any]) -> dict[str, str]:
    return {
        node: " ".join(error["details"] or error["message"] for error in found["errors"])
        for node, found in answer["node_errors"].items()
    }


def free_port() -> int:
    """A port that nobody has, and that no system gives to a connection before it is used: these are
    all above 32767.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe:
            # A server may take a port of which connections are only just closed.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def end(pid: int, started: float | None = None) -> None:
    """End a process, gently first; not another one that has been given the same pid since
    `started`.
    """
    try:
        process = psutil.Process(pid)
        if started is not None and abs(process.create_time() - started) > 1:
            return
        process.terminate()
        process.wait(30)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.NoSuchProcess:
        pass
