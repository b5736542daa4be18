from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cocktail.merge.errors import MergeError
from cocktail.merge.safetensors_file import lay_out, new_file, read_header

TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(path, header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_a_header_is_read_as_the_safetensors_library_reads_it(write, sd15):
    path = write("a", sd15(1), {"key": "value"})
    header = read_header(path)
    assert header.metadata == {"key": "value"}
    with safe_open(path, "pt") as file:
        assert set(header.tensors) == set(file.keys())
        for name, tensor in header.tensors.items():
            assert tensor.shape == tuple(file.get_tensor(name).shape)
            expected = file.get_tensor(name).reshape(-1).view(torch.uint8).numpy().tobytes()
            assert path.read_bytes()[tensor.offset :][: tensor.size_bytes] == expected


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a": ' * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a": {}, "a": {}}', "the same name twice"),
        ({"a": []}, "does not describe a tensor"),
        ({"a": {**TENSOR, "dtype": "F7"}}, "unknown type"),
        ({"a": {**TENSOR, "dtype": ["F32"]}}, "unknown type"),
        ({"a": {**TENSOR, "shape": [-2]}}, "does not describe a tensor"),
        ({"a": {**TENSOR, "shape": [2.0]}}, "does not describe a tensor"),
        ({"a": {**TENSOR, "shape": [True]}}, "does not describe a tensor"),
        ({"a": {**TENSOR, "shape": [1 << 62] * 32}}, "does not match its shape"),
        ({"a": {**TENSOR, "data_offsets": [8, 0]}}, "does not match its shape"),
        ({"a": {**TENSOR, "data_offsets": [0]}}, "does not describe a tensor"),
        ({"a": {**TENSOR, "data_offsets": [8, 16]}}, "has a hole"),
        ({"a": TENSOR, "b": TENSOR}, "overlaps"),
        ({"a": {**TENSOR, "shape": [4], "data_offsets": [0, 16]}}, "cut off"),
        ({"a": {**TENSOR, "shape": [1], "data_offsets": [0, 4]}}, "something after its tensors"),
        ({"a\ud800": TENSOR}, "does not describe a tensor"),
        ({"__metadata__": {"a": 1}, "a": TENSOR}, "__metadata__"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path, header, message):
    with pytest.raises(MergeError, match=message) as error:
        read_header(file_of(tmp_path / "bad.safetensors", header))
    assert "bad.safetensors" in str(error.value)


def test_a_header_that_claims_too_much_is_refused_unread(tmp_path):
    for length, message in ((1 << 63, "claims"), (2 << 30, "claims"), (500, "file ends after")):
        with pytest.raises(MergeError, match=message):
            read_header(file_of(tmp_path / "long.safetensors", {"a": TENSOR}, length=length))


def test_every_way_to_cut_off_a_file_is_refused(tmp_path):
    whole = file_of(tmp_path / "whole.safetensors", {"a": TENSOR}).read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        with pytest.raises(MergeError, match=r"cut\.safetensors"):
            read_header(cut)


def test_damaged_headers_raise_nothing_but_a_message(tmp_path, write, sd15):
    whole = bytearray(write("a", sd15(1)).read_bytes())
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    damaged = tmp_path / "damaged.safetensors"
    dice = random.Random(1)
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(end)] = dice.choice(b'09-.{}[]",:xF\x00\xff')
        damaged.write_bytes(data)
        try:
            header = read_header(damaged)
        except MergeError:
            continue
        assert all(t.offset + t.size_bytes <= len(data) for t in header.tensors.values())


def test_other_files_are_refused_by_what_they_are(tmp_path):
    with pytest.raises(MergeError, match="No such file"):
        read_header(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02" + bytes(100))
    with pytest.raises(MergeError, match="can run code"):
        read_header(tmp_path / "model.ckpt")
    with pytest.raises(MergeError, match="No such file"):
        read_header(tmp_path / "nothing.safetensors")


def test_tensors_are_laid_out_without_holes_and_aligned():
    shapes = [
        ("odd", "F16", (3,)),
        ("half", "F16", (8,)),
        ("byte", "U8", (5,)),
        ("long", "I64", (1,)),
    ]
    start, places = lay_out(shapes, {"b": "1", "a": "Ω\ud800"})
    assert len(start) % 8 == 0
    assert list(places) == ["long", "half", "odd", "byte"]
    assert [place.offset - len(start) for place in places.values()] == [0, 8, 24, 30]
    assert lay_out(shapes, {"a": "Ω\ud800", "b": "1"})[0] == start


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new.safetensors"
    with pytest.raises(RuntimeError), new_file(path, 10) as temporary:
        assert temporary.stat().st_size == 10
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_file(path, 10) as temporary:
        temporary.write_bytes(b"0123456789")
        assert not path.exists()
    assert path.read_bytes() == b"0123456789"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_a_new_file_can_be_read_as_the_umask_says(tmp_path):
    umask = os.umask(0o027)
    try:
        with new_file(tmp_path / "new.safetensors", 1):
            pass
    finally:
        os.umask(umask)
    assert (tmp_path / "new.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_file_that_exists_is_never_replaced(tmp_path):
    path = tmp_path / "old.safetensors"
    with pytest.raises(MergeError, match="never overwritten"), new_file(path, 3):
        path.write_bytes(b"old")
    assert path.read_bytes() == b"old"
    with pytest.raises(MergeError, match="never overwritten"), new_file(path, 3):
        pytest.fail("the file was there before")
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_was_claimed_in_vain_is_free_again(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("not here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), new_file(tmp_path / "a.safetensors", 3):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path):
    with (
        pytest.raises(MergeError, match="not enough space"),
        new_file(tmp_path / "x.safetensors", 1 << 60),
    ):
        pytest.fail("there is no such disk")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_merge_left_is_removed_by_the_next_one(tmp_path):
    path = tmp_path / "a.safetensors"
    abandoned, recent, other = (
        tmp_path / name
        for name in (".b.safetensors.1-7.part", ".a.safetensors.2-7.part", ".a.safetensors.part")
    )
    for part in (abandoned, recent, other):
        part.write_bytes(b"")
    for part in (abandoned, other):
        os.utime(part, (time.time() - 7200,) * 2)
    with new_file(path, 1) as at_work:
        os.utime(at_work, (time.time() - 7200,) * 2)
        with new_file(tmp_path / "c.safetensors", 1):
            assert at_work.exists(), "its writer lives"
    assert set(tmp_path.iterdir()) == {path, path.with_name("c.safetensors"), recent, other}
