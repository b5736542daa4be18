"""The whole method at its own counts, with small pictures: time, memory and disk of every stage.

    .venv/bin/python benchmarks/whole_method.py --comfyui PATH --small    # a minute or two
    .venv/bin/python benchmarks/whole_method.py --comfyui PATH            # hours, 20 GB of disk

A table of 1,000,000 rows, a selection of 11,475 pairs of which 15 % are held back, two runs of one
epoch with 13 checkpoints in all, 21 prompts x 2 sizes x 4 seeds of each (2,184 cells at 64 and
72 px), four mixes and their grid, votes by a judge who likes one model, and the card of the winner.
The model is the miniature. Everything is done by a real ComfyUI's nodes, in prompts that it gets
by HTTP; the server starts anew for each stage. Prints a table: wall seconds without the start, the
peak memory of the server and of the largest other process (trainer, selection), sampled twice a
second, and what the disk holds more. --keep FOLDER keeps everything there and goes on from there.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand in a folder where `select` is a benchmark.
sys.path.pop(0)
sys.path.insert(0, __file__.rpartition("benchmarks")[0] or ".")

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from PIL import Image

from benchmarks.stages import measured, node, table
from tests.comfy import Comfy
from tests.judge import decide

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "grey")
SHAPES = ("circle", "square", "triangle")
GRID = {"steps": 4, "cfg": 4.0, "sampler": "ddim", "scheduler": "normal", "width": 64, "height": 64}


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


SMALL = Sizes(rows=4_000, pairs=60, batch=8, saves=(1, 2), prompts=2, sizes="64", seeds=1)
MINIATURES = {
    "base": ("--seed", "1"),
    "v1": ("--seed", "2"),
    "v3": ("--seed", "2", "--drift", "0.03"),
}
Prompt = dict[str, dict[str, Any]]


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
    files = {f"checkpoint_{n}": [key, 0] for n, key in enumerate(names, 1)}
    none = {f"checkpoint_{n}": "none" for n in (7, 8)}
    return mixes(sizes) | grid(
        sizes, "mixes", node("CocktailAxisCheckpoints", labels="", **files, **none)
    )


def release(sizes: Sizes) -> Prompt:
    return tasting(sizes) | {
        "winner": node("CocktailPickWinner", grid=["mixes grid", 0], rule="votes", name=""),
        "card": node(
            "CocktailReleaseCard", checkpoint=["winner", 0], title="whole", grid=["mixes grid", 0]
        ),
    }


STAGES: dict[str, Callable[[Sizes], Prompt]] = {
    "select, first time": selection,
    "select, again": selection,
    "join, split, clean": dataset,
    "two runs": training,
    "grid of the epochs": epochs,
    "four mixes": mixes,
    "grid of the mixes": tasting,
    "votes": tasting,
    "winner and card": release,
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


def carry_out(server: Comfy, stage: str, sizes: Sizes) -> str:
    """One stage. Returns what it made, in words."""
    if stage == "votes":
        server_plan = server.base / "output" / "cocktail" / "grids" / "whole-mixes" / "plan.json"
        saved = json.loads(server_plan.read_text(encoding="utf-8"))
        decide(server, "whole-mixes", saved["cells"][-1]["settings"]["checkpoint"])
        return "four judges"
    prompt = STAGES[stage](sizes)
    outputs = server.run(prompt, timeout=24 * 3600)
    last = outputs.get(list(prompt)[-1], {})
    if stage.startswith("winner"):
        return last["cocktail"][0]["verdict"]
    text = last.get("text", [""])[0].splitlines()
    return text[-1] if stage.startswith("select") else next(iter(text), "")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--small", action="store_true", help="few of everything")
    parser.add_argument("--keep", type=Path, help="a folder to work in")
    options = parser.parse_args(arguments)
    if not options.comfyui or not (Path(options.comfyui) / "main.py").is_file():
        parser.error("name ComfyUI's folder with --comfyui")
    sizes = SMALL if options.small else Sizes()
    with tempfile.TemporaryDirectory() as temporary:
        base = (options.keep or Path(temporary)).resolve()
        found = carried_out(Comfy(Path(options.comfyui).resolve(), base, ROOT), sizes)
    print(f"\n{sizes}")
    print(*table(found), json.dumps(found), sep="\n")
    return 0


def carried_out(server: Comfy, sizes: Sizes) -> list[dict[str, Any]]:
    """Make what the method starts from, then do all stages."""
    base, found = server.base, []
    for name, extra in MINIATURES.items():
        file = base / "models" / "checkpoints" / f"miniature_{name}.safetensors"
        if not file.exists():
            program("trainer/__main__.py", "miniature", file, *extra)
    if not (base / "input" / "table.csv").exists():
        program("benchmarks/make_table.py", base / "input" / "table.csv", "--rows", str(sizes.rows))
    for stage in STAGES:
        if stage.startswith("join"):
            print(f"drew {draw(base):,} pictures", flush=True)
        found.append(measured(server, stage, partial(carry_out, server, stage, sizes)))
    return found


def program(file: str, *words: str | Path) -> None:
    subprocess.run([sys.executable, ROOT / file, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
