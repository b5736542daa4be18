"""The node that lays every column of a grid beside a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from comfy_api.latest import io

from ...trainer.files import canonical_json
from .. import types
from ..host import names
from ..host.progress import Progress, show_text, stop_if_interrupted
from ..pictures import as_image, keep_png
from ..schema import opt, schema
from .axes import ALIASES
from .engine.check import aesthetic, baseline_sheet, clip_score, lpips
from .engine.check.baseline import Compared, Measure, compare, table
from .engine.errors import GridError
from .engine.plan.plan import Plan
from .engine.store.store import Store
from .engine.vote.ballot import Ballot
from .engine.vote.winner import by_hand

CATEGORY = "cocktail/select"
NONE = "none"
LPIPS, AESTHETIC = "lpips", "aesthetic"
"""The folders below ComfyUI's models folder."""


class CocktailCompareToBaseline(io.ComfyNode):
    """How far the columns of a grid are from one of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailCompareToBaseline",
            display_name="Compare to Baseline",
            category=CATEGORY,
            description="Compares every picture of a grid with the one of a baseline column at "
            "the same prompt, seed and size: the mean difference of the pixels by prompt, and a "
            "contact sheet of the largest. What differs most is worth looking at; it is not "
            "better or worse for that.",
            search_aliases=[
                *ALIASES,
                "difference",
                "diff",
                "baseline",
                "regression",
                "CLIP score",
                "LPIPS",
            ],
            is_output_node=True,
            inputs=[
                types.Grid.Input("grid", tooltip="The grid, from Render Grid or Queue Grid."),
                io.String.Input(
                    "baseline",
                    default="",
                    tooltip="The column that all others are compared with: its label on the grid, "
                    "or a checkpoint's name. Empty: the first value of the axis.",
                ),
                io.Int.Input(
                    "most",
                    default=12,
                    min=1,
                    max=100,
                    tooltip="The contact sheet shows at most this many of the largest differences, "
                    "from 1 to 100.",
                ),
                io.Float.Input(
                    "gain",
                    default=4.0,
                    min=1.0,
                    max=64.0,
                    step=0.5,
                    tooltip="By how much the differences on the sheet are amplified, from 1 to 64. "
                    "The figures in the table are not amplified.",
                ),
                opt(
                    io.String.Input,
                    "axis",
                    default="",
                    optional=True,
                    tooltip="The axis that the baseline is a value of, by its target, such as "
                    "checkpoint or cfg. Empty: the axis of checkpoints or recipes, or else the "
                    "first one.",
                ),
                opt(
                    io.Combo.Input,
                    "clip_model",
                    options=clip_models(),
                    default=NONE,
                    optional=True,
                    tooltip="A CLIP model that says how well pictures fit their prompts: a folder "
                    "below models/LLM or models/captioners with config.json, safetensors weights "
                    "and the processor's files. none: no scores. Nothing is downloaded.",
                ),
                opt(
                    io.Combo.Input,
                    "lpips",
                    options=[NONE, *names.weights_names(LPIPS)],
                    default=NONE,
                    optional=True,
                    tooltip="Says how far apart two pictures look (LPIPS), by a file in "
                    "models/lpips with torchvision's weights of AlexNet, VGG16 or SqueezeNet 1.1, "
                    "and the package torchmetrics. none: no LPIPS. Nothing is downloaded.",
                ),
                opt(
                    io.Combo.Input,
                    "aesthetic_head",
                    options=[NONE, *names.weights_names(AESTHETIC)],
                    default=NONE,
                    optional=True,
                    tooltip="Guesses how much people like a picture, by a file in models/aesthetic "
                    "with a head like those of LAION's aesthetic predictors, over the embeddings "
                    "of clip_model, which must be the CLIP model that the head was made for: of "
                    "LAION's it is ViT-L/14. none: no marks. Nothing is downloaded.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "table", display_name="table", tooltip="The differences as Markdown tables."
                ),
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The largest differences: baseline, picture, and what differs.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, lpips: str | None = NONE, aesthetic_head: str | None = NONE
    ) -> bool | str:
        try:
            _files(lpips or NONE, aesthetic_head or NONE)
        except (names.BadName, GridError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        grid: Plan,
        baseline: str,
        most: int,
        gain: float,
        axis: str = "",
        clip_model: str = NONE,
        lpips: str = NONE,
        aesthetic_head: str = NONE,
    ) -> io.NodeOutput:
        network, head = _files(lpips, aesthetic_head)
        if head is not None and clip_model == NONE:
            raise GridError(
                "The aesthetic head marks what a CLIP model sees: choose one as clip_model (for "
                "LAION's heads ViT-L/14), or none as aesthetic_head."
            )
        store = Store(names.cocktail_dir("grids", grid.name))
        field = Ballot(store, axis, grid).field
        base = by_hand(field, baseline) if baseline.strip() else 0
        show_text("comparing the pictures")
        compared = compare(field, base, store, Progress())
        measures = [] if network is None else [_lpips(network, store, compared)]
        if clip_model != NONE:
            measures += _by_clip(clip_model, head, grid, store, compared)
        text = table(field, base, compared, measures)
        if clip_model != NONE and CLIP_SCORE not in [one.words for one in measures]:
            text += "\n\nNo CLIP scores: the prompts of these cells are not known."
        shown = baseline_sheet.largest(compared.found, most)
        sheet = baseline_sheet.contact_sheet(field, base, store, shown, gain)
        stop_if_interrupted()
        content = canonical_json([grid.name, base, gain, [(s.key, s.baseline) for s in shown]])
        image = keep_png(sheet, "baselines", content)
        far = max(one.mean for one in compared.found)
        label = field.candidates[base].label
        show_text(f"at most {far:.2f} of 255 from {label}")
        result = {
            "name": grid.name,
            "baseline": label,
            "compared": len(compared.found),
            "equal": sum(one.equal for one in compared.found),
            "largest": far,
        }
        ui = {"images": [image], "text": [text], "cocktail": [result]}
        return io.NodeOutput(text, as_image(sheet), ui=ui)


def clip_models() -> list[str]:
    """NONE, and the names of model folders with a CLIP model."""
    found = [
        name for name in names.captioners() if clip_score.is_clip(names.captioner_folder(name))
    ]
    return [NONE, *found]


CLIP_SCORE = (
    "CLIP score (100 x cosine of picture and prompt), difference from {baseline}: above 0 the "
    "picture fits its prompt better, as that CLIP model sees it."
)
MARKS = (
    "Aesthetic mark, difference from {baseline}: above 0 the picture is liked more, as that head "
    "guesses."
)
APART = "LPIPS, how far apart the pictures look, from {baseline}: 0 is equal."


def _files(network: str, head: str) -> tuple[Path | None, Path | None]:
    """The files for LPIPS and for aesthetic marks, None where there is to be none. Raises BadName
    for one that is not there, GridError where a package is missing.
    """
    if network != NONE and (told := lpips.missing()):
        raise GridError(told)
    return (
        None if network == NONE else names.weights_path(LPIPS, network, lpips.WANTED),
        None if head == NONE else names.weights_path(AESTHETIC, head, aesthetic.WANTED),
    )


def _lpips(network: Path, store: Store, compared: Compared) -> Measure:
    import comfy.model_management

    show_text("how far apart the pictures look")
    pairs = [(store.cell_path(one.baseline), store.cell_path(one.key)) for one in compared.found]
    device = comfy.model_management.get_torch_device()
    values = lpips.distances(network, pairs, device, Progress())
    found = zip(compared.found, values, strict=True)
    return Measure(APART, "{:.3f}", [(one.candidate, one.place, value) for one, value in found])


def _by_clip(
    clip_model: str, head: Path | None, grid: Plan, store: Store, compared: Compared
) -> list[Measure]:
    """Scores of the pictures whose prompts are known, and marks if there is a head."""
    import comfy.model_management

    show_text("looking at the pictures with CLIP")
    device = comfy.model_management.get_torch_device()
    clip = clip_score.Clip(names.captioner_folder(clip_model), device)
    keys = sorted({key for one in compared.found for key in (one.key, one.baseline)})
    pictures = clip.pictures({key: store.cell_path(key) for key in keys}, Progress())
    prompts = {cell.key: getattr(cell.settings, "prompt", "") for cell in grid.cells}
    scores = clip_score.clip_scores(clip, pictures, prompts)
    measures = [_differences(CLIP_SCORE, compared, scores)] if scores else []
    if head is not None:
        measures.append(_differences(MARKS, compared, aesthetic.marks(head, pictures)))
    return measures


def _differences(words: str, compared: Compared, figures: Mapping[str, float]) -> Measure:
    """By how much the figure of each picture is above that of the baseline's."""
    values = [
        (one.candidate, one.place, figures[one.key] - figures[one.baseline])
        for one in compared.found
        if one.key in figures and one.baseline in figures
    ]
    return Measure(words, "{:+.2f}", values)


NODES: list[type[io.ComfyNode]] = [CocktailCompareToBaseline]
