"""Training steps of the miniature beside a bare loop and the well-known recipe, and one step of the
full-size model.

    python benchmarks/train_step.py             # about 8 minutes on two cores, 5 GB of memory
    python benchmarks/train_step.py --full      # full-size SD1.5 alone: about 20 GB of memory

Ours is the steps of an epoch as a run takes them: data, clipping, logging, everything. Bare is
forward, loss, backward and optimizer on ready tensors, with the same modules. The recipe is as in
diffusers' text-to-image example: it decodes pictures and encodes them and their captions in every
step. Loops take turns on the same batches, two at a time; quotients are medians over the rounds.
Text: the text encoder learns, or does not; alone is its own forward, backward and optimizer.
"""

from __future__ import annotations

import sys

sys.path.pop(0)

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
TOKENIZER = ROOT / ".comfy" / "comfyui" / "comfy" / "sd1_tokenizer"
ROUNDS, STEPS = 5, 8
SETTINGS = {
    "resolution": 64,
    "bucket_step": 64,
    "epochs": 1000,
    "save_every_epochs": 1000,
    "batch_size": 16,
    "learning_rate": 3e-4,
    "train_text_encoder": False,
    "validation": {"every_epochs": 0},
    "saving": {"resume_minutes": 0.0},
}
TARGETS = {
    "vs_bare_loop": (0.97, "at least"),
    "vs_diffusers_recipe": (1.5, "at least"),
    "text_encoder_off_gain": (1.0, "at least"),
    "data_wait_share": (0.02, "at most"),
    "save_stall_steps": (1.0, "at most"),
    "peak_vs_ideal": (1.1, "at most"),
}

for package in ("cocktail", "cocktail.merge", "cocktail.trainer"):
    module = types.ModuleType(package)
    module.__path__ = [str(ROOT.joinpath(*package.split(".")[1:]))]
    sys.modules[package] = module


def prepared(folder: Path, name: str, base: Path, pairs: int, **changes: Any) -> Any:
    """A run at the point where its first epoch begins; its pictures and captions are encoded."""
    from cocktail.trainer.data.folder.folder import load_folder
    from cocktail.trainer.data.split import split
    from cocktail.trainer.journal import Journal
    from cocktail.trainer.preparation import prepare
    from cocktail.trainer.runs import Base, Paths, create_run
    from cocktail.trainer.settings.run_settings import RunSettings
    from cocktail.trainer.shapes import draw_shapes
    from cocktail.trainer.workers import Workers

    pictures = folder / f"shapes-{pairs}"
    if not pictures.exists():
        draw_shapes(pictures, pairs + 2, seed=1)
    dataset, _ = load_folder(pictures, "shapes", "first line", "stop", None, None)
    run = create_run(
        folder / "runs",
        name,
        Base(base.name, str(base), "0" * 64),
        split(dataset, 2 / (pairs + 2), 1),
        RunSettings.from_json(SETTINGS | changes),
        Paths(str(folder / "checkpoints"), os.environ["TOKENIZER"], str(folder / "cache")),
    )
    return prepare(run, Journal(run), Workers(run.settings))


def dtype_of(precision: str) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def wait_for(device: Any) -> None:
    """Wait until a device has done all that it was given, which a clock must not miss."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def one_epoch(training: Any) -> float:
    """Seconds of the next epoch's steps, as a run takes them."""
    from cocktail.trainer.loop import advance, begin_epoch, ready_batches
    from cocktail.trainer.resume import Position

    began = time.perf_counter()
    for batches in ready_batches(training, begin_epoch(training, training.position.epoch)):
        advance(training, batches)
    wait_for(training.workers.device)
    seconds = time.perf_counter() - began
    training.position = Position(training.position.epoch + 1, 0, training.position.step)
    return seconds


