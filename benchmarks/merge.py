"""Merging full-size SD1.5 checkpoints, compared with plain reading and writing of the same bytes.

    python benchmarks/merge.py
    python benchmarks/merge.py --sd-meh other/bin/python --comfyui path/to/ComfyUI

Makes three fp16 checkpoints of 2.13 GB in a temporary folder (8.6 GB of disk with the result,
removed at the end), prints a table of medians and, on the last line, the figures as JSON. Every
measurement runs in a process of its own; times are those of the engine, without starting Python and
importing PyTorch, without fsync, with the inputs in the page cache. The other tools make 0.6 A +
0.4 B in fp16: sd-mecha if it is installed, sd-meh in the given Python, ComfyUI's merge nodes and
CheckpointSave. null means that a tool is missing.
"""

from __future__ import annotations

import sys

sys.path.pop(0)

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import struct
import subprocess
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]

for package in ("cocktail", "cocktail.merge", "cocktail.trainer"):
    module = types.ModuleType(package)
    module.__path__ = [str(ROOT.joinpath(*package.split(".")[1:]))]
    sys.modules[package] = module

MIXES: dict[str, tuple[str, int]] = {
    "two": ("0.6 A + 0.4 B", 2),
    "difference": ("A + 0.5 (B - C)", 3),
    "three": ("60/20/20 of A, B, C", 3),
    "nested": ("five nested operations", 3),
}
METHODS: dict[str, tuple[str, str]] = {
    "cosine_a": ("cosine adaptive A of A, B", "two"),
    "cosine_b": ("cosine adaptive B of A, B", "two"),
    "dare": ("DARE of A, B, C", "three"),
    "ties": ("TIES of A, B, C", "three"),
}
"""Methods, and the weighted sum of as many ingredients that each is compared with."""
BLOCK_BYTES = 4 << 20
SHARED_NOISE = 0.08


def shapes() -> dict[str, tuple[int, ...]]:
    """The 1131 tensors of an SD1.5 checkpoint."""
    from cocktail.trainer.model.networks import text_encoder_on_meta, unet_on_meta, vae_on_meta
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
    found = {
        UNET + unet_name(name, levels): tuple(t.shape)
        for name, t in unet_on_meta(levels).state_dict().items()
    }
    for name, t in text_encoder_on_meta(12).state_dict().items():
        found[TEXT_ENCODER + text_encoder_name(name)] = tuple(t.shape)
    found[TEXT_ENCODER + "embeddings.position_ids"] = (1, 77)
    for name, t in vae_on_meta((128, 256, 512, 512)).state_dict().items():
        shape = tuple(t.shape)
        if ".attentions." in name and len(shape) == 2:
            shape = (*shape, 1, 1)
        found[VAE + vae_name(name, 4)] = shape
    return dict(sorted(found.items()))


def make_files(folder: Path) -> None:
    """a, b and c.safetensors: a is noise of weights' size, b and c are a with 8 % noise of their
    own.
    """
    import torch

    from cocktail.merge.safetensors_file import lay_out

    tensors = [
        (name, "I64" if name.endswith("position_ids") else "F16", shape)
        for name, shape in shapes().items()
    ]
    start, places = lay_out(tensors, {"format": "pt"})
    files = [(folder / f"{name}.safetensors").open("wb") for name in "abc"]
    for file in files:
        file.write(start)
    generator = torch.Generator().manual_seed(1)
    for place in places.values():
        if place.dtype == "I64":
            for file in files:
                file.write(struct.pack("<77q", *range(77)))
            continue
        width = place.elements // place.shape[0] if len(place.shape) > 1 else 1024
        for first in range(0, place.elements, BLOCK_BYTES):
            count = min(BLOCK_BYTES, place.elements - first)
            weights = torch.randn(count, generator=generator) / width**0.5
            for file in files:
                file.write(weights.half().numpy().data)
                noise = torch.randn(count, generator=generator)
                weights = weights + SHARED_NOISE / width**0.5 * noise
    for file in files:
        file.close()


def recipe(mix: str) -> Any:
    from cocktail.merge.recipe import Ingredient, add_difference, method, weighted_sum

    a, b, c = (Ingredient(f"{name}.safetensors", name * 64) for name in "abc")
    if mix == "two":
        return weighted_sum([(a, 60), (b, 40)])
    if mix == "difference":
        return add_difference(a, b, c, 0.5)
    if mix == "three":
        return weighted_sum([(a, 60), (b, 20), (c, 20)])
    if mix in METHODS:
        return method(mix, (a, b, c) if METHODS[mix][1] == "three" else (a, b))
    half = weighted_sum([(a, 50), (b, 50)])
    vodka = add_difference(half, c, a, 0.5)
    return weighted_sum(
        [(weighted_sum([(vodka, 60), (b, 20), (c, 20)]), 70), (weighted_sum([(a, 1), (c, 2)]), 30)]
    )


