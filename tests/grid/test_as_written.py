"""Values mean what was written: texts, names, quotation marks, brackets and fractions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cocktail.merge.recipe import Ingredient
from cocktail.nodes.grid.engine.axes.axis import combine
from cocktail.nodes.grid.engine.axes.inputs import input_axis
from cocktail.nodes.grid.engine.axes.mixes import BLOCKS, MULTIPLIER, SHARE, merge_axis
from cocktail.nodes.grid.engine.axes.typed import typed_axis
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.patterns import matches
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan_json import axis_from_json, plan_from_json
from cocktail.nodes.grid.engine.plan.replacing import replaced

CHOICES = {
    "sampler": [
        *("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde_heun", "dpmpp_2s_ancestral"),
        "dpm_2_ancestral",
    ],
    "scheduler": ["normal", "karras", "sgm_uniform"],
    "checkpoint": ["model [v2].safetensors", "model v.safetensors"],
    "vae": ["mse.safetensors"],
    "lora": ["styl.safetensors", "sty[le].safetensors", "sty[le]2.safetensors"],
}
FIXED = {
    "checkpoint": "model v.safetensors", "prompt": "a", "negative_prompt": "", "seed": 1,
    "steps": 1, "cfg": 7.0, "sampler": "euler", "scheduler": "normal", "width": 512, "height": 512,
    "clip_skip": 1,
}  # fmt: skip


def axis(target, values, **more):
    return axis_from_json({"target": target, "values": values, **more}, 1, CHOICES)


def settings(target, values):
    return [value.set for value in axis(target, values).values]


def replacing(search, *words):
    return axis("prompt search and replace", list(words), search=search)


def prompts(text, *axes):
    plan = make_plan("g", {**FIXED, "prompt": text}, list(axes), lambda kind, name: name)
    return [cell.settings.prompt for cell in plan.cells]


def test_searches_are_done_at_once_on_the_text_as_written():
    text = "a cat, standing on top of a dog"
    found = prompts(text, replacing("cat", "cat", "dog"), replacing("dog", "dog", "cat"))
    assert found == [
        text,
        "a cat, standing on top of a cat",
        "a dog, standing on top of a dog",
        "a dog, standing on top of a cat",
    ]


def test_the_longest_search_counts_and_overlapping_ones_are_refused():
    assert replaced("a red cat, a cat", {"cat": "dog", "red cat": "fox"})[0] == "a fox, a dog"
    with pytest.raises(GridError, match="overlap in 'a red cat'"):
        replaced("a red cat", {"a red": "one", "red cat": "two"})
    assert replaced("a.b", {"a.b": r"\1"}) == (r"\1", {"a.b"})


def test_searches_that_a_longer_one_covers_do_not_overlap():
    assert replaced("abcd", {"abcd": "x", "ab": "y", "bc": "z"}) == ("x", {"abcd"})
    assert replaced("abcd ab", {"abcd": "x", "ab": "y", "bc": "z"}) == ("x y", {"abcd", "ab"})
    with pytest.raises(GridError, match="'ab' and 'bc' overlap in 'abc'"):
        replaced("abcd abc", {"abcd": "x", "ab": "y", "bc": "z"})


@hypothesis_settings(deadline=None)
@given(
    st.text("abc", max_size=12),
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.just("X"), max_size=4),
)
def test_only_searches_that_none_covers_can_overlap(text, words):
    places = {
        (start, start + len(search))
        for search in words
        for start in range(len(text))
        if text.startswith(search, start)
    }
    outer = sorted(
        (a, b)
        for a, b in places
        if not any((c, d) != (a, b) and c <= a and b <= d for c, d in places)
    )
    overlap = any(text[a:b] != text[c:d] and c < b for (a, b), (c, d) in pairwise(outer))
    if overlap:
        with pytest.raises(GridError, match="overlap"):
            replaced(text, words)
    else:
        assert replaced(text, words)[0].count("X") >= bool(outer)


@hypothesis_settings(deadline=None)
@given(st.text("abc ", max_size=30), st.dictionaries(st.sampled_from("abc"), st.text("abc")))
def test_single_letters_are_replaced_one_by_one(text, given_words):
    made, found = replaced(text, given_words)
    assert made == "".join(given_words.get(letter, letter) for letter in text)
    assert found == set(text) & set(given_words)


def test_two_searches_in_one_text_are_not_lost_on_one_axis():
    with pytest.raises(GridError, match="axes of their own"):
        combine([replacing("cat", "dog"), replacing("dog", "cat")], together=True)


@pytest.mark.parametrize("target", ["prompt", "negative prompt"])
@pytest.mark.parametrize(
    "values", [["", "blurry"], ["a\nb", "x"], ['"q"', "a, b"], ["  a ", "4 seeds"]]
)
def test_a_list_of_texts_is_that_list(target, values):
    assert [next(iter(one.values())) for one in settings(target, values)] == values


PLAIN = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)


@hypothesis_settings(deadline=None)
@given(st.lists(PLAIN, min_size=1, max_size=4, unique=True), st.sampled_from([",", ", ", " , "]))
def test_any_texts_in_quotes_are_these_texts_on_every_axis(texts, comma):
    line = comma.join('"' + text.replace('"', '""') + '"' for text in texts)
    assert [one["prompt"] for one in settings("prompt", line)] == texts
    assert [
        value.set["6.text"] for value in input_axis("6.text", line, kind="STRING").values
    ] == texts
    as_lines = "\n".join(line.split("\n"))
    assert [one["prompt"] for one in settings("prompt", as_lines)] == texts
    assert [one["prompt"] for one in settings("prompt", texts)] == texts


@hypothesis_settings(deadline=None)
@given(
    st.lists(PLAIN.filter(lambda text: text.strip() and text[0] != '"'), min_size=1, unique=True)
)
def test_a_line_that_begins_with_no_quote_is_one_text(texts):
    lines = list(dict.fromkeys(text.strip() for text in texts))
    lines = [line for line in lines if not line.startswith('"')] or ["a"]
    assert [one["prompt"] for one in settings("prompt", "\n".join(lines))] == lines


@hypothesis_settings(deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=9, unique=True))
def test_numbers_are_the_same_in_a_line_in_lines_and_in_a_list(numbers):
    words = list(map(str, numbers))
    for values in (", ".join(words), "\n".join(words), words, numbers):
        assert [one["seed"] for one in settings("seed", values)] == numbers


@pytest.mark.parametrize("target", ["prompt", "negative prompt", "cfg", "LoRA", "VAE", "sampler"])
@pytest.mark.parametrize("value", [None, ["a"], True])
def test_what_is_neither_text_nor_number_in_a_list_is_refused(target, value):
    with pytest.raises(GridError, match="Line 1 of the values: .* neither a text nor a number"):
        settings(target, [value])


def test_what_other_programs_write_is_read_or_told():
    for line in ("Automatic", "auto", "automatic"):
        with pytest.raises(GridError, match="Write none for the checkpoint's own VAE"):
            settings("VAE", line)
    file = "styl.safetensors"
    assert settings("LoRA", "<lora:styl:0.5>, <lora:styl>") == [
        {"loras": ((file, 0.5, 0.5),)},
        {"loras": ((file, 1.0, 1.0),)},
    ]
    # A1111 writes the text encoder first, so two strengths are not taken for ours.
    with pytest.raises(GridError, match="FILE:0.8:0.5 for model and text encoder"):
        settings("LoRA", "<lora:styl:0.5:0.8>")


def test_advice_suits_the_numbers_of_the_axis():
    with pytest.raises(GridError) as error:
        settings("steps", "0.5-1")
    assert "not whole" in str(error.value) and "+0.1" not in str(error.value)
    with pytest.raises(GridError, match="Write numbers with commas, or one a line"):
        settings("clip skip", "two")


def test_quotes_go_by_one_rule_on_every_axis():
    for text, expected in (
        ('"red", "blue"', ["red", "blue"]),
        ('"red"', ["red"]),
        ('"1, 2"', ["1, 2"]),
        ('"a" and b', ['"a" and b']),
    ):
        assert [one["prompt"] for one in settings("prompt", text)] == expected
        found = input_axis("6.text", text)
        assert [value.set["6.text"] for value in found.values] == expected


def test_brackets_in_names_are_brackets():
    assert settings("LoRA", "sty[le]*:0.5") == [
        {"loras": (("sty[le]2.safetensors", 0.5, 0.5),)},
        {"loras": (("sty[le].safetensors", 0.5, 0.5),)},
    ]
    assert settings("checkpoint", "model [v2]") == [{"checkpoint": "model [v2].safetensors"}]
    assert matches("model [v2]", "model [v2]") and matches("model [v2] a", "model [v2]*")
    assert not matches("model v", "model [v2]") and matches("a[*]", "a[?]")


def test_an_exact_name_counts_before_a_pattern():
    odd = {
        "checkpoint": ["*.safetensors", "a?, b.safetensors", "ab.safetensors", "x.ckpt", "x"],
        "lora": ["*ink.safetensors", "my ink.safetensors", "a:0.5.safetensors", "a, b.safetensors"],
        "vae": ["none.safetensors", "v*e.pt", "vae.pt"],
    }

    def found(target, line):
        values = typed_axis(target, line, odd).values
        return [next(iter(value.set.values())) for value in values]

    assert found("checkpoint", "*") == ["*.safetensors"]
    assert found("checkpoint", "a?, b") == ["a?, b.safetensors"]
    assert found("checkpoint", "?b*") == ["ab.safetensors"]
    assert found("checkpoint", "x\nx.ckpt") == ["x", "x.ckpt"]
    assert found("VAE", "v*e\nnone\nnone.safetensors") == ["v*e.pt", "", "none.safetensors"]
    assert found("LoRA", "*ink:0.5") == [(("*ink.safetensors", 0.5, 0.5),)]
    assert found("LoRA", "a:0.5") == [(("a:0.5.safetensors", 1.0, 1.0),)]
    assert found("LoRA", "a:0.5:0.25") == [(("a:0.5.safetensors", 0.25, 0.25),)]
    assert found("LoRA", "a, b:2") == [(("a, b.safetensors", 2.0, 2.0),)]
    assert len(found("LoRA", "?*ink*")) == 2


def test_a_rule_finds_a_name_with_brackets():
    checkpoints = typed_axis("checkpoint", "model*", CHOICES)
    plan = make_plan(
        "g", FIXED, [checkpoints], lambda kind, name: name, rules="checkpoint = model [v2]"
    )
    assert [cell.settings.checkpoint for cell in plan.cells] == ["model v.safetensors"]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("prompt = a cat?", ["a cat!", "a cat", "* and all"]),
        ("prompt != a cat?", ["a cat?"]),
        ("prompt = * and all", ["a cat?", "a cat!", "a cat"]),
        ("prompt = a cat*", ["* and all"]),
    ],
)
def test_a_rule_means_an_exact_name_before_a_pattern(rule, left):
    asked = axis("prompt", ["a cat?", "a cat!", "a cat", "* and all"])
    plan = make_plan("g", FIXED, [asked], lambda kind, name: name, rules=rule)
    assert [cell.settings.prompt for cell in plan.cells] == left


def test_a_plan_as_json_takes_names_as_people_write_them():
    fixed = {**FIXED, "sampler": "Euler a", "vae": "None", "image": "none"}
    values = [{"label": "k", "set": {"scheduler": "Karras"}}]
    plan = plan_from_json(
        {"name": "g", "fixed": fixed, "axes": [{"target": "how", "values": values}]},
        CHOICES,
        lambda kind, name: name,
    )
    (cell,) = plan.cells
    assert (cell.settings.sampler, cell.settings.scheduler) == ("euler_ancestral", "karras")
    assert (cell.settings.vae, cell.settings.image) == ("", "")


def test_a_lora_without_a_strength_means_one_and_none_may_have_one():
    assert settings("LoRA", "styl") == [{"loras": (("styl.safetensors", 1.0, 1.0),)}]
    assert settings("LoRA", "styl:0.5:0.25") == [{"loras": (("styl.safetensors", 0.5, 0.25),)}]
    for none in ("none", "None", "NONE:0.8"):
        assert settings("LoRA", none) == [{"loras": ()}]
    assert settings("VAE", "None") == [{"vae": ""}]


def test_no_lora_beside_strengths_is_the_picture_without_one():
    axes = [axis("LoRA", "none\nstyl"), axis("LoRA strength", "0.5, 1")]
    plan = make_plan("g", FIXED, axes, lambda kind, name: name)
    loras = [cell.settings.loras for cell in plan.cells]
    assert loras[:2] == [(), ()] and loras[3] == (("styl.safetensors", 1.0, 1.0),)
    with pytest.raises(GridError, match="there is no LoRA"):
        make_plan("g", FIXED, [axis("LoRA strength", "0.5, 1")], lambda kind, name: name)


@pytest.mark.parametrize(
    "written, sampler",
    [
        ("Euler a", "euler_ancestral"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("EULER", "euler"),
        ("DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun"),
        ("DPM++ 2S a", "dpmpp_2s_ancestral"),
        ("DPM2 a", "dpm_2_ancestral"),
    ],
)
def test_samplers_as_the_web_ui_calls_them(written, sampler):
    assert settings("sampler", written) == [{"sampler": sampler}]
    assert settings("scheduler", "Karras, SGM Uniform") == [
        {"scheduler": "karras"},
        {"scheduler": "sgm_uniform"},
    ]


def test_a_sampler_with_its_scheduler_says_how_to_write_both():
    with pytest.raises(GridError, match="Write dpmpp_2m, and karras as the scheduler"):
        axis("sampler", "DPM++ 2M Karras")
    with pytest.raises(GridError, match="Write the one you mean"):
        axis("scheduler", "Automatic")


def test_fractions_and_percents_are_numbers_as_in_recipes():
    a, b, c = (Ingredient(name) for name in "abc")
    found = merge_axis(SHARE, "1/3, 60%, 0.25", a, b)
    assert [value.label for value in found.values] == ["B x 1/3", "B x 60%", "B x 0.25"]
    assert "2/3 a + 1/3 b" in str(found.values[0].set) or "1/3" in str(found.values[0].set)
    assert merge_axis(MULTIPLIER, "1/3", a, b, c).values[0].label == "B - C x 1/3"
    assert merge_axis(BLOCKS, ", ".join(["1/3"] * 25), a, b).values
