"""Sweeps: lines become runs, and the table says what their recorded losses say."""

from __future__ import annotations

import csv
import io
import json

import numpy
import pytest

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.files import write_json
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import Base, Paths, State
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.sweep.sweep import Sweep, Unreadable, create_sweep, list_sweeps
from cocktail.trainer.sweep.table import RULE, compare, to_csv, to_json, to_markdown
from cocktail.trainer.sweep.variants import read_variants, run_names

BASE = RunSettings(train_text_encoder=False)
PAIRS = [f"pair{number}" for number in range(12)]
LEVELS = 4
LINES = "clip_skip = 2\nclip_skip = 3\nconditional_dropout = 0.1\nlearning_rate = 1e-5\n"


def test_a_line_changes_one_setting_and_names_the_run():
    text = "# remark\n\nclip_skip = 2\n loss.kind = mse to huber\nloss.min_snr_gamma=5\n"
    variants = read_variants(BASE, text + "layers.freeze_embeddings = true\nweight_decay = 0")
    assert [variant.settings for variant in variants] == [
        BASE,
        *(
            RunSettings.from_json({**BASE.to_json(), **change})
            for change in (
                {"clip_skip": 2},
                {"loss": {"kind": "mse to huber"}},
                {"loss": {"min_snr_gamma": 5.0}},
                {"layers": {"freeze_embeddings": True}},
                {"weight_decay": 0.0},
            )
        ),
    ]
    assert run_names("try", variants) == [
        "try-baseline",
        "try-clip_skip-2",
        "try-loss.kind-mse-to-huber",
        "try-loss.min_snr_gamma-5",
        "try-layers.freeze_embeddings-true",
        "try-weight_decay-0",
    ]
    assert variants[1].label == "clip skip 2 (ComfyUI -2, EveryDream2 2)"
    assert variants[3].label == "loss.min_snr_gamma 5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no variants"),
        ("# nothing", "no variants"),
        ("clip_skip", r"Line 1 of the variants \(clip_skip\) changes no setting"),
        ("clip_skip =", "changes no setting"),
        ("\nclip_skp = 2", "Line 2 .*unknown run setting 'clip_skp'.*clip_skip"),
        ("min_snr_gamma = 5", "unknown run setting.*loss.min_snr_gamma"),
        ("clip_skip = 1", "Line 1 .*the baseline has that value already"),
        ("clip_skip = 2\nclip_skip = 2", "Line 2 .*: line 1 is the same run"),
        ("conditional_dropout = 0.1\nconditional_dropout = 0.10", "line 1 is the same run"),
        ("clip_skip = two", "Line 1 .*clip_skip is 'two'; it must be a whole number"),
        ("clip_skip = 13", "between 1 and 12"),
        ("loss.timestep_end = 0", "Line 1"),
        ("saving.keep_last = 3", "changes only what is shown or saved"),
        ("seed = 4", "cannot be compared loss by loss, as the validation would have other noise"),
        ("resolution = 768", "cannot be compared"),
        ("ema.decay = 0.999", "plain weights"),
        ("\n".join(f"learning_rate = 1e-{n}" for n in range(60)), "50 variants"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_the_reason(text, words):
    with pytest.raises(TrainerError, match=words):
        read_variants(BASE, text)


def test_a_name_that_is_too_long_or_given_twice_is_refused():
    with pytest.raises(TrainerError, match="64 is the most"):
        run_names("n" * 60, read_variants(BASE, "clip_skip = 2"))
    text = "loss.kind = mse to huber\n"
    variants = read_variants(BASE, text)
    with pytest.raises(TrainerError, match="would both be called try-loss.kind-mse-to-huber"):
        run_names("try", [*variants, variants[1]])


@pytest.fixture
def make_sweep(tmp_path, few_shapes):
    def make(text: str = LINES, name: str = "try", settings: RunSettings = BASE):
        base = Base("base.safetensors", str(tmp_path / "base.safetensors"), "0" * 64)
        paths = Paths(str(tmp_path / "checkpoints"), "", "")
        return create_sweep(tmp_path, name, base, few_shapes, settings, text, paths)

    return make


def test_a_sweep_is_found_again_and_can_grow(make_sweep, tmp_path):
    sweep, runs = make_sweep("clip_skip = 2")
    file = tmp_path / "sweeps" / "try" / "sweep.json"
    written = file.stat().st_mtime_ns
    runs[0].write_state(State("finished"))
    again, found = make_sweep("clip_skip = 2")
    assert (again, file.stat().st_mtime_ns) == (sweep, written)
    assert [run.id for run in found] == [run.id for run in runs]
    assert found[0].state().status == "finished"
    assert Sweep.open(file.parent) == sweep
    larger, more = make_sweep("clip_skip = 2\nclip_skip = 3")
    assert [run.id for run in more][:2] == [run.id for run in runs]
    assert [sweep.members for sweep in list_sweeps(tmp_path / "sweeps")] == [larger.members]


def test_a_sweep_whose_names_are_taken_leaves_nothing_behind(make_sweep, tmp_path):
    make_sweep("clip_skip = 2")
    before = sorted(path.name for path in (tmp_path / "runs").iterdir())
    with pytest.raises(TrainerError, match="try-baseline is taken by another run"):
        make_sweep("clip_skip = 4\nclip_skip = 2", settings=RunSettings(learning_rate=1e-5))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == before
    assert len(Sweep.open(tmp_path / "sweeps" / "try").members) == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 9},
        {"members": []},
        {"members": [{"run": "../x", "setting": "", "value": None, "label": ""}] * 2},
        {"base": 3},
        {"settings": {"nonsense": 1}},
    ],
)
def test_a_damaged_sweep_is_listed_with_the_reason(make_sweep, tmp_path, damage):
    make_sweep()
    file = tmp_path / "sweeps" / "try" / "sweep.json"
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | damage)
    (found,) = list_sweeps(tmp_path / "sweeps")
    assert isinstance(found, Unreadable) and found.name == "try"
    assert "newer Cocktail" in found.message or "damaged" in found.message


