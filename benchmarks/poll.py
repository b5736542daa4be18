"""What a poll of a run's metrics and of the list of runs costs as a run grows.

    python benchmarks/poll.py --lines 200000

Prints a table with the milliseconds of each, for a short run and a long one: the quickest of many
polls, so that other work on the machine does not count. The last line is JSON. Exit status 1 means
that a poll of the long run takes 5 ms or more.
"""

from __future__ import annotations

import sys

# Run by its path, this file's folder would put its select.py before the standard library's.
sys.path.insert(0, sys.path.pop(0).removesuffix("benchmarks"))

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.data.manifest import Dataset, Pair
from trainer.jobs.lines import Lines
from trainer.runs import Base, Paths, Run, create_run, list_runs
from trainer.settings.run_settings import RunSettings

MOST_MS = 5.0
POLLS = 50


def make(folder: Path, name: str, lines: int) -> Run:
    """A run with so many lines of metrics: steps, a few validations and checkpoints."""
    pairs = tuple(
        Pair(f"id{n}", f"{n}.png", f"{n:064x}", 64, 64, "a", 1.0, split)
        for n, split in enumerate(("train", "validation"))
    )
    run = create_run(
        folder / "runs",
        name,
        Base("base.safetensors", "base.safetensors", "0" * 64),
        Dataset("few", "somewhere", pairs),
        RunSettings(),
        Paths(str(folder / "checkpoints"), "tokenizer", "cache"),
    )
    values = []
    for step in range(1, lines + 1):
        line = {"kind": "step", "epoch": 1 + step // 1000, "step": step, "time": time.time()}
        line |= {"loss": 0.1234567, "loss_conditional": 0.1234567, "learning_rate": 1.5e-06}
        line |= {"pairs_per_second": 12.345678, "memory_bytes": 12345678901.0}
        line |= {"learning_rate_unet": 1.5e-06, "gradient_norm_unet": 0.1234567}
        if step % 1000 == 0:
            line = {"kind": "validation", "epoch": step // 1000, "step": step, "loss": 0.1234567}
        if step % 1000 == 1:
            name = f"{run.name}-s{step}.safetensors"
            line = {"kind": "checkpoint", "epoch": 1, "step": step, "file": name}
        values.append(line)
    Lines(run.folder / "metrics.jsonl").append(*values)
    return run


def quickest_ms(poll: Callable[[], Any]) -> float:
    taken = []
    for _ in range(POLLS):
        began = time.perf_counter()
        poll()
        taken.append(1000 * (time.perf_counter() - began))
    return round(min(taken), 3)


def measure(folder: Path, lines: int) -> dict[str, float]:
    run = make(folder, f"run-{lines}", lines)
    began = time.perf_counter()
    first = run.metrics_from(0)
    whole_ms = 1000 * (time.perf_counter() - began)
    assert len(first.lines) == lines
    state = {"at": first.next, "step": lines}

    def poll() -> None:
        """One step is written, and the next poll gets it and nothing else."""
        state["step"] += 1
        file = Lines(run.folder / "metrics.jsonl")
        file.append({"kind": "step", "epoch": 1, "step": state["step"], "loss": 0.1})
        read = Run.open(run.folder).metrics_from(state["at"])
        assert [line["step"] for line in read.lines] == [state["step"]]
        state["at"] = read.next

    run.checkpoints()
    return {
        "lines": lines,
        "megabytes": round((run.folder / "metrics.jsonl").stat().st_size / 1e6, 1),
        "all_metrics_once_ms": round(whole_ms, 1),
        "metrics_poll_ms": quickest_ms(poll),
        "checkpoints_poll_ms": quickest_ms(run.checkpoints),
        "list_of_runs_ms": quickest_ms(lambda: [one.state() for one in list_runs(folder / "runs")]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=200_000, help="of the long run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = [measure(Path(temporary, str(n)), n) for n in (options.lines // 100, options.lines)]
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    for name in found[0]:
        print(f"{name.replace('_', ' '):22}" + "".join(f"{entry[name]:>12}" for entry in found))
    print(machine)
    print(json.dumps({"short": found[0], "long": found[1], "machine": machine}))
    polls = [value for name, value in found[1].items() if name.endswith(("poll_ms", "runs_ms"))]
    return int(max(polls) >= MOST_MS)


if __name__ == "__main__":
    sys.exit(main())
