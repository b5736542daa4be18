"""Fine-tuning: settings, a base, a run in the background, and waiting for it."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

from ...merge.hashing import file_sha256
from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from ...trainer.figures import words
from ...trainer.jobs.device import slow_precision
from ...trainer.model.layout import check_sd15
from ...trainer.runs import Base, Paths, Run, State, create_run
from ...trainer.settings.run_settings import LATER, RunSettings
from .. import supervisor, types
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema
from ..waiting import work_off
from .setting_input import group_inputs

CATEGORY = "cocktail/fine-tune"

ADVANCED = (
    "bucket_step",
    "weight_decay",
    "gradient_clip",
    "validation_timesteps",
    "precision",
    "save_precision",
    "bucket_table",
)


class CocktailTrainingSettings(io.ComfyNode):
    """What a fine-tune does with its base and its pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailTrainingSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="The settings of a fine-tune. Learning rates, dropout, clip skip and "
            "weight decay default to EveryDream2's for Stable Diffusion 1.5. The same settings "
            "with the same base and pairs are the same run.",
            search_aliases=[
                "learning rate",
                "epochs",
                "batch size",
                "hyperparameters",
                "train.json",
                "EveryDream2",
            ],
            inputs=[
                *group_inputs(
                    RunSettings, ADVANCED, **{name: {"optional": True} for name in LATER}
                ),
                types.Settings.Input(
                    "settings",
                    optional=True,
                    tooltip="Settings whose groups (optimizers, loss and so on) are kept, such "
                    "as those of a preset. This node replaces the rest. Optional.",
                ),
            ],
            outputs=[
                types.Settings.Output(
                    "training_settings",
                    display_name="settings",
                    tooltip="The settings, for Fine-tune.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, resolution: int | None, bucket_step: int | None, bucket_table: str | None = "generated"
    ) -> bool | str:
        given = {
            "resolution": resolution,
            "bucket_step": bucket_step,
            "bucket_table": bucket_table,
        }
        if None in given.values():
            return True
        try:
            RunSettings.from_json(given)
        except TrainerError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, settings: RunSettings | None = None, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(dataclasses.replace(settings or RunSettings(), **values))


class CocktailBase(io.ComfyNode):
    """The checkpoint that runs start from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailBase",
            display_name="Base",
            category=CATEGORY,
            description="The checkpoint that a fine-tune starts from: a full Stable Diffusion 1.5 "
            "model in one .safetensors file. Nothing is loaded; the file's header is "
            "checked.",
            search_aliases=[
                "base model",
                "resume_ckpt",
                "pretrained model",
                "checkpoint for training",
            ],
            inputs=[_checkpoint_input("checkpoint")],
            outputs=[
                types.CheckpointName.Output(
                    "base",
                    display_name="base",
                    tooltip="The checkpoint's name; link it to Fine-tune or any checkpoint input.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        try:
            if checkpoint is not None:
                check_sd15(names.checkpoint_path(checkpoint))
        except (names.BadName, TrainerError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None) -> list[int]:
        return _file_state(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        told = check_sd15(names.checkpoint_path(checkpoint))
        if not told:
            return io.NodeOutput(checkpoint)
        show_text(told)
        return io.NodeOutput(checkpoint, ui={"text": [told]})


class CocktailFineTune(io.ComfyNode):
    """A run, put into the queue of background trainings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailFineTune",
            display_name="Fine-tune",
            category=CATEGORY,
            description="Fine-tunes a whole Stable Diffusion 1.5 model in a background process and "
            "returns at once. Runs on the same device take turns. The same base, pairs "
            "and settings are the same run: it is continued or found finished, never "
            "repeated.",
            search_aliases=[
                "train",
                "training",
                "full fine-tune",
                "dreambooth",
                "EveryDream2",
                "kohya",
                "finetune",
            ],
            is_output_node=True,
            inputs=[
                _checkpoint_input("base"),
                types.Dataset.Input(
                    "dataset",
                    tooltip="The pairs, from Split Dataset, which holds some of them back.",
                ),
                types.Settings.Input(
                    "settings",
                    tooltip="The settings, from Training Settings or another settings node.",
                ),
                opt(
                    io.String.Input,
                    "run_name",
                    default="",
                    placeholder="empty: named by its content",
                    tooltip="Name of the run and of its checkpoints: up to 64 letters, digits, "
                    "dots, hyphens and underscores. Empty: run- and 12 digits of its "
                    "identity. A name that belongs to another run is refused.",
                ),
            ],
            outputs=[
                types.Run.Output(
                    "run",
                    display_name="run",
                    tooltip="The run, which may still be working; link it to Wait for Run.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, run_name: str | None) -> bool | str:
        return names.accepted(run_name, "run")

    @classmethod
    def fingerprint_inputs(cls, base: str | None, **_: Any) -> list[int]:
        return _file_state(base)

    @classmethod
    def execute(
        cls, base: str, dataset: Dataset, settings: RunSettings, run_name: str
    ) -> io.NodeOutput:
        if run_name:
            names.check_name(run_name, "run")
        path = names.checkpoint_path(base)
        told = check_sd15(path)
        run = create_run(
            names.cocktail_dir("runs"),
            run_name,
            Base(base, str(path), file_sha256(path, names.hashes_file())),
            dataset,
            settings,
            Paths(
                checkpoints=str(names.checkpoint_dir()),
                tokenizer=str(names.tokenizer_dir()),
                cache=str(names.cocktail_dir("cache")),
            ),
        )
        supervisor.queue_run(run)
        result = result_of(run)
        slow = slow_precision(settings.precision, supervisor.training_device())
        result["text"] = ["\n".join(filter(None, (result["text"][0], told, slow)))]
        show_text(result["text"][0])
        return io.NodeOutput(run, ui=result)


class CocktailWaitForRun(io.ComfyNode):
    """Waits until a run has finished."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailWaitForRun",
            display_name="Wait for Run",
            category=CATEGORY,
            description="Waits until a run has finished and shows its progress. Interrupt ends the "
            "waiting, not the run. A run that was stopped or interrupted or that failed "
            "continues from its last resume point.",
            search_aliases=["train progress", "wait", "training status", "resume training"],
            is_output_node=True,
            inputs=[types.Run.Input("run", tooltip="The run to wait for, from Fine-tune.")],
            outputs=[
                types.Run.Output(
                    "finished_run", display_name="run", tooltip="The same run, finished."
                )
            ],
        )

    @classmethod
    def execute(cls, run: Run) -> io.NodeOutput:
        supervisor.queue_run(run)
        work_off(
            run,
            lambda state: describe(run, state),
            lambda state: (state.step, state.steps),
            "step ",
        )
        result, lines = result_of(run), words.read_lines(run)
        result["text"].append(words.as_text(lines))
        result["cocktail"][0]["words"] = [line.as_json() for line in lines]
        return io.NodeOutput(run, ui=result)


def describe(run: Run, state: State) -> str:
    """How a run stands, in a line."""
    parts = [f"{run.name}: {state.status}"]
    if state.status == "running" and state.steps:
        parts.append(f"epoch {min(state.epoch + 1, state.epochs)} of {state.epochs}")
        parts.append(f"step {state.step} of {state.steps}")
        if state.steps_per_second:
            left_s = (state.steps - state.step) / state.steps_per_second
            parts.append(f"{state.steps_per_second:.2f} steps/s, about {_duration(left_s)} left")
    if state.first_validation is not None and state.last_validation is not None:
        change = 100 * (state.last_validation / state.first_validation - 1)
        parts.append(
            f"validation loss {state.first_validation:.4f} -> {state.last_validation:.4f} "
            f"({change:+.0f} %)"
        )
    if state.trend:
        parts.append(state.trend)
    if state.skipped:
        parts.append(f"{state.skipped} pairs skipped: see skipped.jsonl in the run's folder")
    if state.message and state.status not in ("failed", "finished"):
        parts.append(state.message)
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def result_of(run: Run) -> dict[str, list]:
    """What an API client and the node show of a run."""
    state = run.state()
    result = {
        "run": run.name,
        "id": run.id,
        "folder": f"cocktail/runs/{run.name}",
        "status": state.status,
        "epochs": run.settings.epochs,
        "first_validation": state.first_validation,
        "last_validation": state.last_validation,
        "best": state.best,
        "trend": state.trend,
        "skipped": state.skipped,
        "message": state.message,
    }
    return {"text": [describe(run, state)], "cocktail": [result]}


def _checkpoint_input(id: str) -> io.Input:
    return opt(
        io.Combo.Input,
        id,
        options=names.checkpoint_names(),
        tooltip="A full Stable Diffusion 1.5 checkpoint with UNet, text encoder and VAE, as "
        "a .safetensors file" + (". Usually linked from Base." if id == "base" else "."),
    )


def _file_state(checkpoint: str | None) -> list[int]:
    """Size and time of a checkpoint: a file that was replaced under its name is another one."""
    if checkpoint is None:
        return []
    try:
        status = names.checkpoint_path(checkpoint).stat()
    except (names.BadName, OSError):
        return []
    return [status.st_size, status.st_mtime_ns]
