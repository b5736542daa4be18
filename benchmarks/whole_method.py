"""The whole method at its own counts, with small pictures: time, memory and disk of every stage.

    .venv/bin/python benchmarks/whole_method.py --comfyui PATH --small    # a minute or two
    .venv/bin/python benchmarks/whole_method.py --comfyui PATH --tenth    # a tenth of everything
    .venv/bin/python benchmarks/whole_method.py --comfyui PATH            # hours, 20 GB of disk

A table of 1,000,000 rows, a selection of 11,475 pairs of which 15 % are held back, two runs of one
epoch with 13 checkpoints in all, 21 prompts x 2 sizes x 4 seeds of each (2,184 cells at 64 and
72 px), four mixes and a grid of seven models (1,176 cells), votes by a judge who likes one model,
and the card of the winner. The model is the miniature. Everything is done by a real ComfyUI's
nodes, in prompts that it gets by HTTP; the server starts anew for each stage.
Prints a table: wall seconds without the start, processor seconds, the peak memory of the server and
of the largest other process (trainer, selection), looked at twice a second, and what the disk holds
more. With --keep FOLDER, an interrupted benchmark goes on from there, stage by stage.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand in a folder where `select` is a benchmark.
sys.path.pop(0)
sys.path.insert(0, __file__.rpartition("benchmarks")[0] or ".")

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from PIL import Image

from benchmarks.stages import ROOT, Prompt, Work, carry_out, node, parsed, told
from tests.comfy import Comfy
from tests.judge import decide

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "grey")
SHAPES = ("circle", "square", "triangle")
GRID = {"steps": 2, "cfg": 4.0, "sampler": "ddim", "scheduler": "normal", "width": 64, "height": 64}


@dataclass(frozen=True)
class Sizes:
    """How much of everything. `saves` are checkpoints of each of the two runs."""

    rows: int = 1_000_000
    pairs: int = 11_475
    batch: int = 16
    saves: tuple[int, int] = (6, 7)
    prompts: int = 21
    sizes: str = "64, 72"
    seeds: int = 4


SIZES = {
    "full": Sizes(),
    "tenth": Sizes(rows=100_000, pairs=1_148, prompts=4, seeds=2),
    "small": Sizes(rows=4_000, pairs=60, batch=8, saves=(1, 2), prompts=2, sizes="64", seeds=1),
}
MINIATURES = {
    "base": ("--seed", "1"),
    "v1": ("--seed", "2"),
    "v3": ("--seed", "2", "--drift", "0.03"),
}


def selection(sizes: Sizes) -> Prompt:
    return {
        "rows": node(
            "CocktailSelectPairs",
            table="input/table.csv",
            layout="wanng_v5_clean",
            image_column="",
            prompt_column="",
            content_column="",
            user_column="",
            upscaled_column="",
            kind="any",
            raw="any",
            max_stylize=50,
            min_words=3,
            max_words=0,
            max_tokens=0,
            image_prompts=False,
            truncated=True,
            top_users=0,
            deduplicate=False,
            per_user=0,
            sample=sizes.pairs,
            seed=555,
            where="",
        )
    }


def dataset(sizes: Sizes) -> Prompt:
    return selection(sizes) | {
        "pairs": node(
            "CocktailJoinImages",
            selection=["rows", 0],
            folder="input/pictures",
            key="row index",
            on_problem="skip",
        ),
        "split": node("CocktailSplitDataset", dataset=["pairs", 0], share=0.15, seed=555),
        "clean": node(
            "CocktailCleanDataset",
            dataset=["split", 0],
            min_side=32,
            max_aspect=4.0,
            min_deviation=0.0,
            same_picture="keep",
            near_distance=-1,
        ),
        "kept": node("CocktailSaveDataset", dataset=["clean", 0], name="whole"),
    }


def training(sizes: Sizes) -> Prompt:
    steps = -(-round(sizes.pairs * 0.85) // sizes.batch)
    prompt = dataset(sizes) | {
        "base": node("CocktailBase", checkpoint="miniature_base.safetensors")
    }
    for number, saves in enumerate(sizes.saves, 1):
        prompt |= {
            f"settings {number}": node(
                "CocktailTrainingSettings",
                resolution=64,
                bucket_step=64,
                epochs=1,
                batch_size=sizes.batch,
                learning_rate=3e-4 / number,
                train_text_encoder=False,
                text_encoder_learning_rate=0.0,
                conditional_dropout=0.04,
                clip_skip=1,
                weight_decay=0.01,
                gradient_clip=1.0,
                seed=555,
                save_every_epochs=1,
                validation_timesteps=1,
                precision="fp32",
                save_precision="fp16",
            ),
            f"saving {number}": node(
                "CocktailSavingSettings",
                settings=[f"settings {number}", 0],
                every_steps=steps // saves + (saves > 1),
                every_minutes=0.0,
                keep_last=0,
                pinned_epochs="",
                resume_minutes=10.0,
            ),
            f"run {number}": node(
                "CocktailFineTune",
                base=["base", 0],
                dataset=["clean", 0],
                settings=[f"saving {number}", 0],
                run_name=f"whole-{number}",
            ),
            f"wait {number}": node("CocktailWaitForRun", run=[f"run {number}", 0]),
            f"best {number}": node(
                "CocktailPickCheckpoint",
                run=[f"wait {number}", 0],
                rule="lowest validation loss",
                epoch=1,
            ),
        }
    return prompt


def grid(sizes: Sizes, name: str, columns: dict[str, Any]) -> Prompt:
    """A grid over these columns, prompts, sizes and seeds, under keys that begin with its name."""
    prompts = [f"a {colour} {shape}" for shape in SHAPES for colour in COLOURS][: sizes.prompts]
    axes = {"prompt": "\n".join(prompts), "size": sizes.sizes, "seed": f"{sizes.seeds} seeds"}
    found = {
        f"{name} {target}": node("CocktailAxis", target=target, values=values)
        for target, values in axes.items()
    }
    numbered = {f"axis_{n}": [key, 0] for n, key in enumerate(found, 2)}
    found[f"{name} columns"] = columns
    found[f"{name} plan"] = node(
        "CocktailGridPlan",
        name=f"whole-{name}",
        axis_1=[f"{name} columns", 0],
        **numbered,
        checkpoint="none",
        prompt="",
        negative_prompt="",
        seed=0,
        clip_skip=1,
        **GRID,
    )
    found[f"{name} grid"] = node("CocktailRenderGrid", grid=[f"{name} plan", 0])
    return found


def epochs(sizes: Sizes) -> Prompt:
    columns = node("CocktailAxisRuns", run_1=["wait 1", 0], run_2=["wait 2", 0])
    return training(sizes) | grid(sizes, "epochs", columns)


def mixes(sizes: Sizes) -> Prompt:
    prompt = training(sizes)
    for name, checkpoint in (
        ("512", ["best 1", 0]),
        ("768", ["best 2", 0]),
        ("V1", "miniature_v1.safetensors"),
        ("V3", "miniature_v3.safetensors"),
    ):
        prompt[name] = node("CocktailIngredient", checkpoint=checkpoint)
    prompt["half"] = node(
        "CocktailWeightedSum", a=["512", 0], b=["768", 0], share_of_a=50.0, share_of_b=50.0
    )
    for name in ("512", "768", "half"):
        prompt[f"{name} plus"] = node(
            "CocktailAddDifference", a=[name, 0], b=["V3", 0], c=["V1", 0], multiplier=0.5
        )
    for name in ("half", "512 plus", "768 plus", "half plus"):
        prompt[f"file {name}"] = node(
            "CocktailMergeToFile",
            recipe=[name, 0],
            name=f"whole-{name.replace(' ', '-')}",
            precision="fp16",
        )
    return prompt


def tasting(sizes: Sizes) -> Prompt:
    names = ("best 1", "best 2", "file half", "file 512 plus", "file 768 plus", "file half plus")
    files: dict[str, Any] = {f"checkpoint_{n}": [key, 0] for n, key in enumerate(names, 1)}
    others = {"checkpoint_7": "miniature_v3.safetensors", "checkpoint_8": "none"}
    return mixes(sizes) | grid(
        sizes, "mixes", node("CocktailAxisCheckpoints", labels="", **files, **others)
    )


def release(sizes: Sizes) -> Prompt:
    return tasting(sizes) | {
        "winner": node("CocktailPickWinner", grid=["mixes grid", 0], rule="votes", name=""),
        "card": node(
            "CocktailReleaseCard", checkpoint=["winner", 0], title="whole", grid=["mixes grid", 0]
        ),
    }


def draw(base: Path) -> int:
    """A picture of 64 px for every selected row, in its place: what a download would do."""
    parts = base / "output" / "cocktail" / "cache" / "tables" / "selections"
    newest = max(parts.glob("*.parquet"), key=lambda file: file.stat().st_mtime)
    rows = duckdb.execute("SELECT row FROM read_parquet(?)", [str(newest)]).fetchall()
    folder = base / "input" / "pictures"
    folder.mkdir(exist_ok=True)
    for (row,) in rows:
        colour = (row * 37 % 256, row * 91 % 256, row * 53 % 256)
        Image.new("RGB", (64, 64), colour).save(folder / f"{row:06}.png", compress_level=1)
    return len(rows)


def vote(server: Comfy) -> str:
    file = server.base / "output" / "cocktail" / "grids" / "whole-mixes" / "plan.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    decide(server, "whole-mixes", saved["cells"][-1]["settings"]["checkpoint"])
    return "by up to four judges, until nothing was asked any more"


def stages_of(sizes: Sizes) -> dict[str, Work]:
    def first_line(prompt: Prompt, server: Comfy) -> str:
        return next(iter(told(server, prompt).get("text", [""])[0].splitlines()), "")

    def last_line(prompt: Prompt, server: Comfy) -> str:
        return told(server, prompt)["text"][0].splitlines()[-1]

    def verdict(prompt: Prompt, server: Comfy) -> str:
        return told(server, prompt)["cocktail"][0]["verdict"]

    return {
        "select, first time": partial(last_line, selection(sizes)),
        "select, again": partial(last_line, selection(sizes)),
        "draw pictures": lambda server: f"{draw(server.base):,}, in place of a download",
        "join, split, clean": partial(first_line, dataset(sizes)),
        "two runs": partial(first_line, training(sizes)),
        "grid of the epochs": partial(first_line, epochs(sizes)),
        "four mixes": partial(first_line, mixes(sizes)),
        "grid of the mixes": partial(first_line, tasting(sizes)),
        "votes": vote,
        "winner and card": partial(verdict, release(sizes)),
    }


def prepare(base: Path, sizes: Sizes) -> None:
    """Make what the method starts from."""
    for name, extra in MINIATURES.items():
        file = base / "models" / "checkpoints" / f"miniature_{name}.safetensors"
        if not file.exists():
            program("trainer/__main__.py", "miniature", file, *extra)
    table = base / "input" / "table.csv"
    if not table.exists():
        torn = table.with_suffix(".part")
        program("benchmarks/make_table.py", torn, "--rows", str(sizes.rows))
        torn.rename(table)


def main(arguments: Sequence[str]) -> int:
    options = parsed(__doc__, arguments, tenth="a tenth of everything", small="few of everything")
    sizes = SIZES[options.size]
    print(sizes, flush=True)
    return carry_out(options, partial(prepare, sizes=sizes), stages_of(sizes))


def program(file: str, *words: str | Path) -> None:
    subprocess.run([sys.executable, ROOT / file, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
