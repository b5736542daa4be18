"""Selection in a process of its own: what it needs of memory is gone when it ends, and it can be
stopped at any time.

The request is a JSON file; progress comes back as JSON lines on standard output, the result as a
JSON file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import TrainerError
from ...files import write_json
from ...jobs import process
from .columns import Mapping, describe, guess, preset
from .derived import MEMORY_MB, derived_path, ingest
from .select import SelectionReport, SelectionSettings, select
from .table import Table, open_table

SPARE_BYTES = 2 << 30
"""What libraries and the stacks of many threads may take."""
LEAST_CPU_S, CPU_S_PER_MB = 300.0, 10.0
"""What a selection may compute for at most: in all, and for each MB of the table. It needs about a
second for a MB; a hostile condition and a hostile record can need hours for one record, in which
DuckDB cannot be interrupted.
"""
PACKED, MOST_PACKED = (".gz", ".parquet"), 20
"""Endings of compressed tables, and how many times as long their text seldom is."""
TOO_LONG = 3
"""The status of a process that has computed for too long."""
ACTIONS = ("look", "select", "ingest")
_KEYS = {
    "action",
    "table",
    "name",
    "mapping",
    "preset",
    "settings",
    "output",
    "cache",
    "result",
    "tokenizer",
    "memory_mb",
    "ingest_first",
    "cpu_s",
}


def main(request: Path) -> int:
    """Do what a request asks for and write its result; 1 when the result is an error for the
    person.

    A request holds `action` (look, select or ingest), `table` (path), `result` (path of the result)
    and, where they matter, `name` (what messages call the table), `mapping` (Mapping as JSON) or
    `preset`, `settings`, `output` (path of the Parquet file), `cache` (folder), `tokenizer`
    (folder), `memory_mb`, `ingest_first` (derive, then select) and `cpu_s` (seconds that all its
    threads together may compute for).
    """
    asked = json.loads(request.read_text(encoding="utf-8"))
    _limit_memory(asked.get("memory_mb", MEMORY_MB))
    result = Path(asked["result"])
    _limit_time(asked, result)
    try:
        write_json(result, _do(asked))
    except TrainerError as error:
        write_json(result, {"error": str(error)})
        return 1
    return 0


def _limit_memory(memory_mb: int) -> None:
    """Have the system refuse this process more than a few times the memory that DuckDB is to use:
    not all that a condition computes counts as DuckDB's. Linux alone can do that.
    """
    if sys.platform != "linux":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = 4 * (memory_mb << 20) + SPARE_BYTES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _limit_time(asked: dict[str, Any], result: Path) -> None:
    """Have this process end, with an error for the person, once it has computed for much longer
    than its table can need.
    """
    with contextlib.suppress(KeyError, OSError):
        most = asked.get("cpu_s") or most_cpu_s(Path(asked["table"]))
        threading.Thread(target=_watch_time, args=(most, result), daemon=True).start()


def most_cpu_s(table: Path) -> float:
    """What a selection from a table may compute for, in seconds. Raises OSError."""
    size_mb = table.stat().st_size / 1e6
    times = MOST_PACKED if table.suffix.lower() in PACKED else 1
    return LEAST_CPU_S + CPU_S_PER_MB * times * size_mb


def _watch_time(most_s: float, result: Path) -> None:
    while (left := most_s - time.process_time()) > 0:
        # All cores together cannot compute for longer than `left` in this time.
        time.sleep(max(0.1, left / (os.cpu_count() or 1)))
    told = (
        f"The selection has computed for {most_s:,.0f} s, many times as long as a table of this "
        "size needs, and was ended. Simplify the condition: large counts in regular expressions "
        "(such as {900}), LIKE with several % and _, and levenshtein take long on long texts."
    )
    try:
        write_json(result, {"error": told})
    finally:
        os._exit(TOO_LONG)


def run_select(
    request: dict[str, Any],
    progress: Callable[[str], None] | None = None,
    should_stop: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Run a request (see `main`; `result` is filled in here) in a child process and return its
    result.

    `should_stop` is called several times a second; what it raises ends the child at once and is
    passed on. Raises TrainerError with the child's message.
    """
    with tempfile.TemporaryDirectory(prefix="cocktail-select-") as folder:
        result, file = Path(folder, "result.json"), Path(folder, "request.json")
        write_json(file, {**request, "result": str(result)})
        started: list[int] = []
        try:
            status, said = process.follow(
                [sys.executable, "-u", process.MAIN, "select", file],
                lambda line: _pass_on(line, progress),
                should_stop,
                started.append,
            )
        finally:
            for pid in started:
                _remove_left_over(request, pid)
        if not result.is_file():
            raise TrainerError(
                f"The selection's process ended with status {status} and no result: "
                f"{said or 'it said nothing'}. Run it again, with less memory_mb if the machine is "
                "short of memory."
            )
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise TrainerError(found["error"])
    return found