def ours(folder: Path, mix: str, out: Path, threads: int | None, chunk: int | None) -> float:
    """Seconds of one merge, without fsync."""
    import torch  # noqa: F401, its import is not the engine's time

    from cocktail.merge import safetensors_file
    from cocktail.merge.engine import CHUNK_ELEMENTS, write_file
    from cocktail.merge.plan import make_plan
    from cocktail.merge.recipe import ingredients
    from cocktail.merge.safetensors_file import read_header

    safetensors_file.os = types.SimpleNamespace(**{**vars(os), "fsync": lambda _: None})
    start = time.perf_counter()
    mixed = recipe(mix)
    headers = {i: read_header(folder / i.name) for i in ingredients(mixed)}
    plan = make_plan(mixed, headers, "fp16")
    write_file(plan, out, {"format": "pt"}, threads, chunk or CHUNK_ELEMENTS)
    return time.perf_counter() - start


def copying(folder: Path, count: int, out: Path) -> float:
    """Seconds for reading `count` ingredients and writing one file of their size, plainly, in one
    thread.
    """
    block = memoryview(bytearray(BLOCK_BYTES))
    size = (folder / "a.safetensors").stat().st_size
    start = time.perf_counter()
    for name in "abc"[:count]:
        with (folder / f"{name}.safetensors").open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    with out.open("wb", buffering=0) as file:
        for first in range(0, size, BLOCK_BYTES):
            file.write(block[: min(BLOCK_BYTES, size - first)])
    return time.perf_counter() - start


def in_memory(folder: Path) -> dict[str, float]:
    """Seconds of a whole UNet merged anew in the buffer of the merge before, and of one changed
    block of it; median of three.
    """
    import torch  # noqa: F401, its import is not the engine's time

    from cocktail.merge.blocks import block_weights
    from cocktail.merge.checkpoint import bind_to_files
    from cocktail.merge.in_memory import MergeBuffer
    from cocktail.merge.recipe import BlockSum, Ingredient, ingredients, weighted_sum

    both = weighted_sum([(Ingredient(f"{name}.safetensors"), 1) for name in "ab"])
    memory, numbers = MergeBuffer(), [0.5] * 25
    bound = bind_to_files(both, folder.joinpath)
    a, b = ingredients(bound.recipe)

    def seconds() -> float:
        mixed = BlockSum(a, b, block_weights(numbers, base=0.25))
        start = time.perf_counter()
        memory.merge(dataclasses.replace(bound, recipe=mixed))
        return time.perf_counter() - start

    seconds()
    whole, block = [], []
    for run in range(3):
        numbers[:] = [0.3 + 0.1 * run] * 25
        whole.append(seconds())
        numbers[12] = 0.9
        block.append(seconds())
    return {"seconds": statistics.median(whole), "block": statistics.median(block)}


def sd_mecha(folder: Path, out: Path) -> float:
    """Seconds of sd-mecha, with its own number of threads."""
    import sd_mecha
    import torch

    start = time.perf_counter()
    a, b = (sd_mecha.model(str(folder / f"{name}.safetensors")) for name in "ab")
    sd_mecha.merge(
        sd_mecha.weighted_sum(a, b, alpha=0.4),
        merge_device="cpu",
        merge_dtype=torch.float32,
        output_device="cpu",
        output_dtype=torch.float16,
        output=str(out),
    )
    return time.perf_counter() - start


def sd_meh(folder: Path, out: Path) -> float:
    """Seconds of sd-meh, in fp16, with a thread for each core."""
    from sd_meh.merge import merge_models, save_model

    start = time.perf_counter()
    made = merge_models(
        {"model_a": str(folder / "a.safetensors"), "model_b": str(folder / "b.safetensors")},
        {"alpha": [0.4] * 25},
        {"alpha": 0.4},
        "weighted_sum",
        precision=16,
        device="cpu",
        threads=os.cpu_count(),
    )
    save_model(made, str(out.with_suffix("")), "safetensors")
    return time.perf_counter() - start


def comfyui(folder: Path, out: Path, program: Path) -> float:
    """Seconds of ComfyUI's loader, merge nodes and CheckpointSave on the CPU."""
    sys.argv[1:] = ["--cpu"]
    sys.path.insert(0, str(program))
    from comfy.options import enable_args_parsing

    enable_args_parsing()
    import folder_paths
    from comfy_extras import nodes_model_merging as merging

    import nodes

    folder_paths.set_output_directory(str(out.parent))
    folder_paths.add_model_folder_path("checkpoints", str(folder))
    start = time.perf_counter()
    load = nodes.CheckpointLoaderSimple().load_checkpoint
    (model_a, clip_a, vae), (model_b, clip_b, _) = (load(f"{name}.safetensors") for name in "ab")
    (model,) = merging.ModelMergeSimple().merge(model_a, model_b, 0.6)
    (clip,) = merging.CLIPMergeSimple().merge(clip_a, clip_b, 0.6)
    merging.CheckpointSave().save(model, clip, vae, "comfyui")
    return time.perf_counter() - start


