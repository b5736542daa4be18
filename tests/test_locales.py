"""locales/en: complete, as the nodes say it, and in a form that every frontend can read."""

from __future__ import annotations

import re

import pytest

from .locales import ENGLISH, as_text, english

SYNTAX = re.compile("[{}@|]")
"""Signs that stand for something in the page's messages: older frontends compile tooltips, newer
ones show them as they are, so that no spelling of these serves both.
"""


@pytest.fixture(scope="module")
def wanted(comfy):
    return english(comfy.get("/object_info"))


def test_english_says_what_the_nodes_say(wanted):
    kept = {file.name: file.read_text(encoding="utf-8") for file in ENGLISH.iterdir()}
    assert kept == {name: as_text(words) for name, words in wanted.items()}, (
        "Write it again: python -m tests.locales"
    )


def test_every_node_input_and_output_can_be_translated(wanted):
    for name, words in wanted["nodeDefs.json"].items():
        assert words["display_name"] and words["description"], name
        for slot in (*words["inputs"].values(), *words["outputs"].values()):
            assert slot["name"] and slot["tooltip"], (name, slot)


def test_no_word_holds_what_the_page_takes_for_a_sign(wanted):
    texts = []
    for words in wanted["nodeDefs.json"].values():
        slots = (words, *words["inputs"].values(), *words["outputs"].values())
        texts += [text for slot in slots for text in slot.values() if isinstance(text, str)]
    assert len(texts) > 500 and [text for text in texts if SYNTAX.search(text)] == []


def test_comfyui_serves_it_to_the_page(comfy, wanted):
    served = comfy.get("/i18n")["en"]
    assert served["nodeDefs"] == wanted["nodeDefs.json"]
    assert served["nodeCategories"] == wanted["main.json"]["nodeCategories"]
