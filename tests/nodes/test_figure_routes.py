"""The routes that say what a run's records say, asked without a ComfyUI."""

from __future__ import annotations

import asyncio
import dataclasses
import io

import numpy
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import Base, Paths, create_run
from cocktail.trainer.settings.run_settings import RunSettings

from .run_folders import HTML, ask

PAIRS, EPOCHS = 12, 3


@pytest.fixture
def run(here):
    """A run whose validation pairs have one with a loss of its own and one with a picture."""
    pictures = here / "input" / "pictures"
    pictures.mkdir(parents=True)
    Image.new("RGB", (200, 100), "red").save(pictures / "0.png")
    ids = [f"{n:016x}" for n in range(PAIRS + 1)]
    made = create_run(
        here / "output" / "cocktail" / "runs",
        "one",
        Base("base.safetensors", str(here / "base.safetensors"), "0" * 64),
        Dataset(
            "few",
            str(pictures),
            tuple(
                Pair(id, f"{n}.png", f"{n:064x}", 200, 100, HTML, split="validation")
                if n < PAIRS
                else Pair(id, f"{n}.png", f"{n:064x}", 200, 100, "seen")
                for n, id in enumerate(ids)
            ),
        ),
        RunSettings.from_json({"epochs": EPOCHS}),
        Paths(str(here / "models" / "checkpoints" / "cocktail"), "", ""),
    )
    own = numpy.linspace(0.9, 1.1, PAIRS)
    own[0] = 3.0
    for epoch in range(EPOCHS + 1):
        levels = {
            id: [0.2 * factor * 0.9**epoch, 0.1 * factor]
            for id, factor in zip(ids[:PAIRS], own.tolist(), strict=True)
        }
        pairs = {id: sum(losses) / 2 for id, losses in levels.items()}
        loss = sum(pairs.values()) / PAIRS
        for kind, figures in (("epoch", {}), ("validation", {"loss": loss})):
            if epoch or figures:
                line = {"kind": kind, "epoch": epoch, "step": 10 * epoch, "time": 0.0, **figures}
                Lines(made.folder / "metrics.jsonl").append(line)
        line = {"epoch": epoch, "step": 10 * epoch, "pairs": pairs, "levels": levels}
        Lines(made.folder / "validation.jsonl").append(line)
    return made


def raw(path):
    """Status, type and bytes of an answer."""
    from cocktail.nodes import routes

    async def fetch():
        table, app = web.RouteTableDef(), web.Application()
        routes.add(table)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as client, client.get(path) as answer:
            return answer.status, answer.content_type, await answer.read()

    return asyncio.run(fetch())


def test_the_heat_map_has_a_row_for_every_validation(run):
    status, heat = ask("GET", "/cocktail/runs/one/heatmap")
    assert status == 200 and heat["epochs"] == [0, 1, 2, 3]
    assert heat["levels"] == [
        {"from": 0, "to": 500, "label": "detail"},
        {"from": 500, "to": 1000, "label": "composition"},
    ]
    detail, composition = zip(*heat["relative"], strict=True)
    assert detail == pytest.approx([0.9**epoch - 1 for epoch in range(4)])
    assert composition == pytest.approx([0] * 4)
    assert "detail still improves (-27 % since the start" in heat["words"]


def test_the_pair_with_a_loss_of_its_own_comes_first_and_its_caption_is_text(run):
    status, answer = ask("GET", "/cocktail/runs/one/pairs?limit=2")
    assert status == 200 and len(answer["pairs"]) == 2
    first = answer["pairs"][0]
    assert (first["id"], first["caption"], first["part"]) == ("0" * 16, HTML, "validation")
    assert first["score"] > 5 and first["words"].startswith("loss ")
    assert "12 validation pairs are ranked. Training pairs are not measured" in answer["note"]


def test_the_picture_of_a_pair_is_a_small_jpeg(run):
    status, kind, body = raw(f"/cocktail/runs/one/pairs/{'0' * 16}/image?side=48")
    assert (status, kind) == (200, "image/jpeg")
    picture = Image.open(io.BytesIO(body))
    assert picture.size == (48, 24)
    assert numpy.asarray(picture).mean(axis=(0, 1)) == pytest.approx([255, 0, 0], abs=6)


