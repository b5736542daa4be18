"""Captions of any length: the tokens that ComfyUI has for them, and embeddings that do not depend
on the batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from cocktail.trainer.files import sha256_text
from cocktail.trainer.loss import Schedule, pair_losses
from cocktail.trainer.model.networks import build_text_encoder
from cocktail.trainer.model.text import Text, load_tokenizer
from cocktail.trainer.settings.groups import LossSettings

WORDS = [
    f"{colour} {thing}," for colour in ("teal", "ochre") for thing in ("lighthouse", "ox", "q")
]
CAPTIONS = [
    "",
    " ",
    "a cat",
    "cat " * 75,
    "cat " * 76,
    "cat " * 150,
    "cat " * 151,
    "supercalifragilisticexpialidocious " * 30,
    " ".join(WORDS * 20),
    "a (very:1.2) red [fox] \\ in the <snow>, éàü 狐 🦊 " * 9,
    "antidisestablishmentarianism" * 14,
]

COMFYUI_TOKENS = """
import json, sys
import comfy.options
comfy.options.enable_args_parsing()
sys.argv = sys.argv[:1] + ["--cpu"]
captions = json.load(sys.stdin)
from comfy.sd1_clip import SDTokenizer
tokenizer = SDTokenizer()
def tokens(caption):
    caption = caption.replace("(", chr(92) + "(").replace(")", chr(92) + ")")
    return [[token for token, _ in chunk] for chunk in tokenizer.tokenize_with_weights(caption)]
print("TOKENS" + json.dumps([tokens(caption) for caption in captions]))
"""


@pytest.fixture(scope="module")
def text_encoder():
    torch.manual_seed(0)
    return build_text_encoder(1).eval().requires_grad_(False)


@pytest.fixture
def text(tokenizer, text_encoder, tmp_path):
    def make(chunks: int, trained: bool = True) -> Text:
        return Text(load_tokenizer(tokenizer), text_encoder, 1, trained, tmp_path, chunks)

    return make


def test_long_captions_have_comfyuis_tokens(comfyui: Path, text):
    """Brackets are part of a caption, so they stand with a backslash in the prompt that says the
    same.
    """
    answer = subprocess.run(
        [sys.executable, "-c", COMFYUI_TOKENS],
        input=json.dumps(CAPTIONS),
        cwd=comfyui,
        env={**os.environ, "PYTHONPATH": str(comfyui)},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(answer.stdout.partition("TOKENS")[2])
    assert [len(chunks) for chunks in theirs[:7]] == [1, 1, 1, 1, 2, 2, 3]
    for caption, wanted in zip(CAPTIONS, theirs, strict=True):
        assert text(8).tokens(caption) == wanted[:8], caption[:40]
        assert text(2).tokens(caption) == wanted[:2], "what is beyond is cut"


def test_a_short_caption_is_read_as_by_clips_own_tokenizer(text, tokenizer):
    theirs = load_tokenizer(tokenizer)(
        CAPTIONS, padding="max_length", truncation=True, max_length=77
    ).input_ids
    assert [text(1).tokens(caption) for caption in CAPTIONS] == [[ids] for ids in theirs]


def test_captions_of_unequal_length_have_the_loss_they_have_alone(text):
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=768,
    )
    unet.eval().requires_grad_(False)
    captions = ["a cat", "cat " * 100, "ox " * 200]
    latents, noise = torch.randn(2, 3, 4, 8, 8).unbind(0)
    timesteps = torch.tensor([10, 500, 900])
    settings = LossSettings()
    schedule = Schedule(settings, "cpu")

    def losses(places: list[int]) -> torch.Tensor:
        embeddings, mask = text(4).embed([captions[place] for place in places], "cpu")
        given = (latents[places], noise[places], timesteps[places], embeddings)
        return pair_losses(unet, *given, settings, schedule, mask)

    together = losses([0, 1, 2])
    alone = torch.cat([losses([place]) for place in range(3)])
    assert torch.allclose(together, alone, rtol=1e-5)
    embeddings, _ = text(4).embed(captions, "cpu")
    unmasked = (latents, noise, timesteps, embeddings)
    without = pair_losses(unet, *unmasked, settings, schedule)
    assert not torch.allclose(without[:2], alone[:2], rtol=1e-5), "the mask is what makes it so"


def test_cached_embeddings_are_the_encoders_and_short_captions_keep_their_keys(text):
    captions = ["a cat", "cat " * 100]
    frozen = text(2, trained=False)
    frozen.prepare(captions, "cpu", lambda *_: None)
    for one, other in zip(
        frozen.embed(captions, "cpu"), text(2).embed(captions, "cpu"), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)
    one = (77, 768)
    assert all(frozen.cache.holds(sha256_text(words), one) for words in ("a cat", ""))
    short = text(1, trained=False)
    assert not short.cache.holds(sha256_text(captions[1]), one), "one chunk and two are kept apart"


def test_an_embedding_that_was_cut_off_is_made_again(text):
    captions = ["a cat", "cat " * 100]
    frozen = text(2, trained=False)
    told = frozen.missing_bytes(captions)
    frozen.prepare(captions, "cpu", lambda *_: None)
    kept = sorted(frozen.cache.folder.rglob("*.safetensors"))
    before = [file.read_bytes() for file in kept]
    assert told == sum(map(len, before)) and frozen.missing_bytes(captions) == 0
    for file, data in zip(kept, before, strict=True):
        file.write_bytes(data[:-1])
    assert frozen.known(captions) == {} and frozen.missing_bytes(captions) == told
    frozen.prepare(captions, "cpu", lambda *_: None)
    assert [file.read_bytes() for file in kept] == before
