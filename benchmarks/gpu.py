"""Training and merging full-size SD1.5 on a GPU, beside a bare loop and the well-known recipe.

    python benchmarks/gpu.py                        # any CUDA card with 24 GB, 45 GB of free disk
    python benchmarks/gpu.py --device cpu --small   # a miniature: proves the paths, no GPU figures

Weights are random and made here, so nothing is downloaded. Each line of the table is measured in a
process of its own, with the card to itself: the UNet learns at 512 px with batches of 4. Ours is
the steps of an epoch as a run takes them, bare and recipe are those of train_step.py. Peak:
most memory allocated by PyTorch; reserved: what it had taken from the driver. Resume: a training
that is killed and resumed must have the bits of one that was not. Pause: how long a run needs to
move to RAM and back; a prompt has the card that long, a step and POLL_S after it was queued, at the
latest. The last line is JSON. Exit status 1: something has failed. What is left out, because it is
not installed or the time is over, is listed and is no failure.
"""

from __future__ import annotations

# Takes this folder, whose select.py would hide the standard library's, off the path.
import train_step  # isort: skip

import argparse
import contextlib
import datetime
import hashlib
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
STEPS, BATCH = 4, 4
ROUNDS, SMALL_ROUNDS = 4, 1
POLL_S = 0.1
"""Between two looks of ComfyUI's process at its queue (nodes/host/sharing.py)."""
KILLED_AT = 2
"""Steps after which the killed training has its resume point."""
KILLED = -signal.SIGKILL if os.name != "nt" else int(signal.SIGTERM)
"""The exit status of a process that was killed."""
NO_GPU = "These are not figures of a GPU: a miniature on a CPU, which only proves the paths."


def settings(small: bool, precision: str, **compute: Any) -> dict[str, Any]:
    """What all trainings here have in common."""
    return {
        "resolution": 64 if small else 512,
        "batch_size": BATCH,
        "learning_rate": 1e-6,
        "precision": precision,
        "compute": compute,
    }


def device_of(options: argparse.Namespace) -> Any:
    import torch

    return torch.device(options.device)


def make(options: argparse.Namespace) -> dict[str, Any]:
    """Three checkpoints of random weights: a is what trainings start from, b and c are a with 8 %
    noise.
    """
    import torch
    from safetensors.torch import load_file, save_file

    first = options.folder / "a.safetensors"
    # The layers' own initialisation is much quicker on the card.
    torch.set_default_device(device_of(options))
    train_step.make_full(options.folder, options.small)
    torch.set_default_device("cpu")
    torch.set_default_dtype(torch.float32)
    (options.folder / "full.safetensors").rename(first)
    tensors = load_file(first, str(device_of(options)))
    for number, name in enumerate("bc"):
        torch.manual_seed(1 + number)
        other = {
            key: tensor + 0.08 * tensor.float().std(correction=0) * torch.randn_like(tensor)
            if tensor.is_floating_point()
            else tensor
            for key, tensor in tensors.items()
        }
        other = {key: tensor.to(tensors[key].dtype) for key, tensor in other.items()}
        save_file(other, options.folder / f"{name}.safetensors")
    return {}


