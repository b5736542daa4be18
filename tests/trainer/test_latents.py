"""Latents of real picture files by a real VAE: the same bits whatever else is encoded, kept through
kills.
"""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import cocktail.trainer as trainer
from cocktail.trainer import cache as cache_module
from cocktail.trainer import latents as module
from cocktail.trainer.command_line import main
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.image import open_rgb, reduction
from cocktail.trainer.data.manifest import Dataset
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.latents import Latents, Picture, encode_missing
from cocktail.trainer.model.networks import build_vae, load_vae

MAIN = Path(trainer.__path__[0]) / "__main__.py"
SIZES = [(256, 256), (300, 200), (257, 129), (90, 90)]


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(1)
    return build_vae((32, 32, 32, 32)).eval()


def draw(path: Path, number: int, size: tuple[int, int], **options) -> None:
    """Smooth noise, so that a picture decoded at another size has other pixels."""
    cells = numpy.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=numpy.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    path.with_suffix(".txt").write_text(f"picture {number}", encoding="utf-8")


def load(folder: Path) -> Dataset:
    return load_folder(folder, "few")[0]


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """PNG and JPEG of many shapes, some held sideways by the camera; every third pair can be
    mirrored.
    """
    folder = tmp_path / "pictures"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, size in enumerate(SIZES):
        draw(folder / f"{number} a.png", number, size)
        draw(folder / f"{number} b.jpg", 100 + number, size, quality=95)
        draw(folder / f"{number} c.jpg", 200 + number, size, quality=95, exif=turned)
    found = load(folder)
    pairs = (replace(pair, flip=0.5 * (n % 3 == 0)) for n, pair in enumerate(found.pairs))
    return replace(found, pairs=tuple(pairs))


def table(dataset: Dataset, resolution: int, cache: Path, vae) -> Latents:
    return Latents(dataset, resolution, 16, cache, vae)


def encode(tables: list[Latents], vae, batch_size: int = 4) -> dict[str, str]:
    seen = []
    skipped = encode_missing(tables, vae, "cpu", batch_size, lambda *at: seen.append(at))
    assert seen == sorted(seen) and len({total for _, total in seen}) == 1
    return skipped


def forms(dataset: Dataset) -> list[Picture]:
    return [Picture(pair, side) for pair in dataset.pairs for side in {False, pair.flip > 0}]


def files(cache: Path) -> dict[str, bytes]:
    return {str(f.relative_to(cache)): f.read_bytes() for f in cache.rglob("*") if f.is_file()}


def test_several_resolutions_from_one_decode_have_the_bits_of_each_alone(
    dataset, tmp_path, vae, monkeypatch
):
    opened, read = [], []
    monkeypatch.setattr(module, "open_rgb", lambda *a: opened.append(a) or open_rgb(*a))
    sha256 = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *a: read.append(a) or sha256(*a))
    resolutions = (32, 48, 64)
    together = [
        table(dataset, resolution, tmp_path / "together", vae) for resolution in resolutions
    ]
    read.clear()
    assert encode(together, vae) == {}
    pngs = sum(pair.image.endswith("png") for pair in dataset.pairs)
    assert sum(data.startswith(b"\x89PNG") for data, *_ in opened) == pngs
    sizes = {
        (pair.id, reduction(b"\xff\xd8\xff", (pair.width, pair.height), each.buckets[pair.id]))
        for pair in dataset.pairs
        for each in together
        if pair.image.endswith("jpg")
    }
    assert len(opened) - pngs == len(sizes) < 3 * (len(dataset.pairs) - pngs)
    assert len(read) == len(dataset.pairs)
    for resolution in resolutions:
        alone = table(dataset, resolution, tmp_path / "alone", vae)
        alone.prepare(vae, "cpu", 3, lambda *_: None)
    assert files(tmp_path / "together") == files(tmp_path / "alone")


def test_the_bits_of_a_latent_depend_on_its_picture_alone(dataset, tmp_path, vae):
    all_of_them = table(dataset, 64, tmp_path / "all", vae)
    encode([all_of_them], vae, 8)
    for number, pair in enumerate(dataset.pairs[::4]):
        single = replace(dataset, pairs=(pair,))
        latents = table(single, 64, tmp_path / str(number), vae)
        encode([latents], vae, 1)
        for picture in forms(single):
            assert torch.equal(latents.load([picture]), all_of_them.load([picture]))