@pytest.fixture
def losses():
    """Losses of each pair at each noise level, by run: a baseline, one that is better, one that is
    worse, one that differs by noise alone, and one that is the baseline.
    """
    random = numpy.random.default_rng(5)
    baseline = random.uniform(0.05, 0.3, (len(PAIRS), LEVELS))
    noise = random.normal(0, 0.002, (len(PAIRS), LEVELS))
    return [
        baseline,
        baseline - 0.01 + noise,
        baseline + 0.01 + noise,
        baseline + noise - noise.mean() + 0.0003,
        baseline,
    ]


def record(run, losses, started=1000.0, memory=2e9):
    """Write what a run of two epochs records whose second validation has these losses."""
    metrics = Lines(run.folder / "metrics.jsonl")
    validations = Lines(run.folder / "validation.jsonl")
    metrics.append({"kind": "start", "epoch": 0, "step": 0, "time": started})
    for epoch, at in enumerate((losses + 0.1, losses, losses + 0.05)):
        pairs = {p: round(float(v), 7) for p, v in zip(PAIRS, at.mean(1), strict=True)}
        found = {p: [round(float(v), 7) for v in row] for p, row in zip(PAIRS, at, strict=True)}
        line = {"epoch": epoch, "step": 3 * epoch}
        validations.append({**line, "pairs": pairs, "levels": found})
        step = {"kind": "step", "time": started + 60 * epoch, "memory_bytes": memory + epoch}
        metrics.append({**line, **step, "loss": float(at.mean())})
    run.write_state(State("finished"))


def test_each_figure_of_the_table_is_that_of_an_independent_formula(make_sweep, losses):
    sweep, runs = make_sweep()
    for run, found in zip(runs, losses, strict=True):
        record(run, found)
    rows = compare(sweep, runs)
    assert [row.verdict for row in rows] == [
        "baseline",
        "better",
        "worse",
        "not separated",
        "equal",
    ]
    for row, found in zip(rows, losses, strict=True):
        assert row.loss == pytest.approx(found.mean(), abs=1e-7)
        assert (row.epoch, row.pairs) == (1, len(PAIRS))
        assert row.change == pytest.approx(found.mean() / (found.mean() + 0.1) - 1, abs=1e-5)
        assert row.minutes == pytest.approx(2)
        assert row.memory_bytes == 2e9 + 2
    for row, found in zip(rows[1:4], losses[1:4], strict=True):
        difference = (found - losses[0]).mean(1)
        error = difference.std(ddof=1) / numpy.sqrt(len(PAIRS))
        assert row.difference == pytest.approx(difference.mean(), abs=2e-7)
        assert row.standard_error == pytest.approx(error, rel=1e-3)
        assert row.share == pytest.approx(difference.mean() / losses[0].mean(), abs=1e-5)
        assert row.farthest == pytest.approx(abs(difference).max(), abs=2e-7)
        assert [(level.begin, level.end) for level in row.levels] == [
            (0, 250), (250, 500), (500, 750), (750, 1000),
        ]  # fmt: skip
        for number, level in enumerate(row.levels):
            at = (found - losses[0])[:, number]
            error = at.std(ddof=1) / numpy.sqrt(len(PAIRS))
            assert level.difference == pytest.approx(at.mean(), abs=2e-7)
            assert level.standard_error == pytest.approx(error, rel=1e-3)
    assert (rows[4].difference, rows[4].standard_error, rows[4].farthest) == (0, 0, 0)
    assert rows[0].difference is None and not rows[0].levels


