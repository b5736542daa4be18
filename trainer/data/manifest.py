"""The dataset: an immutable list of pairs, known by its content."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from ..errors import TrainerError
from ..files import canonical_json, sha256_text, write_text

FORMAT = 1


@dataclass(frozen=True)
class Pair:
    """An image and its caption.

    `image` is the file, relative to the dataset's root, with forward slashes; `image_hash` the SHA-256 of its bytes.
    `width` and `height` are pixels after EXIF orientation. `split` is "train" or "validation".
    """

    id: str
    image: str
    image_hash: str
    width: int
    height: int
    caption: str
    weight: float = 1.0
    split: str = "train"


@dataclass(frozen=True)
class Dataset:
    """Pairs under one root folder."""

    name: str
    root: str
    pairs: tuple[Pair, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what the pairs are, whatever their order, paths and file times."""
        content = [
            [pair.image_hash, pair.caption, pair.weight, pair.split]
            for pair in sorted(self.pairs, key=lambda pair: pair.id)
        ]
        return sha256_text(canonical_json(content))

    @property
    def train(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.split == "train")

    @property
    def validation(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.split == "validation")

    def save(self, path: Path) -> None:
        """One JSON line that describes the dataset, then one for every pair."""
        header = {
            "format": FORMAT,
            "name": self.name,
            "root": self.root,
            "fingerprint": self.fingerprint,
        }
        lines = [header, *(asdict(pair) for pair in self.pairs)]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Raises TrainerError when the pairs are not the ones that were saved."""
        header, *pairs = (
            json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line
        )
        if header["format"] != FORMAT:
            raise TrainerError(
                f"{path} was written by a newer Cocktail (format {header['format']})."
            )
        dataset = cls(header["name"], header["root"], tuple(Pair(**pair) for pair in pairs))
        if dataset.fingerprint != header["fingerprint"]:
            raise TrainerError(
                f"{path} has been changed since it was written. Load the pairs anew."
            )
        return dataset


def pair_ids(contents: Iterable[tuple[str, str]]) -> list[str]:
    """An id for every (image hash, caption): 16 hex digits of their SHA-256; a repeated pair gets -2, -3, ..."""
    seen: Counter[str] = Counter()
    ids = []
    for image_hash, caption in contents:
        identity = sha256_text(f"{image_hash}\n{caption}")[:16]
        seen[identity] += 1
        ids.append(identity if seen[identity] == 1 else f"{identity}-{seen[identity]}")
    return ids