def bare_loop(training: Any) -> Callable[[], float]:
    """Forward, loss, backward and AdamW on ready tensors, with the run's own UNet and optimizer."""
    import torch

    from cocktail.trainer.noise import add_noise
    from cocktail.trainer.step import make_batches

    unet, optimizer = training.workers.unwrap(training.parts["unet"]), training.optimizers["unet"]
    device, precision = training.workers.device, training.run.settings.precision
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    ready = []
    for step, window in enumerate(training.plan(0)):
        (batch,) = make_batches(training, window, step)
        text, _ = training.text.embed([choice.caption for choice in batch.choices], device)
        latents, noise, timesteps = (
            tensor.to(device) for tensor in (batch.latents, batch.noise, batch.timesteps)
        )
        noisy = add_noise(latents, noise, timesteps, training.schedule.alphas)
        ready.append((noisy, timesteps, text, noise))

    def steps() -> float:
        began = time.perf_counter()
        for noisy, timesteps, text, noise in ready:
            with torch.autocast(device.type, dtype_of(precision), enabled=precision != "fp32"):
                predicted = unet(noisy, timesteps, encoder_hidden_states=text).sample
            scaler.scale(torch.nn.functional.mse_loss(predicted.float(), noise)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        wait_for(device)
        return time.perf_counter() - began

    return steps


def recipe_loop(training: Any) -> Callable[[], float]:
    """The text-to-image recipe: a DataLoader of pictures, VAE and text encoder in half precision in
    every step, clipping, a schedule.
    """
    import torch
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from PIL import Image
    from torchvision import transforms

    from cocktail.trainer.model.networks import LATENT_SCALE, load_model, load_vae

    run = training.run
    device, dtype = training.workers.device, dtype_of(run.settings.precision)
    model, vae = load_model(Path(run.base.path)), load_vae(Path(run.base.path))
    unet = model.unet.requires_grad_(True).train()
    text_encoder, vae = model.text_encoder.to(device, dtype), vae.to(device, dtype)
    side = run.settings.resolution
    shape = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    dataset = run.dataset()
    tokens = training.text.tokenizer(
        [pair.caption for pair in dataset.train],
        max_length=77,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    ).input_ids

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(dataset.train)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return shape(Image.open(dataset.path(dataset.train[index])).convert("RGB")), tokens[
                index
            ]

    precision = "no" if run.settings.precision == "fp32" else run.settings.precision
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-4, weight_decay=0.01)
    loader = torch.utils.data.DataLoader(
        Pictures(), shuffle=True, batch_size=run.settings.batch_size
    )
    rates = get_scheduler("constant", optimizer)
    unet, optimizer, loader, rates = accelerator.prepare(unet, optimizer, loader, rates)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )

    def steps() -> float:
        began = time.perf_counter()
        for pixels, ids in loader:
            with torch.no_grad():
                posterior = vae.encode(pixels.to(dtype)).latent_dist
                latents = posterior.sample() * LATENT_SCALE
                text = text_encoder(ids).last_hidden_state
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (len(latents),), device=device)
            noisy = scheduler.add_noise(latents.float(), noise.float(), timesteps)
            predicted = unet(noisy.to(dtype), timesteps, text, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
        wait_for(device)
        return time.perf_counter() - began

    return steps


def speed(folder: Path) -> dict[str, float]:
    """Ours, bare and recipe in turns; how long ours waits for data, and how long a resume point
    holds it up.
    """
    from cocktail.trainer.saving import save_point

    training = prepared(folder, "speed", folder / "base.safetensors", 16 * STEPS)
    waits = []

    def ours_and_waits() -> float:
        seconds = one_epoch(training)
        waits.append(training.waited_s / seconds)
        return seconds

    own, bare = in_turns({"ours": ours_and_waits, "bare": bare_loop(training)}, 4 * ROUNDS)
    ours, recipe = in_turns(
        {"ours": lambda: one_epoch(training), "recipe": recipe_loop(training)}, ROUNDS
    )
    stalls = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        save_point(training, wait=False)
        stalls.append(time.perf_counter() - began)
        training.writer.wait()
    training.writer.close()
    return {
        "ours_s": statistics.median(own) / STEPS,
        "bare_s": statistics.median(bare) / STEPS,
        "recipe_s": statistics.median(recipe) / STEPS,
        "vs_bare_loop": statistics.median(b / o for b, o in zip(bare, own, strict=True)),
        "vs_diffusers_recipe": statistics.median(r / o for r, o in zip(recipe, ours, strict=True)),
        "data_wait_share": statistics.median(waits[1:]),
        "stall_s": statistics.median(stalls),
        "save_stall_steps": statistics.median(stalls) * STEPS / statistics.median(own),
    }


def in_turns(ways: dict[str, Callable[[], float]], rounds: int) -> list[list[float]]:
    """The seconds of each way in every round, by way; the first round does not count, and the order
    changes.
    """
    found: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for place in sorted(range(len(ways)), reverse=number % 2 == 1):
            spent = list(ways.values())[place]()
            if number:
                found[place].append(spent)
    return found


def text(folder: Path) -> dict[str, float]:
    """Steps with and without a text encoder that learns, and its own part alone."""
    import torch

    base, few = folder / "base.safetensors", {"batch_size": 4}
    off = prepared(folder, "off", base, 16, **few)
    on = prepared(folder, "on", base, 16, train_text_encoder=True, **few)
    captions = [pair.caption for pair in list(on.pairs.values())[:4]]
    text_encoder = on.workers.unwrap(on.parts["text_encoder"])
    optimizer = torch.optim.AdamW(text_encoder.parameters(), lr=0.0, weight_decay=0.0, fused=True)

    def alone() -> float:
        began = time.perf_counter()
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                embedded, _ = on.text.embed(captions, "cpu")
            embedded.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    ways = {"on": lambda: one_epoch(on), "off": lambda: one_epoch(off), "alone": alone}
    spent = in_turns(ways, ROUNDS)
    rows = list(zip(*spent, strict=True))
    return {
        **{f"text_{name}_s": statistics.median(s) / 4 for name, s in zip(ways, spent, strict=True)},
        "text_share": statistics.median(alone / on for on, _, alone in rows),
        "text_saved": statistics.median(1 - off / on for on, off, _ in rows),
        "text_encoder_off_gain": statistics.median((on - off) / alone for on, off, alone in rows),
    }


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def saved_bytes(training: Any) -> int:
    """What autograd keeps for the backward pass of one step: the largest activation set."""
    import torch

    from cocktail.trainer.step import _losses, make_batches

    weights = {
        parameter.untyped_storage().data_ptr()
        for part in training.trained.values()
        for parameter in part.values()
    }
    kept: dict[int, int] = {}
    storages = []

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages.append(storage)
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    (batch,) = make_batches(training, training.plan(0)[0], 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = _losses(training, batch)
    del losses
    return sum(kept.values())


def memory(folder: Path) -> dict[str, float]:
    """The peak of a run that trains both parts, over what is there before it, against what it
    cannot do without.
    """
    import psutil

    from cocktail.trainer.saving import save, save_point

    prepare_imports()
    before = psutil.Process().memory_info().rss
    training = prepared(folder, "memory", folder / "base.safetensors", 64, train_text_encoder=True)
    one_epoch(training)
    peak = peak_bytes() - before
    counts = sum(p.numel() for part in training.trained.values() for p in part.values())
    save(training)
    save_point(training, wait=True)
    after_saving = peak_bytes() - before
    training.writer.close()
    activations = saved_bytes(training)
    ideal = 16 * counts + activations
    return {
        "ideal_gb": ideal / 1e9,
        "activations_gb": activations / 1e9,
        "peak_gb": peak / 1e9,
        "peak_with_saving_gb": after_saving / 1e9,
        "peak_vs_ideal": max(peak, after_saving) / ideal,
    }


def prepare_imports() -> None:
    """Everything that a run imports, so that it is there before memory is measured."""
    import accelerate  # noqa: F401
    import diffusers
    import torch
    import transformers

    _ = diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPTextModel
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    torch.nn.functional.conv2d(torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3))


def make_full(folder: Path, small: bool = False) -> dict[str, float]:
    """A checkpoint of SD1.5's size with random weights, or one of its names and few weights."""
    import torch
    from safetensors.torch import save_file

    from cocktail.trainer.model.networks import build_text_encoder, build_unet, build_vae
    from cocktail.trainer.model.single_file import (
        TEXT_ENCODER,
        UNET,
        VAE,
        Level,
        text_encoder_name,
        unet_name,
        vae_name,
    )

    levels = (*(Level(width, 2, True) for width in (320, 640, 1280)), Level(1280, 2, False))
    widths, text_layers = (128, 256, 512, 512), 12
    if small:
        levels, widths, text_layers = (Level(320, 1, True),), (32, 32, 32, 32), 1
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if small else torch.float16)
    tensors = {UNET + unet_name(n, levels): t for n, t in build_unet(levels).state_dict().items()}
    for name, tensor in build_text_encoder(text_layers).state_dict().items():
        tensors[TEXT_ENCODER + text_encoder_name(name)] = tensor
    for name, tensor in build_vae(widths).state_dict().items():
        tensors[VAE + vae_name(name, len(widths))] = tensor
    save_file({n: t.half().contiguous() for n, t in tensors.items()}, folder / "full.safetensors")
    return {"full_parameters": sum(tensor.numel() for tensor in tensors.values())}


