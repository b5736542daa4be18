"""Patterns: `*` and `?` stand for other characters, all else, brackets too, for itself."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern itself, or is like it."""
    return name == pattern or fnmatchcase(name, pattern.replace("[", "[[]"))
