"""Recipes of A1111's web UI and of supermerger are read from their files, and ours are written in
their words.
"""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from cocktail.merge.ancestry import INGREDIENTS
from cocktail.merge.blocks import block_weights, parse_rules
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.errors import MergeError
from cocktail.merge.hashing import file_hashes
from cocktail.merge.metadata import read_precision, read_recipe
from cocktail.merge.recipe import BlockSum, Ingredient, Parts, add_difference, flatten, weighted_sum
from cocktail.merge.safetensors_file import read_header
from cocktail.merge.web_ui import read_web_ui_recipe

A, B, C = (Ingredient(f"{n}.safetensors", hashlib.sha256(n.encode()).hexdigest()) for n in "abc")
MODELS = {i.sha256: {"name": i.name, "legacy_hash": "0" * 8} for i in (A, B, C)}
WEB_UI = {
    "type": "webui",
    "primary_model_hash": A.sha256,
    "secondary_model_hash": B.sha256,
    "tertiary_model_hash": C.sha256,
    "interp_method": "Weighted sum",
    "multiplier": 0.3,
    "save_as_half": False,
    "bake_in_vae": None,
}
VALUES = [n / 24 for n in range(25)]
SUPERMERGER = {
    "type": "sd-webui-supermerger",
    "weights_alpha": VALUES,
    "weights_beta": VALUES[::-1],
    "model_a": A.sha256,
    "model_b": B.sha256,
    "model_c": C.sha256,
    "base_alpha": 0.25,
    "base_beta": 0.5,
    "mode": "Weight sum",
    "mbw": True,
    "elemental_merge": "",
    "calcmode": "normal",
    "Off": [""],
}
ALPHA, BETA = block_weights(VALUES, base=0.25), block_weights(VALUES[::-1], base=0.5)


def told(recipe, **changed):
    return {"sd_merge_recipe": json.dumps(recipe | changed), "sd_merge_models": json.dumps(MODELS)}


def with_its_vae(recipe):
    return Parts(recipe, vae=recipe)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (told(WEB_UI), with_its_vae(weighted_sum([(A, 0.7), (B, 0.3)]))),
        (
            told(WEB_UI, interp_method="Add difference", multiplier=1),
            with_its_vae(add_difference(A, B, C, 1)),
        ),
        (told(WEB_UI, interp_method="No interpolation"), A),
        (
            told(WEB_UI, bake_in_vae="mse.pt"),
            Parts(weighted_sum([(A, 0.7), (B, 0.3)]), vae=Ingredient("mse.pt")),
        ),
        (told(SUPERMERGER), with_its_vae(BlockSum(A, B, ALPHA))),
        (told(SUPERMERGER, mbw=False), with_its_vae(weighted_sum([(A, 0.75), (B, 0.25)]))),
        (told(SUPERMERGER, base_alpha=0), BlockSum(A, B, block_weights(VALUES, base=0))),
        (
            told(SUPERMERGER, mode="Add difference:A+(B-C)*alpha"),
            with_its_vae(add_difference(A, B, C, ALPHA)),
        ),
        (
            told(SUPERMERGER, mode="sum Twice"),
            with_its_vae(BlockSum(BlockSum(A, B, ALPHA), C, BETA)),
        ),
        (
            told(SUPERMERGER, mode="Triple sum"),
            with_its_vae(add_difference(add_difference(A, B, A, ALPHA), C, A, BETA)),
        ),
        (
            told(SUPERMERGER, elemental_merge=["OUT03:attn2:0.5", "M00::0"]),
            with_its_vae(
                BlockSum(
                    A,
                    B,
                    block_weights(
                        VALUES, base=0.25, rules=parse_rules("OUT03:attn2:0.5,M00::0", "SD1.5")
                    ),
                )
            ),
        ),
        (
            told(SUPERMERGER, weights_alpha=[0.5] * 19 + [0]),
            with_its_vae(BlockSum(A, B, block_weights([0.5] * 19, base=0.25))),
        ),
    ],
)
def test_their_metadata_is_read_as_a_recipe(metadata, expected):
    assert read_web_ui_recipe(metadata) == expected


