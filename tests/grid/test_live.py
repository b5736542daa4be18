"""Grids on a real ComfyUI: their cells are the pictures of its own nodes, and nothing is rendered
twice or lost.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from cocktail.nodes.grid.engine.cell.samplers import keeps_apart

from ..comfy import Comfy, ComfyError
from ..conftest import CHECKPOINT, link_or_copy
from .grids import (
    SMALL,
    axis_node,
    cells,
    checkpoints_node,
    folder_of,
    grid_prompt,
    pixels,
    replace_or_remove,
    wait_for,
    write_no_model,
)

MOST_MOVED = 2
"""How much a batch may move a pixel, of 255: the last bits of the model, amplified by sampling."""

PROMPTS = ("a red circle on a blue background", "a green square on a yellow background")


def stock_prompt(cell: dict[str, Any]) -> dict[str, Any]:
    """The graph that a person builds from stock nodes for these settings."""
    return {
        "1": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": cell["checkpoint"]},
        },
        "2": {
            "class_type": "CLIPSetLastLayer",
            "inputs": {"clip": ["1", 1], "stop_at_clip_layer": -cell["clip_skip"]},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": cell["prompt"], "clip": ["2", 0]}},
        "4": {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": cell["negative_prompt"], "clip": ["2", 0]},
        },
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": cell["width"], "height": cell["height"], "batch_size": 1},
        },
        "6": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["3", 0],
                "negative": ["4", 0],
                "latent_image": ["5", 0],
                "seed": cell["seed"],
                "steps": cell["steps"],
                "cfg": cell["cfg"],
                "sampler_name": cell["sampler"],
                "scheduler": cell["scheduler"],
                "denoise": 1.0,
            },
        },
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {
            "class_type": "SaveImage",
            "inputs": {"images": ["7", 0], "filename_prefix": "stock"},
        },
    }


def stock_pictures(comfy: Comfy, found: list[dict[str, Any]]) -> list[numpy.ndarray]:
    """The pictures of cells by one graph of stock nodes, in which equal nodes stand once."""
    prompt: dict[str, Any] = {}
    ids: dict[str, str] = {}
    saves = []
    for cell in found:
        own = stock_prompt(cell["settings"])
        own["8"]["inputs"]["filename_prefix"] = f"stock-{len(saves)}"
        placed: dict[str, str] = {}
        for number, node in own.items():
            links = {
                name: [placed[value[0]], value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            node = {**node, "inputs": links}
            placed[number] = ids.setdefault(json.dumps(node), str(len(ids)))
            prompt[placed[number]] = node
        saves.append(placed["8"])
    outputs = comfy.run(prompt, 1200)
    images = [outputs[save]["images"][0] for save in saves]
    return [pixels(comfy.base / "output" / i["subfolder"] / i["filename"]) for i in images]


def assert_stock(comfy: Comfy, found: list[dict[str, Any]]) -> None:
    """Every cell is, pixel for pixel, what the stock nodes make of its settings."""
    for cell, stock in zip(found, stock_pictures(comfy, found), strict=True):
        assert stock.shape == (cell["settings"]["height"], cell["settings"]["width"], 3)
        assert numpy.array_equal(pixels(cell["file"]), stock), cell["settings"]


IDENTITY = {
    "identity-sampler": (
        [
            axis_node("sampler", "euler", "euler_ancestral"),
            axis_node("clip skip", 1, 2),
            axis_node("size", "64x64", "96x64"),
        ],
        {"prompt": PROMPTS[0], "seed": 7, "scheduler": "karras"},
    ),
    "identity-prompt": (
        [
            axis_node("prompt", *PROMPTS),
            axis_node("negative prompt", '""', "a white triangle"),
            axis_node("cfg", 1.5, 4),
        ],
        {"seed": 2**40, "sampler": "ddim", "scheduler": "ddim_uniform"},
    ),
    "identity-steps": (
        [axis_node("steps", 2, 4), axis_node("scheduler", "normal", "simple")],
        {"width": 64, "height": 96, "cfg": 7.0, "sampler": "dpmpp_2s_ancestral"},
    ),
    "identity-checkpoints": (
        [
            axis_node("seed", 1, 2),
            checkpoints_node(CHECKPOINT, "miniature_v1.safetensors", "miniature_v3.safetensors"),
        ],
        {},
    ),
}
"""Grids over all that a cell can set."""


def test_every_cell_is_the_picture_of_the_stock_nodes(comfy: Comfy, lively: str):
    found = []
    for name, (axes, settings) in IDENTITY.items():
        comfy.run(grid_prompt(name, axes, **{"checkpoint": lively, **settings}))
        made = cells(folder_of(comfy.base, name))
        same = 1 if name != "identity-checkpoints" else 2
        assert len({pixels(cell["file"]).tobytes() for cell in made}) >= len(made) // same
        found += made
    # A checkpoint's cells stand together, so that each is loaded once.
    assert_stock(comfy, sorted(found, key=lambda cell: cell["settings"]["checkpoint"]))


def samplers_and_schedulers(comfy: Comfy) -> tuple[list[str], list[str]]:
    """What the KSampler of this ComfyUI offers."""
    inputs = comfy.get("/object_info/KSampler")["KSampler"]["input"]["required"]
    found = []
    for name in ("sampler_name", "scheduler"):
        kind, *options = inputs[name]
        found.append(kind if isinstance(kind, list) else options[0]["options"])
    return found[0], found[1]


EVERY = {"steps": 2, "seed": 9, "prompt": PROMPTS[0], **SMALL}
"""Settings of the grids of all samplers."""


def test_every_sampler_and_every_scheduler_gives_the_picture_of_the_stock_nodes(
    comfy: Comfy, lively: str
):
    samplers, schedulers = samplers_and_schedulers(comfy)
    assert len(samplers) >= 40 and len(schedulers) >= 9
    found = []
    for target, chosen in (("sampler", samplers), ("scheduler", schedulers)):
        name = f"every-{target}"
        comfy.run(grid_prompt(name, [axis_node(target, *chosen)], checkpoint=lively, **EVERY))
        made = cells(folder_of(comfy.base, name))
        assert [cell["settings"][target] for cell in made] == chosen
        found += made
    assert_stock(comfy, found)


def test_in_batches_every_cell_stays_its_own_and_is_marked(comfy: Comfy, lively: str):
    samplers, _ = samplers_and_schedulers(comfy)
    together = [sampler for sampler in samplers if keeps_apart(sampler)]
    assert len(together) >= 27
    axes = [axis_node("sampler", *together), axis_node("prompt", *PROMPTS)]
    settings = {"checkpoint": lively, **EVERY}
    # Half of the exact cells are there already if the grid of all samplers has been rendered.
    comfy.run(grid_prompt("every-sampler", axes, **settings))
    comfy.run(grid_prompt("in-batches", axes, **settings, batch_size=2))
    exact, batched = (cells(folder_of(comfy.base, n)) for n in ("every-sampler", "in-batches"))
    for one, other in zip(exact, batched, strict=True):
        difference = numpy.abs(pixels(one["file"]).astype(int) - pixels(other["file"]))
        assert difference.max() <= MOST_MOVED, one["settings"]["sampler"]
        assert json.loads(Image.open(other["file"]).info["cocktail"])["batched"] is True
        assert one["key"] != other["key"] and other["settings"]["batch_size"] == 2


def carried_picture(comfy: Comfy, file: Path) -> numpy.ndarray:
    """What ComfyUI's own executor makes of the graph that a cell carries."""
    graph = json.loads(Image.open(file).info["prompt"])
    (image,) = comfy.run(graph)["8"]["images"]
    return pixels(comfy.base / "output" / image["subfolder"] / image["filename"])