def misrounded(folder: Path, mix: str, made: Path) -> dict[str, float]:
    """Share of the blended elements that are not the float64 sum rounded to the nearest fp16
    number, ties left aside.
    """
    import numpy as np

    from cocktail.merge.recipe import flatten
    from cocktail.merge.safetensors_file import read_header

    flat = flatten(recipe(mix))
    sources = [(read_header(folder / i.name), float(weight)) for i, weight in flat]
    wrong = total = off_by_more = 0
    maps = [(np.memmap(h.path, np.uint8, "r"), h, w) for h, w in sources]
    result = read_header(made)
    bytes_made = np.memmap(made, np.uint8, "r")
    for place in result.tensors.values():
        if place.dtype != "F16" or place.name.startswith("first_stage_model."):
            continue
        for first in range(0, place.elements, BLOCK_BYTES):
            count = min(BLOCK_BYTES, place.elements - first)

            def values(data: Any, offset: int, first: int = first, count: int = count) -> Any:
                begin = offset + 2 * first
                return data[begin : begin + 2 * count].view(np.float16)

            exact = np.zeros(count)
            for data, header, weight in maps:
                exact += weight * values(data, header.tensors[place.name].offset).astype(np.float64)
            got = values(bytes_made, place.offset)
            error = np.abs(got.astype(np.float64) - exact)
            for step in (-1, 1):
                other = (got.view(np.int16) + np.int16(step)).view(np.float16).astype(np.float64)
                # A tie is nobody's mistake: there float64 itself may fall on either side.
                worse = error > np.abs(other - exact) + 1e-13 * np.abs(exact) + 1e-18
                wrong += int(worse.sum())
                off_by_more += int((worse & (error > 1.51 * np.abs(other - got))).sum())
            total += count
    return {"misrounded": wrong / total, "off_by_more": off_by_more, "elements": total}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def peak_mb() -> float:
    """The largest resident size of this process in MB."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform == "linux" else 1 << 20)


def run_task(task: Sequence[str], folder: Path) -> dict[str, Any]:
    """One measurement, in this process."""
    out = folder / "out.safetensors"
    kind, *rest = task
    if kind == "make":
        make_files(folder)
        return {}
    if kind == "copy":
        return {"seconds": copying(folder, int(rest[0]), out)}
    if kind == "ours":
        mix, threads, chunk = rest
        seconds = ours(folder, mix, out, int(threads) or None, int(chunk) or None)
        return {"seconds": seconds, "peak_mb": peak_mb()}
    if kind == "misrounded":
        return misrounded(folder, rest[0], out)
    if kind == "memory":
        return in_memory(folder)
    if kind == "sd_mecha":
        return {"seconds": sd_mecha(folder, out), "peak_mb": peak_mb()}
    if kind == "sd_meh":
        return {"seconds": sd_meh(folder, out), "peak_mb": peak_mb()}
    if kind == "comfyui":
        return {"seconds": comfyui(folder, out, Path(rest[0])), "peak_mb": peak_mb()}
    if kind == "import":
        import torch

        return {"peak_mb": peak_mb(), "torch": torch.__version__}
    raise SystemExit(f"unknown task {kind}")


def measured(python: str, folder: Path, *task: object) -> dict[str, Any]:
    """A task in a process of its own."""
    (folder / "out.safetensors").unlink(missing_ok=True)
    return _json([python, str(HERE), "--folder", str(folder), "--task", *map(str, task)])


def _json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUTF8": "1"}
    )
    return json.loads(done.stdout.splitlines()[-1])


def middle(runs: Sequence[dict[str, Any]], key: str = "seconds") -> float:
    return statistics.median(run[key] for run in runs)


def repeat(count: int, run: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        os.sync() if hasattr(os, "sync") else None
        found.append(run())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sd-meh", help="the Python of an environment with sd-meh 0.9.5")
    parser.add_argument(
        "--comfyui", type=Path, help="the folder of a ComfyUI whose requirements are installed here"
    )
    parser.add_argument("--peer-runs", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="where the files are made; if given, they are kept"
    )
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(run_task(options.task, options.folder)))
        return
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        report(options, options.folder.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="cocktail-merge-") as folder:
            report(options, Path(folder))


def report(options: argparse.Namespace, folder: Path) -> None:
    """Measure everything and print it."""
    python, runs = sys.executable, options.runs
    if not (folder / "c.safetensors").is_file():
        measured(python, folder, "make")
    for count in (2, 3):
        measured(python, folder, "copy", count)
    idle = measured(python, folder, "import")
    print(
        f"Python {platform.python_version()}, PyTorch {idle['torch']}, {platform.platform()}, "
        f"{os.cpu_count()} cores; "
        f"medians of {runs}; PyTorch alone: {idle['peak_mb']:.0f} MB"
    )
    print(f"{'':34}{'seconds':>9}{'of copying':>12}{'peak MB':>9}{'misrounded':>14}")
    results: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    for mix, (label, count) in MIXES.items():
        copied, merged = [], []
        for _ in range(runs):
            copied += repeat(1, lambda count=count: measured(python, folder, "copy", count))
            merged += repeat(1, lambda mix=mix: measured(python, folder, "ours", mix, 0, 0))
        wrong = _json([python, str(HERE), "--folder", str(folder), "--task", "misrounded", mix])
        first = sha256(folder / "out.safetensors")
        hashes = {first}
        for threads, chunk in ((1, 100_003), (3, 1 << 16)) if mix in ("two", "three") else ():
            measured(python, folder, "ours", mix, threads, chunk)
            hashes.add(sha256(folder / "out.safetensors"))
        copy_s, merge_s = middle(copied), middle(merged)
        results[mix] = {
            "seconds": merge_s,
            "vs_copy": merge_s / copy_s,
            "peak_mb": max(run["peak_mb"] for run in merged),
            "hashes_equal": len(hashes) == 1,
            **wrong,
        }
        print(f"{'read and write, ' + str(count) + ' + 1 files':34}{copy_s:9.2f}")
        print(
            f"{label:34}{merge_s:9.2f}{merge_s / copy_s:12.2f}{results[mix]['peak_mb']:9.0f}"
            f"{wrong['misrounded']:14.2e}"
        )
    for mix, (label, linear) in METHODS.items():
        merged = repeat(runs, lambda mix=mix: measured(python, folder, "ours", mix, 0, 0))
        of_linear = middle(merged) / results[linear]["seconds"]
        peak = max(run["peak_mb"] for run in merged)
        methods[mix] = {"vs_linear": round(of_linear, 2), "peak_mb": round(peak)}
        print(f"{label:34}{middle(merged):9.2f}{of_linear:9.2f} of linear{peak:6.0f}")
    held = measured(python, folder, "memory")
    print(
        f"{'UNet of A, B in memory':34}{held['seconds']:9.2f}\n"
        f"{'one block of it':34}{held['block']:9.2f}"
    )
    peers = {
        "sd_meh": options.sd_meh and (options.sd_meh, "sd_meh"),
        "sd_mecha": importlib.util.find_spec("sd_mecha") and (python, "sd_mecha"),
        "comfyui": options.comfyui and (python, "comfyui", str(options.comfyui.resolve())),
    }
    slower: dict[str, float | None] = {}
    for peer, how in peers.items():
        if not how:
            slower[f"vs_{peer}"] = None
            continue
        theirs = repeat(options.peer_runs, lambda how=how: measured(how[0], folder, *how[1:]))
        for made in folder.glob("comfyui_*.safetensors"):
            made.unlink()
        slower[f"vs_{peer}"] = round(middle(theirs) / results["two"]["seconds"], 1)
        print(
            f"{peer + ', 0.6 A + 0.4 B':34}{middle(theirs):9.2f}{slower[f'vs_{peer}']:8.1f} of ours"
            f"{middle(theirs, 'peak_mb'):9.0f}"
        )
    (folder / "out.safetensors").unlink(missing_ok=True)
    both = {
        "vs_copy_2": round(results["two"]["vs_copy"], 2),
        "vs_copy_3": round(max(results[m]["vs_copy"] for m in ("difference", "three")), 2),
        "vs_copy_nested": round(results["nested"]["vs_copy"], 2),
        "peak_mb": round(max(r["peak_mb"] for r in results.values())),
        "peak_mb_over_torch": round(max(r["peak_mb"] for r in results.values()) - idle["peak_mb"]),
        "misrounded_2": max(results[m]["misrounded"] for m in ("two", "difference")),
        "misrounded_n": results["three"]["misrounded"],
        "hashes_equal": all(r["hashes_equal"] for r in results.values()),
        "methods": methods,
        "in_memory_s": round(held["seconds"], 2),
        "block_change_s": round(held["block"], 2),
        **slower,
    }
    print(json.dumps(both))


if __name__ == "__main__":
    main()
