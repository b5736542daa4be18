"""The merge nodes on a real ComfyUI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail.merge.hashing import file_sha256

from ..comfy import ComfyError
from ..judge import run_voted
from .conftest import sd15_tensors

MINIATURES = {"a": "miniature_base", "b": "miniature_v1", "c": "miniature_v3"}
SIDES = {"a": "sip_base", "b": "sip_v1", "c": "sip_v3"}
"""Checkpoints of few numbers, for recipes whose results nobody samples."""


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module", autouse=True)
def sips(comfy):
    """The files of SIDES."""
    files = [
        comfy.base / "models" / "checkpoints" / f"{name}.safetensors" for name in SIDES.values()
    ]
    for seed, file in enumerate(files):
        save_file(sd15_tensors(seed), file)
    yield
    for file in files:
        file.unlink()


def merge(name, multiplier=0.5, precision="fp16", sides=SIDES, **changed):
    """base + multiplier x (v3 - v1), saved; `changed` replaces inputs of the nodes of that id."""
    graph = {
        side: node("CocktailIngredient", checkpoint=f"{file}.safetensors")
        for side, file in sides.items()
    }
    graph["sum"] = node(
        "CocktailAddDifference", a=["a", 0], b=["c", 0], c=["b", 0], multiplier=multiplier
    )
    graph["file"] = node("CocktailMergeToFile", recipe=["sum", 0], name=name, precision=precision)
    for key, inputs in changed.items():
        graph[key]["inputs"] |= inputs
    return graph


def picture(checkpoint):
    """A prompt in which ComfyUI loads a checkpoint and samples one step."""
    load = {"load": node("CheckpointLoaderSimple", ckpt_name=checkpoint)}
    return load | picture_of("load")


def picture_of(loader, seed=1):
    """Nodes that sample one step with the models of a node."""
    graph = {"text": node("CLIPTextEncode", clip=[loader, 1], text="a red circle")}
    graph["empty"] = node("EmptyLatentImage", width=32, height=32, batch_size=1)
    graph["sample"] = node(
        "KSampler",
        model=[loader, 0],
        positive=["text", 0],
        negative=["text", 0],
        latent_image=["empty", 0],
        seed=seed,
        steps=1,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=[loader, 2])
    graph["show"] = node("PreviewImage", images=["decode", 0])
    return graph


def refused(comfy, graph):
    with pytest.raises(ComfyError) as error:
        comfy.run(graph)
    return error.value.nodes


def test_a_recipe_is_made_once_and_another_under_its_name_is_refused(comfy):
    made = comfy.run(merge("bitter"))["file"]["cocktail"][0]
    path = comfy.base / "models" / "checkpoints" / made["checkpoint"]
    before = path.stat().st_mtime_ns
    assert made["shares"] == {
        "sip_base.safetensors": 1.0,
        "sip_v3.safetensors": 0.5,
        "sip_v1.safetensors": -0.5,
    }
    comfy.restart()
    assert comfy.run(merge("bitter"))["file"]["cocktail"][0] == made
    errors = refused(comfy, merge("bitter", multiplier=0.75))
    assert errors.keys() == {"file"} and "Nothing is overwritten" in errors["file"]
    assert path.stat().st_mtime_ns == before


def test_hashes_that_came_with_an_output_folder_are_not_believed(comfy):
    """They would let a recipe, a plan or a card vouch for a file that is another one."""
    base = comfy.base / "models" / "checkpoints" / "sip_base.safetensors"
    copy = base.with_name("sip_vouched.safetensors")
    shutil.copyfile(base, copy)
    found = copy.stat()
    planted = {
        "identity": [found.st_size, found.st_mtime_ns, found.st_ino],
        "sha256": "f" * 64,
        "tensors_sha256": "e" * 64,
    }
    file = comfy.base / "output" / "cocktail" / "hashes.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**known, str(copy.resolve()): planted}))
    graph = {"what": node("CocktailInspectCheckpoint", checkpoint=copy.name)}
    try:
        told = comfy.run(graph)["what"]["cocktail"][0]
    finally:
        copy.unlink()
    assert told["sha256"] == file_sha256(base)


def test_a_merge_without_a_name_is_named_by_its_recipe(comfy):
    made = comfy.run(merge("", multiplier=0.25))["file"]["cocktail"][0]
    assert made["recipe_hash"][:12] in made["checkpoint"]


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", ".hidden", "NUL"])
def test_a_path_is_no_name_of_a_merge(comfy, name):
    assert "cannot name a merge" in comfy.errors(merge(name))["file"]


def test_a_checkpoint_that_is_missing_or_none_is_refused_on_its_ingredient(comfy):
    bad = comfy.base / "models" / "checkpoints" / "page.safetensors"
    bad.write_text("<html>404</html>", encoding="utf-8")
    for name, words in (
        ("nowhere.safetensors", "There is no checkpoint"),
        ("page.safetensors", "page.safetensors"),
    ):
        errors = comfy.errors(merge("never", b={"checkpoint": name}))
        assert errors.keys() == {"b"} and words in errors["b"]


def test_shares_that_are_all_zero_or_out_of_range_are_refused(comfy):
    graph = merge("never")
    graph["sum"] = node(
        "CocktailWeightedSum", a=["a", 0], b=["b", 0], share_of_a=0.0, share_of_b=0.0
    )
    assert "All shares are 0" in comfy.errors(graph)["sum"]
    graph["sum"]["inputs"]["share_of_b"] = -1.0
    assert "Shares must be from 0" in comfy.errors(graph)["sum"]


def text_merge(text, name):
    graph = {"text": node("CocktailRecipeFromText", text=text)}
    graph["file"] = node("CocktailMergeToFile", recipe=["text", 0], name=name, precision="fp16")
    return graph


def test_a_recipe_written_as_text_makes_the_file_of_the_same_graph(comfy):
    drawn = comfy.run(merge("drawn", multiplier=0.4))["file"]["cocktail"][0]
    text = "sip_base + 0.4 (sip_v3 - sip_v1)"
    assert drawn["recipe"] == text
    written = comfy.run(text_merge(text, "written"))["file"]["cocktail"][0]
    assert written["recipe_hash"] == drawn["recipe_hash"]
    for wrong, words in (
        ("0.5 sip_base", "add up to 0.5"),
        ("sip_bace", "Did you mean sip_base"),
        ("", "at 'the end'"),
    ):
        assert words in comfy.errors(text_merge(wrong, "never"))["text"]


def test_a_merged_file_gives_its_recipe_back(comfy):
    first = comfy.run(merge("keeper", multiplier=0.3))["file"]["cocktail"][0]
    graph = {"read": node("CocktailRecipeFromFile", checkpoint=first["checkpoint"])}
    graph["file"] = node("CocktailMergeToFile", recipe=["read", 0], name="again", precision="fp16")
    again = comfy.run(graph)["file"]["cocktail"][0]
    assert again["recipe_hash"] == first["recipe_hash"]
    second = comfy.run(merge("keeper-2", multiplier=0.35))["file"]["cocktail"][0]
    models = comfy.base / "models" / "checkpoints"
    kept, moved = models / "sip_v3.safetensors", models / "renamed.safetensors"
    kept.rename(moved)
    try:
        file_sha256(moved, comfy.base / "user" / "cocktail" / "hashes.json")
        graph["read"]["inputs"]["checkpoint"] = second["checkpoint"]
        graph["file"]["inputs"]["name"] = "once-more"
        found = comfy.run(graph)["file"]["cocktail"][0]
    finally:
        moved.rename(kept)
    assert "renamed" in found["recipe"] and found["recipe_hash"] == second["recipe_hash"]
    graph["read"]["inputs"]["checkpoint"] = "sip_base.safetensors"
    assert "has no recipe" in comfy.errors(graph)["read"]


def test_a_merged_file_is_made_again_from_its_metadata_and_compared(comfy):
    graph = merge("proof", multiplier=0.45, precision="bf16")
    graph["file"]["inputs"]["licences"] = "sip_v3: cc-by-sa-4.0\nsip_v1: cc-by-nc-4.0"
    first = comfy.run(graph)["file"]["cocktail"][0]
    assert (
        "Licence: sip_v3 (cc-by-sa-4.0) must keep its licence, which allows sale, "
        "but sip_v1 (cc-by-nc-4.0) forbids it."
    ) in first["notes"]
    models = comfy.base / "models" / "checkpoints"
    graph = {"again": node("CocktailRemakeFromFile", checkpoint=first["checkpoint"], name="")}
    graph["show"] = node("PreviewAny", source=["again", 1])
    kept, moved = models / "sip_v3.safetensors", models / "moved.safetensors"
    kept.rename(moved)
    try:
        made = comfy.run(graph)
    finally:
        moved.rename(kept)
    result = made["again"]["cocktail"][0]
    assert result["verdict"] == "the same file, bit for bit" and result["is_same_file"] is True
    assert made["show"]["text"] == ["True"]
    assert (models / result["checkpoint"]).read_bytes() == (
        models / first["checkpoint"]
    ).read_bytes()
    header = bytearray((models / first["checkpoint"]).read_bytes())
    header[-1] ^= 1
    (models / "cocktail" / "forged.safetensors").write_bytes(header)
    graph["again"]["inputs"] |= {"checkpoint": "cocktail/forged.safetensors", "name": "of-forged"}
    forged = comfy.run(graph)["again"]["cocktail"][0]
    assert forged["verdict"] == "another result" and forged["is_same_file"] is False
    graph["again"]["inputs"]["name"] = "forged"
    assert "is the original file itself" in refused(comfy, graph)["again"]
    graph["again"]["inputs"] |= {"checkpoint": "sip_base.safetensors", "name": ""}
    assert "has no recipe" in comfy.errors(graph)["again"]


def test_block_weights_reach_the_file_and_bad_ones_are_refused_on_their_node(comfy):
    blocks = {
        "preset": "custom",
        "weights": ", ".join(["0"] * 12 + ["1"] + ["0"] * 12),
        "base": "",
        "time_embed": "",
        "rules": "",
        "layout": "SD1.5",
    }
    graph = {
        "a": node("CocktailIngredient", checkpoint="miniature_v1.safetensors"),
        "b": node("CocktailIngredient", checkpoint="miniature_v3.safetensors"),
        "blocks": node("CocktailBlockWeights", a=["a", 0], b=["b", 0], **blocks),
        "file": node("CocktailMergeToFile", recipe=["blocks", 0], name="blocked", precision="fp16"),
    }
    made = comfy.run(graph)["file"]["cocktail"][0]
    models = comfy.base / "models" / "checkpoints"
    mixed, v1, v3 = (
        load_file(models / name)
        for name in (made["checkpoint"], "miniature_v1.safetensors", "miniature_v3.safetensors")
    )
    from_b = [name for name in mixed if not torch.equal(mixed[name], v1[name])]
    assert from_b and all(".middle_block." in name for name in from_b)
    assert all(torch.equal(mixed[name], v3[name]) for name in from_b)
    assert comfy.run(picture(made["checkpoint"]))["show"]
    for wrong, words in (
        ({"weights": "1, 2"}, "2 block weights"),
        ({"preset": "GRAD_V", "rules": "OUT99:attn:1"}, "has no block 'OUT99'"),
        ({"base": "much"}, "not the weight of BASE"),
    ):
        graph["blocks"]["inputs"] |= blocks | wrong
        assert words in comfy.errors(graph)["blocks"]


def test_fp8_a_pickle_and_an_inpainting_model_make_files_that_comfyui_loads(comfy):
    models = comfy.base / "models" / "checkpoints"
    tensors = load_file(models / "miniature_v1.safetensors")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    torch.save({"state_dict": tensors}, models / "pickled.ckpt")
    more = torch.full((320, 5, 3, 3), 0.01, dtype=tensors[first].dtype)
    save_file(
        tensors | {first: torch.cat([tensors[first], more], 1)}, models / "inpaint.safetensors"
    )
    graph = text_merge('0.5 "pickled.ckpt" + 0.5 miniature_v3', "small")
    graph["file"]["inputs"]["precision"] = "fp8_e4m3fn"
    made = comfy.run(graph)["file"]["cocktail"][0]["checkpoint"]
    assert load_file(models / made)[first].dtype == torch.float8_e4m3fn
    assert comfy.run(picture(made))["show"]
    wide = comfy.run(text_merge("inpaint + (miniature_v3 - miniature_v1)", "wide"))
    made = wide["file"]["cocktail"][0]
    assert "takes 9 channels, as inpaint" in " ".join(made["notes"])
    graph = picture(made["checkpoint"])
    graph["latent"] = node(
        "InpaintModelConditioning",
        positive=["text", 0],
        negative=["text", 0],
        vae=["load", 2],
        pixels=["pixels", 0],
        mask=["mask", 0],
        noise_mask=True,
    )
    graph["pixels"] = node("EmptyImage", width=64, height=64, batch_size=1, color=255)
    graph["mask"] = node("SolidMask", value=1.0, width=64, height=64)
    graph["sample"]["inputs"] |= {
        "positive": ["latent", 0],
        "negative": ["latent", 1],
        "latent_image": ["latent", 2],
    }
    assert comfy.run(graph)["show"]
    vae = {
        n.removeprefix("first_stage_model."): t
        for n, t in tensors.items()
        if n.startswith("first_stage_model.")
    }
    vae["decoder.conv_out.bias"] = vae["decoder.conv_out.bias"] + 0.5
    folder = comfy.base / "models" / "vae"
    folder.mkdir(exist_ok=True)
    save_file(vae, folder / "grey.safetensors")
    graph = merge("baked", sides=MINIATURES)
    graph["file"]["inputs"] |= {"vae": "grey.safetensors", "text_encoder_of": ["b", 0]}
    made = comfy.run(graph)["file"]["cocktail"][0]
    baked = load_file(models / made["checkpoint"])
    assert all(torch.equal(baked["first_stage_model." + name], vae[name]) for name in vae)
    assert made["recipe"].endswith("with text_encoder miniature_v1 with vae grey")
    again = comfy.run(text_merge(made["recipe"], "baked-again"))["file"]["cocktail"][0]
    assert again["recipe_hash"] == made["recipe_hash"]
    graph["file"]["inputs"] |= {"vae_of": ["c", 0], "name": "both"}
    assert "not both" in refused(comfy, graph)["file"]
    graph["file"]["inputs"]["vae"] = "inpaint.safetensors"
    assert "There is no VAE file" in comfy.errors(graph)["file"]
    (folder / "grey.safetensors").unlink()
    for file in ("pickled.ckpt", "inpaint.safetensors"):
        (models / file).unlink()


def test_a_checkpoint_is_inspected_compared_and_converted(comfy):
    models = comfy.base / "models" / "checkpoints"
    graph = merge("looked-at", multiplier=0.35, sides=MINIATURES)
    graph["what"] = node("CocktailInspectCheckpoint", checkpoint=["file", 0])
    graph["far"] = node(
        "CocktailCompareCheckpoints",
        checkpoint_a="miniature_base.safetensors",
        checkpoint_b=["file", 0],
    )
    graph["small"] = node(
        "CocktailPruneCheckpoint",
        checkpoint=["file", 0],
        name="",
        precision="fp8_e4m3fn",
        ema="drop",
        convert_vae=False,
    )
    done = comfy.run(graph)
    what, far, small = (done[key]["cocktail"][0] for key in ("what", "far", "small"))
    assert what["family"] == "SD1.5" and what["recipe"] == done["file"]["cocktail"][0]["recipe"]
    assert set(far["blocks"]) >= {"text encoder", "TIME", "IN00", "M00", "VAE"} and not far["equal"]
    assert far["blocks"]["VAE"]["relative"] == 0 < far["blocks"]["M00"]["relative"]
    for key in ("what", "far"):
        image = done[key]["images"][0]
        assert (
            comfy.base / "output" / image["subfolder"] / image["filename"]
        ).stat().st_size > 1000
    made = load_file(models / small["checkpoint"])
    assert made["model.diffusion_model.out.2.weight"].dtype == torch.float8_e4m3fn
    named = graph["small"]["inputs"] | {"checkpoint": done["file"]["cocktail"][0]["checkpoint"]}
    graph["again"] = node("CocktailPruneCheckpoint", **named)
    assert small["made"] and not comfy.run(graph)["again"]["cocktail"][0]["made"]
    del graph["again"]
    graph["small"]["inputs"] |= {"name": "looked-at"}
    assert "Nothing is overwritten" in refused(comfy, graph)["small"]
    for wrong, key, words in (
        ({"small": {"name": "../x"}}, "small", "cannot name a checkpoint"),
        ({"far": {"checkpoint_a": "nowhere.safetensors"}}, "far", "There is no checkpoint"),
        ({"what": {"checkpoint": "nowhere.safetensors"}}, "what", "There is no checkpoint"),
    ):
        inputs = graph[key]["inputs"] | {"checkpoint_b": "miniature_v1.safetensors"} | wrong[key]
        if inputs.get("checkpoint") == ["file", 0]:
            inputs["checkpoint"] = "miniature_v1.safetensors"
        assert words in comfy.errors({key: node(graph[key]["class_type"], **inputs)})[key]


VIVID = {"c": {"checkpoint": "vivid.safetensors"}}


@pytest.fixture
def vivid(comfy):
    """A checkpoint whose UNet does something, which an untrained one's last layer of zeros does
    not.
    """
    models = comfy.base / "models" / "checkpoints"
    path = models / "vivid.safetensors"
    if not path.exists():
        tensors = load_file(models / "miniature_v3.safetensors")
        for number, name in enumerate(
            name for name in tensors if ".out.2." in name or ".time_embed." in name
        ):
            random = torch.Generator().manual_seed(number)
            noise = torch.randn(tensors[name].shape, generator=random)
            tensors[name] = (tensors[name] + 0.05 * noise).to(tensors[name].dtype)
        save_file(tensors, path)


def live(multiplier, seed=1):
    """base + multiplier x (vivid - v1) without a file, and a picture of it."""
    graph = merge("never", multiplier, sides=MINIATURES, **VIVID)
    del graph["file"]
    graph["live"] = node("CocktailMergeToModel", recipe=["sum", 0], precision="fp16")
    return graph | picture_of("live", seed)


def pixels(comfy, outputs):
    import numpy as np
    from PIL import Image

    (image,) = outputs["show"]["images"]
    with Image.open(comfy.base / "temp" / image["filename"]) as opened:
        return np.asarray(opened).copy()


def test_pictures_of_a_merge_in_memory_are_those_of_its_file(comfy, vivid):
    made = comfy.run(merge("to-compare", multiplier=0.45, sides=MINIATURES, **VIVID))["file"][
        "cocktail"
    ][0]
    expected = pixels(comfy, comfy.run(picture(made["checkpoint"])))
    before = sorted(comfy.base.rglob("*.safetensors"))
    other = pixels(comfy, comfy.run(live(0.9)))
    outputs = comfy.run(live(0.45))
    told = outputs["live"]["cocktail"][0]
    assert (pixels(comfy, outputs) == expected).all() and (other != expected).any()
    assert told["recipe_hash"] == made["recipe_hash"] and told["shares"] == made["shares"]
    assert 0 < told["changed"] < told["tensors"], (
        "the VAE and what B and C share is not computed again"
    )
    assert sorted(comfy.base.rglob("*.safetensors")) == before


def test_a_model_on_a_wire_stays_as_it_is_when_another_is_made(comfy, vivid):
    """Two merges in one prompt: the first is sampled after the second is made in its buffer."""
    alone = pixels(comfy, comfy.run(live(0.2, seed=5)))
    assert (pixels(comfy, comfy.run(live(1.0, seed=5))) != alone).any()
    graph = live(0.2, seed=6)
    graph["sum2"] = node(
        "CocktailAddDifference", a=["a", 0], b=["c", 0], c=["b", 0], multiplier=1.0
    )
    graph["live2"] = node("CocktailMergeToModel", recipe=["sum2", 0], precision="fp16")
    graph["both"] = node("ModelMergeSimple", model1=["live", 0], model2=["live2", 0], ratio=1.0)
    graph["sample"]["inputs"] |= {"model": ["both", 0], "seed": 5}
    assert (pixels(comfy, comfy.run(graph)) == alone).all()


def test_merge_to_model_refuses_a_vae_that_is_not_there(comfy):
    graph = live(0.5)
    graph["live"]["inputs"]["vae"] = "nowhere.safetensors"
    assert comfy.errors(graph).keys() == {"live"}


def test_a_search_proposes_recipes_and_learns_of_scores(comfy):
    sides = {
        side: node("CocktailIngredient", checkpoint=f"{file}.safetensors")
        for side, file in SIDES.items()
    }
    options = {"name": "bar", "method": "grid", "tries": 1, "step": 20, "seed": 0}
    graph = sides | {
        "search": node("CocktailSearch", a=["a", 0], b=["b", 0], c=["c", 0], **options)
    }
    graph["lines"] = node("PreviewAny", source=["search", 0])
    outputs = comfy.run(graph)
    lines = outputs["lines"]["text"][0].splitlines()
    assert len(lines) == 21 and "0.6 sip_base + 0.2 sip_v1 + 0.2 sip_v3" in lines
    for line, score in ((lines[3], 2.0), (lines[8], 7.0)):
        text = {"text": node("CocktailRecipeFromText", text=line)}
        comfy.run(
            text
            | {
                "score": node(
                    "CocktailScoreRecipe", recipe=["text", 0], name="bar", score=score, judge="me"
                )
            }
        )
    found = comfy.run(graph)["search"]
    assert found["cocktail"][0]["scored"] == 2
    assert found["text"][0].splitlines() == [f"7  {lines[8]}", f"2  {lines[3]}"]
    graph["search"]["inputs"]["step"] = 30
    assert "must divide 100" in comfy.errors(graph)["search"]
    graph["search"]["inputs"] |= {"step": 20, "name": "../bar"}
    assert "cannot name a search" in comfy.errors(graph)["search"]


def test_the_saved_graph_of_a_search_stops_for_votes_on_its_mixes_and_scores_them_by_these(
    comfy, root, lively
):
    """Proposals are an axis of a grid, the grid's pictures are voted on, and the next queueing
    knows of it; none is a file.
    """
    graph = json.loads((root / "workflows" / "api" / "cocktail_search.json").read_text("utf-8"))
    graph["1"]["inputs"]["checkpoint"] = lively
    kinds = {value["class_type"]: key for key, value in graph.items()}
    saved = json.loads((root / "workflows" / "cocktail_search.json").read_text("utf-8"))
    (switch,) = [one for one in saved["nodes"] if one["title"].endswith("switch on")]
    name, when = switch["widgets_values"]
    switched_on = {"grid": [kinds["CocktailRenderGrid"], 0], "name": name, "when": when}
    graph["score"] = node(switch["type"], **switched_on)
    before = set((comfy.base / "models" / "checkpoints").rglob("*.safetensors"))
    found, liked = run_voted(comfy, graph, 300)
    shares = found[kinds["CocktailSearch"]]["cocktail"][0]["shares"]
    grid = found[kinds["CocktailRenderGrid"]]["cocktail"][0]
    assert (grid["cells"], grid["failed"]) == (8, 0)
    names = [
        graph[key]["inputs"]["checkpoint"].removesuffix(".safetensors") for key in ("1", "2", "3")
    ]
    mixes = [
        " + ".join(f"{n / 100:g} {name}" for n, name in zip(share, names, strict=True))
        for share in shares
    ]
    assert found[kinds["CocktailMergeToModel"]]["cocktail"][0]["recipe"] == mixes[0]
    scored = found["score"]
    assert scored["cocktail"][0]["scored"] == 4
    parts = json.loads(liked)["parts"]
    shown = [f"{one['weight']:g} {Path(one['recipe']['name']).stem}" for one in parts]
    liked = " + ".join(shown)
    assert liked in mixes
    search = {key: graph[key] for key in ("1", "2", "3", kinds["CocktailSearch"])}
    again = comfy.run(search)[kinds["CocktailSearch"]]
    assert again["cocktail"][0]["scored"] == 4
    assert again["text"][0].splitlines()[0].endswith(f"  {liked}")
    new = again["cocktail"][0]["shares"]
    assert len(new) == 4 and not any(share in shares for share in new)
    assert set((comfy.base / "models" / "checkpoints").rglob("*.safetensors")) == before


def test_a_method_makes_the_recipe_of_its_text(comfy):
    graph = merge("method")
    graph["sum"] = node(
        "CocktailMergeMethod",
        a=["a", 0],
        b=["b", 0],
        c=["c", 0],
        method="ties",
        settings="keep 0.3, strength [GRAD_V]",
    )
    drawn = comfy.run(graph)["file"]["cocktail"][0]
    assert drawn["recipe"].startswith("ties(sip_base, sip_v1, sip_v3; keep 0.3")
    text = "ties(sip_base, sip_v1, sip_v3; keep 0.3, strength [GRAD_V])"
    written = comfy.run(text_merge(text, "method-as-text"))["file"]["cocktail"][0]
    assert written["recipe_hash"] == drawn["recipe_hash"]
    for settings, words in (
        ("keep 3", "from 0 to 1"),
        ("kept 1", "has no setting"),
        ("keep", "number"),
    ):
        graph["sum"]["inputs"]["settings"] = settings
        assert words in comfy.errors(graph)["sum"]
    graph["sum"]["inputs"] |= {"settings": "", "method": "slerp"}
    assert "takes 2 recipes (a, b), not 3" in refused(comfy, graph)["sum"]


def test_a_preset_of_ones_own_is_saved_and_used(comfy):
    values = ", ".join(["0.25"] * 26)
    graph = {
        side: node("CocktailIngredient", checkpoint=f"{SIDES[side]}.safetensors") for side in "ab"
    }
    graph["save"] = node("CocktailSaveBlockPreset", name="FLAT_MINE", weights=values)
    graph["sum"] = node(
        "CocktailBlockWeights",
        a=["a", 0],
        b=["b", 0],
        preset="custom",
        weights=["save", 0],
        base="",
        time_embed="",
        rules="",
        layout="SD1.5",
    )
    graph["file"] = node("CocktailMergeToFile", recipe=["sum", 0], name="mine", precision="fp16")
    made = comfy.run(graph)["file"]["cocktail"][0]
    assert made["shares"] == {"sip_base.safetensors": 0.75, "sip_v1.safetensors": 0.25}
    graph["save"]["inputs"]["weights"] = "GRAD_V"
    assert "with different weights" in refused(comfy, graph)["save"]
    graph["save"]["inputs"]["weights"] = "1, 2"
    assert "2 block weights" in comfy.errors(graph)["save"]


def test_a_preset_of_ones_own_is_a_choice_of_block_weights(comfy):
    def listed():
        kind, *more = comfy.get("/object_info/CocktailBlockWeights")["CocktailBlockWeights"][
            "input"
        ]["required"]["preset"]
        return kind if isinstance(kind, list) else more[0]["options"]

    file = comfy.base / "output" / "cocktail" / "block_presets.txt"
    assert "THIRD_MINE" not in listed()
    save = {
        "save": node("CocktailSaveBlockPreset", name="THIRD_MINE", weights=", ".join(["0.75"] * 26))
    }
    comfy.run(save)
    before = file.read_bytes()
    assert listed()[-1] == "THIRD_MINE" and "GRAD_V" in listed()
    found = comfy.get("/cocktail/block_presets")
    assert found["presets"]["THIRD_MINE"] == {"SD1.5": [0.75] * 26} and not found["problem"]
    assert found["layouts"]["SDXL"][:2] == ["BASE", "IN00"]
    graph = {
        side: node("CocktailIngredient", checkpoint=f"{SIDES[side]}.safetensors") for side in "ab"
    }
    graph["sum"] = node(
        "CocktailBlockWeights",
        a=["a", 0],
        b=["b", 0],
        preset="THIRD_MINE",
        weights="",
        base="",
        time_embed="",
        rules="",
        layout="SD1.5",
    )
    graph["file"] = node("CocktailMergeToFile", recipe=["sum", 0], name="third", precision="fp16")
    made = comfy.run(graph)["file"]["cocktail"][0]
    assert made["shares"]["sip_v1.safetensors"] == 0.75
    try:
        file.write_text("THIRD_MINE: " + ", ".join(["0.5"] * 26), encoding="utf-8")
        graph["file"]["inputs"]["name"] = "edited"
        made = comfy.run(graph)["file"]["cocktail"][0]
        assert made["shares"]["sip_v1.safetensors"] == 0.5
        file.write_text("THIRD_MINE", encoding="utf-8")
        assert listed()[-1] != "THIRD_MINE"
        assert "Line 1 of block_presets.txt" in comfy.errors(graph)["sum"]
        assert "Line 1 of block_presets.txt" in comfy.get("/cocktail/block_presets")["problem"]
        file.unlink()
        for name in ("THIRD_MINE", "3RD", "../../etc/passwd"):
            graph["sum"]["inputs"]["preset"] = name
            error = comfy.errors(graph)["sum"]
            assert f"no preset '{name}'" in error and "Save Block Preset" in error
    finally:
        file.write_bytes(before)


def test_sliders_of_groups_are_the_numbers_that_they_write(comfy):
    graph = {
        side: node("CocktailIngredient", checkpoint=f"{SIDES[side]}.safetensors") for side in "ac"
    }
    sliders = {
        "base": 0.0,
        "in_shallow": 0.0,
        "in_middle": 0.0,
        "in_deep": 0.0,
        "middle": 0.25,
        "out_deep": 0.0,
        "out_middle": 0.0,
        "out_shallow": 1.0,
    }
    graph["groups"] = node("CocktailBlockWeightsByGroup", layout="SD1.5", **sliders)
    blocks = {
        "a": ["a", 0],
        "b": ["c", 0],
        "base": "",
        "time_embed": "",
        "rules": "",
        "layout": "SD1.5",
    }
    graph["sum"] = node("CocktailBlockWeights", preset="custom", weights=["groups", 0], **blocks)
    graph["file"] = node(
        "CocktailMergeToFile", recipe=["sum", 0], name="by-groups", precision="fp16"
    )
    made = comfy.run(graph)["file"]["cocktail"][0]
    text = ", ".join(["0"] * 13 + ["0.25"] + ["0"] * 8 + ["1"] * 4)
    graph["sum"]["inputs"]["weights"] = text
    typed = comfy.run(graph)["file"]["cocktail"][0]
    assert typed["recipe_hash"] == made["recipe_hash"]
    graph["sum"]["inputs"]["weights"] = ["groups", 0]
    graph["groups"]["inputs"]["middle"] = 1.5
    assert comfy.errors(graph).keys() == {"groups"}


def test_a_lora_is_extracted_once_and_baked(comfy):
    graph = {
        "extract": node(
            "CocktailExtractLora",
            checkpoint="miniature_v3.safetensors",
            base="miniature_v1.safetensors",
            rank=4,
            name="drift",
        )
    }
    graph["bake"] = node(
        "CocktailBakeLora",
        checkpoint="miniature_base.safetensors",
        lora=["extract", 0],
        strength=0.5,
        name="with-drift",
    )
    made = comfy.run(graph)
    lora, baked = made["extract"]["cocktail"][0]["lora"], made["bake"]["cocktail"][0]["checkpoint"]
    models = comfy.base / "models"
    assert (models / "loras" / lora).is_file() and (models / "checkpoints" / baked).is_file()
    before = (models / "checkpoints" / baked).stat().st_mtime_ns
    graph["bake"]["inputs"]["lora"] = lora
    assert "already there" in comfy.run(graph)["bake"]["text"][0]
    assert (models / "checkpoints" / baked).stat().st_mtime_ns == before
    graph["bake"]["inputs"]["block_weights"] = "OF_BAKING"
    file = comfy.base / "output" / "cocktail" / "block_presets.txt"
    found = []
    try:
        for weight in ("0.5", "0.25"):
            file.write_text("OF_BAKING: " + ", ".join([weight] * 26), encoding="utf-8")
            found.append(comfy.run(graph)["bake"]["cocktail"][0]["checkpoint"])
    finally:
        file.unlink()
    assert len({baked, *found}) == 3, "a preset that was edited makes another file"
    del graph["bake"]["inputs"]["block_weights"]
    graph["bake"]["inputs"]["lora"] = "nowhere.safetensors"
    graph["extract"]["inputs"]["name"] = "../up"
    assert comfy.errors(graph).keys() == {"bake", "extract"}
