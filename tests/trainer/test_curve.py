"""The reduced curve of a run, and what it costs to follow it."""

from __future__ import annotations

import json
import math
import random

import pytest

from cocktail.trainer import recorded_steps
from cocktail.trainer.curve import curve
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import Base, Paths, State, create_run
from cocktail.trainer.settings.run_settings import RunSettings


@pytest.fixture
def run(tmp_path):
    def pair(key: str, split: str) -> Pair:
        return Pair(key, f"{key}.png", key * 64, 64, 64, "a", split=split)

    pairs = (
        pair("a", "train"),
        pair("b", "validation"),
        pair("c", "validation"),
        pair("d", "validation/faces"),
        pair("e", "validation/faces"),
    )
    return create_run(
        tmp_path / "runs",
        "one",
        Base("b", "b", "0" * 64),
        Dataset("few", "x", pairs),
        RunSettings(),
        Paths(str(tmp_path / "checkpoints"), "tokenizer", "cache"),
    )


def step(number: int, loss: float = 0.5, steps_per_epoch: int = 10, **more) -> dict:
    return {
        "kind": "step",
        "epoch": (number - 1) // steps_per_epoch + 1,
        "step": number,
        "time": 100.0 + number,
        "loss": loss,
        "loss_conditional": 0.1,
        "memory_bytes": 5.0,
        "learning_rate_unet": 1e-6 * number,
        "gradient_norm_unet": 2.0,
        **more,
    }


def record(run, *lines: dict) -> None:
    Lines(run.folder / "metrics.jsonl").append(*lines)


def test_every_low_and_high_is_kept_however_few_points_are_asked_for(run):
    chance = random.Random(1)
    losses = [chance.random() for _ in range(1000)]
    losses[317], losses[803] = -3.0, 9.0
    record(run, *(step(number, loss) for number, loss in enumerate(losses, start=1)))
    for points in (1, 7, 50, 999, 1000, 5000):
        train = curve(run, {}, points)["train"]
        assert len(train["x"]) == min(points, 1000)
        assert min(train["min"]) == -3.0 and max(train["max"]) == 9.0
        bands = zip(train["min"], train["mean"], train["max"], strict=True)
        assert all(low <= mean <= high for low, mean, high in bands)
        assert train["x"] == sorted(train["x"])
    whole = curve(run, {}, 1000)
    assert whole["train"]["mean"] == pytest.approx(losses)
    assert whole["rate"]["unet"][9] == pytest.approx(1e-5)
    assert whole["rate"]["text_encoder"] == [None] * 1000 and whole["last_step"] == 1000
    part = curve(run, {}, 10, "step", 101, 200)
    assert (part["train"]["x"][0], part["train"]["x"][-1]) == (105.5, 195.5)


def test_a_run_that_grows_is_followed_and_a_step_that_is_there_twice_counts_once(run, monkeypatch):
    assert curve(run, {})["train"] == {"x": [], "min": [], "max": [], "mean": []}
    record(run, {"kind": "start", "epoch": 0, "step": 0}, step(1, 0.1), step(2, 0.2), step(3, 0.3))
    first = curve(run, {})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "epoch": 1, "st')
    assert curve(run, {}) == first, "a line that is on its way is left for the next time"
    record(run, {"kind": "start", "epoch": 0, "step": 2}, step(3, 0.9), step(4, 0.4))
    monkeypatch.setattr(Lines, "texts", watched := Watched(Lines.texts))
    now = curve(run, {})
    assert watched.after == [first["next"]], "only what is new is read"
    assert now["train"]["mean"] == [0.1, 0.2, 0.9, 0.4] and now["restarts"] == [2.0]
    assert now["next"] == (run.folder / "metrics.jsonl").stat().st_size
    (run.folder / "metrics.jsonl").unlink()
    record(run, step(1, 0.7))
    assert curve(run, {})["train"]["mean"] == [0.7], "another file has taken its place"


class Watched:
    """A method that notes from which byte on it was asked."""

    def __init__(self, method) -> None:
        self.method, self.after = method, []

    def __get__(self, lines, kind):
        def texts(after: int, size: int):
            self.after.append(after)
            return self.method(lines, after, size)

        return texts


def test_the_axis_is_the_epoch_or_the_time_at_work(run):
    lines = [step(number, steps_per_epoch=4) for number in range(1, 11)]
    for line in lines[6:]:
        line["time"] += 5000
    lines[8]["time"], lines[9]["time"] = 0.0, 1.0
    record(run, *lines[:6], {"kind": "start", "epoch": 1, "step": 6}, *lines[6:])
    epochs = curve(run, {}, x="epoch")["train"]["x"]
    assert epochs == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5]
    told = curve(run, {}, x="time")
    assert told["train"]["x"] == [0, 1, 2, 3, 4, 5, 5, 6, 6, 7] and told["restarts"] == [5.0]


