"""Masked training: which files are masks, what they are in latents, and how the loss heeds them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.folder.mask_names import find_masks
from cocktail.trainer.data.image import fit, open_rgb
from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.data.split import add_validation_set, split
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.journal import Journal
from cocktail.trainer.latents import Form, Latents, Picture, jittered
from cocktail.trainer.loss import Schedule, pair_losses
from cocktail.trainer.masks import Masks
from cocktail.trainer.model.networks import build_vae, load_model
from cocktail.trainer.noise import add_noise
from cocktail.trainer.preparation import prepare
from cocktail.trainer.runs import run_identity, trained_fingerprint
from cocktail.trainer.settings.groups import LossSettings
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.step import make_batches, take_step
from cocktail.trainer.workers import Workers

MASKED = {"loss": {"mask_outside": 0.25}}


def test_masks_are_known_by_their_names():
    masks = find_masks(
        [
            *("a.jpg", "a-masklabel.png", "masks/a.png"),
            *("cats/b.png", "cats/Mask/b.webp", "cats/mask/alone.png"),
            *("gone-masklabel.png", "mask/carnival.png", "c.png", "c.jpg", "c-masklabel.png"),
            "c-masklabel.jpg",
        ]
    )
    assert masks.of == {
        "a": "a-masklabel.png",
        "cats/b": "cats/Mask/b.webp",
        "c": "c-masklabel.png",
    }
    assert set(masks.alone) == {"masks/a.png", "gone-masklabel.png", "c-masklabel.jpg"}
    assert masks.mask("c.jpg") == masks.mask("c.png") == "c-masklabel.png"
    assert masks.mask("cats/mask/alone.png") == ""


def test_a_picture_with_a_caption_is_a_pair_unless_it_is_the_mask_of_another():
    masks = find_masks(
        ["a.jpg", "masks/a.png", "masks/b.png", "masks/c.png", "d-masklabel.png"],
        captioned={"masks/a", "masks/b", "d-masklabel"},
    )
    assert masks.of == {"a": "masks/a.png"}
    assert set(masks.alone) == {"masks/c.png", "d-masklabel.png"}
    assert "masks/b.png" not in masks.files


@pytest.mark.parametrize(
    "name",
    [
        "a_mask.png",
        "a-mask.png",
        "a.mask.png",
        "A_MASK.png",
        "a-condlabel.png",
        "conditioning/a.png",
    ],
)
def test_what_belongs_to_a_picture_under_another_name_is_left_out_and_told(tmp_path, name):
    stem = "A" if name.startswith("A") else "a"
    for file in (f"{stem}.png", name):
        draw(tmp_path / file, (64, 64), 1)
    (tmp_path / f"{stem}.txt").write_text("a cat")
    dataset, report = load_folder(tmp_path, "pictures")
    assert [(pair.image, pair.mask) for pair in dataset.pairs] == [(f"{stem}.png", "")]
    assert f"by their names, left out: {name} (a mask is used when" in str(report)
    assert report.found == 1


def test_without_its_picture_or_with_a_caption_it_is_a_pair(tmp_path):
    for number, file in enumerate(("lion_mask.png", "a.png", "a_mask.png", "masks/c.png")):
        draw(tmp_path / file, (64, 64), number)
    for stem in ("a", "a_mask"):
        (tmp_path / f"{stem}.txt").write_text(f"caption {stem}")
    dataset, report = load_folder(tmp_path, "pictures")
    assert {pair.image: pair.caption for pair in dataset.pairs} == {
        "a.png": "caption a",
        "a_mask.png": "caption a_mask",
        "lion_mask.png": "lion",
        "masks/c.png": "c",
    }
    assert "not there, pairs all the same: lion_mask.png, masks/c.png" in str(report)
    assert "left out" not in str(report)


def test_what_no_picture_is_called_like_in_a_folder_of_masks_is_left_out(folder):
    draw(folder / "mask" / "gone.png", (64, 64), 12, "L")
    dataset, report = load_folder(folder, "pictures")
    assert [pair.image for pair in dataset.pairs] == ["0.png", "1.png", "2.png"]
    assert "masks that no picture has, left out: mask/gone.png" in str(report)


def draw(file: Path, size: tuple[int, int], seed: int, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    pixels = numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures with a caption each; two of them have a mask."""
    found = tmp_path / "pictures"
    for number, size in enumerate([(64, 64), (96, 64), (64, 64)]):
        draw(found / f"{number}.png", size, number)
        (found / f"{number}.txt").write_text(f"picture {number}")
    draw(found / "0-masklabel.png", (64, 64), 10, "L")
    draw(found / "mask" / "1.png", (48, 32), 11, "L")
    return found


