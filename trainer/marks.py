"""What was begun here, told from what has come from elsewhere: a mark that is made with a key of
this installation, and so by nobody who cannot read its user folder.

Tickets, receipts and the like lie in the output folder, into which people unpack what strangers
give them; the key that marks are made with does not. Nothing without a mark is believed.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os
import secrets
import time
from pathlib import Path

from .errors import TrainerError
from .files import canonical_json, publish, read_text
from .jobs.lock import Lock
from .litter import temporary

KEY_FILE = "COCKTAIL_KEY_FILE"
"""The environment variable that names the file of the key; the processes of jobs inherit it."""
LENGTH = 64
"""Hex digits of a key."""
LOCK_WAIT_S = 30.0


def use(file: Path) -> None:
    """Take the key in a file, which is made when it is first needed."""
    os.environ[KEY_FILE] = str(file)


def has_key() -> bool:
    """Whether this process has a key: one that a person starts by hand has none."""
    return bool(os.environ.get(KEY_FILE))


def own_file(name: str) -> Path | None:
    """A file beside the key, which nobody writes who only fills the output folder; None without a
    key.
    """
    file = os.environ.get(KEY_FILE, "")
    return Path(file).with_name(name) if file else None


def mark(*words: str) -> str:
    """The mark of some words. Raises TrainerError when there is no key and none can be made."""
    file = os.environ.get(KEY_FILE, "")
    try:
        key = _read(Path(file)) or _made(Path(file)) if file else ""
    except OSError as error:
        raise TrainerError(
            f"{file} cannot be read or written ({error.strerror}). It holds the key by which "
            "Cocktail knows what was begun here: change its rights, or those of its folder."
        ) from error
    text = canonical_json(words).encode("utf-8", "surrogatepass")
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest() if key else ""


def is_marked(found: object, *words: str) -> bool:
    """Whether a text is the mark that these words have here."""
    try:
        made = mark(*words)
    except TrainerError:
        return False
    is_text = isinstance(found, str) and found.isascii()
    return bool(made) and is_text and hmac.compare_digest(str(found), made)


def _read(file: Path) -> str:
    """The key in a file, "" when there is none."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return ""
    return _key_in(file, found.st_ino, found.st_mtime_ns, found.st_size)


@functools.lru_cache(8)
def _key_in(file: Path, *version: int) -> str:
    """The key in one version of a file, which is read once."""
    try:
        text = read_text(file, 1000).strip()
    except (FileNotFoundError, ValueError):
        return ""
    return text if len(text) == LENGTH else ""


def _made(file: Path) -> str:
    """A new key in a file that only its owner may read, or that of another process that was faster:
    what is marked with one is never left without it. Raises TrainerError.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(file.with_name(f".{file.name}.lock"))
    if not lock.take(LOCK_WAIT_S):
        raise TrainerError(
            f"{lock.path} has been locked for {LOCK_WAIT_S:.0f} s by another process. Try again."
        )
    try:
        return _read(file) or _new(file)
    finally:
        lock.let_go()


def _new(file: Path) -> str:
    """A new key, for who has the lock; a damaged one is kept aside."""
    if os.path.lexists(file):
        aside = file.with_name(f"{file.name}.{time.time_ns()}.damaged")
        file.rename(aside)
        logging.getLogger(__name__).warning(
            "Cocktail: %s holds no key and is kept as %s. With the new one, what was queued before "
            "is listed as received: resume it.",
            file,
            aside.name,
        )
    key, part = secrets.token_hex(LENGTH // 2), temporary(file)
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as opened:
            opened.write(key)
            opened.flush()
            os.fsync(opened.fileno())
        publish(part, file)
    finally:
        part.unlink(missing_ok=True)
    return key
