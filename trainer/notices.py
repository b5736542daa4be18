"""Telling somebody elsewhere how a run went: by a webhook, or by any service that Apprise knows.

The run's own process sends the notice, also when ComfyUI is down by then. When a process was
killed, ComfyUI sends it once it finds that out. Whether and where is in the owner's settings file
(data/fetch/network.py), read anew for every notice: no graph and no request can name an address.
Captions, paths and messages are left out unless that file asks for them.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from .data.fetch.network import (
    Failure,
    NetworkSettings,
    check_address,
    check_url,
    connector,
    network_errors,
    read_network_settings,
)
from .errors import TrainerError
from .jobs.lines import Lines

if TYPE_CHECKING:
    from .runs import Run, State

FULL_DISK = "The disk is full"
"""How the message of a run begins that waits for room."""
INTERRUPTED = "interrupted"
"""What a run cannot tell itself, because its process was killed."""
TIMEOUT_S = 5.0
PAUSES_S = (1.0, 3.0)
"""Between the attempts at an address that may work later."""
LAST_WAIT_S = 20.0
"""How long the end of a run waits for notices under way: its device stays taken meanwhile."""
FOR_GOOD = ("bad_url", "refused_address", "refused", "no_apprise")
"""Why another attempt would be in vain."""


class Notices:
    """What a run tells. Sending is done beside the steps, and nothing that goes wrong there reaches
    the run: it is in the log and, with the notice itself, in notices.jsonl.
    """

    def __init__(self, run: Run, settings_file: Path | None) -> None:
        self.run, self.file = run, settings_file
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def note(self, before: State, after: State) -> None:
        """Tell what has changed between two states, if it is worth telling."""
        if event := event_between(before, after):
            self.tell(event, after)

    def tell(self, event: str, state: State) -> None:
        """Tell an event, if the owner's file says so."""
        if self.file is None:
            return
        self._waiting.put(notice(self.run, event, state))
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="notices", daemon=True)
            self._thread.start()

    def close(self, wait_s: float = LAST_WAIT_S) -> None:
        """Wait until all is sent, but not long."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(wait_s)
            if self._thread.is_alive():
                _log(f"A notice was still under way after {wait_s:.0f} s and is given up.")

    def _send_all(self) -> None:
        while (told := self._waiting.get()) is not None:
            try:
                self._send(told)
            except Exception as error:
                _log(f"The notice {told['event']!r} was not sent: {type(error).__name__}: {error}")

    def _send(self, told: dict[str, Any]) -> None:
        try:
            settings = read_network_settings(self.file) if self.file else NetworkSettings()
        except TrainerError as error:
            _log(f"The notice {told['event']!r} was not sent: {error}")
            return
        if not settings.notify_details:
            told = {key: value for key, value in told.items() if key != "message"}
        for address in settings.notify:
            reason = deliver(address, told, settings)
            where = _place(address)
            if reason:
                _log(f"The notice {told['event']!r} was not delivered to {where}: {reason}")
            line = {**told, "to": where, "delivered": not reason, "reason": reason}
            Lines(self.run.folder / "notices.jsonl").append(line)


def event_between(before: State, after: State) -> str:
    """What has happened that people want to be told: finished, failed, paused for disk, trend up;
    "" for anything else.
    """
    if after.status in ("finished", "failed") and after.status != before.status:
        return after.status
    if _waits_for_room(after) and not _waits_for_room(before):
        return "paused for disk"
    return "trend up" if after.trend and not before.trend else ""


def _waits_for_room(state: State) -> bool:
    return state.status == "paused" and state.message.startswith(FULL_DISK)


def notice(run: Run, event: str, state: State) -> dict[str, Any]:
    """A notice as the JSON that a webhook gets. Losses that are no numbers are null."""
    figures = {
        name: value if value is not None and abs(value) < float("inf") else None
        for name in ("loss", "first_validation", "last_validation")
        for value in (getattr(state, name),)
    }
    return {
        "event": event,
        "run": run.name,
        "id": run.id,
        "text": in_words(run, event, state),
        "status": state.status,
        "epoch": state.epoch,
        "epochs": state.epochs,
        "step": state.step,
        "steps": state.steps,
        **figures,
        "message": state.message,
        "time": time.time(),
    }


def in_words(run: Run, event: str, state: State) -> str:
    where = f"epoch {state.epoch} of {state.epochs}, step {state.step} of {state.steps}"
    if event == "paused for disk":
        return (
            f"The run {run.name} is paused: the disk is full. Make room, and it goes on by itself."
        )
    if event == "trend up":
        return f"The run {run.name}, {where}: {state.trend}"
    if event == INTERRUPTED:
        return (
            f"The run {run.name} was interrupted at {where}: its process has died. Resume it, and "
            "it goes on from where it was saved last."
        )
    words = f"The run {run.name} has {event} at {where}."
    if event == "failed":
        return f"{words} Its log says why."
    first, last = state.first_validation, state.last_validation
    if first and last:
        change = 100 * (last / first - 1)
        words += f" Validation loss {first:.4f} -> {last:.4f} ({change:+.1f} %)."
    return words


def deliver(address: str, told: dict[str, Any], settings: NetworkSettings) -> str:
    """Send a notice to an address; why that was not possible, "" when it was. An address that may
    work later is tried three times.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            if _parts(address).scheme in ("http", "https"):
                asyncio.run(_post(address, told, settings))
            else:
                _by_apprise(address, told, settings)
            return ""
        except Failure as failure:
            reason = failure.message or failure.status
            if failure.status == "timeout":
                reason = f"no answer within {TIMEOUT_S:.0f} s"
            if pause_s is None or failure.status in FOR_GOOD:
                return reason
            time.sleep(pause_s)
    return ""