def test_masks_are_no_pairs_go_with_their_pictures_and_are_told(folder, tmp_path):
    draw(folder / "gone-masklabel.png", (8, 8), 12, "L")
    dataset, report = load_folder(folder, "pictures")
    assert [(pair.image, pair.mask) for pair in dataset.pairs] == [
        ("0.png", "0-masklabel.png"),
        ("1.png", "mask/1.png"),
        ("2.png", ""),
    ]
    assert "masks of pictures, no pairs of their own: 2" in str(report)
    assert "no picture has, left out: gone-masklabel.png" in str(report)
    assert report.found == 3 and not report.other_files
    dataset.save(tmp_path / "saved.parquet")
    assert Dataset.load(tmp_path / "saved.parquet") == dataset


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: draw(file, (64, 32), 1, "L"), "its mask has other proportions"),
        (lambda file: file.write_bytes(b"no picture"), "its mask cannot be read"),
    ],
)
def test_a_mask_that_cannot_be_used_is_a_problem_of_its_picture(folder, spoil, words):
    spoil(folder / "0-masklabel.png")
    with pytest.raises(TrainerError, match=rf"0\.png: {words} \(0-masklabel\.png"):
        load_folder(folder, "pictures")
    dataset, _ = load_folder(folder, "pictures", on_problem="skip")
    assert [pair.image for pair in dataset.pairs] == ["1.png", "2.png"]


def test_a_picture_of_other_proportions_in_a_folder_of_masks_is_a_pair(folder):
    draw(folder / "mask" / "1.png", (32, 48), 11)
    (folder / "mask" / "1.txt").write_text("a theatre mask")
    draw(folder / "masks" / "1.png", (48, 32), 12, "L")
    dataset, report = load_folder(folder, "pictures")
    assert [(pair.image, pair.caption, pair.mask) for pair in dataset.pairs] == [
        ("0.png", "picture 0", "0-masklabel.png"),
        ("1.png", "picture 1", "masks/1.png"),
        ("2.png", "picture 2", ""),
        ("mask/1.png", "a theatre mask", ""),
    ]
    assert report.found == 4 and not report.other_files
    assert "not those of the picture called like them: mask/1.png" in str(report)


def test_masks_count_for_the_fingerprint_and_without_them_it_is_as_ever(folder):
    masked, _ = load_folder(folder, "pictures")
    draw(folder / "0-masklabel.png", (64, 64), 20, "L")
    other, _ = load_folder(folder, "pictures")
    (folder / "0-masklabel.png").unlink()
    shutil.rmtree(folder / "mask")
    plain, _ = load_folder(folder, "pictures")
    assert len({dataset.fingerprint for dataset in (masked, other, plain)}) == 3
    assert all(len(pair.content()) == 4 for pair in plain.pairs)


def test_masks_count_for_a_run_only_where_they_change_a_weight(folder):
    dataset, _ = load_folder(folder, "pictures")
    first, second, third = dataset.pairs
    held_back = replace(second, split="validation")

    def seen(outside, *pairs):
        settings = RunSettings.from_json({"loss": {"mask_outside": outside}})
        return trained_fingerprint(replace(dataset, pairs=pairs), settings)

    unmasked = [replace(pair, mask="", mask_hash="") for pair in (first, held_back)]
    other = replace(first, mask_hash="other")
    plain = replace(dataset, pairs=(unmasked[0], unmasked[1], third))
    for outside in (0.5, 1.0):
        assert seen(outside, *plain.pairs) == plain.fingerprint
        assert seen(outside, first, held_back) == seen(outside, first, unmasked[1])
    assert seen(0.5, first, held_back) != seen(0.5, other, held_back)
    assert seen(0.5, first, held_back) != seen(0.5, unmasked[0], held_back)
    assert seen(1.0, first, held_back) == seen(1.0, *unmasked) == seen(1.0, other, held_back)


def test_a_validation_set_finds_its_masks_in_its_own_folder(folder, tmp_path):
    draw(tmp_path / "other" / "9.png", (64, 64), 9)
    (tmp_path / "other" / "9.txt").write_text("nine")
    dataset = add_validation_set(
        load_folder(tmp_path / "other", "other")[0], load_folder(folder, "pictures")[0]
    )
    places = [dataset.mask_path(pair) for pair in dataset.validation if pair.mask]
    assert [place.is_file() for place in places] == [True, True]


