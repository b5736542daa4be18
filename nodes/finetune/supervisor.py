"""Keeps the queue of runs moving while ComfyUI is up: a run whose turn has come is started, a dead
one is noticed.
"""

from __future__ import annotations

import logging
import threading
import time

from ..host.names import cocktail_dir

INTERVAL_S = 1.0
_lock = threading.Lock()
_thread: threading.Thread | None = None


def watch() -> None:
    """Start the one thread that looks after the runs, unless it is at work."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_watch, name="cocktail runs", daemon=True)
            _thread.start()


def _watch() -> None:
    from ...trainer.jobs.queue import tick

    complaint = ""
    while True:
        try:
            tick(cocktail_dir("runs"))
            complaint = ""
        except Exception as error:
            if str(error) != complaint:
                complaint = str(error)
                logging.exception("Cocktail cannot look after its runs; it goes on trying")
        time.sleep(INTERVAL_S)