def test_vaes_loras_and_pictures_to_begin_with_are_those_of_the_stock_nodes(
    comfy: Comfy, lively: str, extras: None
):
    axes = [
        axis_node("VAE", "none", "bright"),
        axis_node("LoRA", "none, loud:0.5:1"),
        axis_node("denoise", 0.4, 1),
    ]
    size = {"width": 48, "height": 32}
    prompt = grid_prompt("extras", axes, checkpoint=lively, image="start.png", **size)
    outputs = comfy.run(prompt)
    (result,) = outputs["render"]["cocktail"]
    assert (result["rendered"], result["loads"]) == (8, 1)
    found = cells(folder_of(comfy.base, "extras"))
    assert len({pixels(cell["file"]).tobytes() for cell in found}) == 8
    for cell in (found[1], found[2], found[4], found[6]):
        mine = pixels(cell["file"])
        assert mine.shape == (32, 48, 3)
        assert numpy.array_equal(mine, carried_picture(comfy, cell["file"])), cell["settings"]
    (planned,) = outputs["plan"]["cocktail"]
    assert (planned["loads"], planned["encodings"]) == (1, 4)


def test_axes_can_search_and_replace_move_together_and_leave_cells_out(comfy: Comfy, lively: str):
    sizes, steps = axis_node("size", "32, 48x32"), axis_node("steps", "2, 3")
    words = axis_node("prompt search and replace", "red", "blue")
    words["inputs"].update(search="red", labels="as it is\nin blue")
    both = {
        "class_type": "CocktailCombineAxes",
        "inputs": {"axis_1": ["sizes", 0], "axis_2": ["steps", 0], "how": "together"},
    }
    prompt = grid_prompt("ruled", [both, words], checkpoint=lively)
    prompt.update(sizes=sizes, steps=steps)
    prompt["plan"]["inputs"]["rules"] = "size = 48x32 and prompt search and replace: red = in blue"
    outputs = comfy.run(prompt)
    assert outputs["plan"]["cocktail"][0]["left_out"] == 1
    found = cells(folder_of(comfy.base, "ruled"))
    seen = [
        (c["settings"]["width"], c["settings"]["steps"], c["settings"]["prompt"]) for c in found
    ]
    assert seen == [(32, 2, "a red circle"), (32, 2, "a blue circle"), (48, 3, "a red circle")]
    assert len(outputs["sheet"]["images"]) == 1

    described = json.loads((folder_of(comfy.base, "ruled") / "plan.json").read_text())
    answer = comfy.post("/cocktail/grids/plan", {**described, "name": "other"})
    assert (answer["cells"], answer["missing"], answer["left_out"]) == (3, 3, 1)
    assert answer["seconds"][0] > 0
    from_json = {
        "plan": {
            "class_type": "CocktailGridPlanJson",
            "inputs": {"plan": json.dumps(described)},
        },
        "render": {"class_type": "CocktailRenderGrid", "inputs": {"grid": ["plan", 0]}},
    }
    (again,) = comfy.run(from_json)["render"]["cocktail"]
    assert (again["rendered"], again["reused"]) == (0, 3)