def test_the_default_leaves_identities_as_they_were():
    assert "mask_outside" not in json.dumps(RunSettings().identity())
    settings = RunSettings.from_json(MASKED)
    assert run_identity("a", "b", settings) != run_identity("a", "b", RunSettings())
    assert settings.identity()["loss"] == {"mask_outside": 0.25}
    with pytest.raises(TrainerError, match=r"loss.mask_outside is 1.5"):
        RunSettings.from_json({"loss": {"mask_outside": 1.5}})


def test_a_masked_run_without_masks_is_refused(make_tiny_run):
    with pytest.raises(TrainerError, match="no pair to train on has a mask"):
        make_tiny_run("maskless", **MASKED)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(1)
    return build_vae((32, 32, 32, 32)).eval()


def in_blocks(pixels: numpy.ndarray) -> numpy.ndarray:
    """The mean of every 8 x 8 pixels, one by one."""
    high, wide = pixels.shape[0] // 8, pixels.shape[1] // 8
    return numpy.array(
        [
            [pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean() for x in range(wide)]
            for y in range(high)
        ]
    )


def test_what_a_place_counts_is_the_mean_of_its_pixels_mirrored_with_the_picture(
    folder, tmp_path, vae
):
    dataset, _ = load_folder(folder, "pictures")
    masks = Masks(dataset, Latents(dataset, 64, 32, tmp_path, vae), 0.25, tmp_path / "cache")
    told = masks.missing_bytes()
    assert masks.prepare(lambda *_: None) == {}
    written = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(written) == 2 and told == sum(file.stat().st_size for file in written)
    with Image.open(folder / "0-masklabel.png") as image:
        mask = numpy.asarray(image, numpy.float64) / 255
    wanted = 0.25 + 0.75 * in_blocks(mask)
    first, without = dataset.pairs[0], dataset.pairs[2]
    found = masks.load([Picture(first), Picture(first, mirrored=True), Picture(without)])
    assert found.shape == (3, 1, 8, 8) and found.dtype == torch.float32
    assert numpy.allclose(found[0, 0], wanted, atol=1e-6)
    assert numpy.allclose(found[1, 0], wanted[:, ::-1], atol=1e-6)
    assert (found[2] == 1).all()
    file = sorted(written)[0]
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    masks.prepare(lambda *_: None)
    assert file.read_bytes() == data, "a mask that was cut off is made again"


def test_a_mask_is_cropped_with_its_picture(tmp_path, vae):
    draw(tmp_path / "a.png", (200, 150), 1, "L")
    shutil.copyfile(tmp_path / "a.png", tmp_path / "a-masklabel.png")
    dataset, _ = load_folder(tmp_path, "pictures")
    (pair,) = dataset.pairs
    latents = Latents(dataset, 64, 32, tmp_path / "cache", vae, variants=3, jitter=0.2)
    masks = Masks(dataset, latents, 0.0, tmp_path / "cache")
    masks.prepare(lambda *_: None)
    seen = set()
    for variant in range(3):
        bucket = latents.buckets[pair.id]
        picture = jittered(open_rgb(tmp_path / "a.png"), Form(bucket, False, variant, 0.2), pair)
        wanted = in_blocks(numpy.asarray(fit(picture, *bucket), numpy.float64)[:, :, 0] / 255)
        found = masks.load([Picture(pair, False, variant)])[0, 0]
        assert numpy.allclose(found, wanted, atol=1e-6)
        seen.add(found.numpy().tobytes())
    assert len(seen) == 3


def test_a_mask_that_changed_or_went_is_skipped_with_its_pair(folder, tmp_path, vae):
    dataset, _ = load_folder(folder, "pictures")
    draw(folder / "0-masklabel.png", (64, 64), 99, "L")
    (folder / "mask" / "1.png").unlink()
    masks = Masks(dataset, Latents(dataset, 64, 32, tmp_path, vae), 0.0, tmp_path / "cache")
    skipped = masks.prepare(lambda *_: None)
    assert skipped == {
        dataset.pairs[0].id: "0-masklabel.png, the mask of 0.png: it has changed since the dataset "
        "was made; load the pairs again",
        dataset.pairs[1].id: "mask/1.png, the mask of 1.png: it cannot be read: "
        "No such file or directory",
    }


