"""Captions from a model, or from any other node that turns pictures into text."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...trainer.data.caption.apply import MODES, apply_captions, set_captions
from ...trainer.data.caption.captioner import DEVICES, DTYPES, CaptionSettings
from ...trainer.data.caption.job import (
    CaptionState,
    create_job,
    problems,
    result,
)
from ...trainer.data.caption.model_folder import KINDS, check_model
from ...trainer.data.image import open_rgb
from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from .. import supervisor, types
from ..host import names
from ..host.progress import Progress, show_text
from ..pictures import as_image
from ..schema import opt, schema
from ..waiting import work_off

CATEGORY = "cocktail/dataset"
MODE_TOOLTIP = (
    "What happens to a pair's own caption. column only: it stays, and the new text goes only to "
    "the column. replace, fill empty: the new text replaces it, or only where it is empty. "
    "append, prepend: both are joined with a comma."
)


class CocktailCaptionDataset(io.ComfyNode):
    """Captions written by a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailCaptionDataset",
            display_name="Caption Dataset",
            category=CATEGORY,
            description="Captions every picture with a picture-to-text model (BLIP, Florence-2, "
            "GIT or another that transformers knows), in the background. The model is a folder "
            "below models/LLM or models/captioners with safetensors weights; nothing is "
            "downloaded. Captions are kept: when the dataset grows, only the new pictures are "
            "captioned.",
            search_aliases=[
                "auto caption",
                "blip",
                "florence2",
                "captioning",
                "image to text",
                "label images",
                "interrogate",
                "tagger",
            ],
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs whose pictures are captioned."),
                opt(
                    io.Combo.Input,
                    "model",
                    options=names.captioners(),
                    tooltip="A folder below models/LLM or models/captioners: config.json, "
                    "safetensors weights, and the processor's files.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default=KINDS[0],
                    tooltip="What the folder must hold; auto takes any picture-to-text model.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="Florence-2: a task such as <CAPTION> (empty: <DETAILED_CAPTION>). "
                    "BLIP and GIT: the beginning of every caption. Chat models: the question.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=75,
                    min=1,
                    max=1024,
                    tooltip="Longest caption, in the model's own tokens.",
                ),
                io.Int.Input(
                    "num_beams",
                    default=3,
                    min=1,
                    max=16,
                    tooltip="How many wordings are tried at the same time. More are slightly "
                    "better, and slower.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="Pictures captioned at once. More need more memory.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default=DTYPES[0],
                    tooltip="Arithmetic of the model. auto: fp32 on a CPU, bf16 or fp16 on a GPU.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default=DEVICES[0],
                    tooltip="Where the model works. auto: the GPU if there is one.",
                ),
                io.String.Input(
                    "column",
                    default="model",
                    tooltip="Name of the caption column that gets the texts, for Mix Captions "
                    "and Clean Captions.",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), default=MODES[-1], tooltip=MODE_TOOLTIP
                ),
                io.String.Input(
                    "keep_own_as",
                    default="",
                    tooltip="Name of a column that keeps a pair's own caption if it is changed. "
                    "Empty: it is not kept.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "captioned",
                    display_name="dataset",
                    tooltip="The same pairs with the new captions.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many pictures got a caption, and which did not.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None, kind: str | None) -> bool | str:
        try:
            if model is not None:
                check_model(names.captioner_folder(model), kind or KINDS[0])
        except (names.BadName, TrainerError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        model: str,
        column: str,
        mode: str,
        keep_own_as: str,
        **settings: Any,
    ) -> io.NodeOutput:
        folder = names.captioner_folder(model)
        wanted = CaptionSettings(str(folder), column=column, **settings)
        job = create_job(names.cocktail_dir("captions"), "", dataset, wanted, Progress())
        supervisor.queue_captioning(job)
        work_off(job, lambda state: _describe(model, state))
        texts = result(job.folder)
        captioned, report = apply_captions(
            dataset, column.strip(), texts, mode, keep_own_as.strip()
        )
        failed = problems(job.folder)
        text = str(report)
        if failed:
            first = next(iter(failed.values()))
            text += f"\npictures that could not be captioned: {len(failed)}, such as: {first}"
        show_text(text)
        facts = {
            "captions": len(texts),
            "changed": report.changed,
            "problems": failed,
            "job": job.name,
            "fingerprint": captioned.fingerprint,
        }
        return io.NodeOutput(captioned, text, ui={"text": [text], "cocktail": [facts]})


def _describe(model: str, state: CaptionState) -> str:
    """The state of the captioning, in a line."""
    parts = [f"{model}: {state.status}"]
    if state.total:
        parts.append(f"{state.done} of {state.total} pictures")
    if state.pictures_per_second:
        parts.append(f"{state.pictures_per_second:.2f} a second")
    if state.problems:
        parts.append(f"{state.problems} without a caption")
    if state.message:
        parts.append(state.message)
    return ", ".join(parts)


class CocktailDatasetImages(io.ComfyNode):
    """Pictures of a dataset for other nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailDatasetImages",
            display_name="Dataset Images",
            category=CATEGORY,
            description="Passes pictures of a dataset to other nodes, each with the id of its "
            "pair. Set Captions takes back what those nodes write about them. The pictures are "
            "held in memory: take a few hundred at a time.",
            search_aliases=[
                "dataset to images",
                "load image batch",
                "image list",
                "pictures to caption",
            ],
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs."),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    tooltip="The first pair, counted from 0.",
                ),
                io.Int.Input(
                    "count", default=16, min=1, max=4096, tooltip="How many pairs, at most."
                ),
                io.Int.Input(
                    "max_side",
                    default=768,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="Larger pictures are made smaller until no side has more pixels.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="images",
                    is_output_list=True,
                    tooltip="The pictures, one after the other, each in its own size.",
                ),
                io.String.Output(
                    "ids",
                    display_name="ids",
                    is_output_list=True,
                    tooltip="The id of each picture's pair, for Set Captions.",
                ),
                io.String.Output(
                    "captions",
                    display_name="captions",
                    is_output_list=True,
                    tooltip="The caption that each pair has now.",
                ),
            ],
        )

    @classmethod
    def execute(cls, dataset: Dataset, start: int, count: int, max_side: int) -> io.NodeOutput:
        pairs = dataset.pairs[start : start + count]
        if not pairs:
            raise TrainerError(
                f"{dataset.name} has {len(dataset.pairs)} pairs, counted from 0, so there is "
                f"none from {start} on. Lower start."
            )
        progress, images = Progress(), []
        for done, pair in enumerate(pairs, start=1):
            picture = open_rgb(dataset.path(pair), (max_side, max_side), dataset.background)
            picture.thumbnail((max_side, max_side))
            images.append(as_image(picture))
            progress(done, len(pairs))
        return io.NodeOutput(images, [pair.id for pair in pairs], [pair.caption for pair in pairs])


class CocktailSetCaptions(io.ComfyNode):
    """Texts from anywhere become captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailSetCaptions",
            display_name="Set Captions",
            category=CATEGORY,
            description="Gives pairs the texts that other nodes have written about their "
            "pictures. There must be as many ids as texts, so that no text goes to the wrong "
            "picture.",
            search_aliases=[
                "captions to dataset",
                "apply captions",
                "set prompts",
                "join captions",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs to give captions to."),
                io.String.Input(
                    "ids", force_input=True, tooltip="Ids of the pairs, from Dataset Images."
                ),
                io.String.Input(
                    "texts", force_input=True, tooltip="One text for every id, in the same order."
                ),
                io.Combo.Input("mode", options=list(MODES), default=MODES[0], tooltip=MODE_TOOLTIP),
                io.String.Input(
                    "column",
                    default="",
                    tooltip="Name of a caption column that also gets the texts. Empty: none.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "captioned",
                    display_name="dataset",
                    tooltip="The same pairs with the new captions.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many captions were received, and how many changed.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        dataset: list[Dataset],
        ids: list[str],
        texts: list[str],
        mode: list[str],
        column: list[str],
    ) -> io.NodeOutput:
        captioned, report = set_captions(dataset[0], ids, texts, mode[0], column[0].strip())
        text = str(report)
        show_text(text)
        facts = {"changed": report.changed, "fingerprint": captioned.fingerprint}
        return io.NodeOutput(captioned, text, ui={"text": [text], "cocktail": [facts]})


NODES: list[type[io.ComfyNode]] = [
    CocktailCaptionDataset,
    CocktailDatasetImages,
    CocktailSetCaptions,
]
