"""Captions by a model and by other nodes, through a real ComfyUI: each to its own pair, and none
made twice.
"""

from __future__ import annotations

import json
import shutil
import time

import psutil
import pytest

from cocktail.trainer.data.manifest import Dataset

from ..comfy import ComfyError
from ..trainer.captioners import make_captioner
from .graphs import node

MANY = 40
"""Pictures enough for a captioning that is still at work when a test interferes with it."""
ASKED = {
    "model": "captioners/git",
    "kind": "auto",
    "prompt": "",
    "max_new_tokens": 8,
    "num_beams": 1,
    "batch_size": 1,
    "dtype": "auto",
    "device": "cpu",
    "column": "model",
    "mode": "column only",
    "keep_own_as": "",
}


@pytest.fixture(scope="module")
def captioner(comfy):
    """A tiny captioning model among ComfyUI's."""
    folder = comfy.base / "models" / "captioners" / "git"
    make_captioner(folder, "git")
    yield folder
    shutil.rmtree(folder.parent)


def draw_and_load(count, seed=6):
    return {
        "draw": node("CocktailDrawShapes", name=f"captions-{count}-{seed}", count=count, seed=seed),
        "load": node(
            "CocktailLoadDataset", folder=["draw", 0], caption_text="first line", on_problem="stop"
        ),
    }


def captioned(count, name="", **asked):
    """Draw, load, caption, and keep under a name."""
    graph = {
        **draw_and_load(count),
        "caption": node("CocktailCaptionDataset", dataset=["load", 0], **{**ASKED, **asked}),
    }
    if name:
        graph["save"] = node("CocktailSaveDataset", dataset=["caption", 0], name=name)
    return graph


def saved(comfy, name):
    return Dataset.load(comfy.base / "output" / "cocktail" / "datasets" / name / "manifest.parquet")


def jobs(comfy):
    return comfy.base / "output" / "cocktail" / "captions"


def lines(folder):
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def held(comfy, prompt, before):
    """The new job that a prompt has started and its process, suspended after some pictures."""
    deadline, look = time.monotonic() + 600, 0.0
    while time.monotonic() < deadline:
        for file in jobs(comfy).glob("captions-*/captions.jsonl"):
            if file.parent not in before and file.read_bytes().count(b"\n") >= 2:
                noted = json.loads((file.parent / "process.json").read_text(encoding="utf-8"))
                process = psutil.Process(noted["pid"])
                process.suspend()
                assert len(lines(file.parent)) < MANY, "it was too fast to be held"
                return file.parent, process
        time.sleep(0.005)
        if time.monotonic() > look:
            assert comfy.history(prompt) is None, comfy.log_tail()
            look = time.monotonic() + 2
    pytest.fail(f"no caption in time:\n{comfy.log_tail()}")


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_captions_arrive_at_their_pairs_and_a_second_queue_changes_nothing(comfy, captioner):
    outputs = comfy.run(captioned(6, "said"))
    told = outputs["caption"]["cocktail"][0]
    assert (told["captions"], told["changed"], told["problems"]) == (6, 6, {})
    folder = jobs(comfy) / told["job"]
    by_picture = {line["image_hash"]: line["text"] for line in lines(folder)}
    assert len(by_picture) == 6 and len(set(by_picture.values())) > 1
    for pair in saved(comfy, "said").pairs:
        assert pair.captions == {"model": by_picture[pair.image_hash]}
        drawn = saved(comfy, "said").path(pair).with_suffix(".txt").read_text(encoding="utf-8")
        assert pair.caption == drawn.strip()
    before = files_of(folder)
    again = comfy.run(captioned(6, "own_kept", mode="replace", keep_own_as="own"))
    assert again["caption"]["cocktail"][0]["job"] == told["job"]
    assert files_of(folder) == before, "no process was started, nothing was written"
    for pair, former in zip(
        saved(comfy, "own_kept").pairs, saved(comfy, "said").pairs, strict=True
    ):
        assert (pair.id, pair.caption) == (former.id, by_picture[pair.image_hash])
        assert pair.captions == {"model": pair.caption, "own": former.caption}


def test_interrupt_or_the_end_of_comfyui_ends_the_waiting_and_not_the_captioning(comfy, captioner):
    before = list(jobs(comfy).glob("captions-*"))
    graph = captioned(MANY, max_new_tokens=50)
    prompt = comfy.queue(graph)
    folder, process = held(comfy, prompt, before)
    comfy.interrupt()
    with pytest.raises(ComfyError, match="interrupted"):
        comfy.wait(prompt)
    comfy.queue(graph)
    comfy.process.kill()
    comfy.restart()
    assert process.is_running() and process.status() == psutil.STATUS_STOPPED
    process.resume()
    told = comfy.run(graph)["caption"]["cocktail"][0]
    assert (told["job"], told["captions"]) == (folder.name, MANY)
    noted = json.loads((folder / "process.json").read_text(encoding="utf-8"))
    assert noted["pid"] == process.pid, "the process of the first queue has done it all"
    assert len(lines(folder)) == len({line["image_hash"] for line in lines(folder)}) == MANY


