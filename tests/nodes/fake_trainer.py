"""A training without a model: it holds the real lock, hears the real requests and writes its state
through the real code, but each of its steps is a sleep.

    python fake_trainer.py run FOLDER --base PATH --checkpoints PATH --tokenizer PATH --cache PATH

Each step is a line of metrics.jsonl; what a resume point holds is the number of the last step.
While it has the run to itself a file with its pid lies in `working`, beside the runs' folder.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path

STEPS_PER_EPOCH = 3
STEP_S = 0.02


def main(folder: Path, checkpoints: Path) -> int:
    sys.path.insert(0, os.environ["COCKTAIL_TEST_ROOT"])
    set_back_s = float(os.environ.get("COCKTAIL_TEST_CLOCK", "0"))
    real = time.time
    time.time = lambda: real() - set_back_s

    from trainer import files
    from trainer.files import write_json
    from trainer.jobs.lines import Lines
    from trainer.jobs.work import work
    from trainer.runs import Run

    if writes := os.environ.get("COCKTAIL_TEST_DISK"):
        fill_the_disk(int(writes), (files, "write_bytes"), (Lines, "append"))

    run = Run.open(folder).at({"checkpoints": str(checkpoints)})
    point, working = folder / "point.json", folder.parents[1] / "working"

    def train(progress) -> str:
        alone = working / f"{run.name}.{os.getpid()}"
        alone.touch()
        try:
            step = json.loads(point.read_text())["step"] if point.exists() else 0
            progress.append("metrics.jsonl", {"kind": "start", "epoch": 0, "step": step})
            steps = run.settings.epochs * STEPS_PER_EPOCH
            progress.update(status="running", message="", steps=steps, step=step, epochs=0)
            while step < steps:
                time.sleep(STEP_S)
                step += 1
                epoch = (step - 1) // STEPS_PER_EPOCH + 1
                progress.append("metrics.jsonl", {"kind": "step", "epoch": epoch, "step": step})
                progress.update(step=step)
                progress.control.listen()
                if progress.control.save or step % STEPS_PER_EPOCH == 0:
                    progress.control.save = False
                    save(progress, run, epoch, step)
                    write_json(point, {"step": step})
                if progress.control.ends:
                    progress.update(status="stopping")
                    write_json(point, {"step": step})
                    raise progress.control.ending()
            return "done"
        finally:
            alone.unlink()

    return work(run, train)


def fill_the_disk(writes: int, *writers: tuple[object, str]) -> None:
    """Let so many writes succeed, and none after them."""
    left = [writes]

    def failing(write):
        def change(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*arguments, **options)

        return change

    for owner, name in writers:
        setattr(owner, name, failing(getattr(owner, name)))


def save(progress, run, epoch: int, step: int) -> None:
    from trainer.files import write_text

    name = f"{run.name}-e{epoch:03d}-s{step:06d}.safetensors"
    write_text(Path(run.paths.checkpoints) / name, f"{run.id} {step}")
    line = {"kind": "checkpoint", "epoch": epoch, "step": step, "file": name}
    progress.append("metrics.jsonl", line)


if __name__ == "__main__":
    options = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
    sys.exit(main(Path(sys.argv[2]), Path(options["--checkpoints"])))
