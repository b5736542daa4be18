"""The pass over real files: exact, the same whatever the threads, refusing what does not fit, never
overwriting.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import cocktail.merge as merge
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.engine import write_file
from cocktail.merge.errors import MergeError
from cocktail.merge.plan import make_plan
from cocktail.merge.recipe import Ingredient, add_difference, flatten, weighted_sum

from .conftest import TEXT, UNET

A, B, C = (Ingredient(name) for name in "abc")
TYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@pytest.fixture
def cellar(write, sd15, tmp_path):
    """Files a, b and c, and bind(recipe)."""
    for seed, name in enumerate("abc", 1):
        write(name, sd15(seed))

    def bind(recipe):
        return bind_to_files(recipe, lambda name: tmp_path / f"{name}.safetensors")

    return bind


def cocktail():
    mix = weighted_sum([(A, 1), (B, 1)])
    return weighted_sum([(add_difference(mix, C, A, 0.5), 60), (A, 20), (B, 20)])


def exact(recipe, folder: Path, name: str) -> np.ndarray:
    """The linear combination in float64."""
    total = 0.0
    for ingredient, weight in flatten(recipe):
        tensor = load_file(folder / f"{ingredient.name}.safetensors")[name]
        total = total + float(weight) * tensor.double().numpy()
    return total


def nearest(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """float64 values rounded once to `dtype`, by comparing both neighbours of a first guess."""
    guess = torch.from_numpy(values).to(dtype)
    bits = guess.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[guess.element_size()])
    candidates = torch.stack([(bits + step).view(dtype).double() for step in (-1, 0, 1)]).numpy()
    errors = np.abs(candidates - values)
    errors[np.isnan(errors)] = np.inf
    return np.take_along_axis(candidates, errors.argmin(0)[None], 0)[0]


@pytest.mark.parametrize("precision", TYPES)
def test_every_tensor_is_the_float64_sum_rounded_once(cellar, tmp_path, precision):
    recipe = cocktail()
    make_checkpoint(cellar(recipe), tmp_path / "out.safetensors", precision)
    made = load_file(tmp_path / "out.safetensors")
    blended = [name for name in made if name.startswith((UNET, TEXT)) and "position" not in name]
    assert len(blended) > 8
    for name in blended:
        dtype = TYPES["fp16" if "fp8" in precision and name.startswith(TEXT) else precision]
        assert made[name].dtype == dtype
        values = exact(recipe, tmp_path, name)
        error = np.abs(made[name].double().numpy() - values)
        best = np.abs(nearest(values, dtype) - values)
        slack = 1e-12 * np.abs(values).max()
        assert (error <= best + slack).all(), name


def test_nested_recipes_are_one_weight_for_each_ingredient():
    weights = {ingredient.name: weight for ingredient, weight in flatten(cocktail())}
    assert weights == {"a": Fraction(1, 5), "b": Fraction(1, 2), "c": Fraction(3, 10)}


def test_the_vae_comes_byte_for_byte_from_the_first_ingredient(cellar, tmp_path):
    make_checkpoint(cellar(weighted_sum([(B, 1), (A, 3)])), tmp_path / "out.safetensors")
    made, first = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "b.safetensors")
    for name in made:
        if name.startswith("first_stage_model.") or name == "betas":
            assert torch.equal(made[name], first[name]), name
    assert made[TEXT + "embeddings.position_ids"].tolist() == [list(range(77))]
    assert not any(name.startswith("model_ema.") for name in made)


def test_an_ingredient_that_is_taken_away_gives_no_vae(cellar, tmp_path):
    recipe = add_difference(A, B, A, 2)
    assert flatten(recipe)[0] == (A, -1)
    make_checkpoint(cellar(recipe), tmp_path / "out.safetensors")
    made, second = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "b.safetensors")
    name = "first_stage_model.decoder.conv_out.weight"
    assert torch.equal(made[name], second[name])


def test_integers_are_copied_not_mixed(write, sd15, cellar, tmp_path):
    name = UNET + "steps"
    for seed, file in enumerate("ab", 1):
        write(file, sd15(seed) | {name: torch.tensor([seed, 1000 * seed])})
    make_checkpoint(cellar(weighted_sum([(B, 1), (A, 1)])), tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors")[name].tolist() == [2, 2000]


def test_the_bytes_do_not_depend_on_threads_or_pieces(cellar, tmp_path):
    bound = cellar(cocktail())
    plan = make_plan(bound.recipe, bound.headers, "fp16")
    contents = set()
    for number, (threads, elements) in enumerate([(1, 1 << 18), (4, 1000), (3, 77)]):
        path = tmp_path / f"{number}.safetensors"
        write_file(plan, path, {"k": "v"}, threads, elements)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_the_same_recipe_is_found_and_another_one_refused(cellar, tmp_path):
    path = tmp_path / "out.safetensors"
    assert make_checkpoint(cellar(cocktail()), path) is True
    before = path.stat()
    assert make_checkpoint(cellar(cocktail()), path) is False
    for recipe, precision in ((A, "fp16"), (cocktail(), "bf16")):
        with pytest.raises(MergeError, match="Nothing is overwritten"):
            make_checkpoint(cellar(recipe), path, precision)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_file_that_appears_during_the_merge_is_kept(cellar, tmp_path):
    path, bound = tmp_path / "out.safetensors", cellar(cocktail())
    make_checkpoint(bound, tmp_path / "twin.safetensors")
    same = (tmp_path / "twin.safetensors").read_bytes()

    def appear(content):
        return lambda *_: path.exists() or path.write_bytes(content)

    assert make_checkpoint(bound, path, progress=appear(same)) is False
    assert path.read_bytes() == same
    path.unlink()
    with pytest.raises(MergeError):
        make_checkpoint(bound, path, progress=appear(b"somebody's"))
    assert path.read_bytes() == b"somebody's"
    assert not list(tmp_path.glob(".*"))


def test_without_hard_links_a_file_still_appears_whole_and_replaces_none(
    cellar, tmp_path, monkeypatch
):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "out.safetensors"
    assert make_checkpoint(cellar(cocktail()), path) is True
    assert len(load_file(path)) > 8
    assert not list(tmp_path.glob(".*"))


def test_without_hard_links_a_file_that_appears_during_the_merge_is_kept(
    cellar, tmp_path, monkeypatch
):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "out.safetensors"
    with pytest.raises(MergeError):
        make_checkpoint(
            cellar(cocktail()), path, progress=lambda *_: path.write_bytes(b"somebody's")
        )
    assert path.read_bytes() == b"somebody's"
    assert not list(tmp_path.glob(".*"))


def test_two_that_make_one_merge_at_once_both_get_it(cellar, tmp_path):
    path, bound = tmp_path / "out.safetensors", cellar(cocktail())
    started = Barrier(2)

    def one(_):
        waited = []

        def progress(done, total):
            if not waited:
                waited.append(started.wait(300))

        return make_checkpoint(bound, path, threads=1, progress=progress)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(one, range(2))) == [False, True]
    assert len(load_file(path)) > 8
    assert not list(tmp_path.glob(".*"))


def test_an_interrupt_leaves_nothing_behind(cellar, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_checkpoint(cellar(cocktail()), tmp_path / "out.safetensors", progress=interrupt)
    assert not (tmp_path / "out.safetensors").exists() and not list(tmp_path.glob(".*"))


def test_what_does_not_fit_together_is_refused_by_name(write, sd15, cellar, tmp_path):
    missing, wide, nan, large = sd15(4), sd15(5), sd15(6), sd15(7, torch.float32)
    name = UNET + "out.2.bias"
    del missing[name]
    wide[name] = torch.zeros(5, dtype=torch.float16)
    nan[name][2] = float("nan")
    large[name][1] = 1e9
    for file, tensors in (("missing", missing), ("wide", wide), ("nan", nan), ("large", large)):
        write(file, tensors)
    for file, words in (
        ("missing", f"{name} is missing in missing"),
        ("wide", "do not have the same tensors"),
        ("nan", f"contain NaN or infinity: {name} in nan.safetensors"),
        ("large", "become too large for the precision"),
    ):
        bound = cellar(weighted_sum([(A, 1), (Ingredient(file), 1)]))
        with pytest.raises(MergeError, match=words.replace(".", r"\.")):
            make_checkpoint(bound, tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()


def test_the_file_says_what_it_was_made_of(cellar, tmp_path):
    bound = cellar(cocktail())
    make_checkpoint(bound, tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        metadata = file.metadata()
    text = json.dumps(metadata)
    for name in "abc":
        assert bound.headers and next(i for i in bound.headers if i.name == name).sha256 in text


def test_it_runs_from_the_command_line(cellar, tmp_path):
    recipe = {
        "kind": "weighted_sum",
        "parts": [
            {"weight": 3, "recipe": {"kind": "ingredient", "name": "a.safetensors"}},
            {"weight": 1, "recipe": {"kind": "ingredient", "name": "b.safetensors"}},
        ],
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "merge", *map(str, arguments)],
            cwd=Path(merge.__path__[0]).parent,
            capture_output=True,
            text=True,
        )

    command = ("run", tmp_path / "recipe.json", tmp_path / "out.safetensors", "--models", tmp_path)
    assert run(*command).stdout.endswith("0.75 a + 0.25 b\n")
    assert run(*command).stdout.endswith("(already there)\n")
    written = run("run", "3/4 a + 1/4 b", tmp_path / "out.safetensors", "--models", tmp_path)
    assert written.stdout.endswith("(already there)\n"), written.stderr
    assert "0.75" in run("show", tmp_path / "out.safetensors").stdout
    recipe["parts"][0]["recipe"]["name"] = "../a.safetensors"
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    refused = run(*command)
    assert refused.returncode == 1 and refused.stderr.startswith("error: ../a")
