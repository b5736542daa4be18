"""ComfyUI's side of a shared device: what its queue does with it, and what its models hold of it.

Nothing of ComfyUI is changed: its queue is only read, and models are unloaded as its own route
`/free` does it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from ...trainer.errors import TrainerError
from ...trainer.jobs.device import device_name, device_title
from ...trainer.jobs.job import LOCK, read_json
from ...trainer.jobs.lock import is_held
from ...trainer.sharing import Use, free_bytes, requests
from .names import cocktail_dir

POLL_S = 0.1
ANSWER_EVERY = 10
"""Polls between looks at what runs ask for."""
ASK_AGAIN_S = 5.0
_lock = threading.Lock()
_thread: threading.Thread | None = None
_waiting = 0
_unload = threading.Event()


@contextlib.contextmanager
def only_waits() -> Iterator[None]:
    """Within this the prompt that runs does nothing but wait for a background job: it does not use
    the device, nor does what is queued behind it. Without it a polite run and a prompt that waits
    for that run would wait for each other.
    """
    global _waiting
    with _lock:
        _waiting += 1
    try:
        yield
    finally:
        with _lock:
            _waiting -= 1


def unload_if_asked() -> None:
    """For the thread of the prompts, while it only waits: unload ComfyUI's models if a run has
    asked for their memory.
    """
    if _unload.is_set():
        _unload.clear()
        import comfy.model_management as management

        management.unload_all_models()
        management.soft_empty_cache()


def uses_device(queue: Any) -> bool:
    """Whether a prompt is running that does more than wait, or one is about to run."""
    look = getattr(queue, "get_current_queue_volatile", None) or queue.get_current_queue
    running, queued = look()
    return _waiting == 0 if running else bool(queued)


def watch() -> None:
    """Start the one thread that tells runs what the queue does, unless it is at work."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_watch, name="cocktail sharing", daemon=True)
            _thread.start()


def _watch() -> None:
    import server

    use, answered, complaint, polls = None, {}, "", 0
    while True:
        try:
            queue = server.PromptServer.instance.prompt_queue
            if use is None:
                use = Use(cocktail_dir(".queue"), own_device())
            use.say(uses_device(queue))
            if polls % ANSWER_EVERY == 0:
                answer_requests(queue, use.device, answered)
            complaint = ""
        except Exception as error:
            if str(error) != complaint:
                complaint = str(error)
                logging.exception(
                    "Cocktail cannot tell runs about ComfyUI's queue. It keeps trying"
                )
        polls += 1
        time.sleep(POLL_S)


def answer_requests(queue: Any, device: str, answered: dict[str, float]) -> None:
    """Unload ComfyUI's models if a run on its device asks for memory, again after a while if that
    was not enough. `answered` remembers when. What a dead run has left is removed.
    """
    for file in requests(cocktail_dir(".queue")).glob("*.json"):
        try:
            asked = read_json(file)
            if not is_held(cocktail_dir("runs") / file.stem / LOCK):
                file.unlink(missing_ok=True)
                continue
        except (TrainerError, OSError):
            continue
        now = time.monotonic()
        if asked.get("device") == device and now - answered.get(file.name, -1e9) >= ASK_AGAIN_S:
            answered[file.name] = now
            logging.info("Cocktail: ComfyUI's models are unloaded for the run %s", file.stem)
            if _waiting:
                _unload.set()
            else:
                queue.set_flag("unload_models", True)


def own_device() -> str:
    """The name of the device that ComfyUI's prompts use."""
    import comfy.model_management as management

    device = management.get_torch_device()
    return device_name(device.type, device.index)


def devices() -> list[dict[str, Any]]:
    """The devices that prompts and runs of this ComfyUI can use, with their memory in bytes."""
    import torch

    found = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
    found = found or [torch.device("cpu")]
    listed = []
    for device in found:
        free, total = free_bytes(device)
        name = device_name(device.type, device.index)
        title = device_title(name)
        listed.append({"name": name, "title": title, "total": total, "free": free})
    return listed
