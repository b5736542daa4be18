"""One setting changed at a time, as one compares experiments: what is equal has equal bits, what
differs shows.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from cocktail.trainer.runs import Run
from cocktail.trainer.settings.everydream.importing import import_everydream

from .conftest import make_tiny_base, remove

SEED = 1
"""With it, dropout 0.04, 0.10 and 0.2 each drop captions that the one before keeps."""


def everydream_clip_skip(number: int) -> int:
    """What EveryDream2's clip skip is in our settings."""
    return import_everydream(json.dumps({"clip_skip": number})).settings.clip_skip


BASELINE = {
    "epochs": 2,
    "seed": SEED,
    "train_text_encoder": True,
    "precision": "fp32",
    "save_every_epochs": 2,
    "saving": {"resume_minutes": 0.0},
    "layers": {"text_encoder_last_layers": 3, "unet_layers": "cross attention"},
}
VARIANTS = {
    "baseline": {"clip_skip": everydream_clip_skip(0)},
    "again": {"clip_skip": everydream_clip_skip(1)},
    "clip skip 2": {"clip_skip": 2},
    "clip skip 3": {"clip_skip": 3},
    "dropout 0.04": {"conditional_dropout": 0.04},
    "dropout 0.10": {"conditional_dropout": 0.10},
    "text encoder off": {"train_text_encoder": False},
    "sliced attention": {"compute": {"attention": "sliced"}},
}


@pytest.fixture(scope="module")
def experiments(tiny_runs, fork_training, tmp_path_factory):
    """The runs of all variants, trained, two at a time."""
    base = make_tiny_base(tmp_path_factory.mktemp("base") / "four layers.safetensors", 4)
    runs = {
        name: tiny_runs(name.replace(" ", "-"), base=base, **BASELINE | changes)
        for name, changes in VARIANTS.items()
    }
    waiting = list(runs.values())
    while waiting:
        pair, waiting = waiting[:2], waiting[2:]
        for run, process in [(run, fork_training(run)) for run in pair]:
            process.join(600)
            assert process.exitcode == 0, run.log_tail()
            shutil.rmtree(run.folder / "resume")
    yield runs
    for run in runs.values():
        remove(run)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].file)


def same(first: Run, second: Run) -> bool:
    one, two = weights(first), weights(second)
    return all(torch.equal(one[name], two[name]) for name in one)


def curve(run: Run) -> list[float]:
    """Losses of all steps and of the validation of every pair at the end."""
    steps = [line["loss"] for line in run.metrics() if line["kind"] == "step"]
    return steps + list(run.validations()[-1]["pairs"].values())


def test_equal_settings_have_equal_bits_and_everydream2s_clip_skips_0_and_1_are_equal(experiments):
    assert same(experiments["baseline"], experiments["again"])
    assert curve(experiments["baseline"]) == curve(experiments["again"])


def test_every_variant_that_is_a_choice_of_training_differs(experiments):
    names = [name for name in VARIANTS if name not in ("again", "sliced attention")]
    curves = {name: tuple(curve(experiments[name])) for name in names}
    assert len(set(curves.values())) == len(names)


def test_attention_backends_agree(experiments):
    assert curve(experiments["sliced attention"]) == pytest.approx(
        curve(experiments["baseline"]), rel=1e-4
    )


def test_only_the_share_of_dropped_captions_follows_the_dropout(experiments):
    """The same draws decide, so that a larger share drops all that a smaller one does."""

    def dropped(run: Run) -> set[int]:
        return {
            line["step"] for line in run.metrics() if line.get("loss_unconditional") is not None
        }

    few, more = (dropped(experiments[f"dropout {share}"]) for share in ("0.04", "0.10"))
    assert few < more < dropped(experiments["baseline"])


def test_without_its_text_encoder_a_run_starts_from_the_same_validation(experiments):
    first, off = experiments["baseline"], experiments["text encoder off"]
    assert off.state().first_validation == pytest.approx(first.state().first_validation, rel=1e-5)
