"""The dataset: an immutable list of pairs, identified by its content, and saved as one Parquet file
with a JSON header.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import bounded_json
from ..errors import TrainerError
from ..files import canonical_json, literal, publish, sha256_text
from ..litter import sweep, temporary

FORMAT = 2
TRAIN = "train"
VALIDATION = "validation"
HEADER = "cocktail.dataset"
"""Key of the JSON header in the Parquet file's metadata."""
MOST_MEMORY = "1GB"
"""What DuckDB may use to read a manifest."""
PAIR_BYTES, SPARE_PAIRS = 8, 50_000
"""A manifest of more pairs is at least so large: ids are random and hardly compress."""
TEXT_GROWTH, SPARE_TEXT = 50, 64 << 20
"""How many times larger than the file its texts may be, and how many bytes in any case."""


@dataclass(frozen=True)
class Pair:
    """An image and its caption.

    `image` is the file: relative to the dataset's root and below it, with forward slashes, or
    absolute when it is elsewhere (in a validation folder of its own). `image_hash` is the SHA-256
    of its bytes; `width` and `height` are in pixels after EXIF orientation. `split` is "train",
    "validation" or "validation/NAME" for a named validation set. `weight` is how many times an
    epoch shows the pair (EveryDream2's multiply, kohya's repeats); a fraction is drawn again for
    every epoch. `group` names what must stay on one side of a split: a user, a folder, a job.
    `captions` holds further captions by column. The next five fields change how the pair is shown:
    `conditional_dropout` replaces the run's own, `flip` is the chance of being mirrored; for the
    others see `captions.vary`. `loss_scale` multiplies its loss. `mask` is the file of its mask, if
    it has one, and `mask_hash` the SHA-256 of that; both are found like `image`. `choices`, unless
    empty, is what training draws the caption from (see `captions.vary`); `caption` is its first
    choice then, which validation uses.
    """

    id: str
    image: str
    image_hash: str
    width: int
    height: int
    caption: str
    weight: float = 1.0
    split: str = TRAIN
    group: str = ""
    captions: dict[str, str] = field(default_factory=dict, hash=False)
    conditional_dropout: float | None = None
    flip: float = 0.0
    shuffle_tags: bool = False
    keep_tags: int = 0
    tag_dropout: float = 0.0
    loss_scale: float = 1.0
    mask: str = ""
    mask_hash: str = ""
    choices: str = ""

    def content(self) -> list[Any]:
        """What goes into the fingerprint. Options are included only where they are set, so that
        the hash of a plain pair does not depend on which options there are.
        """
        plain = [self.image_hash, self.caption, self.weight, self.split]
        options = {
            name: value
            for name in OPTIONS
            if (value := getattr(self, name)) not in (None, 0, False, {})
        }
        if self.conditional_dropout == 0:
            options["conditional_dropout"] = 0
        if self.loss_scale != 1:
            options["loss_scale"] = self.loss_scale
        if self.mask_hash:
            options["mask"] = self.mask_hash
        if self.choices:
            options["choices"] = self.choices
        return [*plain, options] if options else plain


OPTIONS = ("captions", "conditional_dropout", "flip", "shuffle_tags", "keep_tags", "tag_dropout")


