"""Holding pairs back for validation: a share of them, or a folder of their own."""

from __future__ import annotations

from comfy_api.latest import io

from ...trainer.data.manifest import Dataset
from ...trainer.data.split import METHODS, TOGETHER, add_validation_set, check_set_name, split
from ...trainer.errors import TrainerError
from .. import types
from ..host.progress import show_text
from ..schema import opt, schema

CATEGORY = "cocktail/dataset"


class CocktailSplitDataset(io.ComfyNode):
    """Some pairs held back for validation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSplitDataset",
            display_name="Split Dataset",
            category=CATEGORY,
            description="Holds a share of the pairs back for validation. They are never trained "
            "on, so their loss shows whether an epoch is really better.",
            search_aliases=[
                "validation split",
                "val_split_proportion",
                "train test split",
                "hold out",
            ],
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to divide."),
                opt(
                    io.Float.Input,
                    "share",
                    default=0.15,
                    min=0.001,
                    max=0.9,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of the pairs held back for validation, from 0.001 to 0.9, "
                    "rounded up to whole pairs. 0.15 = 15 %.",
                ),
                io.Int.Input(
                    "seed",
                    default=555,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="Which pairs are held back. The choice depends on each picture's "
                    "content, so pairs added later move few others.",
                ),
                opt(
                    io.Combo.Input,
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    optional=True,
                    tooltip="exact share: exactly as many as the share says, rounded up; pairs "
                    "added later can move a few others. by hash: about the share; an added pair "
                    "never moves another.",
                ),
                opt(
                    io.Combo.Input,
                    "together",
                    options=list(TOGETHER),
                    default=TOGETHER[0],
                    optional=True,
                    tooltip="What stays on one side: all captions of an image, all pairs of a "
                    "group (a user or a folder), or all pictures with the same caption, such as "
                    "the four of one prompt.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "split_dataset",
                    display_name="dataset",
                    tooltip="The same pairs, each marked for training or validation.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        share: float,
        seed: int,
        method: str = METHODS[0],
        together: str = TOGETHER[0],
    ) -> io.NodeOutput:
        result = split(dataset, share, seed, method, together)
        text = f"{len(result.train)} pairs to train on, {len(result.validation)} for validation"
        counts = {
            "train": len(result.train),
            "validation": len(result.validation),
            "fingerprint": result.fingerprint,
        }
        show_text(text)
        return io.NodeOutput(result, ui={"text": [text], "cocktail": [counts]})


class CocktailAddValidationSet(io.ComfyNode):
    """A folder of pairs that is only used to measure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailAddValidationSet",
            display_name="Add Validation Set",
            category=CATEGORY,
            description="Adds separate pairs for validation, as a set with a name. None of them "
            "is trained on, and a picture that is in both is left out of training.",
            search_aliases=[
                "validation folder",
                "val_data_root",
                "extra_manual_datasets",
                "test set",
            ],
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to train on, split or not."),
                types.Dataset.Input(
                    "held_back",
                    tooltip="The pairs to validate with, from Load Dataset. All of them are held "
                    "back.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    placeholder="empty: validation",
                    tooltip="Name of the set, under which its loss is shown: up to 32 letters, "
                    "digits, dots, hyphens and underscores. Empty: the set without a name, like "
                    "the one of Split Dataset.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "with_set",
                    display_name="dataset",
                    tooltip="The pairs of both inputs; those of the set are marked for validation.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        try:
            check_set_name(name or "")
        except TrainerError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, dataset: Dataset, held_back: Dataset, name: str) -> io.NodeOutput:
        result = add_validation_set(dataset, held_back, name)
        text = result.history[-1]
        counts = {
            "train": len(result.train),
            "validation": {key: len(pairs) for key, pairs in result.validation_sets.items()},
            "fingerprint": result.fingerprint,
        }
        show_text(text)
        return io.NodeOutput(result, ui={"text": [text], "cocktail": [counts]})


NODES: list[type[io.ComfyNode]] = [CocktailSplitDataset, CocktailAddValidationSet]
