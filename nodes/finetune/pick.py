"""Choosing a checkpoint: by rule from a run, or by hand."""

from __future__ import annotations

from comfy_api.latest import io

from ...trainer.pick import RULES, pick
from ...trainer.runs import Run
from .. import types
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema

CATEGORY = "cocktail/select"


class CocktailPickCheckpoint(io.ComfyNode):
    """A checkpoint of a run, by rule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailPickCheckpoint",
            display_name="Pick Checkpoint",
            category=CATEGORY,
            description="Picks one checkpoint of a finished run: the one with the lowest "
            "validation loss, the last one, or the last one of an epoch.",
            search_aliases=["best checkpoint", "best epoch", "select checkpoint", "lowest loss"],
            inputs=[
                types.Run.Input("run", tooltip="A finished run, from Wait for Run."),
                opt(
                    io.Combo.Input,
                    "rule",
                    options=list(RULES),
                    default=RULES[0],
                    tooltip="Which checkpoint: the one with the lowest validation loss, the "
                    "last one, or the last one of the epoch below.",
                ),
                io.Int.Input(
                    "epoch",
                    default=1,
                    min=1,
                    max=10_000,
                    tooltip="The epoch, counted from 1. Only the rule 'epoch' uses it, and that "
                    "epoch must have been saved.",
                ),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "checkpoint",
                    display_name="checkpoint",
                    tooltip="The checkpoint's name, for any checkpoint input, including Load "
                    "Checkpoint's.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, run: Run, rule: str, epoch: int) -> io.NodeOutput:
        saved = pick(run, rule, epoch)
        checkpoint = names.checkpoint_name(saved.file)
        text = f"{run.name}, epoch {saved.epoch}"
        if saved.validation_loss is not None:
            text += f", validation loss {saved.validation_loss:.4f}"
        show_text(text)
        result = {
            "checkpoint": checkpoint,
            "run": run.name,
            "epoch": saved.epoch,
            "step": saved.step,
            "validation_loss": saved.validation_loss,
        }
        return io.NodeOutput(checkpoint, ui={"text": [text], "cocktail": [result]})


class CocktailChooseCheckpoint(io.ComfyNode):
    """A checkpoint, by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailChooseCheckpoint",
            display_name="Choose Checkpoint",
            category=CATEGORY,
            description="One checkpoint chosen by hand, for use in several places of a graph. "
            "Nothing is loaded.",
            search_aliases=["select checkpoint", "checkpoint name", "model name", "ckpt_name"],
            inputs=[
                opt(
                    io.Combo.Input,
                    "checkpoint",
                    options=names.checkpoint_names(),
                    tooltip="The checkpoint. Press R to refresh the list after adding files.",
                )
            ],
            outputs=[
                types.CheckpointName.Output(
                    "chosen",
                    display_name="checkpoint",
                    tooltip="The checkpoint's name, for any checkpoint input, including Load "
                    "Checkpoint's.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        try:
            if checkpoint is not None:
                names.checkpoint_path(checkpoint)
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        names.checkpoint_path(checkpoint)
        return io.NodeOutput(checkpoint)