@dataclass(frozen=True)
class Dataset:
    """Pairs under one root folder.

    `background` is the colour (#rrggbb) that transparency becomes. `caption_mix` gives the chance
    of each caption column ("caption" is the pair's own) for every showing; empty means always the
    pair's own. `history` says how the dataset was made, in a line for each step; it is not part of
    the fingerprint.
    """

    name: str
    root: str
    pairs: tuple[Pair, ...]
    background: str = "#ffffff"
    caption_mix: tuple[tuple[str, float], ...] = ()
    history: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the contents of the pairs, whatever their order, paths and file times."""
        content: list[Any] = [pair.content() for pair in sorted(self.pairs, key=lambda p: p.id)]
        if self.background != "#ffffff":
            content.append({"background": self.background})
        if self.caption_mix:
            content.append({"caption_mix": self.caption_mix})
        return sha256_text(canonical_json(content))

    @property
    def train(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.split == TRAIN)

    @property
    def validation(self) -> tuple[Pair, ...]:
        """The pairs of all validation sets."""
        return tuple(pair for pair in self.pairs if pair.split != TRAIN)

    @property
    def validation_sets(self) -> dict[str, tuple[Pair, ...]]:
        """Validation pairs by the name of their set; the unnamed one is "validation"."""
        sets: dict[str, list[Pair]] = {}
        for pair in self.validation:
            sets.setdefault(pair.split.partition("/")[2] or VALIDATION, []).append(pair)
        return {name: tuple(pairs) for name, pairs in sets.items()}

    def noted(self, line: str) -> Dataset:
        """The same dataset with one more line in its history."""
        return replace(self, history=(*self.history, line))

    def path(self, pair: Pair) -> Path:
        """The file of a pair's image."""
        return Path(self.root) / pair.image

    def mask_path(self, pair: Pair) -> Path:
        """The file of a pair's mask."""
        return Path(self.root) / pair.mask

    def header(self) -> dict[str, Any]:
        """What a manifest says besides its pairs."""
        return {
            "format": FORMAT,
            "name": self.name,
            "root": self.root,
            "fingerprint": self.fingerprint,
            "pairs": len(self.pairs),
            "background": self.background,
            "caption_mix": [list(share) for share in self.caption_mix],
            "history": list(self.history),
        }

    def save(self, path: Path) -> None:
        """Write the manifest: a Parquet file with one row for every pair and the header, as JSON,
        in its metadata.
        """
        import duckdb

        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        part, rows = temporary(path), temporary(path.with_suffix(".jsonl"))
        try:
            with rows.open("w", encoding="utf-8") as file:
                for pair in self.pairs:
                    values = asdict(pair) | {"captions": canonical_json(pair.captions)}
                    file.write(json.dumps(values, ensure_ascii=False) + "\n")
            with duckdb.connect() as database:
                header = canonical_json(self.header()).replace("'", "''")
                database.execute(
                    "COPY (SELECT * FROM read_json(?, format='newline_delimited', "
                    "hive_partitioning=false, "
                    f"columns={COLUMNS!r}, maximum_object_size=67108864)) TO '{_quoted(part)}' "
                    f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{'{HEADER}': '{header}'}})",
                    [literal(rows)],
                )
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            publish(part, path)
        finally:
            rows.unlink(missing_ok=True)
            part.unlink(missing_ok=True)

    @staticmethod
    def root_of(path: Path) -> str:
        """The root that a manifest's header names; "" when it cannot be read. The pairs are not
        read.
        """
        import duckdb

        try:
            with duckdb.connect() as database:
                metadata = database.execute(
                    "SELECT key, value FROM parquet_kv_metadata(?)", [literal(path)]
                ).fetchall()
            return str(bounded_json.parse(dict(metadata)[HEADER.encode()])["root"])
        except (duckdb.Error, KeyError, TypeError, ValueError):
            return ""

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Raises TrainerError when it is not a manifest, or when its pairs are not those that were
        saved.
        """
        import duckdb

        if not path.is_file():
            raise TrainerError(f"There is no manifest {path.name} in {path.parent}.")
        try:
            with _bounded() as database:
                metadata = database.execute(
                    "SELECT key, value FROM parquet_kv_metadata(?)", [literal(path)]
                ).fetchall()
                header = bounded_json.parse(dict(metadata)[HEADER.encode()])
                if header["format"] != FORMAT:
                    raise TrainerError(
                        f"{path.name} was written by another version of Cocktail (format "
                        f"{header['format']}; this one reads {FORMAT}). Load the pairs again."
                    )
                names, rows = _rows(database, path)
            dataset = _dataset(header, names, rows)
        except duckdb.OutOfMemoryException as error:
            raise TrainerError(
                f"Reading {path.name} takes more than {MOST_MEMORY} of memory. Free some space on "
                f"the disk of {tempfile.gettempdir()}, or load fewer pairs."
            ) from error
        except (duckdb.Error, KeyError, TypeError, ValueError) as error:
            raise TrainerError(
                f"{path.name} is not the manifest of a dataset, or it is damaged "
                f"({type(error).__name__}: {error}). Load the pairs again."
            ) from error
        twice = [
            key for key, count in Counter(pair.id for pair in dataset.pairs).items() if count > 1
        ]
        if twice:
            raise TrainerError(
                f"{path.name} has {len(twice)} ids more than once, such as {twice[0]}. "
                "Load the pairs again."
            )
        outside = [
            file for pair in dataset.pairs for file in (pair.image, pair.mask) if leaves_root(file)
        ]
        if outside:
            raise TrainerError(
                f"{path.name} names {len(outside)} pictures outside its folder {dataset.root}, "
                f"such as {outside[0]!r}. None of its pictures is opened. Load the pairs again."
            )
        if dataset.fingerprint != header.get("fingerprint"):
            raise TrainerError(
                f"{path.name} has been changed since it was written. Load the pairs again."
            )
        return dataset


@contextlib.contextmanager
def _bounded() -> Iterator[Any]:
    """A DuckDB that does with MOST_MEMORY, however many processors there are."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as spill:
        config = {"memory_limit": MOST_MEMORY, "threads": 1, "temp_directory": spill}
        with duckdb.connect(config=config) as database:
            yield database


