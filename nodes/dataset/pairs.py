"""Pairs for training: drawn, or loaded from a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...trainer.data.folder.folder import (
    CAPTION_TEXTS,
    LAYOUTS,
    ON_PROBLEM,
    check_background,
    check_layout,
    folder_state,
    has_picture,
    load_folder,
)
from ...trainer.errors import TrainerError
from ...trainer.shapes import draw_shapes
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema

CATEGORY = "cocktail/dataset"


class CocktailDrawShapes(io.ComfyNode):
    """A folder of drawn pairs, to try the pack with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailDrawShapes",
            display_name="Draw Shapes",
            category=CATEGORY,
            description="Draws captioned pictures such as 'a red circle on a blue background' "
            "into a new folder below ComfyUI's input folder, so that you can try fine-tuning. "
            "Existing pictures are left as they are.",
            search_aliases=["sample data", "demo dataset", "test pictures", "synthetic dataset"],
            inputs=[
                io.String.Input(
                    "name",
                    default="shapes",
                    tooltip="Name of the folder below ComfyUI's input folder: up to 64 letters, "
                    "digits, dots, hyphens and underscores.",
                ),
                io.Int.Input(
                    "count",
                    default=400,
                    min=2,
                    max=100_000,
                    tooltip="How many pairs to draw. 400 take about 2 s. A folder with another "
                    "count is refused; nothing is added to it.",
                ),
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="The same seed draws the same pictures.",
                ),
            ],
            outputs=[
                io.AnyType.Output(
                    "folder",
                    display_name="folder",
                    tooltip="The folder's name, for the folder input of Load Dataset.",
                ),
                io.AnyType.Output(
                    "drawn_table",
                    display_name="table",
                    tooltip="The name of the table with the same pairs (pairs.csv in that "
                    "folder, with the columns image and prompt), for Select Pairs.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        try:
            names.check_name(name or "shapes", "folder of drawn shapes")
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, name: str, count: int, seed: int) -> io.NodeOutput:
        import folder_paths

        names.check_name(name, "folder of drawn shapes")
        folder = names.within(Path(folder_paths.get_input_directory()), name, "Folder")
        draw_shapes(folder, count, seed, Progress())
        text = f"{count} pairs in input/{name}"
        show_text(text)
        return io.NodeOutput(f"input/{name}", f"input/{name}/pairs.csv", ui={"text": [text]})


class CocktailLoadDataset(io.ComfyNode):
    """The pairs of a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailLoadDataset",
            display_name="Load Dataset",
            category=CATEGORY,
            description="Loads the pictures of a folder and the folders below it, each with its "
            "caption from the .txt file of the same name, or from its own name up to the first "
            "'_'. Folders made for EveryDream2, kohya's scripts and Hugging Face are read as "
            "these tools read them. Every picture is decoded once, so that damaged ones are "
            "found now.",
            is_output_node=True,
            search_aliases=[
                "load images",
                "image folder",
                "captions",
                "data_root",
                "train data dir",
                "load pairs",
                "EveryDream2",
                "kohya",
                "imagefolder",
                "metadata.jsonl",
            ],
            inputs=[
                opt(
                    io.Combo.Input,
                    "folder",
                    options=names.dataset_folders(),
                    tooltip="A folder below ComfyUI's input folder, or one of its datasets "
                    "folders ('datasets' in extra_model_paths.yaml). Can be linked from Draw "
                    "Shapes.",
                ),
                opt(
                    io.Combo.Input,
                    "caption_text",
                    options=list(CAPTION_TEXTS),
                    default=CAPTION_TEXTS[0],
                    tooltip="How much of a .txt or .caption file is the caption: its first line, "
                    "or the whole file. drawn line: every time that training shows the picture, "
                    "it draws one of the lines, and one of the words that stand in braces.",
                ),
                opt(
                    io.Combo.Input,
                    "on_problem",
                    options=list(ON_PROBLEM),
                    default=ON_PROBLEM[0],
                    tooltip="What to do about pictures that cannot be decoded and captions that "
                    "are empty or not UTF-8. stop: say which and stop. skip: leave them out and "
                    "report them.",
                ),
                opt(
                    io.Combo.Input,
                    "layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    optional=True,
                    tooltip="How the folder stores captions and settings. auto: look at the "
                    "folder, and say in the report what it is and why. plain: caption files or "
                    "names. everydream: also yaml, multiply.txt and so on. kohya: folders such "
                    "as 10_cat, or metadata.json. hugging face: metadata.jsonl, .csv or .parquet.",
                ),
                opt(
                    io.String.Input,
                    "caption_column",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="For Hugging Face folders: the column with the captions. Empty = the "
                    "likeliest one, which the report names. The other text columns become "
                    "further captions, for Mix Captions.",
                ),
                opt(
                    io.String.Input,
                    "background",
                    default="#ffffff",
                    optional=True,
                    advanced=True,
                    tooltip="The colour that transparent parts become, as #rrggbb.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "dataset",
                    display_name="dataset",
                    tooltip="The pairs; each pair's group is the folder of its picture.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was found, and what was skipped and why.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, folder: str | None, layout: str | None = None, background: str | None = None
    ) -> bool | str:
        try:
            if layout is not None:
                check_layout(layout)
            if background is not None:
                check_background(background)
            if folder is None:
                return True
            path = names.dataset_folder(folder)
        except (names.BadName, TrainerError) as error:
            return str(error)
        if not has_picture(path):
            return (
                f"There is no picture in {folder}. Put pictures there, each with a caption in a "
                ".txt file of the same name."
            )
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **_: Any) -> str:
        """Changes when a file in the folder does."""
        try:
            return folder_state(names.dataset_folder(folder)) if folder else ""
        except (names.BadName, TrainerError):
            return ""

    @classmethod
    def execute(
        cls,
        folder: str,
        caption_text: str,
        on_problem: str,
        layout: str = LAYOUTS[0],
        caption_column: str = "",
        background: str = "#ffffff",
    ) -> io.NodeOutput:
        path = names.dataset_folder(folder)
        dataset, report = load_folder(
            path,
            folder,
            caption_text,
            on_problem,
            names.picture_facts(path),
            Progress(),
            layout,
            caption_column.strip(),
            background,
            names.tokenizer_dir(),
        )
        result = {
            "dataset": folder,
            "fingerprint": dataset.fingerprint,
            "layout": report.layout,
            "found": report.found,
            "pairs": len(dataset.pairs),
            "skipped": len(report.problems),
            "reasons": report.reasons(),
            "problems": [asdict(problem) for problem in report.problems[:1000]],
            "not_understood": [asdict(problem) for problem in report.unread[:1000]],
            "notes": list(report.notes),
            "other_files": report.other_files,
            "captions_from_names": report.captions_from_names,
        }
        show_text(str(report))
        return io.NodeOutput(dataset, str(report), ui={"text": [str(report)], "cocktail": [result]})


NODES: list[type[io.ComfyNode]] = [CocktailDrawShapes, CocktailLoadDataset]
