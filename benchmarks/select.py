"""Selection from a table of the Midjourney shape: this pack beside pandas in chunks and the
standard library.

    python benchmarks/make_table.py big.csv --bytes 2000000000
    python benchmarks/select.py big.csv

    python benchmarks/make_table.py small.csv --bytes 50000000
    python benchmarks/select.py small.csv --runs 1 --without pandas stdlib reference

Prints a table of medians and, on the last line, the figures as JSON; null stands for what was left
out. Every measurement runs in a process of its own; the seconds of our queries include that
process's start and its imports. "DuckDB's bare count" is `SELECT count(*)` by DuckDB, with the
columns given: what reading the file costs at least. The reference makes the whole selection in
plain Python; its rows are compared with ours, field by field.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand before the standard library's own `select`.
sys.path.pop(0)

import argparse
import contextlib
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]

for package, folder in (
    ("cocktail", "."),
    ("cocktail.trainer", "trainer"),
    ("cocktail.trainer.data", "trainer/data"),
    ("references", "tests/trainer"),
):
    module = types.ModuleType(package)
    module.__path__ = [str(ROOT / folder)]
    sys.modules[package] = module

SETTINGS = {"top_users": 1000, "per_user": 25}
SALT = "benchmark"
PEERS = ("pandas", "stdlib", "reference")


def bare(path: Path) -> dict[str, Any]:
    import duckdb

    from cocktail.trainer.data.table.table import open_table

    start = time.perf_counter()
    columns = ", ".join(f"'f{place}': 'VARCHAR'" for place in range(len(open_table(path).columns)))
    with duckdb.connect() as connection:
        (rows,) = connection.execute(
            f"SELECT count(*) FROM read_csv(?, columns = {{{columns}}}, header = true, "
            "delim = ',', quote = '\"', escape = '\"', auto_detect = false)",
            [str(path)],
        ).fetchone()
    return {"seconds": time.perf_counter() - start, "rows": rows}


def ours(path: Path, work: Path, number: int) -> dict[str, Any]:
    """One selection as the pack does it; the filters of later ones differ from each other."""
    from cocktail.trainer.data.table.columns import guess
    from cocktail.trainer.data.table.select import SelectionSettings, select
    from cocktail.trainer.data.table.table import open_table

    settings = SelectionSettings(**{**SETTINGS, "min_words": 3 + number})
    start = time.perf_counter()
    table = open_table(path)
    mapping = guess(table.columns, table.samples)
    found = select(table, mapping, settings, work / "rows.parquet", work / "cache", SALT)
    return {
        "seconds": time.perf_counter() - start,
        "rows": found.rows,
        "records": found.funnel[0].rows,
    }


def derive(path: Path, work: Path) -> dict[str, Any]:
    from cocktail.trainer.data.table.columns import guess
    from cocktail.trainer.data.table.derived import ingest
    from cocktail.trainer.data.table.table import open_table

    start = time.perf_counter()
    table = open_table(path)
    derived = ingest(table, guess(table.columns, table.samples), work / "cache")
    return {"seconds": time.perf_counter() - start, "rows": derived.stat().st_size // 10**6}


def standard_library(path: Path) -> dict[str, Any]:
    """The same filters with csv and substring tests, the prompts cleaned only as far as comparing
    needs.
    """
    start = time.perf_counter()
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        kept = _choose((row[4], row[5]) for row in rows)
    return {"seconds": time.perf_counter() - start, "rows": kept}


def pandas(path: Path) -> dict[str, Any]:
    """The same, the table read by pandas in chunks of 100,000 and filtered by its string methods
    first.
    """
    import pandas as library

    start = time.perf_counter()
    chunks = library.read_csv(
        path,
        usecols=["Content", "Attachments"],
        chunksize=100_000,
        dtype=str,
        keep_default_na=False,
    )

    def chosen() -> Any:
        for chunk in chunks:
            content = chunk["Content"]
            chunk = chunk[
                content.str.contains("Image #", regex=False)
                | content.str.contains("Upscaled", regex=False)
            ]
            yield from zip(chunk["Content"], chunk["Attachments"], strict=True)

    kept = _choose(chosen())
    return {"seconds": time.perf_counter() - start, "rows": kept}


def _choose(rows: Any) -> int:
    """How many pairs are left: finished upscales, raw, without links, of the 1000 who chose most,
    25 each.
    """
    from collections import Counter

    from references.midjourney_reference import read_prompt, read_tail, split_message, words

    upscales: Counter = Counter()
    found = []
    for content, image in rows:
        tail = content[content.rfind("** - ") + 5 :]
        if not tail.startswith(("Image #", "Upscal")):
            continue
        said = read_tail(tail)
        if said.unfinished or said.kind != "upscaled":
            continue
        upscales[said.user] += 1
        if "raw" in content and image:
            prompt = read_prompt(split_message(content)[0])
            if (
                prompt.raw
                and not prompt.image_prompts
                and not prompt.negative_weight
                and words(prompt.prompt) >= 3
            ):
                found.append((said.user, prompt.prompt.lower()))
    best = {user for user, _ in upscales.most_common(SETTINGS["top_users"])}
    seen: set[str] = set()
    had: Counter = Counter()
    kept = 0
    for user, prompt in found:
        if user in best and prompt not in seen:
            seen.add(prompt)
            had[user] += 1
            kept += had[user] <= SETTINGS["per_user"]
    return kept


def reference(path: Path) -> dict[str, Any]:
    """Hash of the rows of the slow reference implementation."""
    from references import select_reference as slow

    from cocktail.trainer.data.table.columns import guess
    from cocktail.trainer.data.table.select import SelectionSettings
    from cocktail.trainer.data.table.table import open_table

    table = open_table(path)
    mapping = guess(table.columns, table.samples)
    wanted = set(mapping.columns().values())

    def records() -> Any:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows)
            places = [(name, table.columns.index(name)) for name in wanted]
            for row in rows:
                yield {name: row[place] or None for name, place in places}

    rows = slow.select(records(), mapping, SelectionSettings(**SETTINGS), SALT)
    return {"rows": len(rows), "hash": _hash(rows)}


def result(work: Path) -> dict[str, Any]:
    import duckdb

    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT * FROM read_parquet(?)", [str(work / "rows.parquet")]
        ).fetchall()
    return {"rows": len(rows), "hash": _hash(rows)}


def _hash(rows: list[tuple]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def measured(task: str, path: Path, work: Path, number: int = 0) -> dict[str, Any]:
    """A task in a process of its own, with its peak of resident memory in MB."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE), str(path), "--work", str(work), "--task", f"{task}:{number}"],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    whole = time.perf_counter() - start
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": whole}


