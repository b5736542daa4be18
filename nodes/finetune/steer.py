"""Runs by name, what a person asks of them, and forks."""

from __future__ import annotations

import time

from comfy_api.latest import io

from ...trainer.runs import Run
from ...trainer.settings.text import changed_by
from .. import supervisor, types
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema
from .run import CATEGORY, describe, result_of

NOTHING, PAUSE, RESUME, STOP = "nothing", "pause", "resume", "stop"
SAVE, SAMPLE = "save a checkpoint", "draw samples"
ACTIONS = (NOTHING, PAUSE, RESUME, STOP, SAVE, SAMPLE)


class CocktailOpenRun(io.ComfyNode):
    """A run by its name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailOpenRun",
            display_name="Open Run",
            category=CATEGORY,
            description="An existing run, by its name. Nothing is started: link it to Loss Chart, "
            "Control Run or Fork Run, or to Wait for Run, which lets it go on.",
            search_aliases=["load run", "existing run", "run by name", "resume training"],
            inputs=[
                opt(
                    io.Combo.Input,
                    "saved_run",
                    options=names.run_names(),
                    tooltip="The run's name, which is that of its folder in output/cocktail/runs. "
                    "Press R to refresh the list.",
                )
            ],
            outputs=[types.Run.Output("run", display_name="run", tooltip="The run as it stands.")],
        )

    @classmethod
    def validate_inputs(cls, saved_run: str | None) -> bool | str:
        try:
            if saved_run is not None:
                names.run_folder(saved_run)
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, saved_run: str | None) -> float:
        return time.time()

    @classmethod
    def execute(cls, saved_run: str) -> io.NodeOutput:
        run = supervisor.with_own_checkpoints(Run.open(names.run_folder(saved_run)))
        show_text(describe(run, run.state()))
        return io.NodeOutput(run)


class CocktailControlRun(io.ComfyNode):
    """Pauses, resumes or stops a run, or has it save or draw now."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailControlRun",
            display_name="Control Run",
            category=CATEGORY,
            description="Pauses, resumes or stops a run, or has it save a checkpoint or draw "
            "samples after the step it is in. It does so every time the graph is queued. The run "
            "is only asked; the node does not wait for it.",
            search_aliases=["pause training", "stop training", "save now", "sample now", "resume"],
            is_output_node=True,
            inputs=[
                types.Run.Input("run", tooltip="The run, from Open Run or Fine-tune."),
                io.Combo.Input(
                    "action",
                    options=list(ACTIONS),
                    default=NOTHING,
                    tooltip="What to ask of it. Pause and stop save first and free the device; "
                    "resume queues it again, and it goes on exactly. Saving and drawing need a "
                    "run at work.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Prompts to draw, one per line. Empty: the run's own. Only the action "
                    "'draw samples' uses them.",
                ),
            ],
            outputs=[types.Run.Output("asked_run", display_name="run", tooltip="The same run.")],
        )

    @classmethod
    def fingerprint_inputs(cls, action: str | None = None, **_: object) -> float:
        return 0.0 if action == NOTHING else time.time()

    @classmethod
    def execute(cls, run: Run, action: str, prompts: str = "") -> io.NodeOutput:
        if action == PAUSE:
            supervisor.pause(run)
        elif action == RESUME:
            supervisor.resume(run)
        elif action == STOP:
            supervisor.stop(run)
        elif action == SAVE:
            supervisor.ask(run, "save")
        elif action == SAMPLE:
            supervisor.sample(run, [line for line in prompts.splitlines() if line.strip()])
        result = result_of(run)
        show_text(result["text"][0])
        return io.NodeOutput(run, ui=result)


class CocktailForkRun(io.ComfyNode):
    """A new run that begins with a checkpoint of another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailForkRun",
            display_name="Fork Run",
            category=CATEGORY,
            description="Starts a new run whose base is the checkpoint that a run has saved at an "
            "epoch, with the same pairs and the same settings except for your changes. The "
            "optimizer starts anew. Queue it again and it continues or is found finished.",
            search_aliases=["branch training", "continue from epoch", "fine-tune from checkpoint"],
            is_output_node=True,
            inputs=[
                types.Run.Input("run", tooltip="The run to fork, from Open Run or Wait for Run."),
                io.Int.Input(
                    "epoch",
                    default=1,
                    min=0,
                    max=10_000,
                    tooltip="The epoch whose checkpoint is the new run's base, counted from 1. It "
                    "must have been saved; its checkpoint is kept from now on.",
                ),
                io.String.Input(
                    "changes",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Other settings, one per line, such as loss.min_snr_gamma = 5. Empty: "
                    "those of the run.",
                ),
                opt(
                    io.String.Input,
                    "run_name",
                    default="",
                    optional=True,
                    placeholder="empty: named by its content",
                    tooltip="Name of the new run and of its checkpoints: up to 64 letters, "
                    "digits, dots, hyphens and underscores.",
                ),
            ],
            outputs=[
                types.Run.Output(
                    "forked_run",
                    display_name="run",
                    tooltip="The new run, which may still be working; link it to Wait for Run.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, run_name: str | None = "") -> bool | str:
        return names.accepted(run_name, "run")

    @classmethod
    def execute(cls, run: Run, epoch: int, changes: str = "", run_name: str = "") -> io.NodeOutput:
        settings = changed_by(run.settings, changes.splitlines())
        forked = supervisor.fork(run, run_name, settings, epoch=epoch)
        result = result_of(forked)
        show_text(result["text"][0])
        return io.NodeOutput(forked, ui=result)
