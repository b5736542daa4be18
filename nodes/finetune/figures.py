"""What the records of runs say: loss chart, heat map, pairs that stand out, and plain words."""

from __future__ import annotations

import dataclasses
import io as bytes_io
import json
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ...trainer.chart import SMOOTHING_SHARE, VIEWS, chart_png, name_of
from ...trainer.data.clean.contact_sheet import contact_sheet
from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from ...trainer.figures import pairs as figures_of_pairs
from ...trainer.figures import table
from ...trainer.figures.curves import Curves, read_curves
from ...trainer.figures.heat_map import draw_heat_map, read_heat_map
from ...trainer.files import canonical_json, sha256_text, write_bytes, write_text
from ...trainer.runs import Run
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..pictures import as_image, keep_png, read_image
from ..schema import opt, schema

CATEGORY = "cocktail/fine-tune"


class CocktailLossChart(io.ComfyNode):
    """The loss of one to four runs as a picture and a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailLossChart",
            display_name="Loss Chart",
            category=CATEGORY,
            description="Draws training and validation loss of one to four runs over their epochs, "
            "each from its own start, marks the best epoch of each and the epochs at which it was "
            "trending up, and saves the picture and the figures. Link the runs through Wait for "
            "Run to see all of them.",
            search_aliases=[
                "loss graph",
                "training curve",
                "plot loss",
                "tensorboard",
                "validation loss",
                "overfitting",
            ],
            is_output_node=True,
            inputs=[
                types.Run.Input("run_1", tooltip="The first run."),
                *(
                    types.Run.Input(
                        f"run_{number}", optional=True, tooltip="One more run. Optional."
                    )
                    for number in (2, 3, 4)
                ),
                opt(
                    io.Combo.Input,
                    "view",
                    options=list(VIEWS),
                    default=VIEWS[0],
                    optional=True,
                    tooltip="What to draw: the losses and below them their change since the start, "
                    "or only one of the two. Only the change compares runs at different "
                    "resolutions.",
                ),
                opt(
                    io.Float.Input,
                    "smoothing",
                    default=SMOOTHING_SHARE,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    optional=True,
                    tooltip="The share of all steps over which the training loss is smoothed, from "
                    "0 to 0.5. 0 = not at all. Validation losses are never smoothed.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "chart", display_name="chart", tooltip="The chart, 1200 x 900 pixels."
                ),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="The validation losses as Markdown tables.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        run_1: Run,
        run_2: Run | None = None,
        run_3: Run | None = None,
        run_4: Run | None = None,
        view: str = VIEWS[0],
        smoothing: float = SMOOTHING_SHARE,
    ) -> io.NodeOutput:
        runs = [run for run in (run_1, run_2, run_3, run_4) if run is not None]
        curves = [read_curves(run) for run in runs]
        path = names.cocktail_dir("charts", name_of(curves, view, smoothing))
        if not path.exists():
            write_bytes(path, chart_png(curves, view, smoothing))
        markdown, files = table.as_markdown(curves), _keep_table(curves, path.stem)
        sentences = [f"{curve.run}, {curve.name}: {curve}" for run in curves for curve in run.sets]
        text = "\n".join(sentences) or markdown
        show_text(text)
        image = {"filename": path.name, "subfolder": "cocktail/charts", "type": "output"}
        result = {"summary": table.summaries(curves), "files": files}
        return io.NodeOutput(
            read_image(path),
            markdown,
            ui={"images": [image], "text": [text], "cocktail": [result]},
        )


def _keep_table(curves: Sequence[Curves], stem: str) -> list[str]:
    """Write the table beside the chart in three formats; returns the names of the files."""
    made: dict[str, Any] = {
        "md": lambda: table.as_markdown(curves) + "\n",
        "json": lambda: json.dumps(table.as_json(curves), ensure_ascii=False, indent=1) + "\n",
        "csv": lambda: table.as_csv(curves),
    }
    for ending, text in made.items():
        path = names.cocktail_dir("charts", f"{stem}.{ending}")
        if not path.exists():
            write_text(path, text())
    return [f"{stem}.{ending}" for ending in made]


class CocktailLossHeatMap(io.ComfyNode):
    """Validation loss by epoch and noise level."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailLossHeatMap",
            display_name="Loss Heat Map",
            category=CATEGORY,
            description="Draws the validation loss of a run by epoch and noise level, and says in "
            "words which part of a picture (composition, form, detail) is still being learned and "
            "which is overfitting, each with its figure.",
            search_aliases=[
                "loss by timestep",
                "noise level",
                "overfitting",
                "heatmap",
                "timestep loss",
            ],
            is_output_node=True,
            inputs=[types.Run.Input("run", tooltip="The run, from Wait for Run.")],
            outputs=[
                io.Image.Output(
                    "heat_map", display_name="heat map", tooltip="The map, 1200 x 900 pixels."
                ),
                io.String.Output(
                    "words", display_name="words", tooltip="What the map says, in a sentence."
                ),
            ],
        )

    @classmethod
    def execute(cls, run: Run) -> io.NodeOutput:
        from PIL import Image

        heat = read_heat_map(run)
        picture, facts = draw_heat_map(heat), heat.as_json()
        kept = keep_png(picture, "charts", f"heat map 1/{run.name}/{canonical_json(facts)}")
        text = f"{run.name}: {heat.words}"
        show_text(text)
        return io.NodeOutput(
            as_image(Image.open(bytes_io.BytesIO(picture), formats=("PNG",))),
            heat.words,
            ui={"images": [kept], "text": [text], "cocktail": [facts]},
        )


