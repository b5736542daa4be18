"""The node that lays every column of a grid beside a baseline."""

from __future__ import annotations

from comfy_api.latest import io

from ...trainer.files import canonical_json
from .. import types
from ..host import names
from ..host.progress import Progress, show_text, stop_if_interrupted
from ..pictures import as_image, keep_png
from ..schema import opt, schema
from .axes import ALIASES
from .engine.check import baseline_sheet, clip_score
from .engine.check.baseline import Compared, compare, table
from .engine.plan.plan import Plan
from .engine.store.store import Store
from .engine.vote.ballot import Ballot
from .engine.vote.field import Field
from .engine.vote.winner import by_hand

CATEGORY = "cocktail/select"
NONE = "none"


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
            search_aliases=[*ALIASES, "difference", "diff", "baseline", "regression", "CLIP score"],
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
                    "and the processor's files. none: only pixels are compared. Nothing is "
                    "downloaded.",
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
    def execute(
        cls,
        grid: Plan,
        baseline: str,
        most: int,
        gain: float,
        axis: str = "",
        clip_model: str = NONE,
    ) -> io.NodeOutput:
        store = Store(names.cocktail_dir("grids", grid.name))
        field = Ballot(store, axis, grid).field
        base = by_hand(field, baseline) if baseline.strip() else 0
        show_text("comparing the pictures")
        compared = compare(field, base, store, Progress())
        scores = _scores(grid, field, base, store, compared, clip_model)
        text = table(field, base, compared, scores)
        if clip_model != NONE and not scores:
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


def _scores(
    grid: Plan, field: Field, base: int, store: Store, compared: Compared, clip_model: str
) -> list[tuple[int, int, float]]:
    """The differences of the CLIP scores from the baseline's, of (candidate, place, difference);
    of cells whose prompt is known.
    """
    if clip_model == NONE:
        return []
    import comfy.model_management

    prompts = {cell.key: getattr(cell.settings, "prompt", "") for cell in grid.cells}
    keys = {key for one in compared.found for key in (one.key, one.baseline)}
    wanted = {key: (store.cell_path(key), prompts[key]) for key in sorted(keys) if prompts[key]}
    show_text("looking at the pictures with CLIP")
    device = comfy.model_management.get_torch_device()
    folder = names.captioner_folder(clip_model)
    scores = clip_score.clip_scores(folder, wanted, device, Progress())
    return [
        (one.candidate, one.place, scores[one.key] - scores[one.baseline])
        for one in compared.found
        if one.key in scores and one.baseline in scores
    ]


NODES: list[type[io.ComfyNode]] = [CocktailCompareToBaseline]
