"""What a file is by its first bytes, whatever its name says.

The trainer and the merge engine have this file each, since neither imports the other; a test keeps
the two alike.
"""

from __future__ import annotations

import codecs
import os
import zipfile
from typing import IO

PICKLED = "PICKLED"
KINDS = (
    (b"\x80\x02", "a pickled PyTorch checkpoint", PICKLED),
    (b"\x80\x03", "a pickled PyTorch checkpoint", PICKLED),
    (b"\x80\x04", "a pickled PyTorch checkpoint", PICKLED),
    (b"\x80\x05", "a pickled PyTorch checkpoint", PICKLED),
    (b"version https://git-lfs", "a Git LFS pointer, a note in the file's place",
     "Fetch the file itself with `git lfs pull`, or download it from its page."),
    (b"GGUF", "a GGUF file", "Use the .safetensors version of it."),
    (b"\x89PNG", "a picture (PNG)", "Choose the checkpoint."),
    (b"\xff\xd8\xff", "a picture (JPEG)", "Choose the checkpoint."),
    (b"Rar!", "a RAR archive", "Unpack it."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it."),
    (b"\xfd7zXZ", "an xz archive", "Unpack it."),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "Unpack it."),
    (b"BZh", "a bzip2 archive", "Unpack it."),
    (b"%PDF-", "a PDF", "Choose the checkpoint."),
    (b"RIFF", "a picture (WebP) or a sound", "Choose the checkpoint."),
    (b"\x89HDF", "an HDF5 file (Keras)", "Use the .safetensors version of it."),
)  # fmt: skip
ZIP = b"PK\3\4"
MOST_COMMENT = 1 << 16
PICKLE_IN_ZIP = "data.pkl"
"""What PyTorch calls the pickle in its zip files; it comes first in them."""
MOST_DIRECTORY = 8 << 20
"""Bytes that the list of the files in a zip archive may take: one of SD1.5 with the state of its
optimizer has a twentieth of that. Python takes minutes and gigabytes for one of millions.
"""
SHORTEST_TEXT = 6
ENOUGH = 512
"""Bytes that tell all kinds apart."""


def kind_of(start: bytes, file: IO[bytes] | None = None) -> tuple[str, str] | None:
    """What a file with these first bytes is, and what to do with it; None if they do not tell.

    What to do is PICKLED for a file of PyTorch's. `file` is read for the names in a zip archive.
    """
    if not start:
        return "an empty file (0 bytes)", "Copy or download it again."
    for first, kind, advice in KINDS:
        if start.startswith(first):
            return kind, advice
    if start.startswith(ZIP):
        if PICKLE_IN_ZIP.encode() in start or PICKLE_IN_ZIP in _names(file):
            return "a PyTorch checkpoint (a zip file)", PICKLED
        return "a zip archive", "Unpack it."
    if start[257:262] == b"ustar":
        return "a tar archive", "Unpack it."
    text = _text(start)
    if text.startswith("<"):
        advice = "A download failed or asked for a login: download the file again in a browser."
        return "a web page (HTML)", advice
    if text.startswith(("{", "[")):
        return "a text (JSON)", "Choose the checkpoint, not the file beside it."
    if text:
        return "a text", "If it is what a website answered, download the file again in a browser."
    return None


def _names(file: IO[bytes] | None) -> str:
    """The names in a zip archive; "" if it cannot be read, or holds too many files."""
    try:
        if file is None or directory_bytes(file) > MOST_DIRECTORY:
            return ""
        return "\n".join(zipfile.ZipFile(file).namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""


def directory_bytes(file: IO[bytes]) -> int:
    """How long the list of files in a zip archive is by its last record, or by that of 64 bits
    before it, as Python's zipfile looks for them. Leaves the file at its end.
    """
    file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_COMMENT - 98))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        return 0
    wide = tail[max(0, at - 76) : at]
    of_64_bits = int.from_bytes(wide[40:48], "little") if wide.startswith(b"PK\6\6") else 0
    return max(int.from_bytes(tail[at + 12 : at + 16], "little"), of_64_bits)


def _text(start: bytes) -> str:
    """These bytes as text, without white space before it; "" if they are none, or too few."""
    if len(start) < SHORTEST_TEXT:
        return ""
    is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if is_utf16 else "utf-8")()
    try:
        text = decoder.decode(start).lstrip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return ""
    return text if all(mark.isprintable() or mark in "\t\r\n\f" for mark in text) else ""


def is_safetensors(start: bytes) -> bool:
    """Whether these first bytes are those of a safetensors file: a length, then a JSON object."""
    return len(start) > 8 and start[8:9] == b"{" and not any(start[5:8])