def test_a_killed_captioning_goes_on_when_queued_again_and_captions_nothing_twice(comfy, captioner):
    before = list(jobs(comfy).glob("captions-*"))
    graph = captioned(MANY, max_new_tokens=51)
    prompt = comfy.queue(graph)
    folder, process = held(comfy, prompt, before)
    done = lines(folder)
    process.kill()
    with pytest.raises(ComfyError, match="Queue the graph again: it goes on from there"):
        comfy.wait(prompt)
    told = comfy.run(graph)["caption"]["cocktail"][0]
    assert (told["job"], told["captions"]) == (folder.name, MANY)
    assert lines(folder)[: len(done)] == done
    assert len(lines(folder)) == len({line["image_hash"] for line in lines(folder)}) == MANY


def refusal(comfy, graph):
    """Why Caption Dataset is refused when a graph is queued."""
    with pytest.raises(ComfyError) as error:
        comfy.queue(graph)
    return error.value.nodes["caption"]


def pickled_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_own_code(folder):
    (folder / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "x.Y"}}')


@pytest.mark.parametrize(
    ("model", "change", "words"),
    [
        (
            "captioners/gti",
            None,
            "There is no captioning model 'captioners/gti'. Did you mean captioners/git?",
        ),
        ("captioners/../checkpoints", None, "is refused"),
        (
            "captioners/bad",
            lambda folder: (folder / "config.json").write_text("{"),
            "config.json in bad is damaged",
        ),
        (
            "captioners/bad",
            lambda folder: (folder / "model.safetensors").unlink(),
            "There are no weights in bad",
        ),
        ("captioners/bad", pickled_only, "only pickled weights"),
        ("captioners/bad", with_own_code, "needs Python code of its own"),
    ],
)
def test_anything_but_a_captioner_is_refused_before_it_starts(
    comfy, captioner, model, change, words
):
    bad = captioner.with_name("bad")
    if change:
        shutil.copytree(captioner, bad)
        change(bad)
    try:
        assert words in refusal(comfy, captioned(6, model=model))
        assert "a model of type git, not blip" in refusal(comfy, captioned(6, kind="blip"))
    finally:
        shutil.rmtree(bad, ignore_errors=True)


def with_texts_of_other_nodes(**changed):
    """Pictures to another pack's node, its texts back to the pairs, and a mix of both captions."""
    graph = {
        **draw_and_load(6),
        "images": node("CocktailDatasetImages", dataset=["load", 0], start=1, count=4, max_side=64),
        "say": node("StringConcatenate", string_a=["images", 2], string_b="said", delimiter="/"),
        "set": node(
            "CocktailSetCaptions",
            dataset=["load", 0],
            ids=["images", 1],
            texts=["say", 0],
            mode="column only",
            column="other",
        ),
    }
    return graph | changed


def test_texts_of_any_node_go_to_the_pairs_by_id_and_captions_are_mixed(comfy):
    graph = with_texts_of_other_nodes(
        mix=node(
            "CocktailMixCaptions",
            dataset=["set", 0],
            column_a="caption",
            share_of_a=30.0,
            column_b="other",
            share_of_b=10.0,
            column_c="",
            share_of_c=50.0,
        ),
        save=node("CocktailSaveDataset", dataset=["mix", 0], name="told"),
    )
    outputs = comfy.run(graph)
    assert outputs["set"]["cocktail"][0]["changed"] == 4
    assert "4 of 6 pairs" in outputs["set"]["text"][0]
    assert outputs["mix"]["cocktail"][0]["mix"] == {"caption": 0.75, "other": 0.25}
    dataset = saved(comfy, "told")
    assert dataset.caption_mix == (("caption", 0.75), ("other", 0.25))
    for number, pair in enumerate(dataset.pairs):
        said = {"other": f"{pair.caption}/said"} if 1 <= number < 5 else {}
        assert pair.captions == said


def test_texts_that_fit_no_pairs_are_refused(comfy):
    fewer = node("CocktailDatasetImages", dataset=["load", 0], start=1, count=3, max_side=64)
    texts = node("StringConcatenate", string_a=["fewer", 2], string_b="said", delimiter="/")
    with pytest.raises(ComfyError, match="There are 4 ids but 3 captions"):
        comfy.run(with_texts_of_other_nodes(fewer=fewer, say=texts))
    others = {f"{name}2": value for name, value in draw_and_load(6, seed=7).items()}
    others["load2"]["inputs"]["folder"] = ["draw2", 0]
    graph = with_texts_of_other_nodes(**others)
    graph["set"]["inputs"]["dataset"] = ["load2", 0]
    with pytest.raises(
        ComfyError, match="4 of 4 captions are for pairs that the dataset .* does not have"
    ):
        comfy.run(graph)
    graph = with_texts_of_other_nodes(
        mix=node(
            "CocktailMixCaptions",
            dataset=["set", 0],
            column_a="caption",
            share_of_a=1.0,
            column_b="ohter",
            share_of_b=1.0,
            column_c="",
            share_of_c=0.0,
        )
    )
    with pytest.raises(ComfyError, match="No pair has captions in a column 'ohter'"):
        comfy.run(graph)
    graph["images"]["inputs"]["start"] = 6
    with pytest.raises(ComfyError, match="6 pairs, counted from 0, so there is none from 6 on"):
        comfy.run(graph)
