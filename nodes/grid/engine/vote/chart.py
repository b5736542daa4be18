"""A ranking as a picture, and as a table."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LETTERS = 40
"""Longer labels are cut on the picture; the table has all of them."""
LIKELY = 0.5
"""Effects that are less probable are not listed."""
MOST_EFFECTS = 5
BEST, OTHER = "#0072B2", "#6E7781"


def chart_png(report: Mapping[str, Any]) -> bytes:
    """The strengths of a report's candidates with their 95 % intervals, the leader above, as a
    PNG 1200 pixels wide.
    """
    picture = io.BytesIO()
    _figure(report).savefig(picture, format="png")
    return picture.getvalue()


def _figure(report: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    ranks = report["ranking"]
    figure = Figure(figsize=(12, 2.2 + 0.42 * len(ranks)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for row, one in enumerate(ranks):
        colour = BEST if one["number"] == report["leader_number"] else OTHER
        axes.plot([one["low"], one["high"]], [row, row], color=colour, linewidth=3)
        axes.plot(one["strength"], row, "o", color=colour, markersize=9)
        axes.annotate(
            f"{one['best']:.0%}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            verticalalignment="center",
            color=colour,
        )
    axes.axvline(0, color="#D0D7DE", linewidth=1, zorder=0)
    labels = [short(one["label"]) for one in ranks]
    axes.set_yticks(range(len(ranks)), labels, parse_math=False)
    axes.set_ylim(len(ranks) - 0.4, -0.6)
    axes.set_xlabel("strength in logits, with 95 % intervals; 0 is the mean of all")
    axes.set_title(
        f"{report['votes']} vote{'s' * (report['votes'] != 1)}: {report['verdict']['state']}. "
        "On the right: how probably each is the best",
        loc="left",
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def table(report: Mapping[str, Any]) -> str:
    """A report as Markdown: the ranking, then those by group, effects and judges, and how far the
    votes agree with validation losses if the report has them.
    """
    parts = [_ranking(report["ranking"]), *map(_agrees, report.get("losses", ()))]
    for what, found in report["by"].items():
        for group, ranks in found["groups"].items():
            parts.append(f"**{cell_text(what)}: {cell_text(group)}**\n\n{_ranking(ranks)}")
        if found["effects"]:
            parts.append(_effects(cell_text(what), found["effects"]))
    rows = [f"| {cell_text(j['judge'])} | {j['votes']} | {j['ties']} |" for j in report["judges"]]
    parts.append("\n".join(["| judge | votes | ties |", "|---|---|---|", *rows]))
    alpha = report["agreement"]["alpha"]
    if alpha is not None:
        pictures = report["agreement"]["pictures"]
        parts.append(
            f"Agreement of the judges on {pictures} pair{'s' * (pictures != 1)} of pictures: "
            f"alpha {alpha:.2f}."
        )
    return "\n\n".join([*parts, report["verdict"]["text"]])


def short(label: str) -> str:
    """A label in one line that is not too long for the picture."""
    label = " ".join(label.split())
    return label if len(label) <= MOST_LETTERS else label[: MOST_LETTERS - 3] + "..."


def _effects(what: str, found: Mapping[str, Any]) -> str:
    """How probably candidates do better in one group than in others, and the clearest of these."""
    text = (
        f"Some candidates do better with one {what} than with others with a probability of "
        f"{found['probability']:.0%}; standard deviation {found['spread']:.2f}."
    )
    if found["probability"] < LIKELY:
        return text
    clear = [one for one in found["largest"] if one["low"] > 0 or one["high"] < 0]
    lines = [
        f"- {cell_text(one['candidate'])} does {'better' if one['effect'] > 0 else 'worse'} with "
        f"the {what} {cell_text(one['group'])}: {one['effect']:+.2f} "
        f"({one['low']:+.2f} to {one['high']:+.2f})"
        for one in clear[:MOST_EFFECTS]
    ]
    return "\n".join([text, "", *lines] if lines else [text])


def _agrees(found: Mapping[str, Any]) -> str:
    rho = found["spearman"]
    told = "no order to compare" if rho is None else f"Spearman's rank correlation {rho:+.2f}"
    return (
        f"Votes and validation loss over {found['checkpoints']} checkpoints of the run "
        f"{cell_text(found['run'])}: {told}. It is +1 where a lower loss is always preferred, 0 "
        "where the loss says nothing about the votes."
    )


def _ranking(ranks: list[dict[str, Any]]) -> str:
    head = ["candidate", "strength", "95 %", "best", "wins", "votes"]
    rounds = max((one.get("stayed", 0) for one in ranks), default=0)
    rows = [
        [
            cell_text(one["label"]),
            f"{one['strength']:+.2f}",
            f"{one['low']:+.2f} to {one['high']:+.2f}",
            f"{one['best']:.0%}",
            f"{one['wins']:.0%}",
            str(one["votes"]),
        ]
        for one in ranks
    ]
    if rounds:
        head.append("rounds")
        for row, one in zip(rows, ranks, strict=True):
            row.append(f"{one['stayed']} of {rounds}")
    losses = [one.get("validation_loss") for one in ranks]
    if any(loss is not None for loss in losses):
        head.append("validation loss")
        for row, loss in zip(rows, losses, strict=True):
            row.append("" if loss is None else f"{loss:.4f}")
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_text(text: str) -> str:
    """A text in a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