def test_the_recipes_of_triple_sum_and_sum_twice_have_their_shares():
    triple = read_web_ui_recipe(told(SUPERMERGER, mode="Triple sum", mbw=False))
    assert {i.name[0]: float(w) for i, w in flatten(triple)} == {"a": 0.25, "b": 0.25, "c": 0.5}
    twice = read_web_ui_recipe(told(SUPERMERGER, mode="sum Twice", mbw=False))
    assert {i.name[0]: float(w) for i, w in flatten(twice)} == {"a": 0.375, "b": 0.125, "c": 0.5}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (
            told(WEB_UI, interp_method="Geometric"),
            "merged by 'Geometric', which recipes here do not have",
        ),
        (told(WEB_UI, multiplier="much"), "'much' is not the multiplier"),
        (
            told(WEB_UI, secondary_model_hash=None),
            "does not say which model its secondary_model_hash is",
        ),
        (told(SUPERMERGER, calcmode="cosineA"), "supermerger's 'cosineA'"),
        (told(SUPERMERGER, Include=["IN00"]), "Include filter"),
        (told(SUPERMERGER, Include=True), "Include in the file's metadata is not a list"),
        (
            told(SUPERMERGER, elemental_merge=True),
            "elemental_merge in the file's metadata is not a list",
        ),
        (told(SUPERMERGER, weights_alpha=[1, 2]), "2 block weights"),
        (told(SUPERMERGER, weights_alpha="0.5"), "not a list of numbers"),
        (told(SUPERMERGER, elemental_merge="OUT03:attn2:R"), "is not the value of a rule"),
        (told(SUPERMERGER, mode="Soup"), "mode 'Soup'"),
        (told({"type": "SDNext"}), "is of another type"),
        ({"sd_merge_recipe": "{"}, "another type"),
    ],
)
def test_what_has_no_counterpart_is_told(metadata, words):
    with pytest.raises(MergeError, match=words):
        read_web_ui_recipe(metadata)


def test_a_file_of_a1111_is_made_again(write, sd15, tmp_path):
    for seed, name in enumerate("ab", 1):
        write(name, sd15(seed, torch.float32))
    a, b = (file_hashes(tmp_path / f"{name}.safetensors").sha256 for name in "ab")
    models = {a: {"name": "a.safetensors"}, b: {"name": "b.safetensors"}}
    recipe = WEB_UI | {"primary_model_hash": a, "secondary_model_hash": b}
    theirs = {
        n: (t if t.dtype == torch.int64 else 0.7 * t + 0.3 * sd15(2, torch.float32)[n])
        for n, t in sd15(1, torch.float32).items()
    }
    path = write(
        "theirs",
        theirs,
        {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)},
    )
    header = read_header(path)
    bound = bind_to_files(read_recipe(header), tmp_path.joinpath)
    make_checkpoint(bound, tmp_path / "ours.safetensors", read_precision(header))
    made = load_file(tmp_path / "ours.safetensors")
    for name in made:
        if "." in name and "position_ids" not in name:
            close = torch.allclose(made[name].double(), theirs[name].double(), rtol=1e-5, atol=1e-5)
            assert close, name


@pytest.fixture
def metadata_of(write, sd15, tmp_path):
    for seed, name in enumerate("abc", 1):
        write(name, sd15(seed))

    def make(recipe):
        path = tmp_path / "out.safetensors"
        path.unlink(missing_ok=True)
        make_checkpoint(bind_to_files(recipe, tmp_path.joinpath), path)
        return read_header(path).metadata

    return make


def test_ours_is_written_so_that_it_is_read_back_by_their_words(metadata_of, tmp_path):
    a, b, c = (Ingredient(f"{name}.safetensors") for name in "abc")
    for recipe in (
        weighted_sum([(a, 1), (b, 3)]),
        add_difference(a, b, c, 0.5),
        BlockSum(a, b, block_weights(VALUES)),
        BlockSum(a, b, block_weights([0.5] * 25, base=0.5)),
        add_difference(a, b, c, block_weights(VALUES, base=0.5)),
    ):
        metadata = metadata_of(recipe)
        found = read_web_ui_recipe(metadata)
        weights = {i.sha256: w for i, w in flatten(found)}
        files = {i: file_hashes(tmp_path / i.name).sha256 for i in (a, b, c)}
        assert weights == {files[i]: w for i, w in flatten(recipe)}
    baked = json.loads(metadata_of(Parts(a, vae=c))["sd_merge_recipe"])
    assert baked["bake_in_vae"] == "c" and baked["type"] == "cocktail"


