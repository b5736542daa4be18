"""A sweep in ComfyUI: ordinary runs, one after another, and what the nodes make of them."""

from __future__ import annotations

import json
import urllib.error

import pytest
from PIL import Image, ImageColor

from cocktail.trainer.chart import COLOURS
from cocktail.trainer.runs import Run

from ..comfy import ComfyError, reasons
from ..trainer.conftest import make_tiny_base
from .graphs import fine_tune, node

NAME = "small-sweep"
LINES = "compute.attention = sliced\ncompute.attention = xformers"
"""The second one fails: xformers is not installed."""
RUNS = [f"{NAME}-{end}" for end in ("baseline", *LINES.replace(" = ", "-").splitlines())]


@pytest.fixture(scope="module")
def base(comfy):
    """A checkpoint that trains in no time."""
    file = comfy.base / "models" / "checkpoints" / "tiny.safetensors"
    yield make_tiny_base(file, 1).name
    file.unlink()


def graph(base, name=NAME, variants=LINES, without_failed=False):
    """The sweep, its results, the best checkpoint, and a grid plan with the runs as columns."""
    found = fine_tune(name)
    for key in ("run", "wait", "pick"):
        del found[key]
    found["base"]["inputs"]["checkpoint"] = base
    found["sweep"] = node(
        "CocktailSweep",
        base=["base", 0],
        dataset=["split", 0],
        settings=["settings", 0],
        name=name,
        variants=variants,
    )
    found["results"] = node(
        "CocktailSweepResults", sweep=["sweep", 0], without_failed=without_failed
    )
    found["shown"] = node("PreviewAny", source=["results", 1])
    rule = "lowest validation loss"
    found["best"] = node("CocktailPickCheckpoint", run=["results", 3], rule=rule, epoch=1)
    found["rows"] = node("CocktailAxis", target="clip skip", values="1, 2")
    found["plan"] = node(
        "CocktailGridPlan",
        name=name,
        axis_1=["results", 2],
        axis_2=["rows", 0],
        checkpoint="none",
        prompt="a red circle",
        negative_prompt="",
        seed=1,
        steps=2,
        cfg=4.0,
        sampler="ddim",
        scheduler="normal",
        width=64,
        height=64,
        clip_skip=1,
    )
    return found


@pytest.fixture(scope="module")
def outputs(comfy, base):
    """What the nodes say once it is known that a variant fails, and the others count without it."""
    with pytest.raises(ComfyError, match=f"2 of 3 runs of the sweep {NAME} have finished") as error:
        comfy.run(graph(base), timeout=1800)
    assert f"{RUNS[2]} (compute.attention xformers): failed" in str(error.value)
    trained = {path: path.stat().st_mtime_ns for path in metrics(comfy)}
    outputs = comfy.run(graph(base, without_failed=True), timeout=1800)
    assert {path: path.stat().st_mtime_ns for path in metrics(comfy)} == trained, "trained again"
    return outputs


def folder(comfy, *parts):
    return comfy.base.joinpath("output", "cocktail", *parts)


def metrics(comfy):
    return [folder(comfy, "runs", run, "metrics.jsonl") for run in RUNS[:2]]


def test_each_variant_is_an_ordinary_run_with_the_same_seed_and_order(comfy, outputs):
    known = {run["name"]: run["status"] for run in comfy.get("/cocktail/runs")["runs"]}
    assert [known[run] for run in RUNS] == ["finished", "finished", "failed"]
    runs = [Run.open(folder(comfy, "runs", run)) for run in RUNS[:2]]
    assert [run.settings.compute.attention for run in runs] == ["sdpa", "sliced"]
    assert runs[0].settings.seed == runs[1].settings.seed
    steps = [[line["step"] for line in run.metrics() if line["kind"] == "step"] for run in runs]
    assert steps[0] == steps[1] != []


