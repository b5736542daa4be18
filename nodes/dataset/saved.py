"""Saving a dataset under a name, and opening it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...trainer.data.folder.listing import folder_state
from ...trainer.data.folder.picture_check import check_pictures
from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema

CATEGORY = "cocktail/dataset"


class CocktailSaveDataset(io.ComfyNode):
    """A dataset saved under a name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSaveDataset",
            display_name="Save Dataset",
            category=CATEGORY,
            description="Saves the list of pairs, with captions, weights and split, as "
            "output/cocktail/datasets/NAME/manifest.parquet. Pictures are not copied. A name "
            "that already holds other pairs is refused: nothing is overwritten.",
            search_aliases=["export dataset", "manifest", "store dataset", "freeze dataset"],
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to save."),
                io.String.Input(
                    "name",
                    default="dataset",
                    tooltip="Name of the dataset: up to 64 letters, digits, dots, hyphens and "
                    "underscores.",
                ),
            ],
            outputs=[
                types.Dataset.Output("saved", display_name="dataset", tooltip="The same pairs."),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        try:
            names.check_name(name or "dataset", "dataset")
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, dataset: Dataset, name: str) -> io.NodeOutput:
        names.check_name(name, "dataset")
        path = names.saved_dataset(name)
        if path.is_file():
            there = Dataset.load(path)
            if there.fingerprint != dataset.fingerprint:
                raise TrainerError(
                    f"The dataset {name} already holds other pairs ({len(there.pairs)} there, "
                    f"{len(dataset.pairs)} here). Choose another name: nothing is overwritten."
                )
        else:
            dataset.save(path)
        text = f"{len(dataset.pairs)} pairs in output/cocktail/datasets/{name}"
        facts = {"name": name, "pairs": len(dataset.pairs), "fingerprint": dataset.fingerprint}
        show_text(text)
        return io.NodeOutput(dataset, ui={"text": [text], "cocktail": [facts]})


class CocktailOpenDataset(io.ComfyNode):
    """A saved dataset."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailOpenDataset",
            display_name="Open Dataset",
            category=CATEGORY,
            description="Opens pairs that Save Dataset has saved. Pictures are read from where "
            "they were; missing and changed ones are named.",
            search_aliases=["load manifest", "saved dataset", "import dataset"],
            inputs=[
                opt(
                    io.Combo.Input,
                    "saved_dataset",
                    options=names.saved_datasets(),
                    tooltip="A dataset in output/cocktail/datasets. Press R to refresh the list.",
                ),
                opt(
                    io.Boolean.Input,
                    "read_every_picture",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Read every picture and compare its content. Off: only pictures "
                    "whose size or time has changed are read.",
                ),
            ],
            outputs=[
                types.Dataset.Output("dataset", display_name="dataset", tooltip="The pairs."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many pairs there are, and whether their pictures are unchanged.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, saved_dataset: str | None) -> bool | str:
        try:
            if saved_dataset is not None:
                names.existing_dataset(saved_dataset)
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, saved_dataset: str | None, **_: Any) -> str:
        """Changes when the manifest or a file in its folder of pictures changes."""
        try:
            path = names.existing_dataset(saved_dataset or "")
            root = Path(Dataset.root_of(path) or path)
            pictures = folder_state(root) if names.is_dataset_place(root) and root.is_dir() else ""
            return f"{path.stat().st_mtime_ns}-{pictures}"
        except (names.BadName, TrainerError, OSError):
            return ""

    @classmethod
    def execute(cls, saved_dataset: str, read_every_picture: bool = False) -> io.NodeOutput:
        dataset = Dataset.load(names.existing_dataset(saved_dataset))
        root = Path(dataset.root)
        folders = {
            root,
            *(
                dataset.path(pair).parent
                for pair in dataset.pairs
                if Path(pair.image).is_absolute()
            ),
        }
        strange = sorted(str(folder) for folder in folders if not names.is_dataset_place(folder))
        if strange:
            raise TrainerError(
                f"Pictures of {saved_dataset} are in {strange[0]}, which is not a folder for "
                "datasets. Move them below ComfyUI's input folder and load them there, or add "
                "their folder under 'datasets' to extra_model_paths.yaml."
            )
        known = [names.picture_facts(root), names.picture_facts(root, "joined-")]
        check = check_pictures(dataset, known, read_every_picture, Progress())
        if not check.fine:
            raise TrainerError(
                f"{saved_dataset} in {root}:\n{check}\nPut them back, or load the folder again."
            )
        text = f"{len(dataset.pairs)} pairs, {len(dataset.validation)} of them held back\n{check}"
        facts = {
            "name": saved_dataset,
            "pairs": len(dataset.pairs),
            "fingerprint": dataset.fingerprint,
            "not_compared": check.unknown,
        }
        show_text(text)
        return io.NodeOutput(dataset, text, ui={"text": [text], "cocktail": [facts]})


NODES: list[type[io.ComfyNode]] = [CocktailSaveDataset, CocktailOpenDataset]
