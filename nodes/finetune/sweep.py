"""Sweeps: one setting changed at a time, run after run, and how the runs compare."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...merge.hashing import file_sha256
from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from ...trainer.files import write_text
from ...trainer.jobs.job import ACTIVE, QUEUED
from ...trainer.model.layout import check_sd15
from ...trainer.pick import RULES, pick
from ...trainer.runs import Base, Paths, Run, State
from ...trainer.settings.run_settings import RunSettings
from ...trainer.sweep.sweep import Sweep, create_sweep
from ...trainer.sweep.table import Row, compare, to_csv, to_json, to_markdown
from ...trainer.sweep.variants import variant_lines
from .. import supervisor, types
from ..grid.engine.axes.axis import Axis
from ..grid.engine.axes.checkpoints import checkpoint_axis
from ..host import names
from ..host.progress import Progress, show_text
from ..host.sharing import only_waits, unload_if_asked
from ..pictures import read_image
from ..schema import opt, schema
from ..waiting import POLL_S
from .run import CATEGORY, CocktailFineTune, describe

PARTS = 1000
"""A run counts as this many parts of the progress bar, whatever the number of its steps."""
BEST_OR_LAST = RULES[:2]


class CocktailSweep(io.ComfyNode):
    """A baseline and variants of it, put into the queue of background trainings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSweep",
            display_name="Sweep",
            category=CATEGORY,
            description="Fine-tunes a baseline and one variant for each line of text; each "
            "variant changes one setting. The runs take turns in the background with the same "
            "seed, order and validation pairs, so that they can be compared pair by pair. Each is "
            "an ordinary run: it is continued or found finished, never repeated.",
            search_aliases=[
                "experiment",
                "ablation",
                "hyperparameter search",
                "compare settings",
                "parameter sweep",
                "train several",
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
                    tooltip="The settings of the baseline, from Training Settings or another "
                    "settings node.",
                ),
                io.String.Input(
                    "name",
                    default="sweep",
                    tooltip="Name of the sweep; the names of its runs begin with it: "
                    "NAME-baseline, NAME-clip_skip-2. Letters, digits, dots, hyphens and "
                    "underscores.",
                ),
                opt(
                    io.String.Input,
                    "variants",
                    multiline=True,
                    default="clip_skip = 2\nclip_skip = 3",
                    tooltip="One variant per line, as SETTING = VALUE, such as clip_skip = 2 or "
                    "loss.min_snr_gamma = 5. Show Settings lists all names. Empty lines and lines "
                    "that begin with # do not count.",
                ),
            ],
            outputs=[
                types.Sweep.Output(
                    "sweep",
                    display_name="sweep",
                    tooltip="The sweep, whose runs may still be working; link it to Sweep Results.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None, variants: str | None) -> bool | str:
        try:
            if name is not None:
                names.check_name(name, "sweep")
            if variants is not None:
                list(variant_lines(variants))
        except (names.BadName, TrainerError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, base: str | None = None, **_: Any) -> list[int]:
        return CocktailFineTune.fingerprint_inputs(base)

    @classmethod
    def execute(
        cls, base: str, dataset: Dataset, settings: RunSettings, name: str, variants: str
    ) -> io.NodeOutput:
        names.check_name(name, "sweep")
        path = names.checkpoint_path(base)
        told = check_sd15(path)
        sweep, runs = create_sweep(
            names.cocktail_dir(),
            name,
            Base(base, str(path), file_sha256(path, names.hashes_file())),
            dataset,
            settings,
            variants,
            Paths(
                checkpoints=str(names.checkpoint_dir()),
                tokenizer=str(names.tokenizer_dir()),
                cache=str(names.cocktail_dir("cache")),
            ),
        )
        for run in runs:
            supervisor.queue_run(run)
        lines = [describe(run, run.state()) for run in runs] + ([told] if told else [])
        show_text(f"{name}: {len(runs)} runs, {lines[0]}")
        result = {
            "sweep": name,
            "folder": f"cocktail/sweeps/{name}",
            "runs": [{"run": run.name, "id": run.id, "status": run.state().status} for run in runs],
        }
        return io.NodeOutput(sweep, ui={"text": ["\n".join(lines)], "cocktail": [result]})


class CocktailSweepResults(io.ComfyNode):
    """Waits for the runs of a sweep, and compares them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSweepResults",
            display_name="Sweep Results",
            category=CATEGORY,
            description="Waits until all runs of a sweep have finished and compares them with the "
            "baseline, pair by pair: a chart of all losses, a table with a verdict on each "
            "variant (better, worse, not separated, equal), and the runs' checkpoints as an axis "
            "of a grid. Interrupt ends the waiting, not the runs.",
            search_aliases=[
                "compare runs",
                "experiment results",
                "ablation table",
                "wait for sweep",
                "validation loss",
            ],
            is_output_node=True,
            inputs=[
                types.Sweep.Input("sweep", tooltip="The sweep, from Sweep."),
                opt(
                    io.Combo.Input,
                    "checkpoints",
                    options=list(BEST_OR_LAST),
                    default=BEST_OR_LAST[0],
                    optional=True,
                    tooltip="Which checkpoint of each run is on the axis: the one with the lowest "
                    "validation loss, which the table compares, or the last one.",
                ),
                opt(
                    io.Boolean.Input,
                    "without_failed",
                    default=False,
                    optional=True,
                    tooltip="If runs of variants have failed, for example because the learning "
                    "rate was too high: compare the others, and say so in the table. Off: they are "
                    "an error; queueing again restarts them.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "chart",
                    display_name="chart",
                    tooltip="Training and validation loss of all runs, 1200 x 900 pixels.",
                ),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="The comparison with the baseline, as a Markdown table.",
                ),
                types.Axis.Output(
                    "axis",
                    display_name="axis",
                    tooltip="A checkpoint of each run as an axis, for an axis input of Grid Plan.",
                ),
                types.Run.Output(
                    "best_run",
                    display_name="best run",
                    tooltip="The run with the lowest validation loss of all, which need not be "
                    "better than the baseline by more than its noise: see the table.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, sweep: Sweep, checkpoints: str = BEST_OR_LAST[0], without_failed: bool = False
    ) -> io.NodeOutput:
        from ...trainer.chart import chart_name, draw_chart

        runs = open_runs(sweep)
        for run in runs:
            supervisor.queue_run(run)
        _wait(sweep, runs)
        rows = compare(sweep, runs)
        table = _keep(sweep, rows)
        _check_ends(sweep, rows, without_failed)
        finished = [run for run, row in zip(runs, rows, strict=True) if row.status == "finished"]
        path = names.cocktail_dir("charts", chart_name(finished))
        if not path.exists():
            draw_chart(finished, path)
        lowest = min((row for row in rows if row.status == "finished"), key=_loss)
        best_run = next(run for run in finished if run.name == lowest.run)
        show_text("\n".join(_verdict(row) for row in rows))
        image = {"filename": path.name, "subfolder": "cocktail/charts", "type": "output"}
        return io.NodeOutput(
            read_image(path),
            table,
            _axis(rows, finished, checkpoints),
            best_run,
            ui={"images": [image], "text": [table], "cocktail": [to_json(sweep, rows)]},
        )


def open_runs(sweep: Sweep) -> list[Run]:
    """The runs of a sweep with the paths that they have here. Raises TrainerError when one is gone,
    BadName without its base.
    """
    runs = []
    for member in sweep.members:
        folder = names.cocktail_dir("runs", member.run)
        if not (folder / "run.json").exists():
            raise TrainerError(
                f"The run {member.run} of the sweep {sweep.name} is no longer there. Change the "
                "sweep's name, or restart ComfyUI, and queue the graph again to train it anew."
            )
        run = Run.open(folder)
        runs.append(run.at(supervisor.places(run)))
    return runs


def _wait(sweep: Sweep, runs: Sequence[Run]) -> None:
    """Wait until no run is queued or at work any more; Interrupt ends the waiting."""
    progress, shown = Progress(), ""
    with only_waits():
        while True:
            unload_if_asked()
            states = [run.state() for run in runs]
            progress(sum(map(_part, states)), PARTS * len(runs))
            left = [state.status in (QUEUED, *ACTIVE) for state in states]
            working = [
                describe(run, state)
                for run, state in zip(runs, states, strict=True)
                if state.status in ACTIVE
            ]
            text = f"{sweep.name}: {left.count(False)} of {len(runs)} runs done"
            text = "\n".join([text, *working])
            if text != shown:
                show_text(text)
                shown = text
            if not any(left):
                return
            time.sleep(POLL_S)


def _part(state: State) -> int:
    """How much of a run is done, of PARTS."""
    if state.status not in (QUEUED, *ACTIVE):
        return PARTS
    return PARTS * min(state.step, state.steps) // state.steps if state.steps else 0


def _check_ends(sweep: Sweep, rows: Sequence[Row], without_failed: bool) -> None:
    """Raise TrainerError for runs that have not finished, but not for failed variants if those are
    to be left out.
    """
    trouble = [
        row
        for number, row in enumerate(rows)
        if row.status != "finished" and not (without_failed and number and row.status == "failed")
    ]
    if not trouble:
        return
    words = "\n".join(f"{row.run} ({row.label}): {row.status}. {row.message}" for row in trouble)
    hint = (
        " Or take their lines out of the variants, or switch on without_failed, to compare the "
        "others."
        if any(row.status == "failed" for row in trouble if row is not rows[0])
        else ""
    )
    raise TrainerError(
        f"{len(rows) - len(trouble)} of {len(rows)} runs of the sweep {sweep.name} have finished. "
        f"The others:\n{words}\nQueue the graph again: they go on from where they were.{hint}"
    )


def _verdict(row: Row) -> str:
    """What came out of a run, in a line."""
    if row.loss is None or row.status != "finished":
        return f"{row.label}: {row.status}"
    share = "" if row.share is None else f", {row.share:+.2%}".replace("%", " %")
    return f"{row.label}: {row.loss:.5f}{share}, {row.verdict}"


def _loss(row: Row) -> float:
    return float("inf") if row.loss is None else row.loss


def _axis(rows: Sequence[Row], runs: Sequence[Run], rule: str) -> Axis:
    labels = {row.run: row.label for row in rows}
    return checkpoint_axis(
        [(names.checkpoint_name(pick(run, rule).file), labels[run.name]) for run in runs]
    )


def _keep(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Write the table beside the sweep's definition as table.md, .json and .csv; returns the
    first.
    """
    folder, table = names.cocktail_dir("sweeps", sweep.name), to_markdown(sweep, rows)
    found = {
        "table.md": table + "\n",
        "table.json": json.dumps(to_json(sweep, rows), ensure_ascii=False, indent=1) + "\n",
        "table.csv": to_csv(rows),
    }
    for name, text in found.items():
        write_text(Path(folder, name), text)
    return table
