"""Which checkpoint of a run to use."""

from __future__ import annotations

from .errors import TrainerError
from .runs import Run, SavedCheckpoint

RULES = ("lowest validation loss", "last", "epoch")


def pick(run: Run, rule: str, epoch: int = 1) -> SavedCheckpoint:
    """The checkpoint of a finished run by one of RULES. `epoch`, counted from 1, is for the rule
    "epoch" only; of several checkpoints of an epoch it is the last.

    Raises TrainerError when the run is not finished, or has no such checkpoint on disk.
    """
    status = run.state().status
    if status != "finished":
        raise TrainerError(
            f"The run {run.name} is {status}, not finished. Connect it through a Wait for Run node."
        )
    saved = run.checkpoints()
    measured = [checkpoint for checkpoint in saved if checkpoint.validation_loss is not None]
    if rule == "lowest validation loss" and measured:
        return min(measured, key=lambda checkpoint: checkpoint.validation_loss or 0.0)
    if rule == "last" and saved:
        return saved[-1]
    if rule == "epoch":
        for checkpoint in reversed(saved):
            if checkpoint.epoch == epoch:
                return checkpoint
        if saved:
            epochs = ", ".join(str(checkpoint.epoch) for checkpoint in saved)
            raise TrainerError(
                f"The run {run.name} has no checkpoint of epoch {epoch}. It has these: {epochs}."
            )
    raise TrainerError(
        f"The checkpoints of the run {run.name} are no longer in {run.paths.checkpoints}. "
        "Put them back, or train under another name."
    )
