"""How far pictures are from those of a baseline, in pixels and as a CLIP model sees them."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.engine.check.aesthetic import marks
from cocktail.nodes.grid.engine.check.baseline import Measure, compare, table
from cocktail.nodes.grid.engine.check.baseline_sheet import contact_sheet, largest
from cocktail.nodes.grid.engine.check.clip_score import Clip, clip_scores, is_clip
from cocktail.nodes.grid.engine.check.lpips import distances, missing
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
    clip = Clip(folder, "cpu")
    pictures = clip.pictures({key: path for key, (path, _) in wanted.items()})
    found = clip_scores(clip, pictures, {key: prompt for key, (_, prompt) in wanted.items()})
    assert found.keys() == set(keys) and clip_scores(clip, pictures, {keys[0]: ""}) == {}

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
        Clip(tmp_path, "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "clip", "auto_map": {"x": "code.X"}}')
    with pytest.raises(GridError, match="needs Python code"):
        Clip(tmp_path, "cpu")


def make_network(file: Path) -> Path:
    """AlexNet's features with weights that are drawn."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import alexnet

    torch.manual_seed(2)
    save_file(alexnet(num_classes=1).features.state_dict(prefix="features."), file)
    return file


def lpips_of(features: Any, heads: Any, one: Path, other: Path) -> float:
    """The formula of Zhang et al. 2018, (1), with AlexNet's features after each ReLU."""
    import torch

    def told(path: Path) -> list[Any]:
        with Image.open(path) as picture:
            pixels = torch.tensor(numpy.asarray(picture, numpy.float32)) / 127.5 - 1
        shift, scale = torch.tensor([-0.03, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.45])
        at, found = ((pixels - shift) / scale).permute(2, 0, 1)[None], []
        for layer in features:
            at = layer(at)
            if isinstance(layer, torch.nn.ReLU):
                found.append(at / torch.linalg.vector_norm(at, dim=1, keepdim=True).clamp(1e-9))
        return found

    with torch.no_grad():
        layers = zip(told(one), told(other), heads, strict=True)
        return sum(float(((a - b) ** 2 * head).sum(1).mean()) for a, b, head in layers)


def test_lpips_is_that_of_the_paper_with_the_weights_of_a_local_file(tmp_path: Path):
    import torch
    import torchmetrics
    from safetensors.torch import load_file
    from torchvision.models import alexnet

    network, random = make_network(tmp_path / "alexnet.safetensors"), numpy.random.default_rng(1)
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (64, 80, 3), dtype=numpy.uint8)).save(file)
    pairs = [(files[0], files[1]), (files[1], files[2]), (files[0], files[0])]
    found = distances(network, pairs, "cpu")
    model = alexnet(num_classes=1)
    model.features.load_state_dict(
        {name.removeprefix("features."): tensor for name, tensor in load_file(network).items()}
    )
    there = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"
    told = torch.load(there / "alex.pth", map_location="cpu", weights_only=True)
    heads = [told[f"lin{n}.model.1.weight"] for n in range(5)]
    expected = [lpips_of(model.features.eval(), heads, *pair) for pair in pairs]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert found[2] == 0 and min(found[:2]) > 0

    small = tmp_path / "small.png"
    Image.new("RGB", (16, 16)).save(small)
    with pytest.raises(GridError, match="64 pixels or more, and small.png has 16 x 16"):
        distances(network, [(small, small)], "cpu")


def test_without_the_library_or_the_network_lpips_says_what_is_needed(tmp_path: Path, monkeypatch):
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1, 8)}, tmp_path / "head.safetensors")
    with pytest.raises(GridError, match="no network that LPIPS knows. It needs torchvision's wei"):
        distances(tmp_path / "head.safetensors", [], "cpu")
    save_file({"features.10.weight": torch.zeros(1)}, tmp_path / "part.safetensors")
    with pytest.raises(GridError, match="part.safetensors does not hold torchvision's weights"):
        distances(tmp_path / "part.safetensors", [], "cpu")
    assert missing() == ""
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(GridError, match="python -m pip install torchmetrics"):
        distances(tmp_path / "part.safetensors", [], "cpu")


