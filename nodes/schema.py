"""Schemas that older ComfyUI versions accept: keywords they do not know are left out."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

_SCHEMA_KEYWORDS = frozenset(inspect.signature(io.Schema).parameters)


def schema(**keywords: Any) -> io.Schema:
    """`io.Schema` without the keywords that this ComfyUI lacks, such as `search_aliases`."""
    return io.Schema(**{key: keywords[key] for key in keywords if key in _SCHEMA_KEYWORDS})


def opt(kind: Any, id: str, **keywords: Any) -> Any:
    """An input or output of that kind, without the keywords that this ComfyUI lacks, such as
    `advanced`."""
    known = inspect.signature(kind).parameters
    return kind(id, **{key: keywords[key] for key in keywords if key in known})
