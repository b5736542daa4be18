"""Keeping a dataset under a name, and taking it up again."""

from __future__ import annotations

from comfy_api.latest import io

from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from .. import names, types
from ..progress import show_text
from ..schema import opt, schema

CATEGORY = "cocktail/dataset"


class CocktailSaveDataset(io.ComfyNode):
    """A manifest under a name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSaveDataset",
            display_name="Save Dataset",
            category=CATEGORY,
            description="Keeps the list of pairs, with captions, weights and split, as output/cocktail/datasets/NAME/manifest.parquet. Pictures are not "
            "copied. A name that holds other pairs is refused: nothing is overwritten.",
            search_aliases=["export dataset", "manifest", "store dataset", "freeze dataset"],
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to keep."),
                io.String.Input(
                    "name",
                    default="dataset",
                    tooltip="Name of the dataset: up to 64 letters, digits, dots, hyphens and underscores.",
                ),
            ],
            outputs=[
                types.Dataset.Output("saved", display_name="dataset", tooltip="The same pairs."),
            ],
        )  # fmt: skip

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
                    f"The dataset {name} holds other pairs ({len(there.pairs)} there, {len(dataset.pairs)} here). "
                    "Choose another name: nothing is overwritten."
                )
        else:
            dataset.save(path)
        text = f"{len(dataset.pairs)} pairs in output/cocktail/datasets/{name}"
        told = {"name": name, "pairs": len(dataset.pairs), "fingerprint": dataset.fingerprint}
        show_text(text)
        return io.NodeOutput(dataset, ui={"text": [text], "cocktail": [told]})


class CocktailOpenDataset(io.ComfyNode):
    """A saved manifest."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailOpenDataset",
            display_name="Open Dataset",
            category=CATEGORY,
            description="Opens pairs that Save Dataset has kept. Pictures are read where they were.",
            search_aliases=["load manifest", "saved dataset", "import dataset"],
            inputs=[
                opt(
                    io.Combo.Input,
                    "saved_dataset",
                    options=names.saved_datasets(),
                    tooltip="A dataset in output/cocktail/datasets. Press R to refresh the list.",
                ),
            ],
            outputs=[types.Dataset.Output("dataset", display_name="dataset", tooltip="The pairs.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, saved_dataset: str | None) -> bool | str:
        try:
            if saved_dataset is not None:
                names.existing_dataset(saved_dataset)
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, saved_dataset: str) -> io.NodeOutput:
        dataset = Dataset.load(names.existing_dataset(saved_dataset))
        missing = [pair.image for pair in dataset.pairs if not dataset.path(pair).is_file()]
        if missing:
            raise TrainerError(
                f"{len(missing)} of {len(dataset.pairs)} pictures of {saved_dataset} are not where they were, such as {missing[0]} "
                f"in {dataset.root}. Put them back, or load the folder anew."
            )
        text = f"{len(dataset.pairs)} pairs, {len(dataset.validation)} of them held back"
        told = {
            "name": saved_dataset,
            "pairs": len(dataset.pairs),
            "fingerprint": dataset.fingerprint,
        }
        show_text(text)
        return io.NodeOutput(dataset, ui={"text": [text], "cocktail": [told]})


NODES: list[type[io.ComfyNode]] = [CocktailSaveDataset, CocktailOpenDataset]
