"""Which column is what: the public layouts, and a guess that a person confirms."""

from __future__ import annotations

import pytest

from cocktail.trainer.data.table.columns import PRESETS, Mapping, check, describe, guess, preset
from cocktail.trainer.errors import TrainerError

MESSAGE = "**a red cat on a mat --v 5** - Image #1 <@{user}>"
URL = "https://cdn.discordapp.com/attachments/1/2/name_a_red_cat_{user}.png"

LAYOUTS = {
    "followfox_v51": ("", "AuthorID", "Author", "Date", "Content", "Attachments", "Reactions", "version", "aspect", "clean_prompts"),
    "wanng_v5_clean": ("Content", "Attachments", "clean_prompts", "upscaled"),
    "discord_exporter": ("Channel", "AuthorID", "Author", "Date", "Content", "Attachments", "Reactions"),
    "vivym_messages": ("id", "channel_id", "content", "timestamp", "image_id", "height", "width", "url", "size"),
    "mj_threads": ("text", "args", "channel_id", "userid", "timestamp", "label", "id", "url_png", "main_content", "caption_0", "caption_1", "caption_2", "caption_3", "thread_id"),
    "mj_v6_520k": ("filename", "caption", "width", "height"),
}  # fmt: skip
ROLES = {
    "followfox_v51": {"image": "Attachments", "content": "Content", "version": "version", "aspect": "aspect"},
    "wanng_v5_clean": {"image": "Attachments", "content": "Content", "upscaled": "upscaled"},
    "discord_exporter": {"image": "Attachments", "content": "Content"},
    "vivym_messages": {"image": "url", "content": "content", "width": "width", "height": "height"},
    "mj_threads": {
        "image": "url_png", "prompt": "text", "arguments": "args", "user": "userid", "upscaled": "label",
        "caption_0": "caption_0", "caption_1": "caption_1", "caption_2": "caption_2", "caption_3": "caption_3",
    },
    "mj_v6_520k": {"image": "filename", "prompt": "caption"},
}  # fmt: skip


def rows(columns, authors=1):
    """Rows as the layouts have them; the author of all is the bot unless there are more."""
    made = []
    for number in range(40):
        cell = {
            "authorid": str(number % authors),
            "userid": str(number),
            "label": "True",
            "upscaled": "1",
        }
        for name in ("content", "main_content"):
            cell[name] = MESSAGE.format(user=number)
        for name in ("attachments", "url", "url_png"):
            cell[name] = URL.format(user=number)
        made.append(tuple(cell.get(name.lower(), f"{name} {number}") for name in columns))
    return made


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("spelled", [str, str.lower, str.upper])
def test_every_public_layout_is_known_by_its_columns(name, spelled):
    columns = tuple(map(spelled, LAYOUTS[name]))
    wanted = {role: spelled(column) for role, column in ROLES[name].items()}
    for found in (guess(columns, rows(columns)), preset(name, columns, rows(columns))):
        assert found.preset == name
        assert found.columns() == wanted
        check(found, columns)


def test_every_layout_is_tested():
    assert set(LAYOUTS) == set(ROLES) == set(PRESETS)


def test_where_one_author_posts_everything_the_user_is_who_is_mentioned():
    columns = LAYOUTS["discord_exporter"]
    assert guess(columns, rows(columns)).user == ""
    people = guess(columns, rows(columns, authors=5))
    assert people.user == "AuthorID"
    assert "user: the mention in content" in describe(
        guess(columns, rows(columns)), columns, rows(columns)
    )


def test_a_layout_chosen_for_another_table_says_what_is_missing():
    with pytest.raises(TrainerError) as error:
        preset("mj_threads", ("image", "prompt"), [])
    assert str(error.value) == (
        "Preset mj_threads needs the columns url_png, text, but the table has no url_png, text. "
        "It has: image, prompt."
    )
    with pytest.raises(TrainerError, match="Unknown preset 'mj'"):
        preset("mj", ("image", "prompt"), [])


def test_other_tables_are_guessed_by_the_names_of_columns():
    columns = ("ID", "Image_URL", "Caption", "Author", "Width")
    found = guess(columns, [("1", "u", "c", "a", "5")])
    assert found == Mapping(image="Image_URL", prompt="Caption", user="Author", width="Width")
    messages = ("url", "message")
    assert guess(messages, [("u", MESSAGE)] * 3).columns() == {"image": "url", "content": "message"}
    assert guess(messages, [("u", "a cat")] * 3).columns() == {"image": "url", "prompt": "message"}


def test_what_cannot_be_guessed_is_asked_with_the_columns_shown():
    with pytest.raises(TrainerError) as error:
        guess(("a", "prompt"), [])
    assert str(error.value) == (
        "No column of the table looks like its pictures. It has: a, prompt. "
        "Say in the column mapping which one is image."
    )
    with pytest.raises(TrainerError, match="looks like its texts. It has: url, b"):
        guess(("url", "b"), [])
    with pytest.raises(TrainerError) as error:
        guess(("url", "path", "prompt"), [("u", "p", "a cat")])
    assert "More than one column of the table fits image: url or path" in str(error.value)
    assert "row 1: image = u | prompt = a cat" in str(error.value)


def test_five_rows_are_shown_and_long_cells_are_cut():
    columns = ("image", "prompt")
    samples = [(f"{n}.png", "word " * 50) for n in range(9)]
    lines = describe(guess(columns, samples), columns, samples).splitlines()
    assert lines[:4] == ["layout: generic", "image: image", "prompt: prompt", "user: none"]
    assert len(lines) == 9 and lines[-1].startswith("row 5: image = 4.png | prompt = word word")
    assert lines[-1].endswith("...") and len(lines[-1]) < 120
    short = describe(guess(columns, samples), columns, [("a.png", None), ("b.png",)])
    assert short.splitlines()[-1] == "row 2: image = b.png | prompt = "


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"prompt": "prompt"}, "does not say which column is image"),
        ({"image": "image"}, "does not say which column is prompt, or content"),
        ({"image": "imagge", "prompt": "prompt"}, "says image is 'imagge', but the table has no such column. Did you mean image?"),
        ({"image": "image", "prompt": "prompt", "captions": ["zzz"]}, "says caption_0 is 'zzz', but the table has no such column. It has"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_the_table_is_refused(mapping, said):
    with pytest.raises(TrainerError) as error:
        check(Mapping.from_json(mapping), ("image", "prompt"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"immage": "a"}, "Unknown column mapping entry 'immage'. Did you mean image?"),
        ({"image": 5}, "Column mapping entry image is 5; it must be a text."),
        ({"captions": "a"}, "Column mapping entry captions is 'a'; it must be a list."),
    ],
)  # fmt: skip
def test_a_mapping_in_json_is_checked(value, said):
    with pytest.raises(TrainerError) as error:
        Mapping.from_json(value)
    assert str(error.value) == said


def test_a_mapping_survives_json():
    mapping = PRESETS["mj_threads"]
    assert Mapping.from_json(mapping.to_json()) == mapping
