"""Can wrong captions be told by the losses of a run? Two in a hundred captions of drawn shapes are
replaced by another pair's, a network is trained on all of them, and the ranking of Pairs That Stand
Out is compared with what was planted.

    python benchmarks/planted_captions.py                 # a small network, about five minutes
    python benchmarks/planted_captions.py --miniature     # a real run of the miniature, one thread:
                                                          # half an hour and more

Both learn to predict noise in latents of 8 x 8 at the noise levels of SD1.5, and are measured as a
run measures its pairs: fixed noise, fixed stratified noise levels. The small network is a
perceptron of about two million weights that is told the three words of a caption; the miniature is
trained by the trainer itself, which finds its tokenizer in TOKENIZER or in .comfy.

Recall is the share of the planted pairs among the first so many of the ranking, precision the share
of those that were planted. The last line is JSON.
"""

from __future__ import annotations

import sys

sys.path.pop(0)

import argparse
import dataclasses
import json
import os
import platform
import random
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / ".comfy" / "comfyui" / "comfy" / "sd1_tokenizer"
SHARE, HELD_BACK, SEED = 0.02, 0.15, 555
AIM = {"recall": 0.8, "precision": 0.5}

for package in ("cocktail", "cocktail.trainer"):
    module = types.ModuleType(package)
    module.__path__ = [str(ROOT.joinpath(*package.split(".")[1:]))]
    sys.modules[package] = module


def wrong(captions: Sequence[str], seed: int) -> tuple[list[str], list[int]]:
    """The captions with two in a hundred replaced by another pair's, and which those are."""
    draw = random.Random(seed)
    places = sorted(draw.sample(range(len(captions)), round(SHARE * len(captions))))
    changed = list(captions)
    for place in places:
        changed[place] = draw.choice([text for text in captions if text != captions[place]])
    return changed, places


def report(validations: Sequence[Mapping[str, Any]], planted: set[str], title: str) -> dict:
    """Print recall and precision after every validation, and return those of the last one."""
    from cocktail.trainer.figures.pairs import rank

    found: dict[str, float] = {}
    print(f"\n{title}\n{'epoch':>6} {'part':>10} {'planted':>8} {'recall':>7} {'precision':>10}")
    for count in range(1, len(validations) + 1):
        ranked = rank(validations[:count])
        for part in ("training", "validation"):
            own = [standing.id for standing in ranked if standing.part == part]
            there = planted & set(own)
            if not there:
                continue
            for factor in (1, 1.6):
                first = own[: round(factor * len(there))]
                hits = len(there & set(first))
                recall, precision = hits / len(there), hits / len(first)
                epoch = validations[count - 1]["epoch"]
                print(f"{epoch:6} {part:>10} {len(there):8} {recall:7.2f} {precision:10.2f}")
                found[f"{part}_recall_at_{factor:g}"] = round(recall, 3)
                found[f"{part}_precision_at_{factor:g}"] = round(precision, 3)
    return found