def prepared(options: argparse.Namespace, name: str, precision: str, **compute: Any) -> Any:
    """A training at its first step, with pictures and captions for one epoch."""
    return train_step.prepared(
        options.folder,
        name,
        options.folder / "a.safetensors",
        BATCH * STEPS,
        **settings(options.small, precision, **compute),
    )


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Steps per second and peak memory of one way in one precision; `--way` is like
    "ours bf16 compile".
    """
    import torch

    way, precision, *changes = options.way.split()
    compute: dict[str, Any] = {}
    for change in changes:
        compute |= {"attention": change} if change in ("xformers", "sliced") else {change: True}
    training = prepared(options, options.way.replace(" ", "-"), precision, **compute)
    device = training.workers.device
    loops: dict[str, Callable[[Any], Callable[[], float]]] = {
        "ours": lambda training: lambda: train_step.one_epoch(training),
        "bare": train_step.bare_loop,
        "recipe": train_step.recipe_loop,
    }
    epoch = loops[way](training)
    if way == "recipe":
        # What it does not use must not count as its memory.
        for name in ("parts", "trained", "optimizers"):
            getattr(training, name).clear()
        training.unet = training.model.unet = None
    began = time.perf_counter()
    epoch()
    first_s = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    spent = [epoch() for _ in range(SMALL_ROUNDS if options.small else ROUNDS)]
    found = {
        "steps_per_s": STEPS / statistics.median(spent),
        "first_epoch_s": first_s,
        **memory(device),
    }
    if options.way == "ours bf16":
        found |= pause(training)
    training.writer.close()
    return found


def memory(device: Any) -> dict[str, float]:
    """The most that was in use, in GB."""
    import torch

    if device.type != "cuda":
        return {"peak_gb": train_step.peak_bytes() / 1e9}
    return {
        "peak_gb": torch.cuda.max_memory_allocated(device) / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved(device) / 1e9,
    }


def pause(training: Any) -> dict[str, float]:
    """Seconds in which a run moves to RAM, and back; what it keeps on the device meanwhile."""
    import torch

    from cocktail.trainer.giving_way import park, tensors_of

    def sums() -> list[int]:
        tensors = (tensor.detach().cpu().reshape(-1) for tensor in tensors_of(training))
        return [zlib.crc32(t.contiguous().view(torch.uint8).numpy().data) for t in tensors]

    device = training.workers.device
    before = sums()
    began = time.perf_counter()
    parked = park(training)
    left_s = time.perf_counter() - began
    kept = torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
    began = time.perf_counter()
    parked.bring_back()
    train_step.wait_for(device)
    back_s = time.perf_counter() - began
    return {
        "leave_s": left_s,
        "return_s": back_s,
        "kept_gb": kept / 1e9,
        "moved_gb": parked.bytes / 1e9,
        "same_bits_after_pause": sums() == before,
    }


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """The weights after one epoch, as a hash. `--way` is whole; killed, which ends itself by
    SIGKILL after it has saved a resume point and gone on; or resumed.
    """
    from cocktail.trainer.loop import advance, begin_epoch, ready_batches
    from cocktail.trainer.saving import save_point

    name = "whole" if options.way == "whole" else "killed"
    training = prepared(options, name, "bf16", deterministic=True)
    began_at = training.position.step
    for batches in ready_batches(training, begin_epoch(training, 0)):
        advance(training, batches)
        if options.way == "killed" and training.position.step == KILLED_AT:
            save_point(training, wait=True)
        if options.way == "killed" and training.position.step == KILLED_AT + 1:
            os.kill(os.getpid(), abs(KILLED))
    digest = hashlib.sha256()
    for part in training.trained.values():
        for parameter in part.values():
            digest.update(parameter.detach().cpu().numpy().data)
    training.writer.close()
    return {"sha256": digest.hexdigest(), "began_at": began_at, "steps": training.position.step}


def merge(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of merges: a weighted sum to a file and in memory, and TIES of three on the CPU and
    on the device, with the share of equal numbers.
    """
    import torch
    from safetensors.torch import load_file

    from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
    from cocktail.merge.in_memory import MergeBuffer
    from cocktail.merge.recipe import Ingredient, method, weighted_sum

    a, b, c = (Ingredient(f"{name}.safetensors") for name in "abc")
    total, ties = weighted_sum([(a, 60), (b, 40)]), method("ties", (a, b, c))
    bound = bind_to_files(total, options.folder.joinpath)
    tied = bind_to_files(ties, options.folder.joinpath)

    def timed(work: Callable[[], Any]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    buffer, folder = MergeBuffer(), options.folder
    found: dict[str, Any] = {
        "sum_to_file_s": timed(lambda: make_checkpoint(bound, folder / "sum.safetensors")),
        "sum_in_memory_s": timed(lambda: buffer.merge(bound)),
    }
    files = []
    for device in dict.fromkeys(("cpu", options.device)):
        file = folder / f"ties-{device.replace(':', '-')}.safetensors"
        found[f"ties_{device}_s"] = timed(
            lambda f=file, d=device: make_checkpoint(tied, f, device=d)
        )
        files.append(file)
    if len(files) == 2:
        one, other = (load_file(file) for file in files)
        equal = sum(int((one[name] == other[name]).sum()) for name in one)
        found["equal_share"] = equal / sum(tensor.numel() for tensor in one.values())
    if options.device.startswith("cuda"):
        found["merge_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "make": make,
    "speed": speed,
    "resume": resume,
    "merge": merge,
}


class Measured:
    """What has been measured so far, and what could not be."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.began = options, time.monotonic()
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def run(self, part: str, way: str = "", killed: bool = False) -> dict[str, Any]:
        """The figures of a part, measured in a process of its own; none when time is up or the
        part fails.
        """
        options, name = self.options, f"{part} {way}".strip()
        left = options.minutes * 60 - (time.monotonic() - self.began)
        if left <= 0:
            self.left_out[name] = f"not measured: the {options.minutes:g} minutes were over"
            return {}
        command = [sys.executable, str(HERE), "--part", part, "--way", way]
        command += ["--folder", str(options.folder), "--device", options.device]
        command += ["--small"] if options.small else []
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        seconds = time.monotonic() - began
        print(f"{name or part}: {seconds:.0f} s", file=sys.stderr, flush=True)
        if killed and done.returncode == KILLED:
            return {"killed": True}
        if done.returncode or killed:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            self.failed[name] = said[-1]
            return {}
        return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, by what they belong to."""
    measured = Measured(options)
    measured.run("make")
    if measured.failed or measured.left_out:
        return {"failed": measured.failed, "left_out": measured.left_out}
    precisions = ("bf16", "fp32") if options.device == "cpu" else ("bf16", "fp16")
    ways = [f"{way} {one}" for one in precisions for way in ("ours", "bare", "recipe")]
    speeds = {way: measured.run("speed", way) for way in ways}
    whole = measured.run("resume", "whole")
    killed = measured.run("resume", "killed", killed=True)
    resumed = measured.run("resume", "resumed") if killed else {}
    merged = measured.run("merge")
    variants = ["ours bf16 compile"]
    if importlib.util.find_spec("xformers"):
        variants.insert(0, "ours bf16 xformers")
    else:
        measured.left_out["speed ours bf16 xformers"] = "not measured: xformers is not installed"
    speeds |= {way: measured.run("speed", way) for way in variants}
    return {
        "speed": {way: figures for way, figures in speeds.items() if figures},
        "resume": {
            "equal_bits": whole["sha256"] == resumed["sha256"] if whole and resumed else None,
            "resumed_at_step": resumed.get("began_at"),
        },
        "merge": merged,
        "failed": measured.failed,
        "left_out": measured.left_out,
        "seconds": time.monotonic() - measured.began,
    }


def table(found: dict[str, Any], machine: dict[str, Any]) -> Iterator[str]:
    """The figures as Markdown."""
    yield f"{machine['device']}, {machine['date']}, {machine['versions']}"
    if machine["small"]:
        yield f"\n**{NO_GPU}**"
    speeds = found.get("speed", {})
    yield "\n| way | steps/s | of bare | peak GB | reserved GB |\n|---|---|---|---|---|"
    for way, figures in speeds.items():
        precision = way.split()[1]
        bare = speeds.get(f"bare {precision}", {}).get("steps_per_s")
        share = f"{figures['steps_per_s'] / bare:.2f}" if bare else "-"
        reserved = f"{figures['reserved_gb']:.2f}" if "reserved_gb" in figures else "-"
        yield (
            f"| {way} | {figures['steps_per_s']:.3g} | {share} | {figures['peak_gb']:.2f} | "
            f"{reserved} |"
        )
    pauses = speeds.get("ours bf16", {})
    lines = {
        "killed and resumed, deterministic": _equal(found.get("resume", {})),
        "moves to RAM in": _seconds(pauses.get("leave_s")),
        "so leaves the device to a prompt within": _seconds(_way(pauses)),
        "comes back in": _seconds(pauses.get("return_s")),
        "keeps meanwhile, of what it moved": f"{pauses.get('kept_gb', 0):.2f} of "
        f"{pauses.get('moved_gb', 0):.2f} GB",
        "same bits after the pause": "yes" if pauses.get("same_bits_after_pause") else "NO",
    }
    yield "\n| | |\n|---|---|"
    for words, value in (lines if pauses else dict(list(lines.items())[:1])).items():
        yield f"| {words} | {value} |"
    for name, value in found.get("merge", {}).items():
        yield f"| merge {name.replace('_', ' ')} | {value:.4g} |"
    for name, reason in (found["failed"] | found["left_out"]).items():
        yield f"| {name} | {reason} |"


def _equal(resumed: dict[str, Any]) -> str:
    if resumed.get("resumed_at_step") != KILLED_AT:
        return "NOT MEASURED"
    return "equal bits" if resumed["equal_bits"] else "OTHER BITS"


def _way(figures: dict[str, Any]) -> float | None:
    """Until a run has left the device to a prompt, if that comes at the beginning of a step."""
    if "leave_s" not in figures:
        return None
    return 1 / figures["steps_per_s"] + POLL_S + figures["leave_s"]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def machine_of(options: argparse.Namespace) -> dict[str, Any]:
    import accelerate
    import diffusers
    import torch
    import transformers

    versions = [f"{m.__name__} {m.__version__}" for m in (torch, diffusers, transformers)]
    versions.append(f"accelerate {accelerate.__version__}")
    with contextlib.suppress(ImportError):
        import xformers  # pyright: ignore[reportMissingImports]

        versions.append(f"xformers {xformers.__version__}")
    name = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    if options.device != "cpu":
        card = torch.cuda.get_device_properties(device_of(options))
        name = f"{card.name} ({card.total_memory / 1e9:.0f} GB), CUDA {torch.version.cuda}"
    return {
        "device": name,
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "small": options.small,
        "gpu": options.device != "cpu",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu together with --small")
    parser.add_argument("--small", action="store_true", help="a miniature at 64 px")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing new after this")
    parser.add_argument("--tokenizer", type=Path, default=train_step.TOKENIZER)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="for what is made; a temporary one by default")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZER", str(options.tokenizer))
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return 0
    import torch

    if options.device == "cpu" and not options.small:
        parser.error("Full size needs a GPU. For a CPU there is --device cpu --small.")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device here. For a CPU: --device cpu --small.")
    if not options.tokenizer.is_dir():
        parser.error(
            f"There is no tokenizer in {options.tokenizer}: give --tokenizer FOLDER, "
            "ComfyUI's comfy/sd1_tokenizer."
        )
    machine = machine_of(options)
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            options.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = measure(options)
    print("\n".join(table(found, machine)))
    print(json.dumps({"machine": machine, **found}))
    equal = found.get("resume", {}).get("equal_bits")
    pauses = found.get("speed", {}).get("ours bf16", {})
    return int(bool(found["failed"]) or not equal or not pauses.get("same_bits_after_pause"))


if __name__ == "__main__":
    sys.exit(main())
