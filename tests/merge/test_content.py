"""Files are what their first bytes say, not the endings of their names."""

from __future__ import annotations

import json
import pickle
import struct
import sys
import types
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.command_line import main
from cocktail.merge.content import ENOUGH
from cocktail.merge.errors import MergeError
from cocktail.merge.pickled import convert, load_tensors
from cocktail.merge.safetensors_file import read_header
from cocktail.merge.text import name_finder, parse

from .conftest import sd15_tensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265146304\n"


@pytest.mark.parametrize("name", ["x.safetensors", "x.sft", "x.ckpt"])
@pytest.mark.parametrize(
    "content, words",
    [
        (POINTER, "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page.*in a browser"),
        (b"\n <html>", "a web page"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "a Zstandard archive. Unpack it"),
        (b"\xfd7zXZ\0" + bytes(99), "an xz archive. Unpack it"),
        (b"model.safetensors" + bytes(240) + b"ustar" + bytes(300), "a tar archive. Unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file .Keras.. Use the .safetensors version"),
        (b"%PDF-1.7\n" + bytes(99), "a PDF. Choose the checkpoint"),
        (b"", "empty"),
        (b'{"error": "not found"}', "a text .JSON."),
        ("\ufeff<html>".encode("utf-16"), "a web page"),
        (b"Access denied. Please log in.\n", "but a text. .*what a website answered"),
        ("Zugriff verweigert – bitte anmelden".encode(), "but a text. "),
    ],
)
def test_what_a_file_is_and_what_to_do_is_said(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    read = load_tensors if name == "x.ckpt" else read_header
    with pytest.raises(MergeError, match=words) as error:
        read(path)
    assert name in str(error.value) and "5789751444030890300" not in str(error.value)


def test_a_pytorch_file_with_the_wrong_ending_is_told_how_to_convert_it(tmp_path):
    torch.save(sd15_tensors(1), tmp_path / "x.safetensors")
    with pytest.raises(MergeError, match="a zip file.*python -m merge prune.*name it .ckpt first"):
        read_header(tmp_path / "x.safetensors")


def test_a_zip_archive_is_a_checkpoint_only_with_pytorchs_pickle(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.ckpt", "w") as archive:
        archive.writestr("a.png", b"x")
    for read in (read_header, load_tensors):
        with pytest.raises(MergeError, match=r"but a zip archive\. Unpack it\."):
            read(tmp_path / "pictures.ckpt")
    torch.save({"a": torch.ones(2)}, tmp_path / "whole.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "whole.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "turned.ckpt", "w") as turned,
    ):
        for name in reversed(whole.namelist()):
            turned.writestr(name, whole.read(name) or b"")
        turned.writestr("whole/data/1", bytes(2 * ENOUGH))
    assert set(load_tensors(tmp_path / "turned.ckpt")) == {"a"}


def test_a_newer_pickle_is_told_without_a_warning_of_pytorchs(tmp_path, recwarn):
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x05" + bytes(300))
    with pytest.raises(MergeError, match="is damaged|is not opened"):
        load_tensors(tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"a": 1}, protocol=5))
    with pytest.raises(MergeError, match="not opened|holds no named tensors|is damaged"):
        load_tensors(tmp_path / "x.ckpt")
    assert not recwarn.list
    (tmp_path / "x.ckpt").rename(tmp_path / "x.safetensors")
    with pytest.raises(MergeError, match="but a pickled PyTorch checkpoint"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("ending", ["ckpt", "pt", "sft"])
def test_a_safetensors_file_of_another_name_is_read(write, tmp_path, ending):
    write("a", sd15_tensors(1)).rename(tmp_path / f"a.{ending}")
    write("b", sd15_tensors(2))
    recipe = (
        parse("0.5 a + 0.5 b", name_finder([f"a.{ending}", "b.safetensors"]))
        if (ending == "sft")
        else parse(f'0.5 "a.{ending}" + 0.5 "b.safetensors"')
    )
    bound = bind_to_files(recipe, tmp_path.joinpath, converted=tmp_path / "converted")
    make_checkpoint(bound, tmp_path / "out.safetensors")
    assert not (tmp_path / "converted").exists()
    assert load_file(tmp_path / "out.safetensors")
    assert main(["prune", str(tmp_path / f"a.{ending}"), str(tmp_path / "p.safetensors")]) == 0


def test_metadata_of_null_is_none(tmp_path):
    header = json.dumps(
        {"__metadata__": None, "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    ).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    assert read_header(path).metadata == {} and load_file(path)


@pytest.mark.parametrize("is_importable", [False, True])
@pytest.mark.parametrize("is_allowed", [False, True])
def test_callbacks_of_known_harmless_classes_do_not_stop_a_ckpt(
    tmp_path, monkeypatch, is_importable, is_allowed
):
    """Whether Lightning is installed or not, and whether ComfyUI has allowed the class as it does
    when it starts: the answer is the same.
    """
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", module.__name__]
    path = tmp_path / "x.ckpt"
    with monkeypatch.context() as lightning:
        for name in names:
            found = module if name == names[-1] else types.ModuleType(name)
            lightning.setitem(sys.modules, name, found)
        torch.save({"state_dict": sd15_tensors(1), "callbacks": {callback: {"best": 1.0}}}, path)
        if not is_importable:
            lightning.undo()
        with torch.serialization.safe_globals([callback] if is_allowed else []):
            before = torch.serialization.get_safe_globals()
            convert(path, tmp_path / "x.safetensors")
            assert set(torch.serialization.get_safe_globals()) == set(before)
    assert load_file(tmp_path / "x.safetensors").keys() == sd15_tensors(1).keys()


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_no_content_is_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("c") / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(MergeError):
        read_header(path)
