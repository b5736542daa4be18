"""Axes of any input of a workflow: values are read by the input's type, and texts are searched."""

from __future__ import annotations

import pytest

from cocktail.nodes.grid.engine.axes.axis import combine
from cocktail.nodes.grid.engine.axes.inputs import input_axis
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.of_settings import make_plan

from ..comfy import ComfyError
from .feeding import plan_of
from .test_as_written import FIXED

PROMPT = "prompt v1.5.text"
ANIMALS = "a cat, standing on top of a dog"


@pytest.fixture
def settings(comfy, workflow):
    """What the axes of a plan over the workflow set in each cell, or why it is refused."""

    def planned(*axes, text=ANIMALS, **more):
        workflow["2"]["inputs"]["text"] = text
        plan = plan_of("inputs", workflow, *axes, **more)
        answer = comfy.post("/cocktail/grids/plan", {"plan": plan, "cells": True})
        if "error" in answer:
            return answer["error"]
        again = comfy.post("/cocktail/grids/plan", {"plan": answer["plan"], "cells": True})
        assert again["plan"] == answer["plan"], "a plan is not what its own JSON says"
        return [cell["settings"] for cell in answer["plan"]["cells"]]

    return planned


def axis(target, values, **more):
    return {"target": target, "values": values, **more}


def replacing(search, *words, target=PROMPT):
    return axis(target, list(words), search=search)


@pytest.mark.parametrize("text", ["1980-1989", "4 seeds", "1, 2, 3", "0.5-1", "1, .., 9"])
def test_what_looks_like_numbers_is_a_text_in_an_input_of_texts(settings, text):
    assert settings(axis(PROMPT, text)) == [{"2.text": text}]
    assert settings(axis(PROMPT, [text])) == [{"2.text": text}]


def test_numbers_are_lists_and_ranges_in_an_input_of_numbers(settings):
    def numbers(target, values):
        found = settings(axis(target, values))
        return [next(iter(one.values())) for one in found] if isinstance(found, list) else found

    assert numbers("KSampler.cfg", "1e-1, 2\n3-4") == [0.1, 2.0, 3.0, 4.0]
    assert numbers("KSampler.denoise", "1/3, 50%") == [1 / 3, 0.5]
    assert numbers("KSampler.steps", "8/2") == [4]
    assert "whole number" in numbers("KSampler.steps", "1/3")
    assert numbers("KSampler.steps", "1-9 (+4)\n4 [") == (
        "Axis 1: Line 2 of the values: the input takes a number, not '4 ['. Write numbers with "
        "commas, or a range: 1-5, 0.5-1 (+0.1), 0-10 [6], 1, 2, .., 8."
    )
    assert len(numbers("KSampler.seed", "4 seeds")) == 4
    assert "0.5-1 (+0.1), or how many" in numbers("KSampler.denoise", "0.5-1")
    assert "takes a number, not 'high'" in numbers("KSampler.cfg", "high")
    assert "takes a whole number, not '2.5'" in numbers("KSampler.steps", "2.5")


def test_choices_may_be_written_as_people_write_them(settings):
    found = settings(axis("KSampler.sampler_name", "Euler a\nDPM++ 2M SDE\nHeun\nDPM++ 2S a"))
    assert [one["5.sampler_name"] for one in found] == [
        "euler_ancestral",
        "dpmpp_2m_sde",
        "heun",
        "dpmpp_2s_ancestral",
    ]
    (found,) = settings(axis("KSampler.scheduler", "SGM Uniform"))
    assert found == {"5.scheduler": "sgm_uniform"}
    assert "karras as the scheduler" in settings(axis("KSampler.sampler_name", "DPM++ 2M Karras"))
    assert settings(axis("ImageBlend.blend_mode", "Normal")) == [{"8.blend_mode": "normal"}]


def test_all_searches_in_one_text_are_done_at_once(settings):
    found = settings(
        replacing("cat", "cat", "dog"), replacing("dog", "dog", "cat", target="2.text")
    )
    assert [one["2.text"] for one in found] == [
        ANIMALS,
        "a cat, standing on top of a cat",
        "a dog, standing on top of a dog",
        "a dog, standing on top of a cat",
    ]
    found = settings(
        replacing("cat", "fox"), replacing("red cat", "hen"), text="a red cat and a cat"
    )
    assert found == [{"2.text": "a hen and a fox"}]
    found = settings(axis(PROMPT, "one cat\ntwo cats"), replacing("cat", "dog"))
    assert [one["2.text"] for one in found] == ["one dog", "two dogs"]


def test_searches_that_cannot_work_are_refused(settings):
    assert "overlap in 'a red cat'" in settings(
        replacing("a red", "x"), replacing("red cat", "y"), text="a red cat"
    )
    assert "no 2.text contains it" in settings(replacing("horse", "x"))
    assert "it takes FLOAT" in settings(replacing("1", "2", target="KSampler.cfg"))
    assert "both replace 'cat' in one text" in settings(
        replacing("cat", "x"), replacing("cat", "y", target="2.text")
    )
    assert "both vary 2.text" in settings(axis(PROMPT, "x"), axis("2.text", "y"))
    with pytest.raises(GridError, match="axes of their own"):
        combine([input_axis("2.text", "x", search=word) for word in ("a", "b")], together=True)


def test_the_axis_node_reads_its_values_by_the_workflow_around_it(comfy, workflow):
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    workflow["2"]["inputs"]["text"] = "a cat"
    prompt = {
        **workflow,
        "20": node("CocktailAxisInput", target="2.text", values="1980-1989\n4 seeds"),
        "21": node("CocktailAxisInput", target="KSampler.cfg", values="1-3"),
        "22": node("CocktailAxisInput", target="2.text", values="dog\nhen", search="cat"),
        "23": node("CocktailAxisInput", target="3.text", values="1-2", search=""),
        "30": node(
            "CocktailWorkflowPlan", name="by_type", output="9", axis_1=["20", 0], axis_2=["21", 0]
        ),
        "31": node(
            "CocktailWorkflowPlan", name="by_word", output="9", axis_1=["22", 0], axis_2=["23", 0]
        ),
    }
    found = _planned(comfy, prompt)
    assert {id: found[id]["cocktail"][0]["cells"] for id in ("30", "31")} == {"30": 6, "31": 2}
    prompt["21"]["inputs"]["values"] = "0.5-1"
    with pytest.raises(ComfyError, match="would not reach 1"):
        _planned(comfy, prompt)


def _planned(comfy, prompt):
    """What the nodes of plans report, without a picture being made."""
    body = {"prompt": prompt, "partial_execution_targets": ["30", "31"]}
    return comfy.wait(comfy.post("/prompt", body)["prompt_id"])


def test_an_input_of_a_node_is_no_axis_of_a_plan_without_a_workflow():
    with pytest.raises(GridError, match="this grid has no workflow"):
        make_plan("g", FIXED, [input_axis("6.text", "x")], lambda kind, name: name)