def run_task(task: str, path: Path, work: Path) -> None:
    name, number = task.split(":")
    tasks = {
        "bare": lambda: bare(path),
        "ours": lambda: ours(path, work, int(number)),
        "derive": lambda: derive(path, work),
        "stdlib": lambda: standard_library(path),
        "pandas": lambda: pandas(path),
        "reference": lambda: reference(path),
        "result": lambda: result(work),
    }
    found = tasks[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**found, "peak_mb": peak / (1024 if sys.platform == "linux" else 1 << 20)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--work", type=Path, default=Path("select-work"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--without", nargs="*", default=[], choices=PEERS, help="slow peers to leave out"
    )
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    path, work = options.path.resolve(), options.work.resolve()
    if options.task:
        run_task(options.task, path, work)
        return
    print_table(path, options.runs, measure(path, work, options.runs, options.without))


@dataclass(frozen=True)
class Figures:
    """What was measured, a list for what ran several times; None for a peer that was left out."""

    wc_seconds: list[float]
    floor: list[dict[str, Any]]
    first: list[dict[str, Any]]
    later: list[dict[str, Any]]
    derived: dict[str, Any]
    again: dict[str, Any]
    library: dict[str, Any] | None
    frames: dict[str, Any] | None
    equal: bool | None
    """Whether the rows are those of the reference."""


def measure(path: Path, work: Path, runs: int, without: list[str]) -> Figures:
    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "cache", ignore_errors=True)
    counted, floor, first = [], [], []
    for _ in range(runs):
        # One right after the other, so that all meet the same load and the same file cache.
        subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)
        start = time.perf_counter()
        subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)
        counted.append(time.perf_counter() - start)
        floor.append(measured("bare", path, work))
        first.append(measured("ours", path, work))
    fast = measured("result", path, work)
    slow = _peer("reference", path, work, without)
    library = _peer("stdlib", path, work, without)
    frames = _peer("pandas", path, work, without)
    derived = measured("derive", path, work)
    later = [measured("ours", path, work, number) for number in range(1, runs + 1)]
    again = measured("ours", path, work)
    equal = None
    if slow:
        equal = fast["hash"] == slow["hash"] == measured("result", path, work)["hash"]
    return Figures(counted, floor, first, later, derived, again, library, frames, equal)


def print_table(path: Path, runs: int, found: Figures) -> None:
    import duckdb

    first, later, derived = found.first, found.later, found.derived
    wc = statistics.median(found.wc_seconds)
    versions = f"Python {platform.python_version()}, DuckDB {duckdb.__version__}"
    if found.frames:
        versions += f", pandas {importlib.metadata.version('pandas')}"
    print(f"{versions}, {platform.platform()}, {_processor()}, {os.cpu_count()} cores")
    print(
        f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, {first[0]['records']} records, "
        f"{runs} runs, medians"
    )
    peers = (("pandas, chunks", found.frames), ("standard library", found.library))
    lines = [
        ("wc -l, warm", wc, 0, ""),
        (
            "DuckDB's bare count",
            _median(found.floor),
            _peak(found.floor),
            found.floor[0]["rows"],
        ),
        ("first query", _median(first), _peak(first), first[0]["rows"]),
        ("derived table, once", derived["seconds"], derived["peak_mb"], f"{derived['rows']} MB"),
        ("later queries", _median(later), _peak(later), found.again["rows"]),
        *((name, run["seconds"], run["peak_mb"], run["rows"]) for name, run in peers if run),
    ]
    print(f"{'':22}{'seconds':>10}{'peak MB':>10}{'rows':>10}")
    for name, seconds, peak, rows in lines:
        print(f"{name:22}{seconds:10.2f}{peak:10.0f}{rows!s:>10}")

    def times_faster(peer: dict[str, Any] | None) -> float | None:
        return round(peer["seconds"] / _median(first), 2) if peer else None

    print(
        json.dumps(
            {
                "first_query_vs_wc": round(_median(first) / wc, 2),
                "first_query_vs_bare_count": round(_median(first) / _median(found.floor), 2),
                "later_query_s": round(_median(later), 3),
                "peak_mb": round(_peak([*first, *later, derived])),
                "ingest_s": round(derived["seconds"], 2),
                "vs_pandas": times_faster(found.frames),
                "vs_stdlib": times_faster(found.library),
                "rows_equal_reference": found.equal,
            }
        )
    )


def _median(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["process_seconds"] for run in runs)


def _peer(name: str, path: Path, work: Path, without: list[str]) -> dict[str, Any] | None:
    return None if name in without else measured(name, path, work)


def _peak(runs: list[dict[str, Any]]) -> float:
    return max(run["peak_mb"] for run in runs)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
