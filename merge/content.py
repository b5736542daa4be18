"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

KINDS = (
    (b"PK\x03\x04", "a PyTorch checkpoint (a zip file)", "PICKLED"),
    (b"\x80\x02", "a pickled PyTorch checkpoint", "PICKLED"),
    (b"\x80\x03", "a pickled PyTorch checkpoint", "PICKLED"),
    (b"\x80\x04", "a pickled PyTorch checkpoint", "PICKLED"),
    (b"version https://git-lfs", "a Git LFS pointer, a note in the file's place",
     "Fetch the file itself with `git lfs pull`, or download it from its page."),
    (b"GGUF", "a GGUF file", "Use the .safetensors version of it."),
    (b"\x89PNG", "a picture (PNG)", "Choose the checkpoint."),
    (b"\xff\xd8\xff", "a picture (JPEG)", "Choose the checkpoint."),
    (b"Rar!", "a RAR archive", "Unpack it."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it."),
)  # fmt: skip
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<")
ENOUGH = 512
"""Bytes that tell all kinds apart."""


def kind_of(start: bytes) -> tuple[str, str] | None:
    """What a file with these first bytes is, and what to do with it; None if they do not tell.

    What to do is "PICKLED" for a file of PyTorch's.
    """
    if not start:
        return "empty (0 bytes)", "Copy or download it again."
    for first, kind, advice in KINDS:
        if start.startswith(first):
            return kind, advice
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(PAGES):
        advice = "A download failed or asked for a login: download the file again in a browser."
        return "a web page (HTML)", advice
    if text.startswith((b"{", b"[")):
        return "a text (JSON)", "Choose the checkpoint, not the file beside it."
    return None


def is_safetensors(start: bytes) -> bool:
    """Whether these first bytes are those of a safetensors file: a length, then a JSON object."""
    return len(start) > 8 and start[8:9] == b"{" and not any(start[5:8])