def test_the_table_is_told_as_markdown_json_and_csv(make_sweep, losses):
    sweep, runs = make_sweep()
    for run, found in zip(runs, losses, strict=True):
        record(run, found)
    rows = compare(sweep, runs)
    text = to_markdown(sweep, rows)
    (better,) = [
        line
        for line in text.splitlines()
        if line.startswith("| clip skip 2") and "| better |" in line
    ]
    cells = [cell.strip() for cell in better.strip("|").split("|")]
    assert cells[1] == f"{losses[1].mean():.5f}" and cells[-1] == "2.0 GB"
    assert cells[4].startswith(f"{rows[1].difference:+.6f} (") and cells[4].endswith(" %)")
    assert text.count("250-500") == 1 and RULE in text and "12 validation pairs" in text
    assert "| none | equal |" in text
    value = json.loads(json.dumps(to_json(sweep, rows), allow_nan=False))
    assert [row["run"] for row in value["rows"]] == [run.name for run in runs]
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert float(read[2]["difference"]) == rows[2].difference
    assert float(read[2]["standard_error 500-750"]) == rows[2].levels[2].standard_error
    assert read[0]["difference"] == read[0]["difference 0-250"] == ""
    assert {len(line) for line in csv.reader(io.StringIO(to_csv(rows)))} == {16 + 2 * LEVELS}


def test_a_run_that_has_not_come_far_says_how_it_stands(make_sweep, losses):
    sweep, runs = make_sweep("clip_skip = 2\nlearning_rate = 0.5")
    record(runs[0], losses[0])
    runs[1].write_state(State("queued", "Waits for its turn"))
    runs[2].write_state(State("failed", "The loss | of step 3\nis not finite"))
    rows = compare(sweep, runs)
    assert [row.verdict for row in rows] == ["baseline", "", ""]
    text = to_markdown(sweep, rows)
    assert "queued: Waits for its turn" in text
    assert "failed: The loss \\| of step 3 is not finite" in text


def test_runs_without_noise_levels_or_with_one_pair_get_no_verdict_they_cannot_have(
    make_sweep, losses
):
    sweep, runs = make_sweep("clip_skip = 2")
    for run, found in zip(runs, losses[:2], strict=True):
        record(run, found[:1].repeat(len(PAIRS), 0))
        file = run.folder / "validation.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        file.unlink()
        Lines(file).append(
            *({**line, "pairs": {"a": line["pairs"]["pair0"]}, "levels": 3} for line in lines)
        )
    row = compare(sweep, runs)[1]
    assert (row.pairs, row.standard_error, row.verdict) == (1, None, "not separated")
    assert row.levels == ()
    json.dumps(to_json(sweep, [row]), allow_nan=False)


def test_many_noise_levels_become_bands(make_sweep, losses):
    sweep, runs = make_sweep("clip_skip = 2")
    for run, found in zip(runs, losses[:2], strict=True):
        record(run, found.repeat(10, 1))
    levels = compare(sweep, runs)[1].levels
    assert [(level.begin, level.end) for level in levels] == [
        (begin, begin + 100) for begin in range(0, 1000, 100)
    ]
    assert levels[0].difference == pytest.approx((losses[1] - losses[0])[:, 0].mean(), abs=2e-7)


def test_the_time_between_a_kill_and_the_next_start_does_not_count(make_sweep, losses):
    sweep, runs = make_sweep("clip_skip = 2")
    for run in runs:
        record(run, losses[0])
        record(run, losses[0], started=50_000.0)
    assert compare(sweep, runs)[0].minutes == pytest.approx(4)


@pytest.mark.parametrize("literal", ["NaN", "null"])
def test_a_run_with_a_loss_that_is_no_number_is_neither_better_nor_worse(
    make_sweep, losses, literal
):
    sweep, runs = make_sweep("clip_skip = 2")
    for run, found in zip(runs, losses[:2], strict=True):
        record(run, found)
    records = runs[1].folder / "validation.jsonl"
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["pairs"]["pair3"] = float("nan") if literal == "NaN" else None
    records.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    metrics = runs[1].folder / "metrics.jsonl"
    Lines(metrics).append({"kind": "validation", "epoch": 1, "step": 3, "loss": None})
    row = compare(sweep, runs)[1]
    assert (row.verdict, row.loss, row.difference) == ("not a number", None, None)
    assert "not a number (finished" in to_markdown(sweep, [row])
    json.dumps(to_json(sweep, [row]), allow_nan=False)
    to_csv([row])


def test_a_baseline_with_a_pair_that_is_no_number_makes_no_variant_better(make_sweep, losses):
    sweep, runs = make_sweep("clip_skip = 2")
    for run, found in zip(runs, losses[:2], strict=True):
        record(run, found)
    records = runs[0].folder / "validation.jsonl"
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["pairs"]["pair3"] = float("nan")
    records.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    row = compare(sweep, runs)[1]
    assert row.verdict == "not a number" and row.loss == pytest.approx(losses[1].mean(), abs=1e-7)
    json.dumps(to_json(sweep, [row]), allow_nan=False)
