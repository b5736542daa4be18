"""How a run shares its device with ComfyUI's prompts.

exclusive   the run keeps what it has
share       the run leaves some memory to others; on a CPU it has a low priority
polite      the run gives way between two steps while a prompt is queued, and keeps its state in RAM

A ComfyUI says that its prompts use a device by holding a lock, which the system takes back when it
dies: nothing that a dead process has left can hold up a run. A run asks for memory by a file, which
the ComfyUIs on its device answer by unloading their models (nodes/host/sharing.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TrainerError
from .files import remove, write_json
from .jobs.device import device_name
from .jobs.job import Refused, read_json
from .jobs.lock import Lock, is_held
from .model.memory import MemoryUse, lighter
from .model.memory import estimate as estimated
from .runs import Run
from .settings.groups import SharingSettings
from .settings.run_settings import RunSettings

if TYPE_CHECKING:
    import torch

    from .journal import Journal
    from .workers import Workers

SHARE, POLITE = "share", "polite"
GB = 1_000_000_000
POLL_S = 0.1
PROBED_S = 2.0
"""A lock may look taken for a moment, because somebody has looked whether it is."""
MEMORY_LIMIT_S = 120.0
"""How long a run that starts waits for memory that others hold."""
NEEDED = 0.9
"""Share of the estimate that must be free before a run starts: the estimate is on the safe side."""
CONTEXT_BYTES = 1 * GB
"""What a GPU's driver and its other users keep: not even an empty GPU is all free."""
NICENESS = 10
FLAGS = (
    "Start ComfyUI with --reserve-vram or --vram-headroom and the gigabytes that it is to leave "
    "alone, or end other programs on the GPU."
)


def queue_folder(run: Run) -> Path:
    """The folder of the queue that a run of this output folder stands in."""
    return run.folder.parent.parent / ".queue"


def _prompts(queue: Path, device: str) -> Path:
    """Where the ComfyUIs say that their prompts use a device."""
    return queue / "prompts" / re.sub(r"[^A-Za-z0-9._-]", "_", device)


def requests(queue: Path) -> Path:
    """Where runs ask for memory, each in a file of its name."""
    return queue / "memory"


