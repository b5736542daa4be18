"""The winner of a grid, by votes, by a rule or by hand, and its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from .....trainer.errors import nearest
from ..errors import GridError
from .field import Field

VOTES, LOSS, HAND, LAST = "votes", "lowest validation loss", "by hand", "last"
RULES = (VOTES, LOSS, HAND, LAST)


def by_loss(field: Field, losses: Mapping[str, float]) -> int:
    """The candidate whose checkpoint has the lowest of these validation losses, given by
    checkpoint name. Raises GridError if none has one.
    """
    found = {
        number: losses[one.set["checkpoint"]]
        for number, one in enumerate(field.candidates)
        if one.set.get("checkpoint") in losses
    }
    if not found:
        raise GridError(
            f"No value of the {field.axis} axis is a checkpoint of a run with a validation loss. "
            "Pick the winner by votes or by hand."
        )
    return min(found, key=lambda number: found[number])


def by_hand(field: Field, name: str) -> int:
    """The candidate with this label or checkpoint name. Raises GridError if there is none."""
    wanted = name.strip()
    named = [
        number
        for number, one in enumerate(field.candidates)
        if wanted and wanted in (one.label, *one.label.split(" = "), one.set.get("checkpoint"))
    ]
    if len(named) > 1:
        raise GridError(
            f"The {field.axis} axis has {len(named)} values called {wanted[:100]!r}. Give the name "
            "of the checkpoint instead."
        )
    if named:
        return named[0]
    labels = [one.label for one in field.candidates]
    shown = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
    raise GridError(
        f"The {field.axis} axis has no value {wanted[:100]!r}.{nearest(wanted, labels)} It has "
        f"these: {shown}."
    )


def checkpoint_of(field: Field, number: int) -> str:
    """The checkpoint of a candidate. Raises GridError if the axis does not vary checkpoints."""
    checkpoint = field.candidates[number].set.get("checkpoint")
    if not isinstance(checkpoint, str):
        raise GridError(
            f"The {field.axis} axis has no checkpoints, so {field.candidates[number].label} is "
            "none that a loader could take. Ranking gives the winner's name; a mix becomes a "
            "checkpoint with Recipe from Text and Merge to File."
        )
    return checkpoint
