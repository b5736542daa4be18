"""Workers of a Ray cluster as servers of the feeder: Ray places them, restarts them when they die,
and repeats the prompts they were rendering.

Ray (https://docs.ray.io, Apache-2.0) is optional. It is imported only when the settings file names
a cluster and a grid asks for it. Without an address it runs for this ComfyUI alone, on the loopback
interface, and ends with the grid.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import errors
from . import ray_worker, remote
from .remote import Ended, Failed, Gone, Refused
from .servers import RaySettings

TRIES = 4
"""How often a prompt is rendered at most when its worker dies over it."""

POLL_S = 0.5
PATIENCE_S = 20.0
"""After this the person hears that Ray has not started a worker yet."""

CLOSE_S, PROBE_S = 10.0, 5.0
OBJECT_STORE_BYTES = 256 << 20
"""For a Ray of this ComfyUI alone: it holds the pictures on their way."""

ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "100000000"}
"""Environment of every driver: nothing is reported, and losing the head of a cluster does not end
this process, which it would after a minute otherwise.
"""

LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
"""Environment of a Ray for this ComfyUI alone: it listens on loopback on every system, and its
ComfyUIs run with the same priority as this one.
"""

OWN = (
    "--port",
    "--listen",
    "--auto-launch",
    "--windows-standalone-build",
    "--temp-directory",
    "--database-url",
    "--cuda-device",
    "--tls-keyfile",
    "--tls-certfile",
)
"""ComfyUI's arguments that are not passed on to its workers."""