class Use:
    """By this a ComfyUI says whether its prompts use a device."""

    def __init__(self, queue: Path, device: str) -> None:
        self.device = device
        folder = _prompts(queue, device)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.lock"):
            with contextlib.suppress(OSError):
                if not is_held(old):
                    old.unlink()
        self._lock = Lock(folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock")

    def say(self, used: bool) -> None:
        """Say it to all runs. Raises TrainerError or OSError when the folder does not allow it."""
        if used and not self._lock.is_ours():
            self._lock.let_go()
            self._lock.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.take(PROBED_S)
        elif not used:
            self._lock.let_go()


def in_use(queue: Path, device: str) -> bool:
    """Whether prompts of any ComfyUI use a device."""
    for lock in _prompts(queue, device).glob("*.lock"):
        with contextlib.suppress(OSError):
            if is_held(lock):
                return True
    return False


def policy_of(run: Run) -> SharingSettings:
    """How a run shares its device: as asked for by name while its settings were these, else as in
    its settings.
    """
    try:
        value = read_json(run.folder / "policy.json")
        if value.get("instead_of") == run.settings.sharing.to_json():
            return SharingSettings.from_json(value.get("sharing"))
    except TrainerError:
        pass
    return run.settings.sharing


def set_policy(run: Run, sharing: SharingSettings) -> None:
    """Change how a run shares its device, from its next step on."""
    write_json(
        run.folder / "policy.json",
        {"sharing": sharing.to_json(), "instead_of": run.settings.sharing.to_json()},
    )


def check_room(
    needed: MemoryUse,
    shapes: dict[str, tuple[int, ...]],
    settings: RunSettings,
    total: int,
    leave_gb: float,
) -> None:
    """Raise Refused when a run does not fit beside what it is to leave to others."""
    room = total - leave_gb * GB
    if needed.total <= room:
        return
    fitting = [words for words, one in lighter(settings) if estimated(shapes, one).total <= room]
    advice = f"These settings should fit: {fitting[0]}." if fitting else "Leave less to others."
    raise Refused(
        f"The run needs about {needed}. Sharing leaves {leave_gb:g} of {total / GB:.1f} GB to "
        f"others, so that it has {max(0.0, room) / GB:.1f} GB. {advice}"
    )


@dataclass
class Sharing:
    """A run's side of it. `needed` is the estimate of its memory."""

    run: Run
    journal: Journal
    workers: Workers
    needed: MemoryUse
    shapes: dict[str, tuple[int, ...]]
    policy: SharingSettings = SharingSettings()
    _seen: Any = ()
    _limited: bool = False

    def __post_init__(self) -> None:
        device = self.workers.device
        self.device = device_name(device.type, device.index)
        self.queue = queue_folder(self.run)

    def free(self) -> tuple[int, int]:
        """Bytes that are free on the run's device, and all that it has."""
        return free_bytes(self.workers.device)

    def begin(self, stop: Callable[[], bool]) -> bool:
        """Before anything is on the device: let prompts pass if the run is polite, and wait for
        memory that is free; False when the run is to stop. Raises TrainerError when the memory
        does not come.
        """
        self.look(starts=True)
        if self.prompt_waits() and not self.wait_until_idle(stop):
            return False
        free, total = self.free()
        wanted = int(min(NEEDED * self.needed.total, total - CONTEXT_BYTES))
        on_gpu = self.workers.device.type == "cuda"
        return not on_gpu or free >= wanted or self.wait_for_memory(wanted, stop, MEMORY_LIMIT_S)

    def look(self, starts: bool = False) -> None:
        """Read the policy if it was changed, and follow it. Raises Refused when a run that `starts`
        does not fit beside what it is to leave; one at work keeps the policy that it had.
        """
        file = self.run.folder / "policy.json"
        try:
            status = file.stat()
            seen: Any = (status.st_mtime_ns, status.st_ino)
        except OSError:
            seen = None
        if seen == self._seen:
            return
        self._seen, before = seen, self.policy
        self.policy = policy_of(self.run)
        try:
            if self.policy != before:
                self._follow()
        except Refused as error:
            if starts:
                raise
            self.policy = before
            print(f"The run goes on as {before.policy}: {error}", file=sys.stderr)

    def _follow(self) -> None:
        import torch

        device, share = self.workers.device, self.policy.policy == SHARE
        if not share and not self._limited:
            return
        total, leave = self.free()[1], self.policy.leave_gb if share else 0.0
        if share:
            check_room(self.needed, self.shapes, self.run.settings, total, leave)
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(max(0.0, 1 - leave * GB / total), device)
        elif share:
            _be_nice()
        self._limited = share

    def prompt_waits(self) -> bool:
        """Whether the run is to give way now."""
        return self.policy.policy == POLITE and in_use(self.queue, self.device)

    def wait_until_idle(self, stop: Callable[[], bool]) -> bool:
        """Wait until no prompt has used the device for as long as the policy says; False when the
        run is to stop.
        """
        status = self.journal.state.status
        self.journal.update(
            status="paused",
            message="Has left the device to a prompt, and goes on when the queue has been empty "
            f"for {self.policy.idle_s:g} s",
        )
        idle_since = time.monotonic()
        while self.policy.policy == POLITE:
            if in_use(self.queue, self.device):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= self.policy.idle_s:
                break
            if stop():
                return False
            time.sleep(POLL_S)
            self.look()
        self.journal.update(status=status, message="")
        return True

    def wait_to_come_back(self, wanted: int, stop: Callable[[], bool]) -> bool:
        """Wait until no prompt uses the device and, on a GPU, so many bytes are free; False when
        the run is to stop. A prompt that comes while it waits for memory goes first too.
        """
        while self.wait_until_idle(stop):
            if self.workers.device.type != "cuda" or self.wait_for_memory(
                wanted, lambda: stop() or self.prompt_waits()
            ):
                return True
            if stop():
                return False
        return False

    def wait_for_memory(
        self, wanted: int, stop: Callable[[], bool], limit_s: float = float("inf")
    ) -> bool:
        """Ask the ComfyUIs on this device to unload their models, and wait until so many bytes are
        really free; False when the run is to stop. Raises TrainerError after the limit. A run that
        comes back has none: its state is safe in RAM.

        What counts is what the driver calls free: a ComfyUI may hold weights that it would give
        up for itself, but not for others.
        """
        request = requests(self.queue) / f"{self.run.name}.json"
        began = time.monotonic()
        try:
            while True:
                free, total = self.free()
                if free >= wanted:
                    self.journal.update(message="")
                    return True
                figures = (
                    f"{wanted / GB:.1f} GB of GPU memory are needed, {free / GB:.1f} of "
                    f"{total / GB:.1f} GB are free"
                )
                if time.monotonic() - began >= limit_s:
                    raise TrainerError(
                        f"The run waited {limit_s:.0f} s for memory: {figures}. {FLAGS} Then queue "
                        "it again."
                    )
                if not request.exists():
                    write_json(request, {"device": self.device, "bytes": wanted})
                self.journal.progress(message=f"Waits for memory: {figures}. {FLAGS}")
                if stop():
                    return False
                time.sleep(POLL_S)
        finally:
            remove(request)


def free_bytes(device: torch.device) -> tuple[int, int]:
    """What is free and what there is: of the GPU's memory as its driver says, else of RAM."""
    import psutil
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _be_nice() -> None:
    """Let other programs have the processor first. It cannot be taken back while the run lives."""
    import psutil

    process = psutil.Process()
    with contextlib.suppress(psutil.Error, OSError):
        if os.name == "nt":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        elif process.nice() < NICENESS:
            process.nice(NICENESS)
