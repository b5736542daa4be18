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
    # From Python 3.11 on argparse itself passes over a help that cannot be written.
    is_passed_over = command == "--help" and unbuffered and sys.version_info >= (3, 11)
    assert process.returncode == (0 if is_passed_over else 141)


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


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["run", "a", "out.safetensors"], "models"),
        (["remake", "a.safetensors", "out.safetensors"], "models"),
        (["card", "a.safetensors", "--out", "cards"], "models"),
        (["verify", "card"], "runs"),
        (["verify", "card"], "grids"),
    ],
)
def test_of_two_folders_none_is_taken_silently(capsys, command, option):
    with pytest.raises(SystemExit) as ended:
        command_line.main([*command, f"--{option}", "one", f"--{option}=two"])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"argument --{option}: it takes one folder, not two, one and two" in told
    assert ("give one that both are in" in told) == (option == "models")


def test_a_checkpoint_that_is_not_there_is_told_with_the_folder(tmp_path, capsys):
    models = tmp_path / "models"
    (models / "below").mkdir(parents=True)
    (models / "below" / "vodka.safetensors").write_bytes(b"")
    command = ["run", "votka", str(tmp_path / "out.safetensors"), "--models", str(models)]
    assert command_line.main(command) == 1
    expected = f"There is no checkpoint 'votka' in the folder {models}. Did you mean vodka?"
    assert expected in capsys.readouterr().err
