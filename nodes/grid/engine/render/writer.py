"""Saving in the background: the next cell is sampled while the last is compressed and written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

THREADS = 2
MOST_WAITING = 4
"""The most finished pictures that wait in memory. Beyond that, sampling waits for the disk."""


class Writer(Generic[T]):
    """Calls `save` for each item in its own threads. Leaving it waits until all are saved."""

    def __init__(self, save: Callable[[T], None]) -> None:
        self.save = save
        self.error: Exception | None = None
        self._waiting: queue.Queue[T | None] = queue.Queue(MOST_WAITING)
        self._threads = [
            threading.Thread(target=self._work, name="cocktail-writer", daemon=True)
            for _ in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Writer[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for _thread in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        if kind is None:
            self._raise()

    def put(self, finished: T) -> None:
        """Hand over something to be saved. Raises the error of an earlier saving."""
        self._raise()
        self._waiting.put(finished)

    def _work(self) -> None:
        while (finished := self._waiting.get()) is not None:
            try:
                self.save(finished)
            except Exception as error:
                self.error = self.error or error

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error