def _rows(database: Any, path: Path) -> tuple[list[str], list[tuple]]:
    """The columns of a manifest that a pair has, and its rows. Raises ValueError for a column of
    another type, and when there is far more in the file than its size allows.
    """
    source, file = "FROM read_parquet(?, hive_partitioning = false)", [literal(path)]
    described = database.execute(f"DESCRIBE SELECT * {source}", file).fetchall()
    types = {name: kind for name, kind, *_ in described}
    names = [field.name for field in fields(Pair) if field.name in types]
    for name in names:
        if types[name] != COLUMNS[name]:
            raise ValueError(f"its column {name} is {types[name]}, not {COLUMNS[name]}")
    size = path.stat().st_size
    counted = "SELECT sum(num_rows) FROM parquet_file_metadata(?)"
    ((count,),) = database.execute(counted, file).fetchall()
    if count > SPARE_PAIRS + size // PAIR_BYTES:
        raise ValueError(f"it claims to hold {count:,} pairs but is much smaller")
    texts = " + ".join(f'coalesce(strlen("{n}"), 0)' for n in names if COLUMNS[n] == "VARCHAR")
    ((length,),) = database.execute(f"SELECT sum({texts}) {source}", file).fetchall()
    if (length or 0) > SPARE_TEXT + TEXT_GROWTH * size:
        raise ValueError(f"it claims to hold {length >> 20} MB of text but is much smaller")
    columns = ", ".join(f'"{name}"' for name in names)  # group is a word of SQL
    return names, database.execute(f"SELECT {columns} {source}", file).fetchall()


def _dataset(header: dict[str, Any], names: list[str], rows: list[tuple]) -> Dataset:
    """A dataset from a manifest's header and rows. Columns that older manifests lack get their
    defaults.
    """
    pairs = []
    for row in rows:
        values: dict[str, Any] = dict(zip(names, row, strict=True))
        captions = bounded_json.parse(values["captions"])
        if not isinstance(captions, dict) or not all(isinstance(c, str) for c in captions.values()):
            raise ValueError("the captions of a pair are not texts")
        if missing := [n for n, v in values.items() if v is None and n != "conditional_dropout"]:
            raise ValueError(f"a pair has no {missing[0]}")
        values["captions"] = captions
        pairs.append(Pair(**values))
    mix = [(name, share) for name, share in header["caption_mix"]]
    texts = [header["name"], header["root"], header["background"], *header["history"]]
    if not all(isinstance(text, str) for text in texts) or "\0" in header["root"]:
        raise ValueError("its header holds something other than texts")
    header["root"].encode("utf-8")
    if not all(isinstance(name, str) and isinstance(share, int | float) for name, share in mix):
        raise ValueError("its caption mix is none")
    return Dataset(
        header["name"],
        header["root"],
        tuple(pairs),
        header["background"],
        tuple(mix),
        tuple(header["history"]),
    )


COLUMNS = {
    "id": "VARCHAR",
    "image": "VARCHAR",
    "image_hash": "VARCHAR",
    "width": "BIGINT",
    "height": "BIGINT",
    "caption": "VARCHAR",
    "weight": "DOUBLE",
    "split": "VARCHAR",
    "group": "VARCHAR",
    "captions": "VARCHAR",
    "conditional_dropout": "DOUBLE",
    "flip": "DOUBLE",
    "shuffle_tags": "BOOLEAN",
    "keep_tags": "BIGINT",
    "tag_dropout": "DOUBLE",
    "loss_scale": "DOUBLE",
    "mask": "VARCHAR",
    "mask_hash": "VARCHAR",
    "choices": "VARCHAR",
}
"""Columns of the Parquet file and their types; `captions` is a JSON object."""


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("'", "''")


def leaves_root(image: str) -> bool:
    """Whether a picture's path contains `..` or NUL, or is neither absolute nor relative (`C:a.png`
    on Windows).
    """
    path = Path(image)
    return (
        "\0" in image
        or ".." in image.replace("\\", "/").split("/")
        or (bool(path.anchor) and not path.is_absolute())
    )


def pair_ids(contents: Iterable[tuple[str, str]]) -> list[str]:
    """An id for every (image hash, caption): 16 hex digits of their SHA-256. Repeated pairs get
    -2, -3, ...
    """
    seen: Counter[str] = Counter()
    ids = []
    for image_hash, caption in contents:
        identity = sha256_text(f"{image_hash}\n{caption}")[:16]
        seen[identity] += 1
        ids.append(identity if seen[identity] == 1 else f"{identity}-{seen[identity]}")
    return ids