def test_every_ingredient_has_its_hashes(metadata_of, tmp_path):
    entries = json.loads(
        metadata_of(add_difference(*(Ingredient(f"{n}.safetensors") for n in "abc"), 1))[
            INGREDIENTS
        ]
    )
    assert [entry["name"][0] for entry in entries] == list("abc")
    for entry in entries:
        data = (tmp_path / entry["name"]).read_bytes()
        inner = data[8 + int.from_bytes(data[:8], "little") :]
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["autov2"] == entry["sha256"][:10]
        assert entry["autov3"] == hashlib.sha256(inner).hexdigest()[:12]
        assert entry["size_bytes"] == len(data)


def test_the_fields_that_other_tools_read_are_all_there(metadata_of, tmp_path):
    a, b, c = (Ingredient(f"{name}.safetensors") for name in "abc")
    metadata = metadata_of(add_difference(a, b, c, 0.5))
    (tmp_path / "a.license.json").write_text('{"license": "mit"}', encoding="utf-8")
    assert {k: v for k, v in metadata.items() if k.startswith("modelspec.")} == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": "out",
        "modelspec.resolution": "512x512",
        "modelspec.merged_from": "a, b, c",
    }
    hashes = [hashlib.sha256((tmp_path / f"{name}.safetensors").read_bytes()) for name in "abc"]
    files = [found.hexdigest() for found in hashes]
    assert json.loads(metadata["sd_merge_recipe"]) == {
        "type": "webui",
        "primary_model_hash": files[0],
        "secondary_model_hash": files[1],
        "tertiary_model_hash": files[2],
        "interp_method": "Add difference",
        "multiplier": 0.5,
        "save_as_half": True,
        "custom_name": "out",
        "config_source": 0,
        "bake_in_vae": None,
        "discard_weights": "^model_ema\\.",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }
    models = json.loads(metadata["sd_merge_models"])
    assert {sha256: model["name"] for sha256, model in models.items()} == {
        sha256: f"{n}.safetensors" for sha256, n in zip(files, "abc", strict=True)
    }
    for sha256, name in zip(files, "abc", strict=True):
        data = (tmp_path / f"{name}.safetensors").read_bytes()
        old = hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
        assert models[sha256]["legacy_hash"] == old
    assert metadata["format"] == "pt"
    assert metadata["cocktail.recipe_text"] == "a + 0.5 (b - c)"
    blocked = json.loads(
        metadata_of(BlockSum(a, b, block_weights(VALUES, base=0.25)))["sd_merge_recipe"]
    )
    for key, value in {
        "type": "sd-webui-supermerger",
        "model_a": files[0],
        "model_b": files[1],
        "mbw": True,
        "mode": "Weight sum",
        "base_alpha": 0.25,
        "weights_alpha": VALUES,
    }.items():
        assert blocked[key] == value, key
    assert metadata_of(weighted_sum([(a, 1), (b, 1)])).get("modelspec.license") is None
    (tmp_path / "b.license.json").write_text('{"license": "cc-by-4.0"}', encoding="utf-8")
    assert metadata_of(weighted_sum([(a, 1), (b, 1)]))["modelspec.license"] == "mit; cc-by-4.0"


def test_what_a_parent_says_of_its_own_parents_is_kept(write, sd15, tmp_path):
    for seed, name in enumerate("abc", 1):
        write(name, sd15(seed))
    a, b, c, mix = (Ingredient(f"{name}.safetensors") for name in ("a", "b", "c", "mix"))
    for recipe, name in (
        (weighted_sum([(a, 1), (b, 1)]), "mix"),
        (weighted_sum([(mix, 1), (c, 1)]), "next"),
    ):
        make_checkpoint(bind_to_files(recipe, tmp_path.joinpath), tmp_path / f"{name}.safetensors")
    metadata = read_header(tmp_path / "next.safetensors").metadata
    models = json.loads(metadata["sd_merge_models"])
    assert {model["name"] for model in models.values()} == {
        f"{n}.safetensors" for n in ("a", "b", "c", "mix")
    }
    mixed = file_hashes(tmp_path / "mix.safetensors").sha256
    assert models[mixed]["sd_merge_recipe"]["interp_method"] == "Weighted sum"
    entries = json.loads(metadata[INGREDIENTS])
    assert [older["name"] for older in entries[0]["made_of"]] == ["a.safetensors", "b.safetensors"]
