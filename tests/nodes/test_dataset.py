"""The nodes of the dataset stage, through a real ComfyUI: what they hand on, what they say, and
that nothing is overwritten.
"""

from __future__ import annotations

import io
import json
import os

import pytest
from PIL import Image

from cocktail.trainer.data.clean.contact_sheet import contact_sheet
from cocktail.trainer.data.clean.overview import draw_overview, overview
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.data.tokens import count_tokens

from ..comfy import ComfyError
from .graphs import node


def draw_and_load(count=30, **load):
    values = {"folder": ["draw", 0], "caption_text": "first line", "on_problem": "stop", **load}
    return {
        "draw": node("CocktailDrawShapes", name=f"shapes-{count}", count=count, seed=5),
        "load": node("CocktailLoadDataset", **values),
    }


CLEAN = {
    "min_side": 64,
    "max_aspect": 4.0,
    "min_deviation": 2.0,
    "same_picture": "leave out",
    "near_distance": -1,
}
WORDS = {
    "column": "caption",
    "replace": "",
    "strip": True,
    "prefix": "",
    "suffix": "",
    "tag_order": "as they are",
    "keep_tags": 0,
    "tag_dropout": 0.0,
}


def picture(comfy, image) -> Image.Image:
    return Image.open(comfy.base / "output" / image["subfolder"] / image["filename"])


def test_a_dataset_is_cleaned_split_rewritten_looked_at_saved_and_opened(comfy, tokenizer):
    graph = {
        **draw_and_load(),
        "split": node(
            "CocktailSplitDataset",
            dataset=["load", 0],
            share=0.2,
            seed=1,
            method="by hash",
            together="same caption",
        ),
        "clean": node("CocktailCleanDataset", dataset=["split", 0], **{**CLEAN, "min_side": 100}),
        "words": node(
            "CocktailCleanCaptions",
            dataset=["clean", 0],
            **{**WORDS, "replace": "red => crimson", "prefix": "drawn: "},
        ),
        "mix": node(
            "CocktailMixCaptions",
            dataset=["words", 0],
            column_a="caption",
            share_of_a=1.0,
            column_b="",
            share_of_b=0.0,
            column_c="",
            share_of_c=0.0,
        ),
        "save": node("CocktailSaveDataset", dataset=["mix", 0], name="cleaned"),
        "sheet": node(
            "CocktailContactSheet",
            dataset=["save", 0],
            count=12,
            columns=4,
            side=128,
            order="smallest",
            seed=1,
        ),
        "facts": node(
            "CocktailDatasetOverview",
            dataset=["save", 0],
            resolutions="64, 96",
            bucket_step=16,
            bucket_table="generated",
        ),
    }
    outputs = comfy.run(graph)
    cleaned = outputs["clean"]["cocktail"][0]
    assert cleaned["before"] == 30 and 0 < cleaned["pairs"] < 30
    assert {entry["reason"] for entry in cleaned["left_out"]} == {"a side below 100 pixels"}
    saved = outputs["save"]["cocktail"][0]
    manifest = comfy.base / "output" / "cocktail" / "datasets" / "cleaned" / "manifest.parquet"
    dataset = Dataset.load(manifest)
    assert dataset.fingerprint == saved["fingerprint"] and len(dataset.pairs) == cleaned["pairs"]
    for pair in dataset.pairs:
        assert pair.caption.startswith("drawn: a ") and " red " not in pair.caption
        drawn = (dataset.path(pair).with_suffix(".txt")).read_text(encoding="utf-8").strip()
        assert pair.caption == f"drawn: {drawn}".replace("red", "crimson")
    sheet = contact_sheet(dataset, 12, 4, 128, "smallest", 1)
    assert picture(comfy, outputs["sheet"]["images"][0]).tobytes() == sheet.tobytes()
    facts = overview(dataset, (64, 96), 16, count_tokens=lambda c: count_tokens(c, tokenizer))
    assert outputs["facts"]["text"] == [str(facts)]
    chart = Image.open(io.BytesIO(draw_overview(facts)))
    assert picture(comfy, outputs["facts"]["images"][0]).tobytes() == chart.tobytes()
    steps = [line.split(":")[0] for line in dataset.history]
    assert steps[1:] == ["cleaned", "captions rewritten", "captions shown"]
    opened = comfy.run(
        {
            "open": node("CocktailOpenDataset", saved_dataset="cleaned"),
            "show": node("CocktailSaveDataset", dataset=["open", 0], name="cleaned"),
        }
    )
    assert opened["show"]["cocktail"][0]["fingerprint"] == dataset.fingerprint


def test_a_name_that_holds_other_pairs_is_refused_and_kept(comfy):
    first = {
        **draw_and_load(20),
        "save": node("CocktailSaveDataset", dataset=["load", 0], name="kept"),
    }
    comfy.run(first)
    manifest = comfy.base / "output" / "cocktail" / "datasets" / "kept" / "manifest.parquet"
    before = manifest.read_bytes()
    other = {
        **draw_and_load(21),
        "save": node("CocktailSaveDataset", dataset=["load", 0], name="kept"),
    }
    with pytest.raises(ComfyError, match=r"already holds other pairs \(20 there, 21 here\)"):
        comfy.run(other)
    assert manifest.read_bytes() == before