def full(folder: Path) -> dict[str, float]:
    """Two steps of the full-size model: UNet and text encoder, 512 px, batch 1, bf16, gradient
    checkpointing, AdamW.
    """
    from cocktail.trainer.model.memory import estimate
    from cocktail.trainer.model.single_file import read_shapes
    from cocktail.trainer.step import make_batches, take_step

    prepare_imports()
    base = folder / "full.safetensors"
    changes = {
        "resolution": 512,
        "batch_size": 1,
        "train_text_encoder": True,
        "learning_rate": 1.5e-6,
    }
    training = prepared(
        folder, "full", base, 2, **changes, compute={"gradient_checkpointing": True}
    )
    loaded = peak_bytes()
    seconds = []
    for step, window in enumerate(training.plan(0)[:2]):
        began = time.perf_counter()
        result = take_step(training, make_batches(training, window, step), step)
        seconds.append(time.perf_counter() - began)
    training.writer.close()
    return {
        "full_first_step_s": seconds[0],
        "full_step_s": seconds[-1],
        "full_loss": result.loss,
        "full_loaded_gb": loaded / 1e9,
        "full_peak_gb": peak_bytes() / 1e9,
        "full_estimate_gb": estimate(read_shapes(base), training.run.settings).total / 1e9,
    }


