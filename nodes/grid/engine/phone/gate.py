"""Who may vote from a phone: long random tokens that end, and limits on how often a client asks."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

TOKEN_BYTES = 32
"""256 random bits: a million guesses find one with a probability of 1e-71."""
LIFETIME_S = 8 * 3600.0
MOST_WRONG = 10
"""Wrong tokens of one client; then it has to wait."""
WAIT_S = 60.0
RATE, BURST = 10.0, 60.0
"""Requests of one client a second in the long run, and at once. A vote takes four."""
MOST_CLIENTS = 4096
"""So many are known at a time; the one that has been silent the longest is forgotten."""

ADMITTED, WRONG, TOO_OFTEN = "admitted", "wrong token", "too often"


@dataclass(frozen=True)
class Session:
    """A vote that is open to phones."""

    grid: Path
    """The grid's folder."""
    token: str
    ends: float
    """In seconds of the gate's clock."""
    axis: str = ""
    count: int = 2
    method: str = ""
    """Empty: as a Vote node has noted it."""
    round_votes: int = 0
    votes: int = 0
    """The vote is over with so many, if it is not 0."""
    where: str = ""

    @property
    def rules(self) -> tuple[str, int, int]:
        """When the vote is over, as ballots ask for it."""
        return self.method, self.round_votes, self.votes


@dataclass
class _Client:
    tokens: float = BURST
    seen: float = 0.0
    wrong: int = 0
    barred_until: float = 0.0


@dataclass
class Gate:
    """The open sessions, and what clients have done."""

    clock: Callable[[], float] = time.monotonic
    _sessions: dict[bytes, Session] = field(default_factory=dict)
    """By the SHA-256 of the token."""
    _clients: OrderedDict[str, _Client] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, grid: Path, **rules: object) -> Session:
        """The session of a grid: a new one with another token, which ends the one before."""
        self.end(grid)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        session = Session(grid, token, self.clock() + LIFETIME_S, **rules)  # type: ignore[arg-type]
        with self._lock:
            self._sessions[_digest(token)] = session
        return session

    def of(self, grid: Path) -> Session | None:
        """The open session of a grid."""
        return next((one for one in self.sessions() if one.grid == grid), None)

    def end(self, grid: Path) -> None:
        """Close the session of a grid. Its token is worth nothing from now on."""
        with self._lock:
            left = {d: one for d, one in self._sessions.items() if one.grid != grid}
            self._sessions = left

    def sessions(self) -> list[Session]:
        """Those that are open."""
        now = self.clock()
        with self._lock:
            self._sessions = {d: one for d, one in self._sessions.items() if one.ends > now}
            return list(self._sessions.values())

    def admit(self, client: str, token: str) -> tuple[str, Session | None]:
        """ADMITTED with the session of this token, WRONG, or TOO_OFTEN without having looked at
        it. `client` is an IP address.
        """
        known, now = self._client(client), self.clock()
        if now < known.barred_until or not _allows(known, now):
            return TOO_OFTEN, None
        found = self._session(token)
        if found is not None:
            known.wrong = 0
            return ADMITTED, found
        known.wrong += 1
        if known.wrong >= MOST_WRONG:
            known.wrong, known.barred_until = 0, now + WAIT_S
        return WRONG, None

    def _session(self, token: str) -> Session | None:
        """All digests are compared, each in constant time: how long it takes tells nothing."""
        given, found = _digest(token), None
        now = self.clock()
        with self._lock:
            sessions = list(self._sessions.items())
        for digest, session in sessions:
            if hmac.compare_digest(digest, given) and session.ends > now:
                found = session
        return found

    def _client(self, address: str) -> _Client:
        name = network_of(address)
        with self._lock:
            known = self._clients.pop(name, None) or _Client(seen=self.clock())
            self._clients[name] = known
            while len(self._clients) > MOST_CLIENTS:
                self._clients.popitem(last=False)
        return known


@lru_cache(maxsize=MOST_CLIENTS)
def network_of(address: str) -> str:
    """Who a client is: its address, of IPv6 the network of 64 bits: one machine has all of it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _allows(client: _Client, now: float) -> bool:
    """A token bucket: RATE a second, BURST at once."""
    client.tokens = min(BURST, client.tokens + RATE * (now - client.seen))
    client.seen = now
    if client.tokens < 1:
        return False
    client.tokens -= 1
    return True


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
