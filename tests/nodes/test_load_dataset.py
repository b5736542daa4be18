"""Load Dataset in a real ComfyUI: every layout, the old inputs alone, large folders in little
memory, and Interrupt.
"""

from __future__ import annotations

import asyncio
import json
import threading

import aiohttp
import psutil
import pytest
from PIL import Image

from cocktail.trainer.data.manifest import Dataset

from ..comfy import ComfyError
from ..trainer.folders import jsonl, picture, text
from .graphs import node

PAIRS = 4_000


def load(folder, **inputs):
    return {
        "load": node(
            "CocktailLoadDataset",
            folder=folder,
            caption_text="first line",
            on_problem="stop",
            **inputs,
        )
    }


def loaded(comfy, name, **inputs):
    """The dataset that the node hands on, and what it tells."""
    graph = load(f"input/{name}", **inputs)
    graph["save"] = node("CocktailSaveDataset", dataset=["load", 0], name=f"{name}-{len(inputs)}")
    told = comfy.run(graph)["load"]["cocktail"][0]
    saved = comfy.base / "output/cocktail/datasets" / f"{name}-{len(inputs)}" / "manifest.parquet"
    return Dataset.load(saved), told


def test_a_graph_from_before_the_layouts_reads_a_plain_folder(comfy):
    folder = comfy.base / "input" / "plain-few"
    picture(folder, "a.png")
    text(folder, "a.txt", "a caption")
    dataset, told = loaded(comfy, "plain-few")
    assert (told["layout"], told["pairs"]) == ("plain", 1)
    assert dataset.pairs[0].caption == "a caption" and dataset.background == "#ffffff"


def test_weights_captions_and_splits_of_other_tools_reach_the_saved_dataset(comfy):
    base = comfy.base / "input"
    picture(base / "ed2", "a.png")
    text(
        base / "ed2",
        "a.yaml",
        "main_prompt: a\ntags: [b]\nmultiply: 2.5\nloss_scale: 0.5\nbatch_id: x",
    )
    dataset, told = loaded(comfy, "ed2", background="#102030")
    assert (told["layout"], dataset.pairs[0].weight, dataset.pairs[0].loss_scale) == (
        "everydream",
        2.5,
        0.5,
    )
    assert told["notes"] == ["not used: batch_id (1 x)"] and dataset.background == "#102030"
    picture(base / "kohya", "7_cat/a.png")
    dataset, told = loaded(comfy, "kohya")
    assert (told["layout"], dataset.pairs[0].weight, dataset.pairs[0].group) == (
        "kohya",
        7,
        "7_cat",
    )
    for split in ("train", "test"):
        picture(base / "hf", f"{split}/a.png")
        jsonl(
            base / "hf",
            f"{split}/metadata.jsonl",
            {"file_name": "a.png", "text": "t", "blip": split},
        )
    dataset, told = loaded(comfy, "hf", layout="hugging face", caption_column="blip")
    assert sorted((pair.caption, pair.split) for pair in dataset.pairs) == [
        ("test", "validation/test"),
        ("train", "train"),
    ]
    assert "captions from the column blip (as asked); further captions: text" in told["notes"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"background": "white"}, "'white' is not a colour. Write it as #rrggbb"),
        ({"layout": "webdataset"}, "There is no layout 'webdataset'. Choose one of auto, plain"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(comfy, inputs, words):
    picture(comfy.base / "input" / "plain-few", "a.png")
    answer = comfy.post(
        "/prompt", {"prompt": load("input/plain-few", **inputs), "client_id": "test"}
    )
    assert words in json.dumps(answer)


def test_settings_that_are_not_understood_are_reported_by_the_node(comfy):
    folder = comfy.base / "input" / "broken"
    picture(folder, "a.png")
    text(folder, "multiply.txt", "abc")
    with pytest.raises(ComfyError, match="multiply.txt: multiply is not a number above 0"):
        comfy.run(load("input/broken"))
    graph = load("input/broken")
    graph["load"]["inputs"]["on_problem"] = "skip"
    told = comfy.run(graph)["load"]["cocktail"][0]
    assert told["pairs"] == 1
    assert [problem["file"] for problem in told["not_understood"]] == ["multiply.txt"]


class Memory:
    """The most that a process has had in memory while this was open, beyond what it had before."""

    def __init__(self, pid):
        self.process, self.done = psutil.Process(pid), threading.Event()

    def __enter__(self):
        self.before = self.most = self.process.memory_info().rss
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.002):
            self.most = max(self.most, self.process.memory_info().rss)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    @property
    def grown_mb(self):
        return (self.most - self.before) / 1e6