def test_prompts_come_from_files_and_patterns_from_folders(comfy: Comfy, lively: str):
    lines = comfy.base / "input" / "prompts.csv"
    lines.write_text('name,prompt\none,"a red circle, large"\ntwo,a square\n', encoding="utf-8")
    inputs = {"part": "all", "file": "prompts.csv", "column": "prompt", "label_column": "name"}
    prompts = {"class_type": "CocktailAxisPrompts", "inputs": {**inputs, "most": 9}}
    axes = [prompts, axis_node("checkpoint", "miniature_v*")]
    comfy.run(grid_prompt("from-files", axes, steps=1, **SMALL))
    plan = json.loads((folder_of(comfy.base, "from-files") / "plan.json").read_text())
    assert [[value["label"] for value in axis["values"]] for axis in plan["axes"]] == [
        ["one", "two"],
        ["miniature_v1", "miniature_v3"],
    ]
    assert plan["axes"][0]["values"][0]["set"] == {"prompt": "a red circle, large"}
    prompts["inputs"]["column"] = "text"
    with pytest.raises(ComfyError) as failed:
        comfy.run(grid_prompt("from-files", axes, steps=1))
    assert "row 2 has no column 'text'. Its columns: name, prompt" in str(failed.value)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("none", "Send a plan"),
        ({"name": "../up", "fixed": {}, "axes": []}, 'needs "axes"'),
        (
            {
                "name": "g",
                "fixed": {"checkpoint": "x"},
                "axes": [{"target": "seed", "values": "1"}],
            },
            "sets no prompt",
        ),
    ],
)
def test_a_plan_that_cannot_work_is_refused_by_the_route(comfy: Comfy, plan: Any, words: str):
    assert words in comfy.post("/cocktail/grids/plan", plan)["error"]