class CocktailStandOut(io.ComfyNode):
    """The pairs whose loss is far from what is usual."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailStandOut",
            display_name="Pairs That Stand Out",
            category=CATEGORY,
            description="Ranks the pairs of a run by how far their loss is above what is usual at "
            "their noise levels, and shows the first ones with their captions: candidates for "
            "wrong captions and odd pictures. Look at them before you act.",
            search_aliases=[
                "outliers",
                "wrong captions",
                "mislabeled",
                "bad pairs",
                "highest loss",
                "worst pairs",
            ],
            is_output_node=True,
            inputs=[
                types.Run.Input("run", tooltip="The run, from Wait for Run."),
                io.Int.Input(
                    "count", default=20, min=1, max=500, tooltip="How many pairs, from 1 to 500."
                ),
                io.Combo.Input(
                    "part",
                    options=list(figures_of_pairs.PARTS),
                    default=figures_of_pairs.PARTS[0],
                    tooltip="Which pairs to show. Training pairs are ranked when the run measures "
                    "them (validation.train_share).",
                ),
                io.Float.Input(
                    "least",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Only pairs that are at least this many spreads above what is usual. 3 "
                    "is rare by chance alone. 0 = the first ones, whatever their score.",
                ),
                io.Int.Input("columns", default=5, min=1, max=50, tooltip="Pictures in a row."),
                io.Int.Input(
                    "side",
                    default=192,
                    min=64,
                    max=768,
                    step=16,
                    tooltip="The longer side of each picture on the sheet, in pixels.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The pairs with score and caption, the one that stands out most first.",
                ),
                io.String.Output(
                    "ids",
                    display_name="ids",
                    tooltip="The ids of the pairs on the sheet, a line each, for Leave Out Pairs.",
                ),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="The pairs on the sheet as CSV: id, part, score, trend, image, caption "
                    "and words.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, run: Run, count: int, part: str, least: float, columns: int, side: int
    ) -> io.NodeOutput:
        ranked = figures_of_pairs.standings(run)
        found = figures_of_pairs.chosen(ranked, count, part, least)
        if not found:
            raise TrainerError(
                f"No pair of {run.name} is {least:g} spreads above what is usual, or none of the "
                f"part {part!r} is ranked. {figures_of_pairs.note(ranked)}"
            )
        dataset = run.dataset()
        pairs = {pair.id: pair for pair in dataset.pairs}
        shown = tuple(pairs[standing.id] for standing in found if standing.id in pairs)
        sheet = contact_sheet(
            dataclasses.replace(dataset, pairs=shown),
            len(shown),
            columns,
            side,
            "as in the dataset",
            progress=Progress(),
            title=f"{run.name}: pairs that stand out",
            facts={s.id: f"{s.score:+.1f} · {s.part}" for s in found},
            # A run's folder may have come from anywhere: it does not say which files are read.
            may_read=lambda file: names.is_dataset_place(file.parent),
        )
        listed = figures_of_pairs.as_csv(found, pairs)
        content = f"stand out 1/{run.name}/{run.id}/{columns}/{side}/{listed}"
        name = f"{run.name}_pairs_{sha256_text(content)[:8]}.csv"
        path = names.cocktail_dir("charts", name)
        if not path.exists():
            write_text(path, listed)
        lines = [f"{run.name}: {figures_of_pairs.note(ranked)}"]
        lines += [f"{s.score:+.1f} {s.part} {s.id}: {s.words}" for s in found]
        show_text(lines[0])
        facts = {
            "pairs": [dataclasses.asdict(s) | {"words": s.words} for s in found],
            "note": figures_of_pairs.note(ranked),
            "file": name,
        }
        return io.NodeOutput(
            as_image(sheet),
            "\n".join(standing.id for standing in found),
            listed,
            ui={
                "images": [keep_png(sheet, "charts", content)],
                "text": ["\n".join(lines)],
                "cocktail": [facts],
            },
        )


class CocktailLeaveOutPairs(io.ComfyNode):
    """The dataset without the pairs of a list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailLeaveOutPairs",
            display_name="Leave Out Pairs",
            category="cocktail/dataset",
            description="Leaves the pairs of a list out of a dataset. Files and the dataset it "
            "comes from stay as they are: remove the node and the pairs are back.",
            search_aliases=[
                "remove pairs",
                "exclude images",
                "drop outliers",
                "filter dataset",
                "blacklist",
            ],
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to leave some out of."),
                io.String.Input(
                    "ids",
                    default="",
                    multiline=True,
                    placeholder="ids of pairs, or a table with the column id",
                    tooltip="Which pairs: the ids or the table of Pairs That Stand Out, or ids "
                    "that you type, separated by spaces, commas or lines.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "kept", display_name="dataset", tooltip="The pairs that are left."
                ),
                types.Dataset.Output(
                    "left_out",
                    display_name="left out",
                    tooltip="The pairs that were left out. Look at them with Contact Sheet.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="What was left out, a line each."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, ids: str | None) -> bool | str:
        try:
            figures_of_pairs.read_ids(ids or "")
        except TrainerError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, dataset: Dataset, ids: str) -> io.NodeOutput:
        wanted = figures_of_pairs.read_ids(ids)
        kept, gone, absent = figures_of_pairs.leave_out(dataset, wanted)
        lines = [f"{len(gone)} of {len(dataset.pairs)} pairs left out, {len(kept.pairs)} are left"]
        if absent:
            lines[0] += f"; {len(absent)} ids are not in the dataset, such as {absent[0]}"
        lines += [f"{pair.id} {pair.image}: {pair.caption}" for pair in gone]
        show_text(lines[0])
        facts = {
            "before": len(dataset.pairs),
            "pairs": len(kept.pairs),
            "left_out": [pair.id for pair in gone],
            "absent": absent,
            "fingerprint": kept.fingerprint,
        }
        text = "\n".join(lines)
        rest = dataclasses.replace(dataset, pairs=tuple(gone))
        return io.NodeOutput(kept, rest, text, ui={"text": [text], "cocktail": [facts]})
