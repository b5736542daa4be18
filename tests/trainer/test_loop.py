"""How a training ends when it is interrupted: by a signal, too little memory, or a missing package
or device.
"""

from __future__ import annotations

import importlib.util
import io
import os
import signal

import pytest
import torch

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.journal import Journal
from cocktail.trainer.preparation import check_compiler

from .test_training import exit_status, same, wait_for_step, weights


def test_sigterm_saves_and_ends_the_run_after_its_step(make_tiny_run, fork_training):
    whole, stopped = (
        make_tiny_run("unasked"),
        make_tiny_run("asked", saving={"resume_minutes": 0.0}),
    )
    assert exit_status(fork_training(whole)) == 0
    process = fork_training(stopped)
    wait_for_step(stopped, 2, process)
    os.kill(process.pid, signal.SIGTERM)
    assert exit_status(process) == 0
    assert stopped.state().status == "stopped"
    step = stopped.state().step
    assert exit_status(fork_training(stopped)) == 0, stopped.log_tail()
    starts = [line["step"] for line in stopped.metrics() if line["kind"] == "start"]
    assert starts == [0, step] and step >= 2
    assert same(weights(whole), weights(stopped))


def test_too_little_memory_ends_with_settings_that_would_fit(make_tiny_run, fork_training):
    run = make_tiny_run("large-batch", resolution=512, bucket_step=64, batch_size=6)
    assert exit_status(fork_training(run, room_bytes=1_500_000_000)) == 1
    message = run.state().message
    assert run.state().status == "failed" and message.startswith("Out of memory."), run.log_tail()
    assert "These settings should fit: gradient checkpointing on" in message
    assert run.checkpoints() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "fp16"}, "Choose bf16 or fp32"),
        ({"logging": {"wandb": True}}, "the package wandb is not installed"),
        ({"compute": {"attention": "xformers"}}, "the package xformers is not installed"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_trained(
    make_tiny_run, fork_training, settings, words
):
    if "fp16" in settings.values():
        if torch.accelerator.is_available():
            pytest.skip("fp16 works on this device")
    elif importlib.util.find_spec(words.split()[2]) is not None:
        pytest.skip("the package is installed here")
    run = make_tiny_run("absent", **settings)
    assert exit_status(fork_training(run)) == 1
    assert run.state().status == "failed" and words in run.state().message
    assert not any(line["kind"] == "step" for line in run.metrics())


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrainerError, match=r"needs a C\+\+ compiler"):
        check_compiler(torch.device("cpu"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_run_by_hand_shows_a_bar(make_tiny_run, monkeypatch, by_hand):
    screen = Terminal() if by_hand else io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    journal = Journal(make_tiny_run("bar"))
    journal.note_speed(step=1, steps=9, loss=0.25, seconds=0.1)
    journal.close()
    shown = all(words in screen.getvalue() for words in ("bar:", "1/9", "loss=0.2500"))
    assert shown == by_hand
