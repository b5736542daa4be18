"""What `python -m merge` does whatever the command."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from cocktail.merge import command_line


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["methods", "--help"])
def test_it_ends_quietly_when_nobody_reads_its_output_any_more(root, command, unbuffered):
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "merge", command],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        os.close(writing)
        os.close(reading)
        _, told = process.communicate(timeout=120)
    assert told == ""
    assert process.returncode == (0 if command == "--help" and unbuffered else 141)


@pytest.mark.parametrize(
    ("system", "error", "is_closed"),
    [
        ("posix", BrokenPipeError(errno.EPIPE, "Broken pipe"), True),
        ("nt", OSError(errno.EINVAL, "Invalid argument"), True),
        ("nt", OSError(errno.EINVAL, "Invalid argument", "a?.safetensors"), False),
        ("posix", OSError(errno.EINVAL, "Invalid argument"), False),
        ("nt", OSError(errno.ENOSPC, "No space left"), False),
    ],
)
def test_a_closed_pipe_is_told_from_other_errors(monkeypatch, system, error, is_closed):
    monkeypatch.setattr(command_line.os, "name", system)
    told = command_line._is_closed_pipe(error)
    monkeypatch.undo()
    assert told is is_closed
