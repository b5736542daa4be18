from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from cocktail.merge import hashing
from cocktail.merge.errors import MergeError
from cocktail.merge.hashing import file_hashes, file_sha256, known_files


def test_a_hash_is_the_files_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(os.urandom(5_000_000))
    seen = []
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_sha256(path, progress=lambda done, total: seen.append((done, total))) == expected
    assert seen[-1] == (5_000_000, 5_000_000)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path, cache = tmp_path / "a", tmp_path / "cache" / "hashes.json"
    path.write_bytes(b"one")
    first = file_sha256(path, cache)
    with monkeypatch.context() as patch:
        patch.setattr(hashing, "_hash", lambda *_: pytest.fail("the file was hashed again"))
        assert file_sha256(path, cache) == first
    path.write_bytes(b"two!")
    assert file_sha256(path, cache) == hashlib.sha256(b"two!").hexdigest()


def test_size_time_and_inode_each_tell_that_a_file_has_changed(tmp_path):
    path, cache, other = tmp_path / "a", tmp_path / "hashes.json", tmp_path / "b"
    path.write_bytes(b"one")
    state = path.stat()
    assert file_sha256(path, cache) == hashlib.sha256(b"one").hexdigest()
    with path.open("r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert path.stat().st_ino == state.st_ino
    assert file_sha256(path, cache) == hashlib.sha256(b"two").hexdigest()
    other.write_bytes(b"six")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    other.replace(path)
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (
        3,
        state.st_mtime_ns + 1,
    ) and now.st_ino != state.st_ino
    assert file_sha256(path, cache) == hashlib.sha256(b"six").hexdigest()
    path.write_bytes(b"three")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert file_sha256(path, cache) == hashlib.sha256(b"three").hexdigest()


def test_a_damaged_cache_is_made_again(tmp_path):
    path, cache = tmp_path / "a", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    for damage in ("{", "[]", '{"a": 1}', '{"a": {"identity": 1, "sha256": 2}}'):
        cache.write_text(damage)
        assert file_sha256(path, cache) == hashlib.sha256(b"one").hexdigest()
        assert len(json.loads(cache.read_text())) == 1


def test_threads_share_one_cache(tmp_path):
    cache = tmp_path / "hashes.json"
    paths = [tmp_path / f"{number}" for number in range(16)]
    for path in paths:
        path.write_bytes(path.name.encode())
    threads = [threading.Thread(target=file_sha256, args=(path, cache)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(cache.read_text())) == 16
    paths[0].unlink()
    paths[1].write_bytes(b"new")
    file_sha256(paths[1], cache)
    assert str(paths[0].resolve()) not in json.loads(cache.read_text())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MergeError, match=r"nothing cannot be read"):
        file_sha256(tmp_path / "nothing")


def test_both_hashes_come_from_one_reading_and_are_kept(tmp_path, monkeypatch):
    path, cache = tmp_path / "a.safetensors", tmp_path / "hashes.json"
    data = os.urandom(9_000_000)
    path.write_bytes((4_500_000).to_bytes(8, "little") + data)
    assert file_sha256(path, cache) == hashlib.sha256(path.read_bytes()).hexdigest()
    found = file_hashes(path, cache)
    assert found.tensors_sha256 == hashlib.sha256(data[4_500_000:]).hexdigest()
    assert found.sha256 == file_sha256(path) and found.size_bytes == 9_000_008
    with monkeypatch.context() as patch:
        patch.setattr(hashing, "_hash", lambda *_: pytest.fail("the file was hashed again"))
        assert file_hashes(path, cache) == found
    path.write_bytes(b"short")
    assert file_hashes(path, cache).tensors_sha256 == hashlib.sha256(b"").hexdigest()
    other = tmp_path / "a.ckpt"
    other.write_bytes(data)
    assert file_hashes(other, cache).tensors_sha256 is None


def test_a_file_is_found_by_its_hash_until_it_changes(tmp_path):
    cache, path = tmp_path / "hashes.json", tmp_path / "a"
    path.write_bytes(b"one")
    sha256 = file_sha256(path, cache)
    assert known_files(cache, sha256) == [path.resolve()]
    assert known_files(cache, "0" * 64) == known_files(tmp_path / "none.json", sha256) == []
    path.write_bytes(b"two!")
    assert known_files(cache, sha256) == []
    path.unlink()
    assert known_files(cache, sha256) == []


def test_a_hash_that_cannot_be_kept_is_computed_nevertheless(tmp_path):
    (tmp_path / "wall").write_bytes(b"")
    (tmp_path / "a.bin").write_bytes(b"weights")
    found = file_sha256(tmp_path / "a.bin", tmp_path / "wall" / "hashes.json")
    assert found == hashlib.sha256(b"weights").hexdigest()
