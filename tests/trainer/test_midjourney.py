"""What a message says, and that DuckDB reads thousands of them as Python does."""

from __future__ import annotations

import random

import duckdb
import pytest

from cocktail.trainer.data.table import midjourney

from .midjourney_reference import read_prompt, read_tail, split_message, words

GOKU = (
    "**adult Goku in Dragonball Z, walking on a beach, in a Akira Toriyama anime style** - "
    "Image #1 <@1016225582566101084>"
)


def test_a_message_from_the_public_sets():
    typed, tail = split_message(GOKU)
    said, whose = read_prompt(typed), read_tail(tail)
    assert (
        said.prompt
        == "adult Goku in Dragonball Z, walking on a beach, in a Akira Toriyama anime style"
    )
    assert (said.raw, said.version, said.aspect, said.stylize) == (False, None, None, None)
    assert (whose.kind, whose.image_no, whose.user, whose.unfinished) == (
        "upscaled",
        1,
        "1016225582566101084",
        False,
    )


@pytest.mark.parametrize(
    ("tail", "kind", "number", "user", "unfinished"),
    [
        ("<@12> (fast)", "grid", None, "12", False),
        ("<@!12> (relaxed, stealth)", "grid", None, "12", False),
        ("@Some One (fast)", "grid", None, "Some One", False),
        ("Variations by <@12> (fast)", "variation", None, "12", False),
        ("Variations (Strong) by <@12> (turbo)", "variation", None, "12", False),
        ("Remix (Subtle) by @name (fast)", "variation", None, "name", False),
        ("Image #4 <@12>", "upscaled", 4, "12", False),
        ("Image #5 <@12>", "other", None, "12", False),
        ("Upscaled (Beta) by <@12> (fast)", "upscaled", None, "12", False),
        ("Upscaling by <@12> (31%) (fast)", "upscaled", None, "12", True),
        ("Pan Left by <@12> (fast)", "pan", None, "12", False),
        ("Zoom Out by <@12> (fast)", "zoom", None, "12", False),
        ("<@12> (Waiting to start)", "grid", None, "12", True),
        ("<@12> (Stopped)", "grid", None, "12", True),
        ("<@12> (31%) (fast)", "grid", None, "12", True),
        (
            "<@12> [(Open on website for full quality)](<https://x.y>) (fast)",
            "grid",
            None,
            "12",
            False,
        ),
        ("", "other", None, None, False),
    ],
)
def test_tails(tail, kind, number, user, unfinished):
    found = read_tail(tail)
    assert (found.kind, found.image_no, found.user, found.unfinished) == (
        kind,
        number,
        user,
        unfinished,
    )


@pytest.mark.parametrize(
    ("typed", "prompt", "said"),
    [
        ("a cat --ar 16:9 --v 5.1", "a cat", {"aspect": "16:9", "version": "5.1"}),
        ("a cat —ar 16:9 ––v5", "a cat", {"aspect": "16:9", "version": "5"}),
        ("a cat --s750 --style raw", "a cat", {"stylize": 750, "raw": True}),
        ("a cat --raw", "a cat", {"raw": True}),
        ("a cat --style RAW", "a cat", {"raw": True}),
        ("a cat --style rawest", "a cat", {"raw": False}),
        ("a raw cat", "a raw cat", {"raw": False}),
        ("a cat --niji 5", "a cat", {"version": "niji 5"}),
        ("a cat --niji", "a cat", {"version": "niji"}),
        ("a --fluffy cat --ar 2:3", "a --fluffy cat", {"aspect": "2:3"}),
        ("a forest —a dark place", "a forest —a dark place", {}),
        ("a cat --no dogs, birds --v 5", "a cat", {"version": "5"}),
        ("a cat --v 5 --v 4", "a cat", {"version": "5"}),
        ("<https://s.mj.run/abc> a cat", "a cat", {"image_prompts": 1}),
        ("https://a.b/c.png, https://a.b/d.png a cat", ", a cat", {"image_prompts": 2}),
        ("cat::2, dog::1.5 bird", "cat, dog, bird", {}),
        ("cat:: dog::-0.5", "cat, dog", {"negative_weight": True}),
        (" a\n\ncat \t with   hat, ", "a cat with hat", {}),
        ("a very long prompt...", "a very long prompt...", {"truncated": True}),
        ("--ar 16:9", "", {"aspect": "16:9"}),
        ("", "", {}),
    ],
)
def test_prompts(typed, prompt, said):
    found = read_prompt(typed)
    assert found.prompt == prompt.strip(" ,")
    for name, value in said.items():
        assert getattr(found, name) == value, name


