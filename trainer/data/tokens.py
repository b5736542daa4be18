"""How many tokens CLIP makes of a text, counted without loading transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import TrainerError

LIMIT = 75
"""Tokens of a caption that CLIP reads at once."""
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""The pieces that byte pair encoding is applied to (OpenAI's CLIP, simple_tokenizer.py)."""


_PLAIN_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^ a-z0-9]+")
"""`WORDS` for printable ASCII in lower case without special tokens."""
_KNOWN_WORDS = 1 << 18
_counts: dict[Path, dict[str, int]] = {}


def count_tokens(texts: Sequence[str], tokenizer: Path) -> list[int]:
    """The number of tokens of each text, without the marks of beginning and end. The folder
    `tokenizer` holds vocab.json and merges.txt.

    The numbers are those of transformers' CLIPTokenizer, whose import takes over a second; this
    takes a tenth. In printable ASCII every word is encoded once and its count is kept, because
    prompts share most of their words. Raises TrainerError when the folder holds no tokenizer.
    """
    known = _counts.setdefault(tokenizer, {})
    if len(known) > _KNOWN_WORDS:
        known.clear()
    pieces: list[list[str] | None] = [
        _PLAIN_WORDS.findall(text.lower())
        if text.isascii() and text.isprintable() and "<|" not in text
        else None
        for text in texts
    ]
    new = {word for words in pieces if words for word in words if word not in known}
    known.update(zip(new, _encoded(list(new), tokenizer), strict=True))
    other = [text for text, words in zip(texts, pieces, strict=True) if words is None]
    others = iter(_encoded(other, tokenizer))
    return [
        next(others) if words is None else sum(map(known.__getitem__, words)) for words in pieces
    ]


def _encoded(texts: list[str], tokenizer: Path) -> list[int]:
    encodings = _load(tokenizer).encode_batch(texts, add_special_tokens=False)
    return [len(encoding.ids) for encoding in encodings]


@lru_cache(maxsize=2)
def _load(folder: Path) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not vocabulary.is_file() or not merges.is_file():
        raise TrainerError(
            f"There is no CLIP tokenizer in {folder}: vocab.json or merges.txt is missing. "
            "ComfyUI has it in comfy/sd1_tokenizer."
        )
    tokenizer = Tokenizer(
        models.BPE.from_file(
            str(vocabulary),
            str(merges),
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
        )
    )
    tokenizer.add_special_tokens(
        [
            AddedToken("<|startoftext|>", special=True, normalized=True),
            AddedToken("<|endoftext|>", special=True, normalized=False),
        ]
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
