"""Run folders made by code, as trainings would have left them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.runs import Base, Paths, Run, State, create_run
from cocktail.trainer.settings.run_settings import RunSettings

BEGAN = 1_790_000_000.0
SECONDS_PER_STEP = 0.4
PAIRS = 12
PROMPTS = ("a red circle above a green square", "three <b>yellow</b> triangles")


def make_run(
    base: Path,
    name: str,
    *,
    status: str = "finished",
    epochs: int = 10,
    done: int | None = None,
    steps_per_epoch: int = 20,
    lowest: int = 6,
    message: str = "",
    checkpoints: bool = True,
    settings: dict[str, Any] | None = None,
    restarted: int = 0,
) -> Run:
    """A run below `base`, ComfyUI's base directory, that has trained for `done` of its epochs.

    Its validation loss falls to 0.1387 at the epoch `lowest` and rises from there, the more so the
    less noise there is; of its training pairs the last stands out. Checkpoints are small files.
    With `restarted` another process has gone on after that epoch.
    """
    done = epochs if done is None else done
    made = RunSettings.from_json(
        {
            "epochs": epochs,
            "samples": {"prompts": [{"prompt": text} for text in PROMPTS], "every_epochs": 1},
        }
        | (settings or {})
    )
    saved = base / "models" / "checkpoints" / "cocktail"
    run = create_run(
        base / "output" / "cocktail" / "runs",
        name,
        Base(
            "base.safetensors", str(base / "models" / "checkpoints" / "base.safetensors"), "a" * 64
        ),
        Dataset("drawn", "drawn", tuple(_pairs())),
        made,
        Paths(str(saved), "", ""),
    )
    chance = random.Random(name)
    losses = [_validation(epoch, lowest) for epoch in range(done + 1)]
    lines: list[dict[str, Any]] = [_line("start", 0, 0, device="cpu", processes=1)]
    for epoch in range(done + 1):
        for step in range((epoch - 1) * steps_per_epoch + 1, epoch * steps_per_epoch + 1):
            if epoch:
                loss = 0.139 + 0.02 * math.exp(-step / 60) + chance.gauss(0, 0.012)
                lines.append(_line("step", epoch, step, loss=loss, learning_rate_unet=1.5e-6))
        step = epoch * steps_per_epoch
        lines.append(_line("validation", epoch, step, loss=losses[epoch]))
        if epoch and checkpoints:
            file = f"{name}-e{epoch:03}-s{step:06}.safetensors"
            (saved / name).mkdir(parents=True, exist_ok=True)
            (saved / name / file).write_bytes(b"no weights")
            lines.append(_line("checkpoint", epoch, step, file=file))
        if epoch == restarted > 0:
            lines.append(_line("start", epoch, step, device="cpu", processes=1))
        _draw(run, epoch, step, lines)
    with (run.folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    with (run.folder / "validation.jsonl").open("w", encoding="utf-8") as file:
        for epoch, loss in enumerate(losses):
            line = {"epoch": epoch, "step": epoch * steps_per_epoch}
            line["pairs"] = {f"id{n}": loss * (0.8 + 0.1 * n) for n in range(4)}
            line["levels"] = {pair: _levels(mean, epoch) for pair, mean in line["pairs"].items()}
            line["training"] = {
                f"id{n}": _levels(loss * (1.6 if n == PAIRS - 1 else 0.9 + 0.02 * n), epoch)
                for n in range(4, PAIRS)
            }
            file.write(json.dumps(line) + "\n")
    (run.folder / "log.txt").write_text("epoch 1\nloss <b>0.14</b>\n", encoding="utf-8")
    best = min(range(len(losses)), key=losses.__getitem__)
    state = State(
        status=status,
        message=message,
        epoch=done,
        epochs=epochs,
        step=done * steps_per_epoch,
        steps=epochs * steps_per_epoch,
        loss=0.14,
        smoothed_loss=0.1392,
        steps_per_second=2.5,
        eta_s=(epochs - done) * steps_per_epoch / 2.5,
        first_validation=losses[0],
        last_validation=losses[-1],
        best={
            "epoch": best,
            "step": best * steps_per_epoch,
            "loss": losses[best],
            "checkpoint": f"{name}-e{best:03}-s{best * steps_per_epoch:06}.safetensors",
        },
    )
    run.write_state(state)
    return run


def set_state(run: Run, **changes: Any) -> None:
    """Write another state, as the run's process would."""
    run.write_state(replace(run.written(), **changes))


def _pairs() -> list[Pair]:
    return [
        Pair(
            f"id{n}",
            f"{n}.png",
            f"{n:064x}",
            64,
            64,
            f"a <i>shape</i> {n}",
            1.0,
            "validation" if n < 4 else "train",
        )
        for n in range(PAIRS)
    ]


def _validation(epoch: int, lowest: int) -> float:
    return 0.1387 + 0.0035 * ((epoch - lowest) / max(1, lowest)) ** 2


def _levels(mean: float, epoch: int) -> list[float]:
    """Losses with little, some and much noise: with little it rises, with much it falls."""
    return [mean + 0.001 * epoch, mean, mean - 0.001 * epoch]


def _line(kind: str, epoch: int, step: int, **values: Any) -> dict[str, Any]:
    time = BEGAN + SECONDS_PER_STEP * step
    return {"kind": kind, "epoch": epoch, "step": step, "time": time, **values}


def _draw(run: Run, epoch: int, step: int, lines: list[dict[str, Any]]) -> None:
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    files = []
    for number in range(len(PROMPTS)):
        file = f"e{epoch:03}-s{step:06}-{number + 1:02}.png"
        words = PngInfo()
        words.add_itxt("parameters", f"{PROMPTS[number]}\nSteps: 20, Sampler: DDIM, Seed: 1")
        picture = Image.new("RGB", (32, 32), (20 * epoch % 255, 120, 90 * number))
        picture.save(folder / file, pnginfo=words)
        files.append(file)
    lines.append(_line("samples", epoch, step, files=files))
