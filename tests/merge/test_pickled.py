"""Pickled checkpoints: tensors come out bit for bit, code never runs."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.errors import MergeError
from cocktail.merge.hashing import file_sha256
from cocktail.merge.pickled import convert, safetensors_of
from cocktail.merge.recipe import Ingredient, weighted_sum

A, B = Ingredient("a.ckpt"), Ingredient("b.safetensors")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil was here",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_ingredient_mixes_as_its_safetensors_file_would(write, sd15, tmp_path, zipped):
    write("twin", sd15(1))
    write("b", sd15(2))
    torch.save(
        {"state_dict": sd15(1), "epoch": 3, "callbacks": {}},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=zipped,
    )
    converted = tmp_path / "converted"
    for first, out in (("a.ckpt", "one"), ("twin.safetensors", "two")):
        recipe = weighted_sum([(Ingredient(first), 1), (B, 1)])
        bound = bind_to_files(recipe, lambda name: tmp_path / name, converted=converted)
        make_checkpoint(bound, tmp_path / f"{out}.safetensors")
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert [file.stem for file in converted.iterdir()] == [file_sha256(tmp_path / "a.ckpt")]


def test_it_is_converted_once_and_keeps_every_type(tmp_path):
    tensors = {
        "a": torch.randn(5, 3).t(),
        "b": torch.randn(4).bfloat16(),
        "c": torch.arange(3),
        "d": torch.tensor(True),
        "e": torch.randn(4).to(torch.float8_e4m3fn),
    }
    torch.save(tensors, tmp_path / "x.pt")
    made = safetensors_of(tmp_path / "x.pt", tmp_path / "c")
    before = made.stat().st_mtime_ns
    assert safetensors_of(tmp_path / "x.pt", tmp_path / "c") == made
    assert made.stat().st_mtime_ns == before
    for name, tensor in load_file(made).items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor.double(), tensors[name].double())


def test_a_converted_file_that_came_from_elsewhere_is_not_taken(tmp_path):
    """Its name is the hash of a checkpoint that everybody has, its weights are others."""
    checkpoint, folder, cache = tmp_path / "x.ckpt", tmp_path / "c", tmp_path / "hashes.json"
    torch.save({"a": torch.ones(4)}, checkpoint)
    folder.mkdir()
    planted = folder / f"{file_sha256(checkpoint, cache)}.safetensors"
    save_file({"a": torch.zeros(4)}, planted)
    assert safetensors_of(checkpoint, folder, cache) == planted
    assert torch.equal(load_file(planted)["a"], torch.ones(4))
    before = planted.stat()
    assert safetensors_of(checkpoint, folder, cache) == planted
    assert planted.stat().st_ino == before.st_ino, "made once"
    planted.unlink()
    planted.mkdir()
    with pytest.raises(MergeError, match="is in the way"):
        safetensors_of(checkpoint, folder, cache)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"a": torch.ones(2), "b": Evil()},
        tmp_path / "x.ckpt",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(MergeError, match="could be code"):
        convert(tmp_path / "x.ckpt", tmp_path / "x.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["x.ckpt"]


@pytest.mark.parametrize("version", ["2.5.1+cu124", "1.13.1", "2.5.0a0"])
def test_a_pytorch_that_could_run_code_in_a_pickle_opens_none(tmp_path, monkeypatch, version):
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "good.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(MergeError, match="Update PyTorch to 2.6"):
        convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors")


def test_what_is_no_checkpoint_is_told(tmp_path):
    whole = tmp_path / "whole.ckpt"
    torch.save({"a": torch.randn(1000)}, whole)
    cut, none, plain = (tmp_path / name for name in ("cut.ckpt", "none.ckpt", "plain.ckpt"))
    cut.write_bytes(whole.read_bytes()[:2000])
    torch.save([1, 2], none)
    plain.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    vast = tmp_path / "vast.ckpt"
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, vast)
    for path, words in (
        (cut, "is damaged, or "),
        (none, "holds no named tensors"),
        (plain, "is damaged, or |holds no named tensors"),
        (tmp_path / "gone.ckpt", "cannot be read"),
        (vast, "much smaller"),
    ):
        with pytest.raises(MergeError, match=words) as error:
            convert(path, tmp_path / "out.safetensors")
        assert path.name in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_without_a_folder_for_them_pickles_are_refused(write, sd15, tmp_path):
    torch.save(sd15(1), tmp_path / "a.ckpt")
    with pytest.raises(MergeError, match="can run code"):
        bind_to_files(A, lambda name: tmp_path / name)
