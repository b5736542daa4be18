"""Selection from a table of the Midjourney shape: this pack beside pandas in chunks and the standard library.

    python benchmarks/make_table.py big.csv --bytes 2000000000
    python benchmarks/select.py big.csv

Prints a table of medians and, on the last line, the figures as JSON. Every measurement runs in a process of its own.
The reference makes the whole selection in plain Python; its rows are compared with ours, field by field.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand before the standard library's own `select`.
sys.path.pop(0)

import argparse
import csv
import hashlib
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import time
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]

for package in ("cocktail", "cocktail.trainer", "cocktail.trainer.data"):
    module = types.ModuleType(package)
    module.__path__ = [str(ROOT.joinpath(*package.split(".")[1:]))]
    sys.modules[package] = module

SETTINGS = {"top_users": 1000, "per_user": 25}
SALT = "benchmark"


def ours(path: Path, work: Path, number: int) -> dict[str, Any]:
    """One selection as the pack does it; the filters of later ones differ from each other."""
    from cocktail.trainer.data.columns import guess
    from cocktail.trainer.data.select import SelectionSettings, select
    from cocktail.trainer.data.table import open_table

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
    from cocktail.trainer.data.columns import guess
    from cocktail.trainer.data.select import ingest
    from cocktail.trainer.data.table import open_table

    start = time.perf_counter()
    table = open_table(path)
    derived = ingest(table, guess(table.columns, table.samples), work / "cache")
    return {"seconds": time.perf_counter() - start, "rows": derived.stat().st_size // 10**6}


def standard_library(path: Path) -> dict[str, Any]:
    """The same filters with csv and substring tests, the prompts cleaned only as far as comparing needs."""
    start = time.perf_counter()
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        kept = _choose((row[4], row[5]) for row in rows)
    return {"seconds": time.perf_counter() - start, "rows": kept}


def pandas(path: Path) -> dict[str, Any]:
    """The same, the table read by pandas in chunks of 100,000 and filtered by its string methods first."""
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
    """How many pairs are left: finished upscales, raw, without links, of the 1000 who chose most, 25 each."""
    from collections import Counter

    from cocktail.trainer.data.midjourney import read_prompt, read_tail, split_message, words

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
    spec = importlib.util.spec_from_file_location(
        "select_reference", ROOT / "tests" / "trainer" / "select_reference.py"
    )
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    from cocktail.trainer.data.columns import guess
    from cocktail.trainer.data.select import SelectionSettings
    from cocktail.trainer.data.table import open_table

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
    done = subprocess.run(
        [sys.executable, str(HERE), str(path), "--work", str(work), "--task", f"{task}:{number}"],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_task(task: str, path: Path, work: Path) -> None:
    name, number = task.split(":")
    tasks = {
        "ours": lambda: ours(path, work, int(number)),
        "derive": lambda: derive(path, work),
        "standard_library": lambda: standard_library(path),
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
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    path, work = options.path.resolve(), options.work.resolve()
    if options.task:
        run_task(options.task, path, work)
        return
    import duckdb

    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "cache", ignore_errors=True)
    counted, first = [], []
    for _ in range(options.runs):
        # Beside each other, so that both meet the same load and the same file cache.
        subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)
        start = time.perf_counter()
        subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)
        counted.append(time.perf_counter() - start)
        first.append(measured("ours", path, work))
    fast = measured("result", path, work)
    slow = measured("reference", path, work)
    library = measured("standard_library", path, work)
    try:
        frames = measured("pandas", path, work)
    except subprocess.CalledProcessError:
        frames = {"seconds": float("nan"), "peak_mb": float("nan"), "rows": 0}
    derived = measured("derive", path, work)
    later = [measured("ours", path, work, number) for number in range(1, options.runs + 1)]
    again = measured("ours", path, work)
    equal = fast["hash"] == slow["hash"] == measured("result", path, work)["hash"]

    def middle(runs: list[dict], key: str) -> float:
        return statistics.median(run[key] for run in runs)

    wc = statistics.median(counted)
    print(
        f"Python {platform.python_version()}, DuckDB {duckdb.__version__}, {platform.platform()}, {os.cpu_count()} cores"
    )
    print(
        f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, {first[0]['records']} records, {options.runs} runs, medians"
    )
    lines = [
        ("wc -l, warm", wc, 0, ""),
        (
            "first query",
            middle(first, "seconds"),
            max(r["peak_mb"] for r in first),
            first[0]["rows"],
        ),
        ("derived table, once", derived["seconds"], derived["peak_mb"], f"{derived['rows']} MB"),
        (
            "later queries",
            middle(later, "seconds"),
            max(r["peak_mb"] for r in later),
            again["rows"],
        ),
        ("pandas, chunks", frames["seconds"], frames["peak_mb"], frames["rows"]),
        ("standard library", library["seconds"], library["peak_mb"], library["rows"]),
    ]
    print(f"{'':22}{'seconds':>10}{'peak MB':>10}{'rows':>10}")
    for name, seconds, peak, rows in lines:
        print(f"{name:22}{seconds:10.2f}{peak:10.0f}{rows!s:>10}")
    print(
        json.dumps(
            {
                "first_query_vs_wc": round(middle(first, "seconds") / wc, 2),
                "later_query_s": round(middle(later, "seconds"), 3),
                "peak_mb": round(max(r["peak_mb"] for r in first + later)),
                "ingest_s": round(derived["seconds"], 2),
                "ingest_peak_mb": round(derived["peak_mb"]),
                "vs_pandas": round(frames["seconds"] / middle(first, "seconds"), 2),
                "vs_stdlib": round(library["seconds"] / middle(first, "seconds"), 2),
                "rows_equal_reference": equal,
            }
        )
    )


if __name__ == "__main__":
    main()
