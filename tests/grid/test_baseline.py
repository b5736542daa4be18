"""How far pictures are from those of a baseline, in pixels and as a CLIP model sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.engine.check.baseline import compare, table
from cocktail.nodes.grid.engine.check.baseline_sheet import contact_sheet, largest
from cocktail.nodes.grid.engine.check.clip_score import clip_scores, is_clip
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.ballot import Ballot

from .drawn import Drawn, draw_grid, drawn_plan


class Steps(Drawn):
    """Model n is 10 n brighter everywhere, 3 more at prompt 1; model 1 equals model 0 at seed 1."""

    def pictures(self, cells: Any, done: int, total: int) -> list[numpy.ndarray]:
        return [numpy.full((16, 16, 3), level(cell.settings), numpy.uint8) for cell in cells]


def level(settings: Any) -> int:
    model = int(settings.checkpoint.split()[-1])
    if (model, settings.seed) == (1, 1):
        return 100
    return 100 + 10 * model + (3 * model if settings.prompt == "prompt 1" else 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A grid of three models, two prompts and two seeds."""
    plan = drawn_plan(checkpoints=3, prompts=2)
    store = Store(tmp_path / "g")
    store.save_plan(plan)
    draw_grid(plan, store.folder, Steps())
    return store


def test_the_differences_are_those_of_the_pixels_by_prompt(store: Store):
    field = Ballot(store).field
    found = compare(field, 0, store)
    assert (len(found.found), found.missing, found.sizes) == (8, 0, 0)
    lines = table(field, 0, found).splitlines()
    assert "| prompt | model 1 | model 2 |" in lines
    rows = [line for line in lines if line.startswith(("| prompt ", "| **all"))][1:]
    assert rows == [
        "| prompt 1 | 6.50 | 26.00 |",
        "| prompt 0 | 5.00 | 20.00 |",
        "| **all** | 5.75 | 23.00 |",
    ]
    assert "8 pictures compared, 2 of them pixel-equal." in lines
    assert [one.mean for one in largest(found.found, 3)] == [26, 26, 20]
    assert len(largest(found.found, 100)) == 6


def test_pictures_that_are_gone_or_have_another_size_are_counted(store: Store):
    field = Ballot(store).field
    one, two = (store.cell_path(place.keys[1]) for place in field.places[:2])
    one.unlink()
    shutil.copy(store.cell_path(field.places[2].keys[0]), two)
    with Image.open(two) as picture:
        picture.resize((8, 8)).save(two)
    found = compare(field, 0, store)
    assert (len(found.found), found.missing, found.sizes) == (6, 1, 1)
    words = table(field, 0, found)
    assert "1 are missing." in words and "1 have another size" in words
    for place in field.places:
        store.cell_path(place.keys[0]).unlink()
    with pytest.raises(GridError, match="Put Render Grid before"):
        compare(field, 0, store)


def test_the_contact_sheet_shows_baseline_picture_and_amplified_difference(store: Store):
    field = Ballot(store).field
    shown = largest(compare(field, 0, store).found, 3)
    sheet = contact_sheet(field, 0, store, shown, 4.0)
    colours = {sheet.getpixel((x, 200)) for x in range(sheet.width)}
    assert {(100,) * 3, (126,) * 3, (104,) * 3} <= colours
    assert contact_sheet(field, 0, store, [], 4.0).height < sheet.height


def make_clip(folder: Path) -> Path:
    """A CLIP model of a few thousand weights that are drawn, with its processor's files."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    part = {**size, "num_hidden_layers": 1}
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    text = {**part, **ends, "vocab_size": len(words), "max_position_embeddings": 77}
    vision = {**part, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokens = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    for token in ("bos_token", "eos_token", "unk_token", "pad_token"):
        tokens[token] = "<|startoftext|>" if token == "bos_token" else "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    pictures = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}}
    pictures |= {"crop_size": {"height": 16, "width": 16}, "processor_class": "CLIPProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def test_clip_scores_are_the_cosines_of_a_local_model(store: Store, tmp_path: Path):
    import torch
    from transformers import CLIPModel, CLIPProcessor

    folder = make_clip(tmp_path / "tiny-clip")
    assert is_clip(folder) and not is_clip(tmp_path)
    keys = [key for place in Ballot(store).field.places for key in place.keys if key]
    wanted = {key: (store.cell_path(key), f"prompt {number}") for number, key in enumerate(keys)}
    found = clip_scores(folder, wanted, "cpu")
    assert found.keys() == set(keys)

    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    with Image.open(wanted[keys[3]][0]) as picture:
        inputs = processor(text=["prompt 3"], images=[picture], return_tensors="pt", padding=True)
    told = model.eval()(**inputs)
    expected = 100 * torch.nn.functional.cosine_similarity(told.image_embeds, told.text_embeds)
    assert found[keys[3]] == pytest.approx(expected.item(), abs=1e-3)
    assert len({round(score, 3) for score in found.values()}) > 1


def test_a_folder_that_is_no_clip_model_is_refused_in_words(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(GridError, match="safetensors"):
        clip_scores(tmp_path, {}, "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "clip", "auto_map": {"x": "code.X"}}')
    with pytest.raises(GridError, match="needs Python code"):
        clip_scores(tmp_path, {}, "cpu")
