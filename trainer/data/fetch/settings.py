"""How pictures are fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ...settings.group import Group, setting

ROBOTS = ("noai", "noimageai", "noindex", "noimageindex")
RETRY = ("nothing", "transient", "all")


@dataclass(frozen=True)
class DownloadSettings(Group):
    """How to fetch."""

    CALLED: ClassVar[str] = "download setting"

    concurrency: int = setting(32, "Pictures that are fetched at the same time.", (1, math.inf))
    per_host: int = setting(16, "How many of them may come from one host.", (1, math.inf))
    timeout_s: float = setting(
        20.0, "Longest silence while connecting or between two pieces.", (0.001, math.inf)
    )
    total_timeout_s: float = setting(300.0, "Longest time for one attempt.", (0.001, math.inf))
    retries: int = setting(3, "Further attempts after a transient failure.", (0, math.inf))
    backoff_s: float = setting(
        1.0, "Pause before the first of them; each further pause is twice as long.", (0.0, math.inf)
    )
    longest_wait_s: float = setting(
        60.0, "Longest pause, even if a server's Retry-After asks for more.", (0.0, math.inf)
    )
    max_bytes: int = setting(50_000_000, "Largest file.", (1, math.inf))
    max_pixels: int = setting(64_000_000, "Largest picture.", (1, math.inf))
    refused_robots_tags: tuple[str, ...] = setting(
        ROBOTS, "X-Robots-Tag values with which a picture is left out."
    )
    retry_failed: str = setting(
        "nothing",
        "Which rows that failed in an earlier call are tried again: nothing, transient (timeouts, "
        "broken connections, busy servers) or all.",
        choices=RETRY,
    )
    stop_when_dead: bool = setting(True, "Stop when all of the first links are dead.")
    keep_free_bytes: int = setting(500_000_000, "Space on the disk that stays free.", (0, math.inf))
