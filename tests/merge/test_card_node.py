"""Release Card on a real ComfyUI."""

from __future__ import annotations

import pytest

from cocktail.merge.command_line import main

from ..comfy import Comfy, ComfyError

MINIATURE = "miniature_base.safetensors"


def carded(**inputs):
    inputs = {"checkpoint": MINIATURE, "title": "Old <b>Fashioned</b>", **inputs}
    return {"card": {"class_type": "CocktailReleaseCard", "inputs": inputs}}


def test_the_node_shows_its_card_keeps_the_last_one_and_what_it_writes_can_be_verified(
    comfy: Comfy,
):
    told = comfy.run(carded(notes="first"))["card"]
    (result,) = told["cocktail"]
    assert result["card"] == "cocktail/cards/Old-b-Fashioned-b/Old-b-Fashioned-b.html"
    assert result["made"] and "first" in told["text"][0] and "&lt;b&gt;" in told["text"][0]
    again = comfy.run(carded(notes="second"))["card"]["cocktail"][0]["card"]
    folder = (comfy.base / "output" / again).parent
    assert folder.name == "Old-b-Fashioned-b-2"
    assert "first" in (folder.with_name("Old-b-Fashioned-b") / "README.md").read_text("utf-8")
    models = comfy.base / "models" / "checkpoints"
    assert main(["verify", str(folder), "--models", str(models)]) == 0


def test_the_node_refuses_names_and_licences_that_make_no_sense(comfy: Comfy):
    assert "cannot name a card" in comfy.errors(carded(name="../up"))["card"]
    assert "is not a licence" in comfy.errors(carded(licences="no colon"))["card"]
    with pytest.raises(ComfyError):
        comfy.run(carded(checkpoint="none.safetensors"))