def small(count: int, epochs: int) -> dict[str, float]:
    """The experiment with the small network."""
    import numpy
    import torch
    from PIL import Image

    from cocktail.trainer.noise import TIMESTEPS, add_noise, alphas_cumprod, keyed_generator
    from cocktail.trainer.shapes import CAPTION, COLOURS, SHAPES, draw_pair

    torch.manual_seed(SEED)
    pictures, captions = [], []
    for index in range(count):
        image, caption = draw_pair(SEED, index)
        square = image.resize((64, 64), Image.Resampling.LANCZOS).reduce(8)
        pictures.append(numpy.asarray(square, dtype=numpy.float32) / 127.5 - 1)
        captions.append(caption)
    captions, places = wrong(captions, SEED)
    words = [*COLOURS, *SHAPES, *COLOURS]
    starts = (0, len(COLOURS), len(COLOURS) + len(SHAPES))
    told = torch.zeros(count, len(words))
    for index, caption in enumerate(captions):
        match = CAPTION.search(caption)
        assert match is not None
        for start, word in zip(starts, match.groups(), strict=True):
            told[index, words.index(word, start)] = 1
    colours = torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2)
    latents = torch.cat([colours, colours.mean(1, keepdim=True)], 1)
    ids = [f"{index:016x}" for index in range(count)]
    # The seed of the planted ones would hold back just these.
    held_back = set(random.Random(SEED + 1).sample(range(count), round(HELD_BACK * count)))
    train = torch.tensor([index for index in range(count) if index not in held_back])
    network = perceptron(4 * 64, len(words))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    alphas = alphas_cumprod().float()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    levels, validations = 4, []
    offsets = [torch.rand(1, generator=keyed_generator(SEED, "level", pair)).item() for pair in ids]
    fixed = [
        torch.tensor([int((level + offset) / levels * TIMESTEPS) for offset in offsets])
        for level in range(levels)
    ]
    noises = [
        torch.stack(
            [
                torch.randn(4, 8, 8, generator=keyed_generator(SEED, pair, int(step)))
                for pair, step in zip(ids, steps, strict=True)
            ]
        )
        for steps in fixed
    ]

    def losses(steps: Any, noise: Any, which: Any, captions: Any) -> Any:
        noisy = add_noise(latents[which], noise, steps, alphas)
        predicted = network(noisy.flatten(1), steps, captions)
        return (predicted - noise.flatten(1)).square().mean(1)

    for epoch in range(epochs + 1):
        if epoch:
            for batch in train[torch.randperm(len(train))].split(32):
                kept = (torch.rand(len(batch), 1) >= 0.04).float()
                noise, steps = (
                    torch.randn(len(batch), 4, 8, 8),
                    torch.randint(TIMESTEPS, (len(batch),)),
                )
                loss = losses(steps, noise, batch, told[batch] * kept).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        if epoch % max(1, epochs // 5):
            continue
        with torch.no_grad():
            everything = torch.arange(count)
            measured = torch.stack(
                [losses(t, n, everything, told) for t, n in zip(fixed, noises, strict=True)], 1
            ).tolist()
        line: dict[str, Any] = {"epoch": epoch, "step": epoch, "levels": {}, "training": {}}
        for index, pair in enumerate(ids):
            line["levels" if index in held_back else "training"][pair] = measured[index]
        validations.append(line)
    planted = {ids[place] for place in places}
    return report(validations, planted, f"small network, {count} pairs, {len(planted)} planted")


def perceptron(size: int, words: int) -> Any:
    """Three residual layers that see noisy latents, the noise level and the words."""
    import torch

    class Perceptron(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.begin = torch.nn.Linear(size + 64 + words, 768)
            self.layers = torch.nn.ModuleList(
                torch.nn.Sequential(
                    torch.nn.LayerNorm(768), torch.nn.Linear(768, 768), torch.nn.GELU()
                )
                for _ in range(3)
            )
            self.end = torch.nn.Linear(768, size)

        def forward(self, noisy: Any, steps: Any, told: Any) -> Any:
            waves = 2.0 ** torch.arange(32) * (torch.pi / 1000 / 2**5)
            angles = steps[:, None].float() * waves.clamp(max=1.0)
            x = self.begin(torch.cat([noisy, angles.sin(), angles.cos(), told], 1))
            for layer in self.layers:
                x = x + layer(x)
            return self.end(x)

    return Perceptron()


def miniature(count: int, epochs: int, folder: Path) -> dict[str, float]:
    """The experiment with a real run of the miniature at 64 px."""
    from cocktail.trainer.data.folder.folder import load_folder
    from cocktail.trainer.data.manifest import pair_ids
    from cocktail.trainer.data.split import split
    from cocktail.trainer.files import sha256_file
    from cocktail.trainer.loop import train
    from cocktail.trainer.model.miniature import make_miniature
    from cocktail.trainer.runs import Base, Paths, create_run
    from cocktail.trainer.settings.run_settings import RunSettings
    from cocktail.trainer.shapes import draw_shapes

    base = folder / "miniature.safetensors"
    make_miniature(base, "small", 1, 0.0, 0)
    draw_shapes(folder / "shapes", count, SEED)
    dataset, _ = load_folder(folder / "shapes", "shapes", "first line", "stop", None, None)
    captions, places = wrong([pair.caption for pair in dataset.pairs], SEED)
    hashes = [pair.image_hash for pair in dataset.pairs]
    ids = pair_ids(zip(hashes, captions, strict=True))
    pairs = tuple(
        dataclasses.replace(pair, id=id, caption=caption)
        for pair, id, caption in zip(dataset.pairs, ids, captions, strict=True)
    )
    settings = {
        "resolution": 64,
        "bucket_step": 64,
        "epochs": epochs,
        "batch_size": 16,
        "learning_rate": 3e-4,
        "train_text_encoder": False,
        "precision": "fp32",
        "save_every_epochs": 1000,
        "validation": {"every_epochs": max(1, epochs // 4), "train_share": 1.0},
    }
    run = create_run(
        folder / "runs",
        "planted",
        Base(base.name, str(base), sha256_file(base)),
        split(dataclasses.replace(dataset, pairs=pairs), HELD_BACK, SEED),
        RunSettings.from_json(settings),
        Paths(
            str(folder / "checkpoints"),
            os.environ.get("TOKENIZER", str(TOKENIZER)),
            str(folder / "cache"),
        ),
    )
    if train(run.folder):
        raise SystemExit(run.state().message)
    planted = {ids[place] for place in places}
    return report(run.validations(), planted, f"miniature, {count} pairs, {len(planted)} planted")


def main() -> None:
    parser = argparse.ArgumentParser(description="Wrong captions, told by the losses of a run.")
    parser.add_argument("--miniature", action="store_true", help="a real run of the miniature")
    parser.add_argument("--pairs", type=int, help="default: 2000, with --miniature 600")
    parser.add_argument("--epochs", type=int, help="default: 80, with --miniature 12")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(5)
    began = time.perf_counter()
    if options.miniature:
        with tempfile.TemporaryDirectory() as folder:
            found = miniature(options.pairs or 600, options.epochs or 12, Path(folder))
    else:
        found = small(options.pairs or 2000, options.epochs or 80)
    result = {
        "network": "miniature" if options.miniature else "small",
        **found,
        "aim": AIM,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