def test_a_latent_is_the_mean_of_the_picture_in_its_bucket(dataset, tmp_path, vae):
    latents = table(dataset, 64, tmp_path, vae)
    encode([latents], vae)
    pair = next(pair for pair in dataset.pairs if (pair.width, pair.height) == (256, 256))
    assert latents.buckets[pair.id] == (64, 64) and pair.image.endswith("a.png") and pair.flip
    with Image.open(dataset.path(pair)) as image:
        small = image.resize((64, 64), Image.Resampling.LANCZOS)
    for mirrored in (False, True):
        pixels = numpy.asarray(small, numpy.float32)[:, :: -1 if mirrored else 1] / 127.5 - 1
        values = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].contiguous()
        with torch.no_grad():
            wanted = vae.encode(values).latent_dist.mean * 0.18215
        assert torch.equal(latents.load([Picture(pair, mirrored)]), wanted)


def test_on_an_accelerator_pictures_of_one_size_share_batches(dataset, tmp_path, vae, monkeypatch):
    sizes, encode_batch = [], module._encode
    monkeypatch.setattr(
        module,
        "_encode",
        lambda v, _, p: sizes.append([x.shape for x in p]) or encode_batch(v, "cpu", p),
    )
    latents = [table(dataset, side, tmp_path, vae) for side in (64, 96)]
    assert encode_missing(latents, vae, "accelerator", 3, lambda *_: None) == {}
    assert all(len(set(shapes)) == 1 and len(shapes) <= 3 for shapes in sizes)
    wanted = {each.key(*picture) for each in latents for picture in forms(dataset)}
    assert sum(map(len, sizes)) == len(wanted)
    for shape in {shapes[0] for shapes in sizes}:
        assert sum(len(shapes) < 3 for shapes in sizes if shapes[0] == shape) <= 1


def test_pictures_that_fail_are_skipped_and_reported_and_the_others_are_encoded(
    dataset, tmp_path, vae
):
    cut, changed, gone = dataset.pairs[0], dataset.pairs[4], dataset.pairs[7]
    again = replace(cut, id="again", caption="another caption of the same picture")
    dataset = replace(dataset, pairs=(*dataset.pairs, again))
    data = dataset.path(cut).read_bytes()
    dataset.path(cut).write_bytes(data[: len(data) // 2])
    dataset.path(changed).write_bytes(dataset.path(dataset.pairs[1]).read_bytes())
    dataset.path(gone).unlink()
    latents = table(dataset, 64, tmp_path / "cache", vae)
    odd = "it has changed since the dataset was made; load the pairs again"
    assert encode([latents], vae) == {
        cut.id: f"{cut.image}: {odd}",
        "again": f"{cut.image}: {odd}",
        changed.id: f"{changed.image}: {odd}",
        gone.id: f"{gone.image}: it cannot be read: No such file or directory",
    }
    bad = {cut.id, changed.id, gone.id, "again"}
    good = [picture for picture in forms(dataset) if picture.pair.id not in bad]
    assert len({latents.key(*picture) for picture in good}) == len(files(tmp_path / "cache"))
    dataset.path(cut).write_bytes(data)
    assert encode([latents], vae).keys() == {changed.id, gone.id}


def test_a_picture_that_does_not_decode_is_skipped_with_its_reason(dataset, tmp_path, vae):
    pair = dataset.pairs[0]
    half = dataset.path(pair).read_bytes()
    half = half[: len(half) // 2]
    dataset.path(pair).write_bytes(half)
    torn = replace(pair, image_hash=hashlib.sha256(half).hexdigest())
    latents = table(replace(dataset, pairs=(torn, *dataset.pairs[1:])), 64, tmp_path / "cache", vae)
    words = f"{pair.image}: it is cut off: the file ends before the picture does"
    assert encode([latents], vae) == {torn.id: words}


def test_what_is_there_is_not_encoded_again_and_needs_no_picture(
    dataset, tmp_path, vae, monkeypatch
):
    latents = table(dataset, 64, tmp_path / "cache", vae)
    encode([latents], vae)
    before = files(tmp_path / "cache")
    lost = sorted((tmp_path / "cache").rglob("*.safetensors"))[:3]
    for file in lost:
        file.unlink()
    encoded, encode_batch = [], module._encode
    monkeypatch.setattr(module, "_encode", lambda *a: encoded.append(a) or encode_batch(*a))
    encode([latents], vae)
    assert files(tmp_path / "cache") == before and len(encoded) == 3
    for pair in dataset.pairs:
        dataset.path(pair).unlink()
    assert encode([latents], vae) == {} and len(encoded) == 3


@pytest.mark.parametrize("left", [0, 7, 0.5, -1])
def test_a_latent_that_was_cut_off_is_made_again(dataset, tmp_path, vae, left):
    latents = table(dataset, 64, tmp_path / "cache", vae)
    assert latents.missing_bytes() > 0
    encode([latents], vae)
    before = files(tmp_path / "cache")
    file = sorted((tmp_path / "cache").rglob("*.safetensors"))[1]
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * left) if isinstance(left, float) else left])
    assert latents.missing_bytes() == len(data)
    encode([latents], vae)
    assert files(tmp_path / "cache") == before and latents.missing_bytes() == 0