async def _post(address: str, told: dict[str, Any], settings: NetworkSettings) -> None:
    """POST a notice as JSON. Raises Failure."""
    import aiohttp

    with network_errors():
        url = check_url(address, settings)
        async with (
            aiohttp.ClientSession(
                connector=connector(settings, 1),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": "Cocktail"},
            ) as session,
            session.post(url, json=told, allow_redirects=False) as answer,
        ):
            if answer.status >= 300:
                later = answer.status >= 500 or answer.status in (408, 429)
                raise Failure("later" if later else "refused", f"it answered {answer.status}")


def _by_apprise(address: str, told: dict[str, Any], settings: NetworkSettings) -> None:
    """Send a notice by Apprise. Raises Failure."""
    try:
        import apprise  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Failure(
            "no_apprise",
            "an address like this needs the package apprise: run `pip install apprise`",
        ) from error
    with network_errors():
        _check_host(address, settings)
    service = apprise.Apprise()
    if not service.add(address):
        raise Failure("bad_url", "Apprise does not know addresses like this")
    text = told["text"] + (f"\n{told['message']}" if told.get("message") else "")
    if not service.notify(body=text, title=f"Cocktail: {told['run']} {told['event']}"):
        raise Failure("later", "Apprise could not deliver it")


def _check_host(address: str, settings: NetworkSettings) -> None:
    """Raise RefusedAddress when an address of Apprise's names a host in a private network. What
    stands there may also be a topic or a token, which leads nowhere.
    """
    host = _parts(address).hostname or ""
    try:
        found = socket.getaddrinfo(host, None) if host else []
    except (OSError, UnicodeError):
        return
    for _, _, _, _, place in found:
        check_address(str(place[0]), settings)


def _place(address: str) -> str:
    """What of an address may be shown: the rest is often a key."""
    parts = urlsplit(address)
    return (
        f"{parts.scheme}://{parts.hostname}" if parts.scheme in ("http", "https") else parts.scheme
    )


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _log(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
