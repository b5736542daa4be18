"""Leaving out harmful pairs, and rewriting captions."""

from __future__ import annotations

from dataclasses import asdict

from comfy_api.latest import io

from ...trainer.data.caption.rewrite import CaptionRules, mix, read_replacements, rewrite
from ...trainer.data.captions import OWN
from ...trainer.data.clean.clean import SAME_PICTURE, CleanSettings, clean
from ...trainer.data.clean.looks import looks
from ...trainer.data.manifest import Dataset
from ...trainer.errors import TrainerError
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import schema

CATEGORY = "cocktail/dataset"
SHOWN = 1000
"""The most left-out pairs that are listed one by one; the counts include all."""


class CocktailCleanDataset(io.ComfyNode):
    """The pairs without the harmful ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailCleanDataset",
            display_name="Clean Dataset",
            category=CATEGORY,
            description="Leaves out pictures that are tiny, very long, nearly uniform, repeated "
            "or very similar to another one. Files stay where they are. Of similar pictures the "
            "one held back for validation stays, so training never sees what validation measures.",
            search_aliases=[
                "deduplicate",
                "duplicates",
                "near duplicates",
                "perceptual hash",
                "filter images",
                "quality filter",
            ],
            is_output_node=True,
            inputs=[
                types.Dataset.Input(
                    "dataset",
                    tooltip="The pairs to clean. Do so before Split Dataset, so that the share it "
                    "holds back is exact. Pairs that are split already are compared across both "
                    "parts.",
                ),
                io.Int.Input(
                    "min_side",
                    default=64,
                    min=0,
                    max=4096,
                    tooltip="Pictures whose shorter side has fewer pixels are left out. 0 = "
                    "none. Half of the training resolution is a good value.",
                ),
                io.Float.Input(
                    "max_aspect",
                    default=4.0,
                    min=1.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Pictures whose longer side is more than this many times their "
                    "shorter side are left out.",
                ),
                io.Float.Input(
                    "min_deviation",
                    default=2.0,
                    min=0.0,
                    max=127.0,
                    step=0.5,
                    tooltip="Nearly uniform pictures are left out: those in which no colour "
                    "channel varies by this much (standard deviation, 0 to 127). 0 = none.",
                ),
                io.Combo.Input(
                    "same_picture",
                    options=list(SAME_PICTURE),
                    default=SAME_PICTURE[0],
                    tooltip="What to do when the same picture comes more than once, byte for "
                    "byte. leave out: keep one pair of it. same caption: do so only where the "
                    "captions are the same too. keep: keep all.",
                ),
                io.Int.Input(
                    "near_distance",
                    default=2,
                    min=-1,
                    max=32,
                    tooltip="Pictures of similar colours whose 64-bit difference hash differs "
                    "from another's by at most this many bits are left out: smaller, "
                    "recompressed or brightened copies. 0 = only equal hashes, -1 = keep all. "
                    "From about 4 up, it also hits drawings that only share an outline.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "cleaned", display_name="dataset", tooltip="The pairs that are left."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was left out and why, with counts.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        min_side: int,
        max_aspect: float,
        min_deviation: float,
        same_picture: str,
        near_distance: int,
    ) -> io.NodeOutput:
        settings = CleanSettings(min_side, max_aspect, min_deviation, same_picture, near_distance)
        progress = Progress()
        seen = looks(dataset, names.cocktail_dir("cache", "looks.jsonl"), progress)
        result, report = clean(dataset, settings, seen, progress)
        text = str(report)
        show_text(text)
        facts = {
            "before": report.before,
            "pairs": len(result.pairs),
            "left_out": [asdict(entry) for entry in report.left_out[:SHOWN]],
            "across": report.across,
            "fingerprint": result.fingerprint,
        }
        return io.NodeOutput(result, text, ui={"text": [text], "cocktail": [facts]})


TAG_ORDERS = ("as they are", "shuffled each time")


class CocktailCleanCaptions(io.ComfyNode):
    """Captions rewritten by rule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailCleanCaptions",
            display_name="Clean Captions",
            category=CATEGORY,
            description="Rewrites every caption by rules: replace, strip, add a prefix or a "
            "suffix; and decides whether training shuffles tags or leaves some out. Pairs keep "
            "their pictures; files stay as they are.",
            search_aliases=[
                "replace text",
                "prefix",
                "suffix",
                "trigger word",
                "shuffle tags",
                "tag dropout",
                "keep tokens",
                "caption processing",
            ],
            is_output_node=True,
            inputs=[
                types.Dataset.Input("dataset", tooltip="The pairs whose captions are rewritten."),
                io.String.Input(
                    "column",
                    default=OWN,
                    tooltip="Which captions to start from: 'caption' = the pairs' own, or "
                    "another column, such as one that a model has written. A pair without that "
                    "column keeps its own.",
                ),
                io.String.Input(
                    "replace",
                    default="",
                    multiline=True,
                    placeholder="old text => new text",
                    tooltip="One replacement on each line: old text => new text. Letter case is "
                    "ignored; they are done one after the other. Leave the right side empty to "
                    "remove the text.",
                ),
                io.Boolean.Input(
                    "strip",
                    default=True,
                    tooltip="Whether white space becomes single spaces, and empty tags and "
                    "commas at the ends are removed.",
                ),
                io.String.Input(
                    "prefix",
                    default="",
                    tooltip="Added before every caption as it is, spaces included. For example: "
                    "photo of ",
                ),
                io.String.Input(
                    "suffix",
                    default="",
                    tooltip="Added after every caption as it is. For example: , in the style of "
                    "sks",
                ),
                io.Combo.Input(
                    "tag_order",
                    options=list(TAG_ORDERS),
                    default=TAG_ORDERS[0],
                    tooltip="How training shows tags (the parts between commas): as they are, or "
                    "shuffled again each time. Validation shows them as they are.",
                ),
                io.Int.Input(
                    "keep_tags",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="This many tags at the beginning stay in place when tags are "
                    "shuffled or left out.",
                ),
                io.Float.Input(
                    "tag_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The chance, from 0 to 1, that training leaves a tag out; drawn for "
                    "each tag after the kept ones, each time a pair is shown.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "rewritten",
                    display_name="dataset",
                    tooltip="The pairs with their new captions.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many captions changed, with the first five before and after.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, replace: str | None) -> bool | str:
        try:
            read_replacements(replace or "")
        except TrainerError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        column: str,
        replace: str,
        strip: bool,
        prefix: str,
        suffix: str,
        tag_order: str,
        keep_tags: int,
        tag_dropout: float,
    ) -> io.NodeOutput:
        rules = CaptionRules(
            column.strip() or OWN,
            read_replacements(replace),
            strip,
            prefix,
            suffix,
            tag_order == TAG_ORDERS[1],
            keep_tags,
            tag_dropout,
        )
        result, report = rewrite(dataset, rules)
        text = str(report)
        show_text(text)
        facts = {
            "pairs": len(result.pairs),
            "changed": report.changed,
            "left_out": list(report.empty[:SHOWN]),
            "fingerprint": result.fingerprint,
        }
        return io.NodeOutput(result, text, ui={"text": [text], "cocktail": [facts]})


class CocktailMixCaptions(io.ComfyNode):
    """Several captions for a pair, each shown as often as its share says."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = [
            types.Dataset.Input("dataset", tooltip="Pairs with captions in several columns.")
        ]
        for number, letter in enumerate("abc"):
            inputs += [
                io.String.Input(
                    f"column_{letter}",
                    default=OWN if number == 0 else "",
                    tooltip="Name of a caption column; 'caption' = the pairs' own. Empty: not "
                    "used.",
                ),
                io.Float.Input(
                    f"share_of_{letter}",
                    default=50.0,
                    min=0.0,
                    max=1000.0,
                    step=5.0,
                    tooltip=f"Share of column {letter}, relative to the others: 50 and 50 are "
                    "half each.",
                ),
            ]
        return schema(
            node_id="CocktailMixCaptions",
            display_name="Mix Captions",
            category=CATEGORY,
            description="Shows pairs with captions of several columns, drawn each time a pair is "
            "shown: for example, half the time what a person wrote, and half the time what a "
            "model wrote. A pair without the drawn column is shown with its own caption, which "
            "is also what validation uses.",
            search_aliases=[
                "caption mix",
                "caption probability",
                "several captions",
                "wildcard captions",
            ],
            is_output_node=True,
            inputs=inputs,
            outputs=[
                types.Dataset.Output(
                    "mixed",
                    display_name="dataset",
                    tooltip="The same pairs with the shares of their captions.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        column_a: str,
        share_of_a: float,
        column_b: str,
        share_of_b: float,
        column_c: str,
        share_of_c: float,
    ) -> io.NodeOutput:
        shares: dict[str, float] = {}
        for column, share in (
            (column_a, share_of_a),
            (column_b, share_of_b),
            (column_c, share_of_c),
        ):
            if column.strip():
                shares[column.strip()] = shares.get(column.strip(), 0.0) + share
        result = mix(dataset, shares)
        text = result.history[-1]
        show_text(text)
        facts = {"mix": dict(result.caption_mix), "fingerprint": result.fingerprint}
        return io.NodeOutput(result, ui={"text": [text], "cocktail": [facts]})


NODES: list[type[io.ComfyNode]] = [CocktailCleanDataset, CocktailCleanCaptions, CocktailMixCaptions]