def test_a_folder_of_thousands_of_pairs_is_loaded_and_loaded_again_in_little_memory(comfy):
    folder = comfy.base / "input" / "thousands"
    first = picture(folder, "user0/0.png").read_bytes()
    for number in range(PAIRS):
        stem = f"user{number % 50}/{number}"
        text(folder, f"{stem}.png", first + b"%d" % number)
        text(folder, f"{stem}.txt", f"a picture of the number {number}, in words of a usual length")
    with Memory(comfy.process.pid) as memory:
        told = comfy.run(load("input/thousands"))["load"]["cocktail"][0]
        assert told["pairs"] == PAIRS
        text(folder, "user0/0.txt", "changed")
        again = comfy.run(load("input/thousands"))["load"]["cocktail"][0]
        assert again["pairs"] == PAIRS and again["fingerprint"] != told["fingerprint"]
    assert memory.grown_mb < 200


def large(folder, count, side):
    """Square pictures with transparency, which take the most memory."""
    folder.mkdir()
    layer = Image.effect_noise((200, 200), 60).resize((side, side)).convert("RGBA")
    layer.putalpha(100)
    layer.save(folder / "0.png", compress_level=1)
    data = (folder / "0.png").read_bytes()
    for number in range(1, count):
        (folder / f"{number}.png").write_bytes(data + b"%d" % number)


def test_large_pictures_are_decoded_one_after_the_other(comfy):
    large(comfy.base / "input" / "large", 6, 4000)
    with Memory(comfy.process.pid) as memory:
        told = comfy.run(load("input/large"))["load"]["cocktail"][0]
    assert told["pairs"] == 6
    assert memory.grown_mb < 200


async def under_way(comfy, graph, known):
    """The id of a prompt that has examined some pictures more than the `known` ones."""
    address = f"{comfy.url.replace('http', 'ws')}/ws?clientId=watching"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as events:
        async with session.post(
            f"{comfy.url}/prompt", json={"prompt": graph, "client_id": "watching"}
        ) as answer:
            prompt = (await answer.json())["prompt_id"]
        async for event in events:
            told = json.loads(event.data) if event.type == aiohttp.WSMsgType.TEXT else {}
            if told.get("type") == "progress" and told["data"]["value"] > known + 1:
                return prompt
    raise AssertionError("no progress")


def test_interrupt_ends_a_load_before_its_end_and_what_was_examined_is_kept(comfy):
    folder = comfy.base / "input" / "many-large"
    large(folder, 30, 2400)
    kept = comfy.base / "output" / "cocktail" / "cache" / "pictures"
    before = set(kept.glob("*.json"))
    facts: dict = {}
    for _ in range(2):
        prompt = asyncio.run(under_way(comfy, load("input/many-large"), len(facts)))
        comfy.interrupt()
        with pytest.raises(ComfyError, match="interrupted"):
            comfy.wait(prompt)
        (cache,) = set(kept.glob("*.json")) - before
        known, facts = facts, json.loads(cache.read_text(encoding="utf-8"))
        assert known.items() < facts.items() and len(facts) < 30
    assert comfy.run(load("input/many-large"))["load"]["cocktail"][0]["pairs"] == 30