def test_the_last_dash_ends_the_prompt():
    assert split_message("**a ** - b --v 5** - <@1> (fast)") == ("a ** - b --v 5", "<@1> (fast)")
    assert split_message("**** - <@1>") == ("", "<@1>")
    for text in ("** - x", "*** - x", "hello", "", "**x**", "a **x** - y"):
        assert split_message(text) == ("", "")


PIECES = [
    "a cat",
    "in the snow",
    "**",
    "** - ",
    "*",
    " - ",
    "--ar 16:9",
    "--AR 2x3",
    "--aspect 3/2",
    "--v 5.1",
    "--v5",
    "—v 4",
    "––ar 1:1",
    "--niji 5",
    "--niji",
    "--s 50",
    "--s750",
    "--style raw",
    "--style  raw",
    "--raw",
    "--Raw",
    "--STYLE RAW",
    "--no dogs",
    "--unknown 3",
    "—dark",
    "--",
    "raw",
    "::2",
    "::-1",
    "::.5,",
    ":: ",
    ",",
    "<https://s.mj.run/ab>",
    "https://x.y/z?a=1",
    "...",
    "…",
    "\n",
    "  ",
    "\t",
    "\xa0",
    "\u3000",
    "é",
    "日本",
    "🦊",
    "K",
    "ſ",
    "\x00",
    "'",
    '"',
    "\\",
    "(31%)",
    "(100%)",
    "(Stopped)",
    "Image #2",
    "Image #9",
    "<@123>",
    "<@!45>",
    "@some name",
    "@a (fast)",
    "Upscaled by",
    "Upscaling by",
    "Variations by",
    "Remix",
    "Pan Up by",
    "Zoom Out by",
    "(Waiting to start)",
    "(fast)",
]


def python_reading(message):
    typed, tail = split_message(message)
    said, whose = read_prompt(typed), read_tail(tail)
    return (
        *(typed, said.prompt, words(said.prompt), said.version, said.aspect),
        *(said.stylize, said.raw, said.image_prompts, said.negative_weight, said.truncated),
        *(whose.kind, whose.image_no, whose.user, whose.unfinished),
    )


@pytest.mark.parametrize("seed", range(4))
def test_sql_reads_generated_messages_as_python_does(seed):
    draw = random.Random(seed)
    messages = []
    for _ in range(4000):
        parts = draw.choices(PIECES, k=draw.randint(0, 12))
        text = "".join(part + draw.choice(("", " ", " ")) for part in parts)
        if draw.random() < 0.8:
            text = f"**{text}** - {draw.choice(PIECES)} {draw.choice(PIECES)}"
        messages.append(text)
    layers = [
        *midjourney.tail_layers("m"),
        {"typed": midjourney.typed_sql("m")},
        {"text": midjourney.text_sql("typed"), "raw": midjourney.raw_sql("typed", "m")},
        {"parameters": "substr(typed, length(text) + 1)"},
        *midjourney.prompt_layers("text"),
        *midjourney.parameter_layers("parameters", "typed"),
        *midjourney.account_layers("tail"),
    ]
    query = f"""
        SELECT typed, prompt, {midjourney.words_sql("prompt")}, version, aspect, stylize, raw,
            image_prompts, negative_weight, truncated, {midjourney.kind_sql("tail")},
            {midjourney.image_no_sql("tail")}, account, {midjourney.unfinished_sql("tail")}
        FROM {midjourney.layered("(SELECT unnest(?::VARCHAR[]) AS m)", layers)}
    """
    with duckdb.connect() as connection:
        found = connection.execute(query, [messages]).fetchall()
    assert len(found) == len(messages)
    for message, row in zip(messages, found, strict=True):
        assert row == python_reading(message), message