PARTS = {"speed": speed, "text": text, "memory": memory, "make_full": make_full, "full": full}


def apart(part: str, folder: Path) -> dict[str, float]:
    """Measure a part in a process of its own."""
    command = [sys.executable, str(HERE), "--part", part, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{part} failed")
    return json.loads(done.stdout.splitlines()[-1])


def show(found: dict[str, float]) -> None:
    for name, value in found.items():
        target = ""
        if name in TARGETS:
            limit, words = TARGETS[name]
            met = value >= limit if words == "at least" else value <= limit
            target = f"   {words} {limit}: {'met' if met else 'NOT MET'}"
        print(f"{name:24}{value:12.4g}{target}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tokenizer", type=Path, default=TOKENIZER, help="folder of CLIP's tokenizer"
    )
    parser.add_argument("--full", action="store_true", help="one step of full-size SD1.5 instead")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZER", str(options.tokenizer))
    if options.part:
        print(json.dumps(PARTS[options.part](options.folder)))
        return 0
    import accelerate
    import diffusers
    import torch
    import transformers

    versions = ", ".join(
        f"{m.__name__} {m.__version__}" for m in (torch, accelerate, diffusers, transformers)
    )
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}"
    )
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.full:
            found |= apart("make_full", folder)
            found |= apart("full", folder)
        else:
            from cocktail.trainer.model.miniature import make_miniature

            make_miniature(folder / "base.safetensors")
            for part in ("speed", "text", "memory"):
                found |= apart(part, folder)
    show(found)
    wanted = [name for name in found if name in TARGETS or options.full]
    print(json.dumps({name: round(found[name], 4) for name in wanted}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