def test_validation_has_an_error_band_and_every_set_its_own_curve(run):
    record(run, step(1), step(2))
    pairs = {"b": 0.1, "c": 0.3, "d": 0.5, "e": 0.9}
    for epoch, number in ((0, 0), (1, 2)):
        figures = {"loss": 0.45, "loss_validation": 0.2, "loss_faces": 0.7}
        record(run, {"kind": "validation", "epoch": epoch, "step": number, **figures})
        line = {"epoch": epoch, "step": number, "pairs": pairs}
        Lines(run.folder / "validation.jsonl").append(line)
    record(run, {"kind": "checkpoint", "epoch": 1, "step": 2, "file": "one-2.safetensors"})
    run.write_state(State("finished", best={"epoch": 1, "step": 2, "loss": 0.2}))
    told = curve(run, {"one-2.safetensors": "cocktail/one/one-2.safetensors"})
    assert told["validation"]["faces"] == {
        "x": [0.0, 2.0],
        "loss": [0.7, 0.7],
        "error": [pytest.approx(0.2), pytest.approx(0.2)],
    }
    assert told["validation"]["validation"]["error"][0] == pytest.approx(0.1)
    assert told["best"] == {"x": 2.0, "epoch": 1, "step": 2, "loss": 0.2}
    name = "cocktail/one/one-2.safetensors"
    assert told["checkpoints"] == [{"x": 2.0, "step": 2, "epoch": 1, "name": name}]


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "step", "epoch": 1, "step": 2, "time": 1.0, "loss": 0.25},
        {"kind": "step", "epoch": 1, "step": 2, "loss": 0.25, "time": 1.0},
        {"loss": 0.25, "step": 2, "epoch": 1, "kind": "step"},
        {"kind": "step", "epoch": 1, "step": 2, "time": 1.0, "loss": math.nan},
        {"kind": "step", "epoch": 1, "step": 2, "time": 1.0, "loss": 1.0, "learning_rate_unet": 1},
        {"kind": "step", "epoch": "1", "step": 2}, {"kind": ["step"]}, {"kind": "step"},
        {"kind": "step", "epoch": 1, "step": math.nan, "time": 1.0, "loss": 0.25},
        {"kind": "step", "epoch": math.inf, "step": 2, "time": 1.0, "loss": 0.25},
        {"kind": "step", "epoch": 1, "step": 10**400, "time": 1.0, "loss": 0.25},
        {"kind": "step", "epoch": 1, "step": 2, "time": 1.0, "loss": None},
        {"kind": "step", "epoch": 1, "step": 2, "time": 1.0, "loss": "0.5"},
    ],
)  # fmt: skip
def test_a_line_is_read_the_same_fast_and_as_json(run, line):
    record(run, line)
    fast = curve(run, {})["train"]
    (run.folder / "metrics.jsonl").unlink()
    (run.folder / "metrics.jsonl").write_text(json.dumps(line, separators=(",", ":")) + "\n")
    slow = curve(run, {})["train"]
    assert fast == slow


@pytest.mark.parametrize("odd", [{}, {"loss": math.nan}, {"loss": None}])
def test_a_large_file_is_read_the_same_at_once(run, monkeypatch, odd):
    lines = [step(number, number / 7) for number in range(1, 40)]
    lines.insert(3, {"kind": "start", "epoch": 0, "step": 2})
    lines.insert(9, {"kind": "checkpoint", "epoch": 1, "step": 7, "file": "one-7.safetensors"})
    lines[20] |= odd
    record(run, *lines)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('garbage "start"\n{"kind": "step", "epoch": 4, "st')
    slow = curve(run, {})
    recorded_steps.followed.cache_clear()
    monkeypatch.setattr(recorded_steps, "LARGE_BYTES", 1)
    assert curve(run, {}) == slow and slow["restarts"] == [2.0] and slow["checkpoints"]
    record(run, step(40, 0.5))
    assert curve(run, {})["last_step"] == 40


def test_a_large_file_is_never_in_memory_as_a_whole(run, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(recorded_steps, "LARGE_BYTES", 1)
    monkeypatch.setattr(recorded_steps, "CHUNK_BYTES", 1 << 16)
    record(run, *(step(number, **{"note": "x" * 3000}) for number in range(1, 1001)))
    metrics = run.folder / "metrics.jsonl"
    size = metrics.stat().st_size
    recorded_steps.Followed(metrics).read()  # DuckDB and numpy are loaded
    tracemalloc.start()
    try:
        assert len(recorded_steps.Followed(metrics).read()[0]) == 1000
        assert tracemalloc.get_traced_memory()[1] < size / 3
    finally:
        tracemalloc.stop()
