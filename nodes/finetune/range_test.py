"""The learning rate range test."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...merge.hashing import file_sha256
from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from ...trainer.files import canonical_json
from ...trainer.model.layout import check_sd15
from ...trainer.range_test import FEWEST, ended_early, range_settings, read_test, recorded
from ...trainer.runs import Base, Paths, create_run
from ...trainer.settings.run_settings import RunSettings
from .. import supervisor, types
from ..host import names
from ..host.progress import show_text
from ..pictures import keep_png, read_image
from ..schema import opt, schema
from ..waiting import work_off
from .run import CATEGORY, CocktailFineTune, describe


class CocktailRangeTest(io.ComfyNode):
    """A short training with a rising learning rate, and the rate that it suggests."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRangeTest",
            display_name="Learning Rate Range Test",
            category=CATEGORY,
            description="Trains for a few hundred steps in the background while the learning rate "
            "rises exponentially, draws the loss against the rate and suggests a rate, with the "
            "reason (Smith 2017). Ends early when the loss explodes; saves no checkpoint.",
            search_aliases=[
                "learning rate finder",
                "lr finder",
                "find learning rate",
                "lr range test",
                "suggest learning rate",
            ],
            is_output_node=True,
            inputs=[
                opt(
                    io.Combo.Input,
                    "base",
                    options=names.checkpoint_names(),
                    tooltip="A full Stable Diffusion 1.5 checkpoint with UNet, text encoder and "
                    "VAE, as a .safetensors file. Usually linked from Base.",
                ),
                types.Dataset.Input(
                    "dataset",
                    tooltip="The pairs, from Split Dataset, which holds some of them back.",
                ),
                types.Settings.Input(
                    "settings",
                    tooltip="The settings to find a learning rate for. Their own rates do not "
                    "count, but the text encoder's keeps its proportion to the UNet's.",
                ),
                io.String.Input(
                    "name",
                    default="range-test",
                    tooltip="Name of the test's run: up to 64 letters, digits, dots, hyphens and "
                    "underscores. The same test is found, not repeated.",
                ),
                io.Float.Input(
                    "lowest",
                    default=1e-8,
                    min=1e-12,
                    max=1.0,
                    step=1e-8,
                    round=1e-12,
                    tooltip="The learning rate of the first step, which should be too low to "
                    "change anything.",
                ),
                io.Float.Input(
                    "highest",
                    default=1e-3,
                    min=1e-12,
                    max=1.0,
                    step=1e-4,
                    round=1e-12,
                    tooltip="The learning rate of the last step, which should be far too high.",
                ),
                io.Int.Input(
                    "steps",
                    default=300,
                    min=FEWEST,
                    max=10_000,
                    tooltip="Steps of the test. More make the curve less noisy.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "chart",
                    display_name="chart",
                    tooltip="The loss against the learning rate, 1200 x 700 pixels.",
                ),
                io.Float.Output(
                    "learning_rate",
                    display_name="learning rate",
                    tooltip="The suggested rate, for the learning_rate of Training Settings.",
                ),
                io.String.Output(
                    "reason", display_name="reason", tooltip="Why that rate, in words."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, name: str | None, lowest: float | None, highest: float | None
    ) -> bool | str:
        try:
            if name is not None:
                names.check_name(name, "run")
            if lowest is not None and highest is not None:
                range_settings(RunSettings(), lowest, highest, FEWEST)
        except (names.BadName, TrainerError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, base: str | None = None, **_: Any) -> list[int]:
        return CocktailFineTune.fingerprint_inputs(base)

    @classmethod
    def execute(
        cls,
        base: str,
        dataset: Dataset,
        settings: RunSettings,
        name: str,
        lowest: float,
        highest: float,
        steps: int,
    ) -> io.NodeOutput:
        from ...trainer.range_chart import draw_range

        names.check_name(name, "run")
        path = names.checkpoint_path(base)
        told = check_sd15(path)
        run = create_run(
            names.cocktail_dir("runs"),
            name,
            Base(base, str(path), file_sha256(path, names.hashes_file())),
            dataset,
            range_settings(settings, lowest, highest, steps),
            Paths(
                checkpoints=str(names.checkpoint_dir()),
                tokenizer=str(names.tokenizer_dir()),
                cache=str(names.cocktail_dir("cache")),
            ),
        )
        supervisor.queue_run(run)
        work_off(
            run,
            lambda state: describe(run, state),
            lambda state: (state.step, state.steps),
            "step ",
        )
        rates, losses = recorded(run)
        reading = read_test(rates, losses, steps, ended_early(run))
        image = keep_png(
            draw_range(reading, f"Learning rate range test: {run.name}"),
            "charts",
            canonical_json([run.name, run.id, rates, losses]),
        )
        text = f"Suggested learning rate {reading.reason}" + (f"\n{told}" if told else "")
        show_text(text)
        result = {
            "run": run.name,
            "learning_rate": reading.suggested,
            "steepest": reading.steepest,
            "diverges": reading.diverges,
            "steps": len(losses),
            "message": run.state().message,
        }
        return io.NodeOutput(
            read_image(names.cocktail_dir("charts", image["filename"])),
            reading.suggested,
            reading.reason,
            ui={"images": [image], "text": [text], "cocktail": [result]},
        )
