"""Two processes under `accelerate launch` train the same effective batch as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cocktail.trainer.jobs.device import slow_precision

from ..comfy import free_port
from .test_training import exit_status


def launch_two(run, root: Path) -> None:
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--multi_gpu", "--num_processes", 2),
        *("--num_machines", 1),
        *("--mixed_precision", "no"),
        *("--dynamo_backend", "no"),
        *("--main_process_port", free_port()),
        *("-m", "trainer", "run", run.folder),
    ]
    with (run.folder / "log.txt").open("ab") as log:
        status = subprocess.run(
            [str(part) for part in command],
            cwd=root,
            stdout=log,
            stderr=log,
            timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).returncode
    assert status == 0, run.log_tail(60)


def test_two_processes_give_the_loss_curve_of_one(make_tiny_run, fork_training, root):
    settings = {
        "precision": "fp32",
        "batch_size": 3,
        "data": {"accumulate": 2},
        "train_text_encoder": True,
        "layers": {"freeze_embeddings": True},
        "saving": {"resume_minutes": 0.0},
    }
    one, two = make_tiny_run("one", **settings), make_tiny_run("two", **settings)
    assert exit_status(fork_training(one)) == 0, one.log_tail()
    launch_two(two, root)
    assert [run.metrics()[0]["processes"] for run in (one, two)] == [1, 2]
    losses = [
        [(line["step"], line["loss"]) for line in run.metrics() if line["kind"] == "step"]
        for run in (one, two)
    ]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    for (_, first), (_, second) in zip(*losses, strict=True):
        assert second == pytest.approx(first, rel=1e-4)
    assert two.state().last_validation == pytest.approx(one.state().last_validation, rel=1e-4)
    assert len(two.checkpoints()) == len(one.checkpoints())


@pytest.mark.parametrize("known", [True, False])
def test_bf16_is_warned_of_where_the_processor_has_no_instructions_for_it(monkeypatch, known):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: known)
    said = slow_precision("bf16", "cpu")
    assert ("Set precision to fp32" in said) == (not known)
    assert slow_precision("fp32", "cpu") == slow_precision("bf16", "cuda:0") == ""