def test_a_plan_that_needs_more_than_the_free_disk_is_refused(comfy: Comfy):
    fixed = dict(
        grid_prompt("huge", [], checkpoint="miniature_v1.safetensors", width=16_384, height=16_384)[
            "plan"
        ]["inputs"]
    )
    name = fixed.pop("name")
    plan = {"name": name, "fixed": fixed, "axes": [{"target": "seed", "values": "1-20000"}]}
    answer = comfy.post("/cocktail/grids/plan", plan)
    assert "are free in the output folder. Free space, or plan fewer" in answer["error"]


def test_a_cell_carries_the_graph_that_makes_it(comfy: Comfy, lively: str):
    prompt = "a {red|green} circle, naïve"
    comfy.run(grid_prompt("carried", [axis_node("prompt", prompt)], checkpoint=lively, **SMALL))
    (cell,) = cells(folder_of(comfy.base, "carried"))
    text = Image.open(cell["file"]).info
    carried = json.loads(text["prompt"])
    assert carried["8"]["inputs"].pop("filename_prefix") == "cocktail/carried"
    expected = stock_prompt(cell["settings"])
    del expected["8"]["inputs"]["filename_prefix"]
    assert carried == expected
    workflow = json.loads(text["workflow"])
    assert {str(node["id"]): node["type"] for node in workflow["nodes"]} == {
        number: node["class_type"] for number, node in expected.items()
    }


def test_new_values_cost_only_their_cells_and_a_new_order_none_cost_only_their_cells(
    comfy: Comfy, lively: str
):
    def written(name: str) -> dict[str, int]:
        found = cells(folder_of(comfy.base, name))
        return {cell["key"]: cell["file"].stat().st_mtime_ns for cell in found}

    def numbers(*seeds: int) -> dict[str, Any]:
        prompt = grid_prompt("growing", [axis_node("seed", *seeds)], checkpoint=lively)
        (result,) = comfy.run(prompt)["render"]["cocktail"]
        return {key: result[key] for key in ("cells", "rendered", "reused", "failed")}

    assert numbers(1, 2) == {"cells": 2, "rendered": 2, "reused": 0, "failed": 0}
    before = written("growing")
    assert numbers(3, 2, 1) == {"cells": 3, "rendered": 1, "reused": 2, "failed": 0}
    after = written("growing")
    assert before.items() <= after.items()
    assert numbers(1, 2, 3) == {"cells": 3, "rendered": 0, "reused": 3, "failed": 0}
    assert written("growing") == after

    axes = [axis_node("cfg", 4, 5), axis_node("seed", 1, 2)]
    outputs = comfy.run(grid_prompt("growing", axes, checkpoint=lively))
    assert outputs["render"]["cocktail"][0]["reused"] == 2
    (note,) = outputs["plan"]["cocktail"][0]["notes"]
    assert note.startswith(
        "The last grid of this name has 1 cells that this one does not have. Their files stay"
    )


def test_interrupt_keeps_what_is_finished_and_the_next_queueing_goes_on(comfy: Comfy, lively: str):
    prompt = grid_prompt("interrupted", [axis_node("seed", *range(8))], checkpoint=lively, steps=8)
    folder = folder_of(comfy.base, "interrupted")
    running = comfy.queue(prompt)
    wait_for(lambda: len(list(folder.glob("cells/*/*.png"))) >= 2)
    comfy.interrupt()
    with pytest.raises(ComfyError) as ended:
        comfy.wait(running)
    assert ended.value.nodes == {"render": "interrupted"}
    finished = list(folder.glob("cells/*/*.png"))
    assert 2 <= len(finished) < 8
    assert not [path for path in folder.rglob("*.part")]
    log = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    assert {line["status"] for line in log} == {"finished"}
    (result,) = comfy.run(prompt)["render"]["cocktail"]
    assert (result["rendered"], result["reused"]) == (8 - len(finished), len(finished))