def test_a_folder_that_came_from_elsewhere_shows_no_picture_outside_of_the_datasets(run, here):
    private = here / "private"
    private.mkdir()
    Image.new("RGB", (8, 8)).save(private / "0.png")
    dataset = dataclasses.replace(run.dataset(), root=str(private))
    dataset.save(run.folder / "dataset.parquet")
    status, answer = ask("GET", f"/cocktail/runs/one/pairs/{'0' * 16}/image")
    assert status == 404 and "not in a folder for datasets" in answer["error"]


def test_words_and_table_have_the_same_figures(run):
    lines = ask("GET", "/cocktail/runs/one/words")[1]["lines"]
    (summary,) = ask("GET", "/cocktail/runs/one/table")[1]["summary"]
    assert summary["text"] in lines[0]["text"]
    assert lines[0]["figures"]["lowest"] == summary["lowest"]
    status, kind, body = raw("/cocktail/runs/one/table?format=csv")
    assert (status, kind) == (200, "text/csv") and len(body.splitlines()) == 1 + 1 + EPOCHS
    status, kind, body = raw("/cocktail/runs/one/table?format=markdown")
    assert (status, kind) == (200, "text/markdown") and body.startswith(b"| run | set |")


def test_an_answer_follows_the_records(run):
    before = ask("GET", "/cocktail/runs/one/heatmap")[1]
    line = run.validations()[-1] | {"epoch": 4, "step": 40}
    Lines(run.folder / "validation.jsonl").append(line)
    after = ask("GET", "/cocktail/runs/one/heatmap")[1]
    assert len(after["loss"]) == len(before["loss"]) + 1


def test_a_run_without_levels_answers_with_the_reason(run):
    (run.folder / "validation.jsonl").unlink()
    status, heat = ask("GET", "/cocktail/runs/one/heatmap")
    assert status == 200 and heat["loss"] == [] and "older Cocktail" in heat["words"]
    status, answer = ask("GET", "/cocktail/runs/one/pairs")
    assert status == 200 and answer["pairs"] == [] and "can be ranked" in answer["note"]
    assert ask("GET", "/cocktail/runs/one/words")[0] == 200


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("nothing/heatmap", 404, "no run named nothing"),
        ("one/pairs?limit=0", 400, "limit must be a whole number from 1 to 1000"),
        ("one/table?format=xlsx", 400, "markdown, json, csv"),
        (f"one/pairs/{'f' * 16}/image", 404, "no pair of that id"),
        (f"one/pairs/{1:016x}/image", 404, "cannot be read"),
        ("one/pairs/x/image?side=100000", 400, "side must be a whole number from 16 to 1024"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(run, path, status, words):
    got, answer = ask("GET", f"/cocktail/runs/{path}")
    assert got == status and words in answer["error"]


def test_figures_are_read_again_after_a_validation_and_not_after_every_step(run):
    from cocktail.nodes.finetune import figure_routes

    metrics, asked = Lines(run.folder / "metrics.jsonl"), ("heatmap", "pairs", "words", "table")
    validations = Lines(run.folder / "validation.jsonl")

    def read() -> int:
        before = figure_routes._read.cache_info().misses
        for figure in asked:
            assert ask("GET", f"/cocktail/runs/one/{figure}")[0] == 200
        return figure_routes._read.cache_info().misses - before

    read()
    for step in (31, 32):
        metrics.append({"kind": "step", "epoch": 4, "step": step, "time": 0.0, "loss": 0.1})
        assert read() == 0
    last = run.validations()[-1] | {"step": 32}
    metrics.append({"kind": "validation", "epoch": 4, "step": 32, "time": 0.0, "loss": 0.1})
    validations.append(last)
    assert read() == len(asked)
    status, heat = ask("GET", "/cocktail/runs/one/heatmap")
    assert status == 200 and heat["steps"][-1] == 32


def test_the_sheet_of_a_folder_that_came_from_elsewhere_shows_no_picture_of_other_folders(here):
    from cocktail.nodes.host.names import is_dataset_place
    from cocktail.trainer.data.clean.contact_sheet import contact_sheet

    def sheet_of(folder):
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), "red").save(folder / "0.png")
        pair = Pair("0" * 16, "0.png", "0" * 64, 64, 64, "", split="validation")
        dataset = Dataset("few", str(folder), (pair,))
        sheet = contact_sheet(
            dataset, 1, 1, 64, may_read=lambda file: is_dataset_place(file.parent)
        )
        red, green, blue = (numpy.asarray(sheet)[..., part].astype(int) for part in range(3))
        return ((red > 200) & (green < 50) & (blue < 50)).sum()

    assert sheet_of(here / "input" / "pictures") == 64 * 64
    assert sheet_of(here / "private") == 0
