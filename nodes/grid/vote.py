"""The nodes that turn votes into a decision: Vote, Ranking and Pick Winner."""

from __future__ import annotations

import contextlib
import io as bytes_io
from typing import Any

from comfy_api.latest import io

from ...trainer.files import canonical_json
from ...trainer.runs import Run, list_runs
from .. import types
from ..host import names
from ..host.progress import show_text
from ..pictures import as_image, keep_png
from ..schema import opt, schema
from .engine.errors import GridError
from .engine.plan.plan import Plan
from .engine.render import execution
from .engine.store import events
from .engine.store.store import Store
from .engine.vote import chart, correlation, enough, verdict, winner
from .engine.vote.ballot import ROUND_VOTES, Ballot
from .engine.vote.log import FOUR, MOST_VOTES, PAIR

CATEGORY = "cocktail/select"
DECISION, AS_IT_STANDS = "when it is decided", "as it stands"
WHEN = (DECISION, AS_IT_STANDS)
AT_ONCE = {"two at a time": PAIR, "four at once": FOUR}
WORDS = ["vote", "voting", "blind test", "A/B test", "best checkpoint"]


class _OfVotes(io.ComfyNode):
    """What depends on the votes on a grid."""

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        """Changes with every vote."""
        return votes_state()


def _grid_input() -> Any:
    return types.Grid.Input("grid", tooltip="The grid, from Render Grid or Queue Grid.")


def _axis_input() -> Any:
    return opt(
        io.String.Input,
        "axis",
        default="",
        optional=True,
        tooltip="The axis that was voted on, by its target, such as checkpoint or cfg. Empty: the "
        "axis of checkpoints or recipes, or else the first one.",
    )


def when_input() -> Any:
    return opt(
        io.Combo.Input,
        "when",
        options=list(WHEN),
        default=DECISION,
        optional=True,
        tooltip="Whether the graph waits until the vote is decided (one value is the best with a "
        "probability of 0.9, more votes would not separate the best ones, or the rounds of a Vote "
        "node are over) or goes on with the votes so far. While it waits, it says where to vote; "
        f"queue it again afterwards. Behind a Vote node choose '{AS_IT_STANDS}'.",
    )