def test_a_checkpoint_that_cannot_be_loaded_fails_its_cells_and_no_others(
    comfy: Comfy, lively: str
):
    checkpoints = comfy.base / "models" / "checkpoints"
    broken = checkpoints / "no_model.safetensors"
    write_no_model(broken)
    axes = [checkpoints_node(broken.name, lively), axis_node("seed", 1, 2)]
    prompt = grid_prompt("partly-failed", axes, **SMALL)
    try:
        outputs = comfy.run(prompt)
        (result,) = outputs["render"]["cocktail"]
        assert (result["rendered"], result["failed"]) == (2, 2)
        assert "2 FAILED" in outputs["render"]["text"][0]
        assert str(checkpoints) not in outputs["render"]["text"][0]
        (first_sheet,) = outputs["sheet"]["images"]
        listed = {grid["name"]: grid for grid in comfy.get("/cocktail/grids")["grids"]}
        counts = {"cells": 4, "finished": 2, "failed": 2}
        assert listed["partly-failed"] == {"name": "partly-failed", **counts}

        (again,) = comfy.run(prompt)["render"]["cocktail"]
        assert (again["rendered"], again["reused"], again["failed"]) == (0, 2, 2)

        left = copy.deepcopy(prompt)
        left["render"]["inputs"]["retry_failed"] = False
        (kept,) = comfy.run(left)["render"]["cocktail"]
        assert (kept["rendered"], kept["failed"], again["loads"], kept["loads"]) == (0, 2, 0, 0)
        log = folder_of(comfy.base, "partly-failed") / "cells.jsonl"
        assert len(log.read_text().splitlines()) == 6

        broken.unlink()
        link_or_copy(checkpoints / "miniature_v1.safetensors", broken)
        outputs = comfy.run(prompt)
        (repaired,) = outputs["render"]["cocktail"]
        assert (repaired["rendered"], repaired["reused"], repaired["failed"]) == (2, 2, 0)
        assert outputs["sheet"]["images"] != [first_sheet]
    finally:
        broken.unlink()


def test_a_grid_of_which_every_cell_fails_is_an_error_with_the_reason(comfy: Comfy):
    broken = comfy.base / "models" / "checkpoints" / "no_model_at_all.safetensors"
    write_no_model(broken)
    try:
        prompt = grid_prompt("all-failed", [axis_node("seed", 1, 2)], checkpoint=broken.name)
        with pytest.raises(ComfyError) as failed:
            comfy.run(prompt)
        assert "no_model_at_all.safetensors" in failed.value.nodes["render"]
    finally:
        broken.unlink()


def test_the_sheet_is_saved_shown_and_handed_on_page_by_page(comfy: Comfy, lively: str):
    axes = [axis_node("seed", 1, 2), axis_node("prompt", *PROMPTS), axis_node("cfg", 2, 4, 6)]
    prompt = grid_prompt("paged", axes, checkpoint=lively, **SMALL)
    prompt["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["sheet", 0], "filename_prefix": "sheets"},
    }
    outputs = comfy.run(prompt)
    shown = outputs["sheet"]["images"]
    assert len(shown) == len(outputs["save"]["images"]) == 3
    for page, saved in zip(shown, outputs["save"]["images"], strict=True):
        assert page["subfolder"] == "cocktail/grids/paged/sheets"
        original = comfy.base / "output" / page["subfolder"] / page["filename"]
        copy = comfy.base / "output" / saved["subfolder"] / saved["filename"]
        assert numpy.array_equal(pixels(original), pixels(copy))


