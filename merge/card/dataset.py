"""What a manifest of pairs says about itself: counts, sizes, sources. No caption is read unless
asked for.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .buckets import buckets_of, nearest
from .reading import Unreadable, sha256_of, text, whole

FORMAT = 2
HEADER = b"cocktail.dataset"
LARGEST = 4 << 30
MOST_SIZES = 20_000
MOST_HISTORY = 50


@dataclass(frozen=True)
class DatasetFacts:
    """Counts of a manifest. `buckets` are (width, height, pairs) of the sizes that its run trained
    at, the fullest first, or of the pictures themselves if `are_sizes`.
    """

    name: str
    fingerprint: str
    sha256: str
    splits: Mapping[str, int]
    buckets: tuple[tuple[int, int, int], ...]
    are_sizes: bool
    weight: float
    """How many pairs an epoch shows: the sum of the weights of those to train on."""
    masks: int
    history: tuple[str, ...]


def read_dataset(path: Path, settings: Mapping[str, Any]) -> DatasetFacts:
    """The facts of a manifest, with the buckets that these settings of a run make. Raises
    Unreadable.
    """
    import duckdb

    if path.is_file() and path.stat().st_size > LARGEST:
        raise Unreadable("it is larger than 4 GB")
    sha256 = sha256_of(path)
    try:
        with duckdb.connect() as database:
            header = _header(database, path)
            there = _columns(database, path)
            splits = _asked(database, path, "split, count(*)", "GROUP BY 1 ORDER BY 1 LIMIT 100")
            sizes = _asked(
                database,
                path,
                "width, height, count(*)",
                f"WHERE split = 'train' GROUP BY 1, 2 LIMIT {MOST_SIZES}",
            )
            masks = "count(*) FILTER (mask <> '')" if "mask" in there else "0"
            ((weight, masked),) = _asked(
                database, path, f"coalesce(sum(weight), 0), {masks}", "WHERE split = 'train'"
            )
    except (duckdb.Error, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Unreadable("it is damaged or no manifest") from error
    counted = [(int(w), int(h), int(n)) for w, h, n in sizes if w and h and w > 0 and h > 0]
    buckets, are_sizes = _buckets(counted, settings)
    return DatasetFacts(
        text(header.get("name"), 300),
        text(header.get("fingerprint"), 100),
        sha256,
        {text(name, 100): int(count) for name, count in splits},
        buckets,
        are_sizes,
        float(weight),
        int(masked),
        tuple(text(line, 500) for line in header["history"][:MOST_HISTORY]),
    )


def read_captions(path: Path, count: int) -> list[str]:
    """The captions of the first pairs to train on, by id. Raises Unreadable."""
    import duckdb

    try:
        with duckdb.connect() as database:
            _header(database, path)
            found = _asked(
                database, path, "caption", f"WHERE split = 'train' ORDER BY id LIMIT {int(count)}"
            )
    except (duckdb.Error, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Unreadable("it is damaged or no manifest") from error
    return [text(caption, 500) for (caption,) in found]


def _header(database: Any, path: Path) -> dict[str, Any]:
    rows = database.execute(
        "SELECT key, value FROM parquet_kv_metadata(?)", [_literal(path)]
    ).fetchall()
    header = json.loads(dict(rows)[HEADER])
    if header["format"] != FORMAT:
        raise Unreadable("it was written by another version of Cocktail")
    if not isinstance(header["history"], list):
        raise ValueError("no history")
    return header


def _columns(database: Any, path: Path) -> set[str]:
    source = "SELECT * FROM read_parquet(?, hive_partitioning = false) LIMIT 0"
    return {column[0] for column in database.execute(source, [_literal(path)]).description}


def _asked(database: Any, path: Path, what: str, rest: str) -> list[tuple[Any, ...]]:
    query = f"SELECT {what} FROM read_parquet(?, hive_partitioning = false) {rest}"
    return database.execute(query, [_literal(path)]).fetchall()


def _literal(path: Path) -> str:
    """A path in which `*` is no pattern."""
    return glob.escape(str(path.absolute()))


def _buckets(
    sizes: list[tuple[int, int, int]], settings: Mapping[str, Any]
) -> tuple[tuple[tuple[int, int, int], ...], bool]:
    """How many pictures are in each bucket of a run; their own sizes, and True, where it cannot be
    told which buckets those are.
    """
    table = str(settings.get("bucket_table", "generated"))
    resolution, step = whole(settings.get("resolution")), whole(settings.get("bucket_step"))
    buckets = buckets_of(table, resolution or 0, step or 0)
    if not buckets:
        return tuple(sorted(sizes, key=lambda size: (-size[2], size))), True
    tally: dict[tuple[int, int], int] = {}
    for width, height, count in sizes:
        bucket = nearest((width, height), buckets, table)
        tally[bucket] = tally.get(bucket, 0) + count
    found = [(width, height, count) for (width, height), count in tally.items()]
    return tuple(sorted(found, key=lambda size: (-size[2], size))), False
