"""How pictures are fetched."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import TrainerError

ROBOTS = ("noai", "noimageai", "noindex", "noimageindex")
RETRY = ("nothing", "transient", "all")


@dataclass(frozen=True)
class DownloadSettings:
    """How to fetch. `per_host` is the share of `concurrency` that one host gets at most.

    `timeout_s` is the longest silence (while connecting, or between two pieces), `total_timeout_s`
    the longest time for one attempt. A transient failure is tried `retries` more times: after
    `backoff_s`, then twice that, and so on. Neither this nor a server's Retry-After waits longer
    than `longest_wait_s`. `retry_failed` says which rows that failed in an earlier call are tried
    again: "nothing", "transient" (timeouts, broken connections, busy servers) or "all".
    """

    concurrency: int = 32
    per_host: int = 16
    timeout_s: float = 20.0
    total_timeout_s: float = 300.0
    retries: int = 3
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    max_bytes: int = 50_000_000
    max_pixels: int = 64_000_000
    refused_robots_tags: tuple[str, ...] = ROBOTS
    retry_failed: str = "nothing"
    stop_when_dead: bool = True
    keep_free_bytes: int = 500_000_000

    def __post_init__(self) -> None:
        """Raises TrainerError for values that no download can have."""
        for name in ("concurrency", "per_host", "timeout_s", "total_timeout_s"):
            if getattr(self, name) <= 0:
                raise TrainerError(f"{name} is {getattr(self, name)}; it must be more than 0.")
        for name in ("retries", "backoff_s", "longest_wait_s", "keep_free_bytes"):
            if getattr(self, name) < 0:
                raise TrainerError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise TrainerError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.retry_failed not in RETRY:
            raise TrainerError(
                f"retry_failed is {self.retry_failed!r}; it must be one of {', '.join(RETRY)}."
            )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DownloadSettings:
        tags = tuple(value.get("refused_robots_tags", ROBOTS))
        return cls(**{**value, "refused_robots_tags": tags})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "refused_robots_tags": list(self.refused_robots_tags)}