def test_the_table_compares_them_and_is_kept_as_files(comfy, outputs):
    table = outputs["results"]["cocktail"][0]
    assert [row["run"] for row in table["rows"]] == RUNS
    assert [row["status"] for row in table["rows"]] == ["finished", "finished", "failed"]
    first, second, failed = table["rows"]
    assert second["farthest"] < 1e-3, "the same attention, computed in slices"
    assert second["verdict"] in ("equal", "not separated")
    assert second["difference"] == pytest.approx(second["loss"] - first["loss"], abs=1e-9)
    assert "xformers" in failed["message"] and failed["verdict"] == ""
    (text,) = outputs["results"]["text"]
    assert text == outputs["shown"]["text"][0]
    kept = folder(comfy, "sweeps", NAME)
    assert (kept / "table.md").read_text(encoding="utf-8") == text + "\n"
    assert json.loads((kept / "table.json").read_text(encoding="utf-8")) == table
    assert len((kept / "table.csv").read_text(encoding="utf-8").splitlines()) == 4
    (image,) = outputs["results"]["images"]
    with Image.open(folder(comfy, "charts", image["filename"])) as chart:
        inks = {colour for _, colour in chart.convert("RGB").getcolors(1 << 20)}
    drawn = [ImageColor.getrgb(colour) in inks for colour in COLOURS[:3]]
    assert chart.size == (1200, 900) and drawn == [True, True, False], "one of each run that ended"


def test_the_runs_are_an_axis_and_the_best_of_them_is_picked(outputs):
    rows = outputs["results"]["cocktail"][0]["rows"][:2]
    lowest = min(rows, key=lambda row: row["loss"])
    best = outputs["best"]["cocktail"][0]
    assert best["run"] == lowest["run"]
    assert best["validation_loss"] == pytest.approx(lowest["loss"], abs=1e-6)
    (text,) = outputs["plan"]["text"]
    assert "4 " in text, text
    assert outputs["plan"]["cocktail"][0]["cells"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variants": "clip_skp = 2"}, "unknown run setting 'clip_skp'"),
        ({"variants": ""}, "no variants"),
        ({"name": "../x"}, "cannot name a sweep"),
        ({"name": "CON"}, "cannot name a sweep"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(comfy, base, change, words):
    wrong = graph(base)
    wrong["sweep"]["inputs"] |= change
    answer = comfy.post("/prompt", {"prompt": wrong})
    assert words in reasons(answer)["sweep"]
    # Other nodes of the graph show something of their own, and may.
    if "prompt_id" in answer:
        assert "sweep" not in comfy.wait(answer["prompt_id"])


def test_a_variant_like_the_baseline_starts_nothing(comfy, base):
    with pytest.raises(ComfyError, match="the baseline has that value already"):
        comfy.run(graph(base, "same-sweep", "clip_skip = 2\nclip_skip = 1"))
    assert not folder(comfy, "runs", "same-sweep-baseline").exists()


def test_routes_list_sweeps_and_give_the_table_of_one(comfy, outputs):
    listed = {sweep["name"]: sweep for sweep in comfy.get("/cocktail/sweeps")["sweeps"]}
    runs = listed[NAME]["runs"]
    assert [run["run"] for run in runs] == RUNS
    assert [run["status"] for run in runs] == ["finished", "finished", "failed"]
    assert listed[NAME]["status"] == "unfinished"
    one = comfy.get(f"/cocktail/sweeps/{NAME}")
    assert one["table"] == outputs["results"]["cocktail"][0]
    assert one["settings"]["compute"]["attention"] == "sdpa"
    assert listed[NAME] == {key: one[key] for key in listed[NAME]}


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [("nothing", 404, "no sweep named nothing"), ("..%2f..%2fx", 400, "cannot name a sweep")],
)
def test_a_route_takes_names_of_sweeps_only(comfy, name, status, words):
    with pytest.raises(urllib.error.HTTPError) as error:
        comfy.get(f"/cocktail/sweeps/{name}")
    assert error.value.code == status
    assert words in json.loads(error.value.read())["error"]


def test_a_damaged_sweep_is_listed_and_hides_no_other(comfy, outputs):
    file = folder(comfy, "sweeps", "damaged", "sweep.json")
    file.parent.mkdir()
    file.write_text('{"format": 1, "na')
    try:
        listed = {sweep["name"]: sweep for sweep in comfy.get("/cocktail/sweeps")["sweeps"]}
        assert listed["damaged"]["status"] == "unreadable" and NAME in listed
        assert "damaged" in listed["damaged"]["message"]
    finally:
        file.unlink()
        file.parent.rmdir()
