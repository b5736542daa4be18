"""How many tokens CLIP makes of a text, without loading transformers for it."""

from __future__ import annotations

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
"""What byte pair encoding is applied to, piece by piece (OpenAI's CLIP, simple_tokenizer.py)."""


def count_tokens(texts: Sequence[str], tokenizer: Path) -> list[int]:
    """Tokens of each text, the marks of beginning and end not counted; `tokenizer` holds vocab.json and merges.txt.

    The same numbers as transformers' CLIPTokenizer; importing that takes over a second, this a tenth.
    Raises TrainerError when the folder holds no tokenizer.
    """
    encodings = _load(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    return [len(encoding.ids) for encoding in encodings]


@lru_cache(maxsize=2)
def _load(folder: Path) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

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