def test_a_mask_of_several_pictures_is_made_from_any_of_its_files(folder, tmp_path, vae):
    for file in ("2-masklabel.png", "mask/1.png"):
        shutil.copyfile(folder / "0-masklabel.png", folder / file)
    draw(folder / "1.png", (128, 128), 1)  # the same mask, but another key
    dataset, _ = load_folder(folder, "pictures")
    masks = Masks(dataset, Latents(dataset, 64, 32, tmp_path, vae), 0.0, tmp_path / "cache")
    (folder / "2-masklabel.png").unlink()
    assert masks.prepare(lambda *_: None) == {}
    shutil.rmtree(tmp_path / "cache")
    (folder / "0-masklabel.png").unlink()
    skipped = masks.prepare(lambda *_: None)
    assert skipped.keys() == {dataset.pairs[0].id, dataset.pairs[2].id}
    assert skipped[dataset.pairs[2].id].startswith("2-masklabel.png, the mask of 2.png: ")


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_the_loss_is_the_weighed_mean_over_all_places(kind):
    torch.manual_seed(3)
    latents, noise, text = torch.randn(2, 4, 4, 6), torch.randn(2, 4, 4, 6), torch.zeros(2, 77, 768)
    places, timesteps = torch.rand(2, 1, 4, 6), torch.tensor([10, 900])
    settings = LossSettings(kind=kind)
    schedule = Schedule(settings, "cpu")

    def unet(noisy, timesteps, **_):
        return SimpleNamespace(sample=0.5 * noisy)

    found = pair_losses(
        unet, latents, noise, timesteps, text, settings, schedule, places=places
    ).numpy()
    noisy = add_noise(latents, noise, timesteps, schedule.alphas).numpy()
    size = numpy.abs(0.5 * noisy - noise.numpy())
    error = size**2 if kind == "mse" else numpy.where(size < 1, size**2 / 2, size - 0.5)
    for number in range(2):
        total = 0.0
        for channel in range(4):
            for y in range(4):
                for x in range(6):
                    total += places[number, 0, y, x].item() * error[number, channel, y, x]
        assert found[number] == pytest.approx(total / (4 * 4 * 6), rel=1e-5)


def masked(few_shapes: Dataset, folder: Path, grey: int) -> Dataset:
    """The pairs with a mask of one grey each."""
    shutil.copytree(few_shapes.root, folder)
    for pair in few_shapes.pairs:
        mask = folder / f"{Path(pair.image).stem}-masklabel.png"
        Image.new("L", (pair.width, pair.height), grey).save(mask)
    dataset = split(load_folder(folder, "shapes")[0], 0.25, 1)
    assert all(pair.mask for pair in dataset.pairs)
    return replace(dataset, pairs=tuple(replace(pair, flip=0.5) for pair in dataset.pairs))


@pytest.fixture
def first_step(make_tiny_run, alone):
    """Takes the first step of a run; returns its loss, and the weights that learn."""

    def take(name: str, **settings):
        run = make_tiny_run(name, weight_decay=0.0, **settings)
        training = prepare(run, Journal(run, silent=True), Workers(run.settings))
        result = take_step(training, make_batches(training, training.plan(0)[0], 0), 0)
        return result.loss, {n: p.detach() for n, p in training.trained["unet"].items()}

    return take


def test_white_masks_change_no_bit_and_black_ones_leave_nothing_to_learn(
    first_step, few_shapes, tiny_base, tmp_path
):
    only = {"loss": {"mask_outside": 0.0}}
    white = masked(few_shapes, tmp_path / "white", 255)
    black = masked(few_shapes, tmp_path / "black", 0)
    grey = masked(few_shapes, tmp_path / "grey", 51)
    loss, learned = first_step("plain")
    white_loss, from_white = first_step("white", dataset=white, **only)
    black_loss, from_black = first_step("black", dataset=black, **only)
    grey_loss, _ = first_step("grey", dataset=grey, loss={"mask_outside": 0.5})
    unet = dict(load_model(tiny_base).unet.named_parameters())
    assert any(not torch.equal(unet[name], weight) for name, weight in learned.items())
    assert white_loss == loss > 0
    assert all(torch.equal(from_white[name], weight) for name, weight in learned.items())
    assert black_loss == 0
    assert all(torch.equal(from_black[name], unet[name]) for name in learned)
    assert grey_loss == pytest.approx((0.5 + 0.5 * 51 / 255) * loss, rel=1e-5)