def test_what_the_cache_will_grow_by_is_known_before(dataset, tmp_path, vae):
    latents = table(dataset, 64, tmp_path / "cache", vae)
    told = latents.missing_bytes()
    encode([latents], vae)
    assert told == sum(len(data) for data in files(tmp_path / "cache").values())


def test_a_latent_that_is_damaged_under_way_is_named_and_made_again_next_time(
    dataset, tmp_path, vae
):
    latents = table(dataset, 64, tmp_path / "cache", vae)
    encode([latents], vae)
    picture = forms(dataset)[0]
    (file,) = (tmp_path / "cache").rglob(f"{latents.key(*picture)}.safetensors")
    before = file.read_bytes()
    file.write_bytes(bytes(len(before)))
    with pytest.raises(TrainerError, match="Resume the run: it is made again"):
        latents.load([picture])
    encode([latents], vae)
    assert file.read_bytes() == before


def test_only_a_few_pictures_wait_for_the_vae(tmp_path, vae, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(24):
        draw(folder / f"{number}.png", number, (32, 32))
    dataset = load(folder)
    lock, decoded, encoded, most = threading.Lock(), [], [], []
    encode_batch = module._encode

    def count_decoded(*arguments):
        with lock:
            decoded.append(1)
            most.append(len(decoded) - len(encoded))
        return open_rgb(*arguments)

    def count_encoded(*arguments):
        with lock:
            encoded.append(1)
        return encode_batch(*arguments)

    monkeypatch.setattr(module, "open_rgb", count_decoded)
    monkeypatch.setattr(module, "_encode", count_encoded)
    encode([table(dataset, 32, tmp_path / "a", vae)], vae)
    assert len(decoded) == 24 and max(most) <= module.AHEAD + 1
    for values in (decoded, encoded, most):
        values.clear()
    monkeypatch.setattr(module, "PIXELS_AHEAD", 32 * 32 - 1)
    encode([table(dataset, 32, tmp_path / "b", vae)], vae)
    assert len(decoded) == 24 and max(most) <= 2


def command(dataset: Path, base: Path, cache: Path, *resolutions: int) -> list[str]:
    wanted = [word for side in resolutions for word in ("--resolution", str(side))]
    return [
        *(sys.executable, str(MAIN), "latents", str(base), str(dataset), "--cache", str(cache)),
        *("--bucket-step", "16", *wanted),
    ]


def test_the_command_is_killed_and_goes_on_and_a_run_finds_everything_warm(tmp_path, miniatures):
    folder, base = tmp_path / "pictures", miniatures / "miniature_base.safetensors"
    cache = tmp_path / "cache"
    folder.mkdir()
    for number in range(12):
        draw(folder / f"{number}.png", number, (200 + number, 200))
    dataset = load(folder)
    dataset.save(tmp_path / "dataset.parquet")
    arguments = command(tmp_path / "dataset.parquet", base, cache, 64, 80)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(cache.rglob("*.safetensors"))) < 8:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    there = {file: file.stat().st_mtime_ns for file in cache.rglob("*.safetensors")}
    assert len(there) < 24
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "24.0/24.0" in done.stderr
    assert all(file.stat().st_mtime_ns == written for file, written in there.items())
    vae = load_vae(base)
    for pair in dataset.pairs:
        dataset.path(pair).unlink()
    for side in (64, 80):
        latents = table(dataset, side, cache, vae)
        assert latents.prepare(None, "cpu", 4, lambda *_: None) == {}
        assert latents.load(forms(dataset)[:1]).shape == (1, 4, side // 8, side // 8)


def test_a_resolution_that_no_run_could_have_is_refused(tmp_path):
    for side, words in ((72, b"multiple of bucket_step, 16"), (8, b"between 64 and 2048")):
        done = subprocess.run(
            command(tmp_path / "d.parquet", tmp_path / "b.safetensors", tmp_path, side),
            capture_output=True,
        )
        assert done.returncode == 1 and words in done.stderr


def test_latents_for_which_the_disk_has_no_room_end_in_words(
    few_shapes, tiny_base, tmp_path, monkeypatch, capsys
):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    few_shapes.save(tmp_path / "dataset.parquet")
    monkeypatch.setattr(cache_module, "write_bytes", full)
    given = [str(tiny_base), str(tmp_path / "dataset.parquet"), "--cache", str(tmp_path / "cache")]
    assert main(["latents", *given, "--resolution", "64"]) == 1
    said = capsys.readouterr().err
    assert f"error: The disk of {tmp_path / 'cache'} is full. Make room and start" in said
