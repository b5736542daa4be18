"""Every method against the same formula written a second time, in float64 and plain NumPy; and as
recipes in files.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import load_file

from cocktail.merge.blocks import BlockWeights, block_weights
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint, remake
from cocktail.merge.command_line import main
from cocktail.merge.engine import write_file
from cocktail.merge.errors import MergeError
from cocktail.merge.methods import METHODS
from cocktail.merge.methods.draws import Draws
from cocktail.merge.plan import make_plan
from cocktail.merge.recipe import (
    Ingredient,
    add_difference,
    method,
    sum_twice,
    triple_sum,
    weighted_sum,
)
from cocktail.merge.recipe_json import from_json, recipe_hash, to_json
from cocktail.merge.text import parse, to_text

from .conftest import TEXT, UNET

A, B, C, D = (Ingredient(name) for name in "abcd")


def draws_of(name: str, seed: int, model: int, count: int) -> np.ndarray:
    return Draws(seed, name).uniform(model, count).numpy().astype(np.float64)


def cosine(a, b, axis=None):
    norms = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
    return (a * b).sum(axis) / np.maximum(norms, 1e-300)


def cosine_a(a, b, shift, similarity=None):
    share_of_a = np.clip((cosine(a, b, 0) if similarity is None else similarity) - shift, 0, 1)
    return share_of_a * a + (1 - share_of_a) * b


def smooth(values):
    for size, middle in ((3, np.median), (9, None)):
        padded = np.pad(values, size // 2, mode="symmetric")
        if middle:
            windows = np.lib.stride_tricks.sliding_window_view(padded, (size,) * values.ndim)
            values = np.median(windows.reshape(*values.shape, -1), axis=-1)
        else:
            kernel = np.exp(-0.5 * np.arange(-4, 5) ** 2)
            for axis in range(values.ndim):
                padded = np.moveaxis(
                    np.pad(
                        values,
                        [(4 * (k == axis),) * 2 for k in range(values.ndim)],
                        mode="symmetric",
                    ),
                    axis,
                    -1,
                )
                lines = np.lib.stride_tricks.sliding_window_view(padded, 9, axis=-1) @ kernel
                values = np.moveaxis(lines / kernel.sum(), -1, axis)
    return values


def slerp(a, b, t):
    w = np.arccos(np.clip(cosine(a, b), -1, 1))
    na, nb = np.linalg.norm(a), np.linalg.norm(b)
    direction = (np.sin((1 - t) * w) * a / na + np.sin(t * w) * b / nb) / np.sin(w)
    return direction * ((1 - t) * na + t * nb)


def agreeing(kept):
    sign = np.sign(sum(kept))
    agree = [np.where(k * sign > 0, k, 0) for k in kept]
    count = sum((a != 0).astype(float) for a in agree)
    return sum(agree) / np.maximum(count, 1)


def ties(base, *models, keep, strength):
    kept = []
    for model in models:
        d = model - base
        smallest = np.sort(np.abs(d), axis=None)[d.size - round(keep * d.size)]
        kept.append(np.where(np.abs(d) >= smallest, d, 0))
    return base + strength * agreeing(kept)


def dare(base, *models, drop, strength, name, seed):
    masks = [
        draws_of(name, seed, n, base.size).reshape(base.shape) >= drop for n in range(len(models))
    ]
    deltas = [(model - base) * mask / (1 - drop) for model, mask in zip(models, masks, strict=True)]
    return base + strength * sum(deltas) / len(models)


def della(base, *models, drop, spread, strength, name, seed):
    kept = []
    for number, model in enumerate(models):
        rows = (model - base).reshape(base.shape[0] if base.ndim > 1 else 1, -1)
        n = rows.shape[1]
        ranks = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1) + 1
        p = np.clip(1 - drop + spread * (ranks - (n + 1) / 2) / n, 0, 1)
        drawn = draws_of(name, seed, number, base.size).reshape(rows.shape) < p
        kept.append((np.where(drawn, rows / np.maximum(p, 2**-16), 0)).reshape(base.shape))
    return base + strength * agreeing(kept)


def model_stock(base, *models):
    deltas = [model - base for model in models]
    c = max(np.mean([cosine(x, y) for x, y in itertools.combinations(deltas, 2)]), 0)
    t = len(models) * c / (1 + (len(models) - 1) * c)
    return t * sum(models) / len(models) + (1 - t) * base


def karcher(*models):
    lengths = [np.linalg.norm(model) for model in models]
    units = [model / length for model, length in zip(models, lengths, strict=True)]
    u = sum(units) / np.linalg.norm(sum(units))
    for _ in range(200):
        angles = [np.arccos(np.clip((u * x).sum(), -1, 1)) for x in units]
        v = sum(w / np.sin(w) * (x - np.cos(w) * u) for w, x in zip(angles, units, strict=True))
        v /= len(units)
        size = np.linalg.norm(v)
        if size < 1e-13:
            break
        u = np.cos(size) * u + np.sin(size) * v / size
    return u * np.mean(lengths)


def geometric_median(*models):
    def total(point):
        return sum(np.linalg.norm(model - point) for model in models)

    y, before = sum(models) / len(models), np.inf
    while np.abs(y - before).max() > 1e-10 * np.abs(y).max():
        closeness = [1 / max(np.linalg.norm(model - y), 1e-12) for model in models]
        before = y
        y = sum(c * model for c, model in zip(closeness, models, strict=True)) / sum(closeness)
    return min((y, *models), key=total)


CASES = {
    "train_difference": (
        3,
        {"strength": 0.75},
        lambda a, b, c, strength: (
            a
            + 1.8
            * strength
            * np.abs(b - a)
            / np.maximum(np.abs(b - a) + np.abs(b - c), 1e-300)
            * (b - c)
        ),
    ),
    "smooth_add": (3, {"strength": 0.5}, lambda a, b, c, strength: a + strength * smooth(b - c)),
    "cosine_a": (2, {"shift": 0.25}, cosine_a),
    "cosine_b": (
        2,
        {"shift": -0.25},
        lambda a, b, shift: cosine_a(a, b, shift, (cosine(a, b, 0) + cosine(a, b)) / 2),
    ),
    "slerp": (2, {"share_of_b": 0.25}, lambda a, b, share_of_b: slerp(a, b, share_of_b)),
    "geometric": (
        2,
        {"share_of_b": 0.25},
        lambda a, b, share_of_b: np.real(
            a.astype(complex) ** (1 - share_of_b) * b.astype(complex) ** share_of_b
        ),
    ),
    "ties": (4, {"keep": 0.3, "strength": 0.5}, ties),
    "dare": (4, {"drop": 0.75, "strength": 0.5, "seed": 7}, dare),
    "della": (4, {"drop": 0.5, "spread": 0.25, "strength": 0.5, "seed": 7}, della),
    "model_stock": (4, {}, model_stock),
    "karcher": (4, {}, karcher),
    "geometric_median": (4, {}, geometric_median),
}


def reference(name, operands, tensor, settings):
    seeded = {"name": tensor} if "seed" in settings else {}
    return CASES[name][2](*(x.double().numpy() for x in operands), **settings, **seeded)


def models_around(shape, count, seed=1):
    """Tensors that are alike, as fine-tunes of one model are, rounded to fp16."""
    random = np.random.default_rng(seed)
    base = random.standard_normal(shape)
    return [
        torch.from_numpy(base + 0.3 * random.standard_normal(shape)).half() for _ in range(count)
    ]


def test_every_method_has_a_reference():
    assert set(CASES) == set(METHODS)


@pytest.mark.parametrize("shape", [(24, 7, 3, 3), (20, 50), (33,)])
@pytest.mark.parametrize("name", CASES)
def test_a_method_is_its_formula_in_float64(name, shape):
    count, settings, _ = CASES[name]
    operands = models_around(shape, count)
    before = [operand.clone() for operand in operands]
    own = dict(settings)
    if "seed" in own:
        own["draws"] = Draws(own.pop("seed"), "tensor")
    expected = reference(name, operands, "tensor", settings)
    for dtype, close in ((torch.float64, 1e-7), (torch.float32, 2e-6)):
        found = METHODS[name].function(*(x.to(dtype) for x in operands), **own)
        assert found.dtype == dtype and found.shape == operands[0].shape
        assert np.abs(found.double().numpy() - expected).max() <= close * np.abs(expected).max()
    assert all(map(torch.equal, operands, before))


@pytest.mark.parametrize("name", CASES)
def test_tensors_of_zeros_and_equal_tensors_stay_what_they_are(name):
    count, settings, _ = CASES[name]
    own = {key: value for key, value in settings.items() if key != "seed"}
    if "seed" in settings:
        own["draws"] = Draws(settings["seed"], "tensor")
    for value in (torch.zeros(12, 5), models_around((12, 5), 1)[0].float()):
        found = METHODS[name].function(*[value] * count, **own)
        assert torch.allclose(found, value, rtol=1e-5, atol=1e-7)


def test_draws_do_not_depend_on_pieces_and_differ_by_seed_model_and_tensor():
    whole = Draws(3, "t").uniform(0, 1000)
    assert torch.equal(whole[77:177], Draws(3, "t", 77).uniform(0, 100))
    assert abs(float(Draws(3, "t").uniform(0, 1 << 18).mean()) - 0.5) < 0.005
    for other in (
        Draws(4, "t").uniform(0, 1000),
        Draws(3, "u").uniform(0, 1000),
        Draws(3, "t").uniform(1, 1000),
    ):
        assert (whole != other).float().mean() > 0.99


@pytest.fixture
def cellar(write, sd15, tmp_path):
    """Files a, b, c, d whose weights are alike, and bind(recipe)."""
    random = np.random.default_rng(5)
    base = sd15(1)
    for name in "abcd":
        tensors = {
            key: (value * torch.from_numpy(1 + 0.2 * random.standard_normal(value.shape))).to(
                value.dtype
            )
            if key.startswith((UNET, TEXT)) and value.is_floating_point()
            else value
            for key, value in base.items()
        }
        write(name, tensors)
    return lambda recipe: bind_to_files(recipe, lambda name: tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_what_the_method_makes_whatever_threads_and_pieces(cellar, tmp_path, name):
    count, settings, _ = CASES[name]
    if name == "smooth_add":
        settings = {"strength": 0}  # its filters take minutes over real shapes
    bound = cellar(method(name, (A, B, C, D)[:count], settings))
    out = tmp_path / "out.safetensors"
    make_checkpoint(bound, out)
    made = load_file(out)
    files = [load_file(tmp_path / f"{n}.safetensors") for n in "abcd"[:count]]
    for key in made:
        # The median of three models of four numbers each hardly differs from points around it: both
        # iterations stop early.
        is_flat = name == "geometric_median" and made[key].numel() < 10
        if key.startswith((UNET, TEXT)) and "position_ids" not in key and not is_flat:
            operands = [file[key] for file in files]
            exact = (
                operands[0].double().numpy()
                if name == "smooth_add"
                else reference(name, operands, key, settings)
            )
            error = np.abs(made[key].double().numpy() - exact)
            # Half a unit of fp16 and what float32 may be off.
            unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
            assert (error <= 0.51 * unit + 1e-6 * np.abs(exact).max()).all(), key
    plan = make_plan(bound.recipe, bound.headers, "fp16")
    for threads, chunk in ((1, 1000), (3, 4096)):
        again = tmp_path / f"{threads}.safetensors"
        write_file(plan, again, {}, threads, chunk)
        for key, value in load_file(again).items():
            assert torch.equal(value.view(torch.uint8), made[key].view(torch.uint8)), key


def test_methods_stand_in_sums_and_sums_in_methods(cellar, tmp_path):
    inner = method("ties", (A, weighted_sum([(B, 1), (C, 1)]), D), {"keep": 0.5})
    recipe = add_difference(weighted_sum([(inner, 3), (D, 1)]), inner, A, 0.5)
    out = tmp_path / "out.safetensors"
    make_checkpoint(cellar(recipe), out)
    a, b, c, d = (load_file(tmp_path / f"{name}.safetensors") for name in "abcd")
    key = TEXT + "embeddings.token_embedding.weight"
    a, b, c, d = (file[key].double().numpy() for file in (a, b, c, d))
    kept = ties(a, (b + c) / 2, d, keep=0.5, strength=1)
    expected = 0.75 * kept + 0.25 * d + 0.5 * (kept - a)
    assert (
        np.abs(load_file(out)[key].double().numpy() - expected).max()
        < 1e-3 * np.abs(expected).max()
    )
    assert "same file" in remake(
        out, tmp_path / "again.safetensors", lambda n: tmp_path / f"{n}.safetensors"
    )


def test_block_weights_of_a_setting_leave_other_blocks_alone(cellar, tmp_path):
    only_m00 = block_weights([0] * 12 + [1] + [0] * 12)
    make_checkpoint(
        cellar(method("ties", (A, B, C), {"strength": only_m00})), tmp_path / "out.safetensors"
    )
    made, a = (load_file(tmp_path / f"{name}.safetensors") for name in ("out", "a"))
    changed = {key for key in a if key in made and not torch.equal(made[key], a[key])}
    assert changed and all("middle_block" in key for key in changed)


def test_ingredients_without_a_text_encoder_are_left_out_of_a_method(cellar, tmp_path, write):
    tensors = load_file(tmp_path / "c.safetensors")
    write("c", {key: value for key, value in tensors.items() if not key.startswith(TEXT)})
    make_checkpoint(cellar(method("dare", (A, B, C), {"seed": 3})), tmp_path / "three.safetensors")
    make_checkpoint(cellar(method("dare", (A, B), {"seed": 3})), tmp_path / "two.safetensors")
    make_checkpoint(cellar(method("train_difference", (A, B, C))), tmp_path / "train.safetensors")
    three, two, train, a = (
        load_file(tmp_path / f"{n}.safetensors") for n in ("three", "two", "train", "a")
    )
    for key in a:
        if key.startswith(TEXT):
            assert torch.equal(three[key], two[key]) and torch.equal(train[key], a[key])


def test_an_inpainting_model_takes_part_in_a_method(cellar, tmp_path, write):
    first = UNET + "input_blocks.0.0.weight"
    tensors = load_file(tmp_path / "b.safetensors")
    wide = torch.cat([tensors[first], torch.full((320, 5, 3, 3), 0.5).half()], 1)
    write("b", tensors | {first: wide})
    make_checkpoint(cellar(method("slerp", (A, B))), tmp_path / "out.safetensors")
    made = load_file(tmp_path / "out.safetensors")[first]
    a = load_file(tmp_path / "a.safetensors")[first].double().numpy()
    expected = slerp(a, wide[:, :4].double().numpy(), 0.5)
    assert made.shape == (320, 9, 3, 3) and torch.equal(made[:, 4:], wide[:, 4:])
    assert np.allclose(made[:, :4].double().numpy(), expected, rtol=1e-3, atol=1e-6)


def test_methods_are_written_and_read_back(root):
    schema = Draft202012Validator(
        json.loads((root / "merge" / "recipe.schema.json").read_text(encoding="utf-8"))
    )
    told = schema.schema["$defs"]["method"]["oneOf"]
    assert [one["properties"]["method"]["const"] for one in told] == list(METHODS)
    for name, known in METHODS.items():
        sides = (A, weighted_sum([(B, 1), (C, 2)]), add_difference(A, B, C, 1), D)
        count = 4 if known.more else len(known.operands)
        recipe = method(name, sides[:count], dict(CASES[name][1]))
        assert parse(to_text(recipe)) == recipe
        assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
        schema.validate(to_json(recipe))
    blocks = block_weights([0.25] * 26)
    recipe = method("slerp", (A, B), {"share_of_b": blocks})
    assert parse(to_text(recipe)) == recipe == from_json(to_json(recipe))
    assert isinstance(recipe.settings[0][1], BlockWeights)
    assert parse("ties(a, b, c; strength 1/2)") == method("ties", (A, B, C), {"strength": 0.5})
    assert parse("0.5 dare(a, b) + 0.5 c") == weighted_sum([(method("dare", (A, B)), 1), (C, 1)])


def test_triple_sum_and_sum_twice_are_sums():
    assert parse("triple_sum(a, b, c; share_of_b 0.2, share_of_c 20%)") == triple_sum(
        A, B, C, 0.2, 0.2
    )
    named = parse("sum_twice(a, b, c; share_of_b 0.2, share_of_c 0.2)")
    assert named == sum_twice(A, B, C, 0.2, 0.2)
    bound = {Ingredient(name, name * 64): None for name in "abc"}
    a, b, c = bound
    from cocktail.merge.recipe import flatten

    assert [float(w) for _, w in flatten(triple_sum(a, b, c, 0.2, 0.2))] == [0.6, 0.2, 0.2]
    assert [float(w) for _, w in flatten(sum_twice(a, b, c, 0.2, 0.2))] == [0.64, 0.16, 0.2]


def test_other_settings_and_other_orders_are_other_recipes():
    a, b = (Ingredient(name, name * 64) for name in "ab")
    hashes = {
        recipe_hash(method("dare", sides, settings))
        for sides in ((a, b), (b, a))
        for settings in ({}, {"seed": 1}, {"drop": 0.25}, {"strength": 0.25})
    }
    assert len(hashes) == 8
    assert recipe_hash(method("dare", (a, b))) == recipe_hash(method("dare", (a, b), {"seed": 0}))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: method("soup", (A, B)),
            "There is no merge method 'soup'. Known methods: train_difference",
        ),
        (lambda: method("slerp", (A, B, C)), "SLERP takes 2 recipes (a, b), not 3."),
        (
            lambda: method("model_stock", (A, B)),
            "Model stock takes 3 or more recipes (base, model, model, ...), not 2.",
        ),
        (
            lambda: method("ties", (A, B), {"keep": 2}),
            "keep of TIES must be a number from 0 to 1; it is 2.",
        ),
        (
            lambda: method("dare", (A, B), {"seed": 0.5}),
            "seed of DARE must be a whole number from 0 to 1000000; it is 0.5.",
        ),
        (
            lambda: method("dare", (A, B), {"drop": block_weights([0] * 25)}),
            "drop of DARE must be one number for all blocks, not block weights.",
        ),
        (
            lambda: method("ties", (A, B), {"density": 1}),
            "TIES has no setting 'density'. Its settings: keep, strength.",
        ),
        (
            lambda: parse("ties(a, b; keep)"),
            "a number or block weights in brackets are expected here",
        ),
        (lambda: parse("ties(a, b; keep 2)"), "keep of TIES must be a number from 0 to 1"),
        (lambda: parse("triple_sum(a, b; share_of_b 1)"), "it takes three recipes"),
        (
            lambda: from_json({"kind": "method", "method": "ties", "recipes": {}}),
            '"recipes" a list',
        ),
    ],
)
def test_what_is_no_method_is_told(make, told):
    with pytest.raises(MergeError) as error:
        make()
    assert told in str(error.value)


def test_the_command_line_lists_methods_and_uses_them(cellar, tmp_path, capsys):
    assert main(["methods"]) == 0
    told = capsys.readouterr().out
    assert "ties(base, model, ...; keep 0.2, strength 1)" in told and all(
        n in told for n in METHODS
    )
    run = [
        "run",
        "0.5 slerp(a, b) + 0.5 c",
        str(tmp_path / "out.safetensors"),
        "--models",
        str(tmp_path),
    ]
    assert main([*run, "--device", "nowhere"]) == 1
    assert "Merging on 'nowhere' does not work here" in capsys.readouterr().err
    assert main(run) == 0
    assert main(["show", str(tmp_path / "out.safetensors")]) == 0
    assert "0.5                slerp(a, b; share_of_b 0.5)" in capsys.readouterr().out
