"""Append-only files of lines: what is read from a byte on, and what becomes of lines cut off."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocktail.trainer.files import write_json
from cocktail.trainer.jobs import lines
from cocktail.trainer.jobs.lines import Followed, Lines


@pytest.fixture
def file(tmp_path: Path) -> Lines:
    return Lines(tmp_path / "some.jsonl")


def numbers(read) -> list[int]:
    return [line["n"] for line in read.lines]


def test_a_reader_gets_what_is_new_and_where_to_ask_next(file):
    assert file.read() == file.read(100) and file.read().lines == []
    file.append({"n": 1}, {"n": 2})
    first = file.read()
    assert numbers(first) == [1, 2] and first.next == file.path.stat().st_size
    assert file.read(first.next).lines == [] and file.read(first.next).next == first.next
    file.append({"n": 3})
    assert numbers(file.read(first.next)) == [3]


def test_a_line_that_is_still_being_written_is_left_for_the_next_time(file):
    file.append({"n": 1})
    with file.path.open("ab") as opened:
        opened.write(b'{"n": 2')
    first = file.read()
    assert numbers(first) == [1] and first.damaged == 0
    with file.path.open("ab") as opened:
        opened.write(b"}\n")
    assert numbers(file.read(first.next)) == [2]


def test_a_line_that_was_cut_off_never_swallows_the_one_after_it(file):
    file.append({"n": 1})
    with file.path.open("ab") as opened:
        opened.write(b'{"n": 2')
    before = file.read()
    file.append({"n": 3})
    assert (numbers(file.read()), file.read().damaged) == ([1, 3], 1)
    assert numbers(file.read(before.next)) == [3]


def test_a_file_that_has_another_name_elsewhere_is_not_appended_to_there(file, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b'{"n": 1}\n')
    os.link(precious, file.path)
    follower = Followed(file, ("step",))
    assert follower.lines() == []
    file.append({"n": 2, "kind": "step"})
    file.append({"n": 3, "kind": "step"})
    assert precious.read_bytes() == b'{"n": 1}\n' and numbers(file.read()) == [1, 2, 3]
    assert [line["n"] for line in follower.lines()] == [2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {"precious.txt", "some.jsonl"}


def test_halves_of_characters_do_not_stop_the_work(file):
    """As in what a server says in no UTF-8, or in the name of such a file."""
    file.append({"n": 1, "said": "N\udcf6t \ud800"})
    assert file.read().lines == [{"n": 1, "said": "N?t ?"}]
    write_json(file.path, {"said": "\udcff"})
    assert json.loads(file.path.read_bytes()) == {"said": "?"}


@pytest.mark.parametrize("piece", [7, 64, 1 << 20])
def test_a_line_that_is_longer_than_any_of_ours_is_not_gathered(file, monkeypatch, piece):
    monkeypatch.setattr(lines, "MOST_LINE_BYTES", 100)
    monkeypatch.setattr(lines, "PIECE_BYTES", piece)
    file.append({"n": 1}, {"kind": "x", "n": 2}, {"x": 1, "n": 3})
    assert numbers(file.read()) == [1, 2, 3] and numbers(file.read(kinds=("x",))) == [2]
    assert b"".join(file.texts(0, piece)) == file.path.read_bytes()
    assert numbers(file.read(3)) == [2, 3]
    with file.path.open("ab") as opened:
        opened.write(b"x" * 500)
    for read in (file.read, lambda: list(file.texts(0, piece))):
        with pytest.raises(OSError, match="a line of it is larger"):
            read()


def test_a_file_of_holes_is_refused_unread(file):
    with file.path.open("wb") as opened:
        opened.truncate(1 << 40)
    for read in (file.read, lambda: list(file.texts(0, 1 << 20))):
        with pytest.raises(OSError, match="larger than 2048 MB"):
            read()


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b"null", b"\xff\x00", b"[" * 100_000])
def test_lines_that_make_no_sense_are_passed_over_and_counted(file, line):
    file.append({"n": 1})
    with file.path.open("ab") as opened:
        opened.write(line + b"\n\n")
    file.append({"n": 2})
    assert (numbers(file.read()), file.read().damaged) == ([1, 2], 1)


def test_a_byte_beyond_the_end_is_of_a_file_that_is_gone(file):
    file.append({"n": 1}, {"n": 2})
    after = file.read().next
    file.path.unlink()
    file.append({"n": 3})
    assert numbers(file.read(after)) == [3]


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), max_size=6), st.data())
def test_whatever_byte_is_asked_for_no_line_comes_in_part(tmp_path_factory, texts, data):
    file = Lines(tmp_path_factory.mktemp("lines") / "some.jsonl")
    ends = [0]
    for number, text in enumerate(texts):
        file.append({"n": number, "text": text})
        ends.append(file.path.stat().st_size)
    after = data.draw(st.integers(0, ends[-1]))
    read = file.read(after)
    assert numbers(read) == [n for n, begin in enumerate(ends[:-1]) if begin >= after]
    assert read.next == ends[-1] and read.damaged == 0


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from trainer.jobs.lines import Lines
file = Lines(Path(sys.argv[2]), shared=True)
for number in range(200):
    file.append({"who": sys.argv[3], "n": number})
"""


def test_several_processes_append_at_the_same_time(file, root):
    command = [sys.executable, "-c", WRITER, str(root), str(file.path)]
    writers = [subprocess.Popen([*command, name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    read = file.read()
    assert (len(read.lines), read.damaged) == (600, 0)
    for name in "abc":
        assert [line["n"] for line in read.lines if line["who"] == name] == list(range(200))


def test_a_kind_that_is_no_text_matters_to_nobody(file):
    file.append({"kind": []}, {"kind": {}}, {"kind": "saved"})
    assert Followed(file, ["saved"]).lines() == [{"kind": "saved"}]


def test_lines_that_matter_are_kept_and_read_once(file, monkeypatch):
    followed, asked = Followed(file, ["saved"]), []
    read = Lines.read
    monkeypatch.setattr(Lines, "read", lambda f, *at: asked.append(at[0]) or read(f, *at))
    assert followed.lines() == []
    file.append({"kind": "saved", "n": 1}, {"kind": "step", "n": 2})
    size = file.path.stat().st_size
    assert [line["n"] for line in followed.lines()] == [1] == [n["n"] for n in followed.lines()]
    file.append({"kind": "saved", "n": 3})
    assert [line["n"] for line in followed.lines()] == [1, 3]
    assert asked == [0, size]
    file.path.unlink()
    assert followed.lines() == []
    file.append({"kind": "saved", "n": 4})
    assert [line["n"] for line in followed.lines()] == [4]


def test_numbers_that_json_does_not_have_are_written_as_null(tmp_path):
    file = Lines(tmp_path / "lines.jsonl")
    file.append({"loss": math.nan, "levels": [1.5, -math.inf], "of": {"norm": math.inf}})
    assert file.path.read_text() == '{"loss": null, "levels": [1.5, null], "of": {"norm": null}}\n'