SIZES = (8, 12, 4, 1)
"""Of a head like LAION's, smaller."""


def make_head(file: Path, numbers: tuple[int, ...] = (0, 2, 4)) -> list[tuple[Any, Any]]:
    """A head of drawn layers with these numbers, pickled as LAION's are."""
    import torch

    torch.manual_seed(3)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(SIZES)]
    state = {}
    for number, layer in zip(numbers, layers, strict=True):
        state |= layer.state_dict(prefix=f"layers.{number}.")
    torch.save(state, file)
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]


def test_an_aesthetic_mark_is_that_of_the_layers_over_the_embedding(store: Store, tmp_path: Path):
    import torch
    from safetensors.torch import save_file

    clip = Clip(make_clip(tmp_path / "tiny-clip"), "cpu")
    keys = [key for key in Ballot(store).field.where][:3]
    pictures = clip.pictures({key: store.cell_path(key) for key in keys})
    layers = make_head(tmp_path / "head.pth")
    found = marks(tmp_path / "head.pth", pictures)
    for key in keys:
        at = pictures[key].numpy().astype(numpy.float64)
        assert numpy.linalg.norm(at) == pytest.approx(1, abs=1e-6)
        for weight, bias in layers:
            at = weight @ at + bias
        assert found[key] == pytest.approx(at[0], abs=1e-5)
    line = {"weight": torch.arange(8.0)[None], "bias": torch.ones(1)}
    save_file(line, tmp_path / "line.safetensors")
    found = marks(tmp_path / "line.safetensors", pictures)
    assert found[keys[0]] == pytest.approx(float(pictures[keys[0]] @ torch.arange(8.0)) + 1)


class Run:
    """What a pickle does when it is trusted."""

    def __reduce__(self) -> tuple:
        return print, ("run",)


def test_what_is_no_aesthetic_head_is_refused_in_words(tmp_path: Path, capsys):
    import torch
    from safetensors.torch import save_file

    file, pictures = tmp_path / "head.pth", {"a": torch.ones(8) / 8**0.5}
    make_head(file, (0, 3, 6))
    with pytest.raises(GridError, match="something that it does not describe is between"):
        marks(file, pictures)
    make_head(file)
    with pytest.raises(GridError, match="of 8 numbers, and those of the CLIP model have 16.*L/14"):
        marks(file, {"a": torch.ones(16)})
    torch.save({"layers.0.weight": Run()}, file)
    with pytest.raises(GridError, match="more than tensors, which could be code"):
        marks(file, pictures)
    assert capsys.readouterr().out == ""
    file.write_bytes(b"no weights")
    with pytest.raises(GridError, match="head.pth"):
        marks(file, pictures)
    other = tmp_path / "other.safetensors"
    for tensors, why in (
        ({"conv.weight": torch.ones(3)}, "it has a tensor 'conv.weight'"),
        ({"weight": torch.ones(1, 8)}, "layer 0 has no weight and bias"),
        ({"weight": torch.ones(2, 8), "bias": torch.ones(2)}, "ends in 2 numbers"),
    ):
        save_file(tensors, other)
        with pytest.raises(GridError, match=f"other.safetensors is not an aesthetic head.*{why}"):
            marks(other, pictures)
    other.write_bytes(b"{")
    with pytest.raises(GridError, match="weights in other.safetensors cannot be read"):
        marks(other, pictures)


def test_other_measures_have_tables_of_their_own(store: Store):
    field = Ballot(store).field
    found = compare(field, 0, store)
    values = [(one.candidate, one.place, one.mean / 255) for one in found.found]
    text = table(field, 0, found, [Measure("Far from {baseline}:", "{:.3f}", values)])
    assert text.startswith(table(field, 0, found))
    assert "Far from model 0:" in text and "| **all** | 0.023 | 0.090 |" in text