def _pass_on(line: str, progress: Callable[[str], None] | None) -> None:
    """Report the progress that a line holds; ignore other lines."""
    try:
        words = json.loads(line)["progress"]
    except (ValueError, KeyError, TypeError):
        return
    if progress:
        progress(words)


def _remove_left_over(request: dict[str, Any], pid: int) -> None:
    """Remove what a killed child has left; such files and folders carry its pid."""
    for folder in {Path(request[key]) for key in ("cache",) if request.get(key)} | {
        Path(request[key]).parent for key in ("output",) if request.get(key)
    }:
        for path in folder.glob(f".*.{pid}.*.part*"):
            path.unlink(missing_ok=True)
        for path in folder.glob(f".spill-{pid}-*"):
            shutil.rmtree(path, ignore_errors=True)


def _do(asked: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(asked) - _KEYS)
    if unknown:
        raise TrainerError(f"Unknown entry {unknown[0]!r} in the selection's request.")
    if asked.get("action") not in ACTIONS:
        raise TrainerError(
            f"The selection's request asks for {asked.get('action')!r}; it can be "
            f"{', '.join(ACTIONS)}."
        )
    table = open_table(Path(asked["table"]), asked.get("name", ""))
    if asked["action"] == "look":
        return _look(table, asked)
    mapping = _mapping(table, asked)
    cache = Path(asked["cache"])
    memory_mb = asked.get("memory_mb", MEMORY_MB)
    if asked["action"] == "ingest" or asked.get("ingest_first"):
        derived = ingest(table, mapping, cache, memory_mb, _say)
        if asked["action"] == "ingest":
            return {"derived": str(derived), "size_bytes": derived.stat().st_size}
    found = select(
        table,
        mapping,
        SelectionSettings.from_json(asked.get("settings", {})),
        Path(asked["output"]),
        cache,
        tokenizer=Path(asked["tokenizer"]) if asked.get("tokenizer") else None,
        memory_mb=memory_mb,
        progress=_say,
    )
    return _as_json(found, mapping)


def _look(table: Table, asked: dict[str, Any]) -> dict[str, Any]:
    """Columns, first rows and the likely mapping; where that is in doubt, the reason stands in its
    place.
    """
    found: dict[str, Any] = {
        "columns": list(table.columns),
        "samples": [list(row) for row in table.samples[:5]],
    }
    try:
        mapping = _mapping(table, asked) if asked.get("mapping") or asked.get("preset") else None
        mapping = mapping or guess(table.columns, table.samples)
    except TrainerError as error:
        return {**found, "mapping": None, "text": str(error)}
    found["mapping"] = mapping.to_json()
    found["text"] = describe(mapping, table.columns, table.samples)
    if asked.get("cache"):
        found["derived"] = derived_path(table, mapping, Path(asked["cache"])) is not None
    return found


def _mapping(table: Table, asked: dict[str, Any]) -> Mapping:
    if asked.get("mapping"):
        return Mapping.from_json(asked["mapping"])
    if asked.get("preset"):
        return preset(asked["preset"], table.columns, table.samples)
    raise TrainerError(
        "The selection's request has neither a column mapping nor a preset. Look at the table "
        "first and confirm the guess."
    )


def _as_json(found: SelectionReport, mapping: Mapping) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "rows": found.rows,
        "funnel": [asdict(step) for step in found.funnel],
        "rejects": {
            "count": found.rejects.count,
            "first": [asdict(reject) for reject in found.rejects.first],
        },
        "source": found.source,
        "mapping": mapping.to_json(),
        "from_derived": found.from_derived,
        "over_75_tokens": found.over_75_tokens,
        "text": str(found),
    }


def _say(progress: str) -> None:
    print(json.dumps({"progress": progress}), flush=True)