def test_a_validation_folder_is_held_back_whole(comfy):
    graph = {
        **draw_and_load(20),
        "other": node("CocktailDrawShapes", name="held-back", count=6, seed=99),
        "more": node(
            "CocktailLoadDataset", folder=["other", 0], caption_text="first line", on_problem="stop"
        ),
        "both": node(
            "CocktailAddValidationSet", dataset=["load", 0], held_back=["more", 0], name="faces"
        ),
        "facts": node(
            "CocktailDatasetOverview",
            dataset=["both", 0],
            resolutions="512",
            bucket_step=64,
            bucket_table="EveryDream2",
        ),
    }
    outputs = comfy.run(graph)
    assert outputs["facts"]["text"][0].count("held back, faces: 6") == 1
    assert outputs["facts"]["cocktail"][0]["pairs"] == 26


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("CocktailSaveDataset", {"name": "../x"}, "cannot name a dataset"),
        ("CocktailOpenDataset", {"saved_dataset": "clened"}, "There is no saved dataset"),
        ("CocktailOpenDataset", {"saved_dataset": "a/../b"}, "cannot name a dataset"),
        ("CocktailAddValidationSet", {"name": "a b"}, "cannot name a validation set"),
        ("CocktailDatasetOverview", {"resolutions": "512 x 768"}, "is not a list of resolutions"),
        ("CocktailDatasetOverview", {"resolutions": ""}, "is not a list of resolutions"),
        (
            "CocktailDatasetOverview",
            {"resolutions": "1216", "bucket_table": "EveryDream2"},
            "has no buckets for 1216",
        ),
        (
            "CocktailCleanCaptions",
            {"replace": "cat => dog\ncow"},
            "Line 2 of the replace list is 'cow'",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(comfy, kind, change, words):
    values = {
        "CocktailSaveDataset": {"dataset": ["load", 0]},
        "CocktailOpenDataset": {},
        "CocktailAddValidationSet": {"dataset": ["load", 0], "held_back": ["load", 0]},
        "CocktailDatasetOverview": {
            "dataset": ["load", 0],
            "resolutions": "512",
            "bucket_step": 64,
            "bucket_table": "generated",
        },
        "CocktailCleanCaptions": {"dataset": ["load", 0], **WORDS},
    }[kind]
    graph = {**draw_and_load(20), "it": node(kind, **{**values, **change})}
    if kind in ("CocktailOpenDataset", "CocktailAddValidationSet"):
        graph["see"] = node(
            "CocktailContactSheet",
            dataset=["it", 0],
            count=1,
            columns=1,
            side=64,
            order="smallest",
            seed=1,
        )
    answer = comfy.post("/prompt", {"prompt": graph, "client_id": "test"})
    assert words in json.dumps(answer.get("node_errors", answer), ensure_ascii=False)
    assert set(answer["node_errors"]) == {"it"}


def opened(name, **options):
    return {
        "open": node("CocktailOpenDataset", saved_dataset=name, **options),
        "see": node("CocktailSaveDataset", dataset=["open", 0], name=name),
    }


def test_pictures_that_are_gone_or_changed_are_named_when_a_dataset_is_opened(comfy):
    comfy.run(
        {**draw_and_load(8), "save": node("CocktailSaveDataset", dataset=["load", 0], name="gone")}
    )
    found = comfy.run(opened("gone"))["open"]["cocktail"][0]
    assert (found["pairs"], found["not_compared"]) == (8, 0)
    folder = comfy.base / "input" / "shapes-8"
    changed, state = folder / "00005.png", (folder / "00005.png").stat()
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    words = "1 of 8 pictures have changed:\n  00005.png"
    with pytest.raises(ComfyError, match=words):
        comfy.run(opened("gone"))
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ComfyError, match=words):
        comfy.run(opened("gone", read_every_picture=True))
    (folder / "00003.png").unlink()
    with pytest.raises(ComfyError, match="1 of 8 pictures are missing:\n  00003.png"):
        comfy.run(opened("gone"))


def test_pictures_outside_of_the_folders_for_datasets_are_not_opened(comfy, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    there = comfy.base / "output" / "cocktail" / "datasets" / "elsewhere" / "manifest.parquet"
    for root, image in ((tmp_path, "a.png"), (comfy.base / "input", str(tmp_path / "a.png"))):
        Dataset("elsewhere", str(root), (Pair("1", image, "0" * 64, 8, 8, "black"),)).save(there)
        with pytest.raises(ComfyError, match="which is not a folder for datasets"):
            comfy.run(opened("elsewhere"))


def test_a_dataset_with_a_validation_folder_of_its_own_is_opened(comfy):
    held_back = draw_and_load(9)
    held_back["draw"]["inputs"]["seed"] = 6
    graph = {
        **draw_and_load(10),
        "draw9": held_back["draw"],
        "load9": node(
            "CocktailLoadDataset", **{**held_back["load"]["inputs"], "folder": ["draw9", 0]}
        ),
        "both": node(
            "CocktailAddValidationSet", dataset=["load", 0], held_back=["load9", 0], name="apart"
        ),
        "save": node("CocktailSaveDataset", dataset=["both", 0], name="both"),
    }
    kept = comfy.run(graph)["save"]["cocktail"][0]
    found = comfy.run(opened("both"))["open"]["cocktail"][0]
    assert (found["pairs"], found["fingerprint"]) == (kept["pairs"], kept["fingerprint"])
