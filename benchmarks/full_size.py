"""A full-size SD1.5 checkpoint (2.1 GB, random weights) through the whole pack, once.

    .venv/bin/python benchmarks/full_size.py --comfyui PATH --small    # the miniature, a minute
    .venv/bin/python benchmarks/full_size.py --comfyui PATH            # 25 GB of memory, 10 of disk

Fine-tune loads it, takes one step at 512 px with the text encoder and saves it; Merge to File mixes
the result with the base; ComfyUI's own nodes load the mix and take one sampling step at 512 px.
Prints a table: wall seconds without the server's start, processor seconds, the peak memory of the
server and of the training, looked at twice a second, and what the disk holds more.
With --keep FOLDER, an interrupted benchmark goes on from there.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand in a folder where `select` is a benchmark.
sys.path.pop(0)
sys.path.insert(0, __file__.rpartition("benchmarks")[0] or ".")

import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.stages import ROOT, Prompt, carry_out, node, parsed, told
from tests.comfy import Comfy

BASE = "full_base.safetensors"
MAKE = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("train_step", sys.argv[1])
sys.path.insert(0, "")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.make_full(Path(sys.argv[2]))
"""


def training(side: int) -> Prompt:
    return {
        "draw": node("CocktailDrawShapes", name="two", count=2, seed=1),
        "load": node(
            "CocktailLoadDataset", folder=["draw", 0], caption_text="first line", on_problem="stop"
        ),
        "split": node("CocktailSplitDataset", dataset=["load", 0], share=0.5, seed=1),
        "base": node("CocktailBase", checkpoint=BASE),
        "settings": node(
            "CocktailTrainingSettings",
            resolution=side,
            bucket_step=64,
            epochs=1,
            batch_size=1,
            learning_rate=1.5e-6,
            train_text_encoder=True,
            text_encoder_learning_rate=1.5e-6,
            conditional_dropout=0.04,
            clip_skip=1,
            weight_decay=0.01,
            gradient_clip=1.0,
            seed=555,
            save_every_epochs=1,
            validation_timesteps=1,
            precision="bf16",
            save_precision="fp16",
        ),
        "memory": node(
            "CocktailChangeSettings",
            settings=["settings", 0],
            changes="compute.gradient_checkpointing = true\nsaving.resume_minutes = 0",
        ),
        "run": node(
            "CocktailFineTune",
            base=["base", 0],
            dataset=["split", 0],
            settings=["memory", 0],
            run_name="one-step",
        ),
        "wait": node("CocktailWaitForRun", run=["run", 0]),
        "pick": node("CocktailPickCheckpoint", run=["wait", 0], rule="last", epoch=1),
    }


def merging(side: int) -> Prompt:
    return training(side) | {
        "trained": node("CocktailIngredient", checkpoint=["pick", 0]),
        "untrained": node("CocktailIngredient", checkpoint=BASE),
        "mix": node(
            "CocktailWeightedSum",
            a=["trained", 0],
            b=["untrained", 0],
            share_of_a=60.0,
            share_of_b=40.0,
        ),
        "file": node(
            "CocktailMergeToFile", recipe=["mix", 0], name="half-trained", precision="fp16"
        ),
    }


def sampling(side: int) -> Prompt:
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="cocktail/half-trained.safetensors"),
        "text": node("CLIPTextEncode", text="a red circle", clip=["model", 1]),
        "size": node("EmptyLatentImage", width=side, height=side, batch_size=1),
        "sample": node(
            "KSampler",
            model=["model", 0],
            seed=1,
            steps=1,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["text", 0],
            negative=["text", 0],
            latent_image=["size", 0],
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["model", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="full_size"),
    }


STAGES = {
    "load, one step, save": training,
    "merge 60/40": merging,
    "load in ComfyUI, one sampling step": sampling,
}


def done(server: Comfy, stage: str, side: int) -> str:
    last = told(server, STAGES[stage](side))
    return last["text"][0].splitlines()[0] if "text" in last else last["images"][0]["filename"]


def make_base(folder: Path, small: bool) -> None:
    file = folder / "models" / "checkpoints" / BASE
    if small:
        words = [ROOT / "trainer" / "__main__.py", "miniature", file]
    else:
        words = ["-c", MAKE, ROOT / "benchmarks" / "train_step.py", file.parent]
    if not file.exists():
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    if not file.exists():
        file.with_name("full.safetensors").rename(file)
    print(f"{file.name}: {file.stat().st_size / 1e9:.2f} GB", flush=True)


def main(arguments: Sequence[str]) -> int:
    options = parsed(__doc__, arguments, small="the miniature at 64 px")
    small = options.size == "small"
    side = 64 if small else 512
    stages = {stage: partial(done, stage=stage, side=side) for stage in STAGES}
    return carry_out(options, partial(make_base, small=small), stages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