def test_one_load_and_one_pass_of_the_text_encoder_serve_all_clip_skips_and_seeds(
    comfy: Comfy, lively: str
):
    axes = [axis_node("seed", 1, 2), axis_node("clip skip", 1, 2, 3), axis_node("prompt", *PROMPTS)]
    prompt = grid_prompt("shared", axes, checkpoint=lively, steps=1)
    prompt["render"]["inputs"]["save_as"] = "WebP lossless"
    (result,) = comfy.run(prompt)["render"]["cocktail"]
    assert (result["rendered"], result["loads"], result["encodings"]) == (12, 1, 3)
    found = cells(folder_of(comfy.base, "shared"))
    for cell in found:
        cell["file"] = cell["file"].with_suffix(".webp")
    assert len({pixels(cell["file"]).tobytes() for cell in found}) == 12
    assert_stock(comfy, [found[1], found[-1]])


@pytest.fixture(scope="module")
def another_file(comfy: Comfy, lively: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lively checkpoint as a file of other content."""
    file = tmp_path_factory.mktemp("another") / "file.safetensors"
    tensors = load_file(comfy.base / "models" / "checkpoints" / lively)
    save_file(tensors, file, {"title": "the same model, another file"})
    return file


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_checkpoint_that_is_replaced_or_removed_after_planning_gets_no_cell_under_its_old_key(
    comfy: Comfy, lively: str, another_file: Path, how: str
):
    checkpoints = comfy.base / "models" / "checkpoints"
    changing = checkpoints / "changing.safetensors"
    link_or_copy(another_file, changing)
    axes = [checkpoints_node(lively, changing.name), axis_node("seed", *range(4))]
    folder = folder_of(comfy.base, how)
    try:
        running = comfy.queue(grid_prompt(how, axes, steps=8))
        wait_for(lambda: list(folder.glob("cells/*/*.png")))
        replace_or_remove(changing, how)
        result = comfy.wait(running)["render"]
        words = {"replaced": "has been replaced", "removed": "There is no checkpoint 'changing"}
        assert words[how] in result["text"][0]
        counts = result["cocktail"][0]
        assert (counts["rendered"], counts["failed"]) == (4, 4)
    finally:
        changing.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "node", "words"),
    [
        (("plan", "name", "../up"), "plan", "cannot name a grid"),
        (("plan", "checkpoint", "absent.safetensors"), "plan", "no checkpoint 'absent"),
        (("plan", "width", 100), "plan", "not a multiple of 8"),
        (("plan", "clip_skip", 0), "plan", "clip_skip"),
        (("axis 1", "values", "1\ntwo"), "axis 1", "'two' is not a whole number"),
        (("axis 1", "values", " "), "axis 1", "no values"),
        (("axis 1", "target", "mood"), "axis 1", "'mood' cannot be varied"),
        (("axis 2", "checkpoint_2", "absent.safetensors"), "axis 2", "checkpoint_2: There is no"),
        (("axis 2", "checkpoint_1", "none"), "axis 2", "Choose at least one checkpoint"),
    ],
)
def test_bad_input_is_refused_on_its_node_before_anything_runs(
    comfy: Comfy, change: tuple[str, str, Any], node: str, words: str
):
    axes = [axis_node("seed", 1), checkpoints_node("miniature_v1.safetensors")]
    prompt = grid_prompt("refused", axes)
    changed, input_id, value = change
    prompt[changed]["inputs"][input_id] = value
    refusal = comfy.errors(prompt)
    assert list(refusal) == [node]
    assert words in refusal[node]
    assert not folder_of(comfy.base, "refused").exists()


def test_a_grid_without_a_checkpoint_or_with_one_target_twice_is_refused(comfy: Comfy):
    with pytest.raises(ComfyError) as failed:
        comfy.run(grid_prompt("refused", [axis_node("seed", 1)]))
    assert "has no checkpoint" in failed.value.nodes["plan"]
    axes = [axis_node("seed", 1), axis_node("seed", 2)]
    with pytest.raises(ComfyError) as failed:
        comfy.run(grid_prompt("refused", axes, checkpoint="miniature_v1.safetensors"))
    assert "Axis 1 and axis 2 both vary the seed" in failed.value.nodes["plan"]
    assert not folder_of(comfy.base, "refused").exists()
