"""Looking at a dataset: a sheet of its pictures, and its figures."""

from __future__ import annotations

import io as bytes_io
import re
from dataclasses import asdict

from comfy_api.latest import io

from ...trainer.data.buckets import TABLES, make_buckets
from ...trainer.data.clean.contact_sheet import ORDERS, contact_sheet
from ...trainer.data.clean.overview import draw_overview, overview
from ...trainer.data.manifest import Dataset
from ...trainer.data.tokens import count_tokens
from ...trainer.errors import TrainerError
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..pictures import as_image, keep_png
from ..schema import schema

CATEGORY = "cocktail/dataset"


class CocktailContactSheet(io.ComfyNode):
    """Pictures of a dataset with their captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailContactSheet",
            display_name="Contact Sheet",
            category=CATEGORY,
            description="Shows pictures of a dataset with their captions, sizes and weights, so "
            "that you can spot wrong captions and bad crops before training. Pictures are read "
            "one at a time.",
            search_aliases=[
                "preview dataset",
                "show images",
                "view dataset",
                "thumbnails",
                "browse pairs",
            ],
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to look at."),
                io.Int.Input(
                    "count",
                    default=40,
                    min=1,
                    max=500,
                    tooltip="How many pairs to show, from 1 to 500.",
                ),
                io.Int.Input("columns", default=8, min=1, max=50, tooltip="Pictures in a row."),
                io.Int.Input(
                    "side",
                    default=192,
                    min=64,
                    max=768,
                    step=16,
                    tooltip="The longer side of each picture on the sheet, in pixels.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    tooltip="Which pairs to show: drawn by the seed below, the first ones, or "
                    "those with the longest captions, the fewest pixels or the most elongated "
                    "shape.",
                ),
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="The same seed draws the same pairs. Used only by 'drawn by seed'.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", display_name="sheet", tooltip="The sheet as one picture.")
            ],
        )

    @classmethod
    def execute(
        cls, dataset: Dataset, count: int, columns: int, side: int, order: str, seed: int
    ) -> io.NodeOutput:
        sheet = contact_sheet(dataset, count, columns, side, order, seed, Progress())
        content = (
            f"sheet/{dataset.name}/{dataset.fingerprint}/{count}/{columns}/{side}/{order}/{seed}"
        )
        return io.NodeOutput(as_image(sheet), ui={"images": [keep_png(sheet, "charts", content)]})


class CocktailDatasetOverview(io.ComfyNode):
    """A dataset in figures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailDatasetOverview",
            display_name="Dataset Overview",
            category=CATEGORY,
            description="Shows what is in a dataset: aspect ratios, sizes, caption lengths in "
            "CLIP tokens, and for each resolution the buckets of its pictures, how many are "
            "enlarged and how much is cropped away.",
            search_aliases=[
                "dataset statistics",
                "histogram",
                "bucket report",
                "aspect ratios",
                "caption length",
            ],
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to describe."),
                io.String.Input(
                    "resolutions",
                    default="512, 768",
                    tooltip="The resolutions you want to train at, from 64 to 2048, separated by "
                    "commas. Buckets are shown for each.",
                ),
                io.Int.Input(
                    "bucket_step",
                    default=64,
                    min=8,
                    max=128,
                    step=8,
                    tooltip="Sides of generated buckets are multiples of this many pixels.",
                ),
                io.Combo.Input(
                    "bucket_table",
                    options=list(TABLES),
                    default=TABLES[0],
                    tooltip="The bucket sizes: generated from the resolution and the step, or "
                    "EveryDream2's own.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "chart", display_name="chart", tooltip="The histograms as one picture."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="The figures as text, with the steps that made the dataset.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, resolutions: str | None, bucket_step: int | None, bucket_table: str | None
    ) -> bool | str:
        try:
            for resolution in _resolutions("512" if resolutions is None else resolutions):
                make_buckets(resolution, bucket_step or 64, table=bucket_table or TABLES[0])
        except TrainerError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, dataset: Dataset, resolutions: str, bucket_step: int, bucket_table: str
    ) -> io.NodeOutput:
        from PIL import Image

        tokenizer = names.tokenizer_dir()
        facts = overview(
            dataset,
            _resolutions(resolutions),
            bucket_step,
            bucket_table,
            lambda captions: count_tokens(captions, tokenizer),
        )
        chart = draw_overview(facts)
        buckets = f"{resolutions}/{bucket_step}/{bucket_table}"
        content = f"overview/{dataset.name}/{dataset.fingerprint}/{buckets}"
        counts = {
            "fingerprint": dataset.fingerprint,
            "pairs": len(dataset.pairs),
            "buckets": {
                str(resolution): [asdict(use) for use in uses]
                for resolution, uses in facts.buckets.items()
            },
        }
        show_text(str(facts))
        return io.NodeOutput(
            as_image(Image.open(bytes_io.BytesIO(chart), formats=("PNG",))),
            str(facts),
            ui={
                "images": [keep_png(chart, "charts", content)],
                "text": [str(facts)],
                "cocktail": [counts],
            },
        )


def _resolutions(text: str) -> list[int]:
    """The resolutions that a person has typed. Raises TrainerError."""
    found = [word for word in re.split(r"[,;\s]+", text) if word]
    if not found or not all(word.isdecimal() and 64 <= int(word) <= 2048 for word in found):
        raise TrainerError(
            f"{text!r} is not a list of resolutions. Write numbers from 64 to 2048, separated by "
            "commas, for example: 512, 768"
        )
    return list(dict.fromkeys(int(word) for word in found))


NODES: list[type[io.ComfyNode]] = [CocktailContactSheet, CocktailDatasetOverview]