class CocktailVote(_OfVotes):
    """Where a graph waits for votes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailVote",
            display_name="Vote",
            category=CATEGORY,
            description="Stops the graph until there are enough votes on the pictures of a grid, "
            "with a link to the page where they are cast. Queue the graph again afterwards: it "
            "goes on behind this node.",
            search_aliases=[*WORDS, "wait for votes", "tournament", "rounds", "human in the loop"],
            is_output_node=True,
            inputs=[
                _grid_input(),
                io.Combo.Input(
                    "until",
                    options=list(enough.UNTIL),
                    default=enough.DECISION,
                    tooltip="When there are enough: when one value is the best with a probability "
                    "of 0.9 or more votes would not separate the best ones, when all rounds are "
                    "over (after each the better half stays, such as 13, 6, 3, 1), or when there "
                    "are as many as 'votes' says. A decision ends the last two early.",
                ),
                io.Int.Input(
                    "votes",
                    default=ROUND_VOTES,
                    min=1,
                    max=MOST_VOTES,
                    tooltip="For 'so many votes': how many. For the rounds: how many all of them "
                    "have together; the first has 40 %. A vote takes about four seconds.",
                ),
                io.Combo.Input(
                    "pictures",
                    options=list(AT_ONCE),
                    default=next(iter(AT_ONCE)),
                    tooltip="How many pictures the page shows at first; everybody can change it "
                    "there. Four, put in order from best to worst, give more information per "
                    "minute.",
                ),
                _axis_input(),
            ],
            outputs=[
                types.Grid.Output(
                    "voted_grid",
                    display_name="grid",
                    tooltip="The same grid, when there are enough votes.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, grid: Plan, until: str, votes: int, pictures: str, axis: str = ""
    ) -> io.NodeOutput:
        page = enough.page(grid.name, axis, until, votes, AT_ONCE[pictures])
        events.announce_vote(grid.name, page)
        ballot = Ballot(_store(grid), axis, grid)
        with execution.disk(ballot.store):
            ballot.note(until, votes)
        far = ballot.progress(until, votes)
        if not far.ends:
            raise GridError(
                enough.not_over(grid.name, far.text, page)
                + f" If you have seen all pictures, choose '{enough.NUMBER}' for fewer votes."
                * (until != enough.NUMBER)
            )
        show_text(far.text)
        result = {"name": grid.name, "page": page}
        return io.NodeOutput(grid, ui={"text": [far.text], "cocktail": [result]})


class CocktailRanking(_OfVotes):
    """What the votes on a grid say."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailRanking",
            display_name="Ranking",
            category=CATEGORY,
            description="Ranks the checkpoints (or other values) of a grid by the votes on its "
            "pictures: a table, a chart with 95 % intervals, and the winner. Stops the graph until "
            "there are enough votes.",
            search_aliases=[*WORDS, "Bradley-Terry", "Elo"],
            is_output_node=True,
            inputs=[
                _grid_input(),
                _axis_input(),
                io.String.Input(
                    "by",
                    default="",
                    optional=True,
                    tooltip="Groups of votes to rank too: targets of other axes, such as prompt or "
                    "size, and judge, separated by commas.",
                ),
                when_input(),
            ],
            outputs=[
                io.String.Output(
                    "table", display_name="table", tooltip="The rankings as Markdown tables."
                ),
                io.Image.Output(
                    "chart",
                    display_name="chart",
                    tooltip="Strengths with their 95 % intervals, the best above; 1200 pixels "
                    "wide.",
                ),
                io.String.Output(
                    "winner", display_name="winner", tooltip="The first one of the table."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, grid: Plan, axis: str = "", by: str = "", when: str = DECISION
    ) -> io.NodeOutput:
        groups = [word.strip() for word in by.split(",") if word.strip()]
        report = report_of(grid, axis, groups, when)
        candidates = Ballot(_store(grid), axis, grid).field.candidates
        checkpoints = [one.set.get("checkpoint") for one in candidates]
        report = correlation.with_losses(report, checkpoints, validation_losses())
        from PIL import Image

        png = chart.chart_png(report)
        image = keep_png(png, "rankings", canonical_json([grid.name, report]))
        with Image.open(bytes_io.BytesIO(png), formats=("PNG",)) as picture:
            pixels = as_image(picture)
        text = chart.table(report)
        show_text(report["verdict"]["text"])
        ui = {"images": [image], "text": [text], "cocktail": [{"name": grid.name, **report}]}
        return io.NodeOutput(text, pixels, report["leader"], ui=ui)


class CocktailPickWinner(_OfVotes):
    """The checkpoint that wins a grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailPickWinner",
            display_name="Pick Winner",
            category=CATEGORY,
            description="Picks one checkpoint of a grid: the one that the votes prefer, the one "
            "with the lowest validation loss, the last one, or one by hand. By votes it stops the "
            "graph until there are enough.",
            search_aliases=[*WORDS, "winner", "best epoch", "select checkpoint"],
            is_output_node=True,
            inputs=[
                _grid_input(),
                opt(
                    io.Combo.Input,
                    "rule",
                    options=list(winner.RULES),
                    default=winner.VOTES,
                    tooltip="How to pick: by the votes on the grid's pictures, by the lowest "
                    "validation loss of runs, by hand with the name below, or the last value of "
                    "the axis, such as the last epoch.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="For the rule 'by hand': the label on the grid, or the checkpoint's "
                    "name.",
                ),
                _axis_input(),
                when_input(),
                io.String.Input(
                    "where",
                    default="",
                    optional=True,
                    multiline=True,
                    tooltip="For votes: count only those on these values of other axes, such as "
                    "size = 512 x 512, one a line. With one Pick Winner for each size every "
                    "resolution has its own winner. Empty: all votes.",
                ),
            ],
            outputs=[
                types.CheckpointName.Output(
                    "checkpoint",
                    display_name="checkpoint",
                    tooltip="The checkpoint's name, for any checkpoint input, including Load "
                    "Checkpoint's.",
                ),
                io.String.Output(
                    "label", display_name="label", tooltip="What the winner is called on the grid."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        grid: Plan,
        rule: str,
        name: str,
        axis: str = "",
        when: str = DECISION,
        where: str = "",
    ) -> io.NodeOutput:
        if where.strip() and rule != winner.VOTES:
            raise GridError(
                f"'where' chooses votes, and the rule is '{rule}'. Empty it, or choose the rule "
                f"'{winner.VOTES}'."
            )
        field = Ballot(_store(grid), axis, grid).field
        if rule == winner.VOTES:
            report = report_of(grid, axis, [], when, where)
            number = report["leader_number"]
            why = report["verdict"]["text"]
        elif rule == winner.LOSS:
            losses = {name: loss.value for name, loss in validation_losses().items()}
            number = winner.by_loss(field, losses)
            why = f"validation loss {losses[field.candidates[number].set['checkpoint']]:.4f}"
        elif rule == winner.LAST:
            number, why = len(field.candidates) - 1, "the last one on the axis"
        else:
            number, why = winner.by_hand(field, name), "picked by hand"
        checkpoint, label = winner.checkpoint_of(field, number), field.candidates[number].label
        names.checkpoint_path(checkpoint)
        text = f"{label}: {why}"
        show_text(text)
        result = {"checkpoint": checkpoint, "label": label, "rule": rule, "grid": grid.name}
        return io.NodeOutput(checkpoint, label, ui={"text": [text], "cocktail": [result]})


def report_of(grid: Plan, axis: str, by: list[str], when: str, where: str = "") -> dict[str, Any]:
    """What the votes on a grid say. Raises GridError, which says where to vote, when the graph has
    to wait for more.
    """
    report = Ballot(_store(grid), axis, grid, where).report(by)
    state = report["verdict"]["state"]
    page = enough.page(grid.name, axis, where=where)
    events.announce_vote(grid.name, page)
    if state == verdict.ALIKE:
        return report
    if not report["votes"] and when != DECISION:
        raise GridError(enough.not_over(grid.name, "0 votes, and 1 or more are needed", page))
    if when == DECISION and (state not in verdict.ENDS or not report["votes"]):
        far = enough.undecided(report["votes"], report["ranking"][0]["best"])
        to_go_on = f" To go on with the votes that there are, choose '{AS_IT_STANDS}'."
        raise GridError(enough.not_over(grid.name, far, page) + to_go_on * bool(report["votes"]))
    return report


def votes_state() -> list[Any]:
    """Size and time of the votes on every grid: which one it is about is known only when the node
    runs.
    """
    found = []
    for file in sorted(names.cocktail_dir("grids").glob("[!.]*/votes.jsonl")):
        status = file.stat()
        found.append([file.parent.name, status.st_size, status.st_mtime_ns])
    return found


def validation_losses() -> dict[str, correlation.Loss]:
    """The validation loss of every saved checkpoint of all runs that has one, by its name."""
    found = {}
    for run in list_runs(names.cocktail_dir("runs")):
        if isinstance(run, Run):
            for saved in run.checkpoints():
                if saved.validation_loss is not None:
                    # A run of another place has no checkpoints that a grid could name.
                    with contextlib.suppress(names.BadName):
                        name = names.checkpoint_name(saved.file)
                        found[name] = correlation.Loss(run.name, saved.validation_loss)
    return found


def _store(grid: Plan) -> Store:
    return Store(names.cocktail_dir("grids", grid.name))


NODES: list[type[io.ComfyNode]] = [CocktailRanking, CocktailPickWinner, CocktailVote]