class RayServer:
    """A ComfyUI that Ray keeps running, with the methods of `remote.Server`. To be closed."""

    def __init__(
        self,
        name: str,
        settings: RaySettings,
        is_wanted: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        """While Ray starts the worker, `is_wanted` is asked, and `tell` hears what it waits for."""
        self.url = name
        self.settings, self.is_wanted, self.tell = settings, is_wanted, tell
        self.actor: Any = None
        self.needs, self.has_begun = "", False
        self.out: dict[str, Any] = {}

    def __enter__(self) -> RayServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.actor is None:
            return
        import ray

        try:
            if self.has_begun:
                with contextlib.suppress(Gone):
                    self._ask(self.actor.close.remote(), CLOSE_S)
            ray.kill(self.actor)
        finally:
            self.actor = None
            _cluster.leave()

    def numerics(self) -> dict[str, Any]:
        """As `remote.Server.numerics`, once Ray has started the worker. Raises Gone or Ended."""
        if self.actor is None:
            _cluster.join(self.settings.address)
            try:
                self.actor = self._create()
            except BaseException:
                _cluster.leave()
                raise
        import ray

        answer, begun, told = self.actor.numerics.remote(), time.monotonic(), False
        while not ray.wait([answer], timeout=POLL_S)[0]:
            if not self.is_wanted():
                raise Ended("the grid was stopped before Ray had started it")
            if not told and time.monotonic() - begun > PATIENCE_S:
                self.tell(
                    f"Ray has not started it yet: it waits for {self.needs}, or its ComfyUI is "
                    "still starting"
                )
                told = True
        found = self._ask(answer)
        self.has_begun = True
        return found

    def sizes(self, folder: str) -> dict[str, int | None]:
        return self._ask(self.actor.sizes.remote(folder))

    def send(self, prompt: dict[str, Any], id: str, output: str) -> str:
        self.out[id] = self.actor.render.remote(prompt, id, output)
        return id

    def result(self, id: str, output: str) -> tuple[bytes, float] | None:
        """As `remote.Server.result`. Raises Failed, Refused or Ended."""
        import ray
        from ray import exceptions

        if id not in self.out or not ray.wait([self.out[id]], timeout=0)[0]:
            return None
        try:
            found: Any = ray.get(self.out.pop(id))
        except exceptions.ActorUnavailableError:
            raise Failed(f"Its worker died {TRIES} times while it rendered this cell.") from None
        except exceptions.RayTaskError as error:
            raise Failed(_last_line(error)) from None
        except exceptions.RayError as error:
            raise Ended(_last_line(error)) from None
        if "refused" in found:
            raise Refused(found["refused"])
        if "failed" in found:
            raise Failed(found["failed"], found["interrupted"])
        return found["picture"], found["seconds"]

    def known(self) -> set[str]:
        """The prompts that Ray has, also those whose worker has died: Ray repeats them."""
        return {*self.out}

    def has_ended(self, id: str) -> bool:
        return False

    def forget(self, ids: list[str], interrupt: bool) -> None:
        self._ask(self.actor.forget.remote(ids, interrupt))
        for id in ids:
            self.out.pop(id, None)

    def _create(self) -> Any:
        import ray
        from ray import cloudpickle

        for module in (errors, remote, ray_worker):
            cloudpickle.register_pickle_by_value(module)
        settings = self.settings
        gpus = settings.gpus
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        self.needs = f"{gpus:g} GPU" if gpus else "room"
        remotely: Any = ray.remote
        kept = remotely(
            num_cpus=0,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=TRIES - 1,
            max_concurrency=8,
        )(ray_worker.RayWorker)
        arguments = inherited(sys.argv[1:]) if settings.arguments is None else settings.arguments
        return kept.remote(
            settings.comfyui or _own_comfyui(), [*arguments], os.environ.get("OMP_NUM_THREADS")
        )

    def _ask(self, answer: Any, timeout_s: float | None = remote.TIMEOUT_S) -> Any:
        import ray
        from ray import exceptions

        try:
            return ray.get(answer, timeout=timeout_s)
        except exceptions.ActorDiedError as error:
            raise Ended(_last_line(error)) from None
        except exceptions.RayError as error:
            raise Gone(_last_line(error)) from None


class _Cluster:
    """This process as a driver of Ray, for as long as a grid uses it."""

    def __init__(self) -> None:
        self.door = threading.Lock()
        self.users = 0
        self.address = ""
        self.wish_to_end = threading.Event()

    def join(self, address: str) -> None:
        """Raises Ended if Ray cannot be started or reached."""
        with self.door:
            if self.users and address != self.address:
                raise Ended("another grid is using another Ray cluster; wait until it has ended")
            if not self.users:
                self._start(address)
            self.users += 1

    def leave(self) -> None:
        with self.door:
            self.users -= 1
            if not self.users:
                self.wish_to_end.set()
                self.thread.join()

    def _start(self, address: str) -> None:
        _check_answers(address)
        for name, value in {**ALWAYS, **({} if address else LOCAL)}.items():
            os.environ.setdefault(name, value)
        self.address, self.wish_to_end = address, threading.Event()
        ready, problem = threading.Event(), []

        def hold() -> None:
            """Start Ray and keep its thread: on Linux its processes end with that thread."""
            local = (
                {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
                if not address
                else {}
            )
            try:
                import ray

                ray.init(
                    address or "local",
                    log_to_driver=False,
                    configure_logging=False,
                    namespace="cocktail",
                    **local,
                )
            except Exception as error:
                problem.append(error)
                return
            finally:
                ready.set()
            self.wish_to_end.wait()
            ray.shutdown()

        self.thread = threading.Thread(target=hold, name="cocktail ray", daemon=True)
        self.thread.start()
        ready.wait()
        if problem:
            where = address or "on this machine"
            raise Ended(f"Ray {where} cannot be used: {_last_line(problem[0])}")


_cluster = _Cluster()


def inherited(argv: Sequence[str]) -> list[str]:
    """The arguments of this ComfyUI that its workers get too: folders, precision, packs."""
    kept, skipping = [], False
    for part in argv:
        if part.startswith("--"):
            skipping = part.partition("=")[0] in OWN
        if not skipping:
            kept.append(part)
    return kept


def _check_answers(address: str) -> None:
    """Raises Ended if nothing listens there: Ray itself would wait for minutes and then end this
    process.
    """
    parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = "", None
    if address in ("", "auto"):
        return
    if not host or not port or parts.scheme not in ("", "ray"):
        raise Ended(
            f"{address!r} is not the address of a Ray cluster. Write HOST:PORT, "
            "ray://HOST:PORT or auto."
        )
    try:
        socket.create_connection((host, port), timeout=PROBE_S).close()
    except OSError as error:
        raise Ended(
            f"Nothing answers at {address}, the address of the Ray cluster: {error}"
        ) from None


def _own_comfyui() -> str:
    import folder_paths

    return str(Path(folder_paths.__file__).resolve().parent)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400]
