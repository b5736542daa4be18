"""Grids beside ComfyUI's own functions and its queue, with miniature checkpoints on this machine.

    python benchmarks/grid.py --comfyui PATH [--parts bare merge queue long poll]

Run it with ComfyUI's Python on a quiet machine; it needs 8 GB of disk in the temporary folder and
10 minutes. Prints a table and, on the last line, the figures as JSON:

vs_bare              Render Grid's pass over bare calls of ComfyUI's functions for the same loads,
                     encodings, samplings and decodings; target 1.05 at most
vs_prompt_per_cell   a prompt per cell in ComfyUI's queue, the model changing fastest, over the
                     grid; target 2 at least
batched_gain         the exact grid over the same in batches of 4
rss_growth           resident memory of the server in the last of 13 blocks of 168 cells over that
                     in the first, medians; target 1.05 at most
second_run_s         seconds for the finished grid of 2,184 cells once more; target below 10
merge_axis_gain      12 merges to files, loads and cells over the grid of 12 ratios; target 3 at
                     least
merge_alone_gain     the same without what both do alike: 12 merges to files and loads over 12
                     merges in memory
states_s             seconds for the map of a grid of 20,000 cells of which 15,000 are finished,
                     asked for again after one more cell; the log alone is log_again_s
list_s               seconds for the list of grids with that one in it
"""

from __future__ import annotations

import sys

sys.path.pop(0)

import argparse
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("bare", "merge", "queue", "long", "poll")
PROMPTS = [
    f"a {colour} {shape} on a white background"
    for shape in ("circle", "square", "triangle")
    for colour in ("red", "blue", "green", "yellow", "black", "grey", "pink")
]
STEPS = 8
FIXED = {
    "negative_prompt": "", "steps": STEPS, "cfg": 4.0, "sampler": "euler", "scheduler": "normal",
    "width": 64, "height": 64,
    "clip_skip": 1,
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    if not options.comfyui or not (options.comfyui / "main.py").is_file():
        parser.error("name ComfyUI's folder with --comfyui")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        for name in ("models/checkpoints", "input", "output", "temp", "user", "custom_nodes"):
            (base / name).mkdir(parents=True)
        if {*options.parts} - {"poll"}:
            make_checkpoints(base / "models" / "checkpoints", 13 if "long" in options.parts else 4)
        if {"bare", "merge"} & set(options.parts):
            start_comfyui(options.comfyui, base)
        if "bare" in options.parts:
            found.update(bare(options.repeats))
        if "merge" in options.parts:
            found.update(merge(base))
        if {"queue", "long"} & set(options.parts):
            (base / "custom_nodes" / "cocktail").symlink_to(ROOT, target_is_directory=True)
            server = start_server(options.comfyui, base)
            try:
                if "queue" in options.parts:
                    found.update(queue(server))
                if "long" in options.parts:
                    server = restarted(server, options.comfyui, base)
                    found.update(long(server))
            finally:
                server.stop()
        if "poll" in options.parts:
            found.update(poll(Path(folder, "grids")))
    import torch

    print(
        f"\nPython {platform.python_version()}, torch {torch.__version__}, "
        f"{os.cpu_count()} CPUs, {platform.machine()}"
    )
    for name, value in found.items():
        print(f"{name:32} {value:>12,}" if isinstance(value, int) else f"{name:32} {value:>12.3f}")
    print(json.dumps(found))
    return 0


def checkpoint(number: int) -> str:
    return f"model_{number:02}.safetensors"


def make_checkpoints(folder: Path, count: int) -> None:
    """Miniatures whose pictures depend on the prompt: two different ones, and copies of them with
    another header.
    """
    from safetensors.numpy import load_file, save_file

    for seed in (1, 2):
        plain = folder / "plain.safetensors"
        command = [
            sys.executable,
            ROOT / "trainer" / "__main__.py",
            "miniature",
            plain,
            "--seed",
            seed,
        ]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        import numpy

        tensors, chance = load_file(plain), numpy.random.default_rng(seed)
        for name, tensor in tensors.items():
            if name.endswith(("diffusion_model.out.2.weight", "mlp.fc2.weight")):
                tensors[name] = chance.normal(0.0, 0.02, tensor.shape).astype(tensor.dtype)
        save_file(tensors, folder / checkpoint(seed))
        plain.unlink()
    for number in range(3, count + 1):
        source, target = folder / checkpoint(1 + number % 2), folder / checkpoint(number)
        with source.open("rb") as file, target.open("wb") as copy:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            header["__metadata__"] = {"number": str(number)}
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            copy.write(struct.pack("<Q", len(text)) + text)
            shutil.copyfileobj(file, copy, 1 << 24)


def start_comfyui(comfyui: Path, base: Path) -> None:
    """ComfyUI's modules in this process, without a server."""
    as_packages()
    from cocktail.nodes.grid.engine.check import command as check_command

    check_command.start_comfyui(comfyui, ["--cpu", "--base-directory", str(base)])
    import comfy.sd  # noqa: F401

    import nodes  # noqa: F401


def as_packages() -> None:
    for name in ("cocktail", "cocktail.nodes", "cocktail.tests"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
        sys.modules.setdefault(name, package)


def plan_of(name: str, axes: Sequence[tuple[str, Sequence[Any]]], **fixed: Any) -> Any:
    from cocktail.nodes.grid.engine.axes.choices import choices
    from cocktail.nodes.grid.engine.axes.typed import typed_axis
    from cocktail.nodes.grid.engine.cell import files
    from cocktail.nodes.grid.engine.plan.of_settings import make_plan

    made = [typed_axis(target, "\n".join(map(str, values)), choices()) for target, values in axes]
    return make_plan(
        name, {"seed": 1, "prompt": PROMPTS[0], **FIXED, **fixed}, made, files.quiet_sha256
    )


def render(plan: Any) -> tuple[float, Any]:
    """Seconds for Render Grid's pass over a plan, and its store; a former grid of that name is
    removed.
    """
    from cocktail.nodes.grid.engine.render import execution, sampling
    from cocktail.nodes.grid.engine.store.store import Store
    from cocktail.nodes.host import names

    store = Store(names.cocktail_dir("grids", plan.name))
    shutil.rmtree(store.folder, ignore_errors=True)
    started = time.monotonic()
    outcome = execution.render(
        plan.render_order, store, sampling.ComfyRenderer(plan.contents), lambda text: None
    )
    seconds = time.monotonic() - started
    assert not outcome.reasons, outcome.reasons
    return seconds, store


def bare(repeats: int) -> dict[str, Any]:
    """4 checkpoints x 6 prompts x 4 seeds, in turn: bare functions, grid, batches."""
    axes = [
        ("checkpoint", [checkpoint(number) for number in range(1, 5)]),
        ("prompt", PROMPTS[:6]),
        ("seed", range(4)),
    ]
    exact, batched = plan_of("exact", axes), plan_of("batched", axes, batch_size=4)
    times: dict[str, list[float]] = {"bare_s": [], "grid_s": [], "batched_s": []}
    for _ in range(repeats):
        times["bare_s"].append(bare_s())
        times["grid_s"].append(render(exact)[0])
        times["batched_s"].append(render(batched)[0])
    ratios = [grid / alone for grid, alone in zip(times["grid_s"], times["bare_s"], strict=True)]
    gains = [grid / both for grid, both in zip(times["grid_s"], times["batched_s"], strict=True)]
    middle = {name: statistics.median(values) for name, values in times.items()}
    return {
        "vs_bare": statistics.median(ratios),
        "batched_gain": statistics.median(gains),
        **middle,
    }


def bare_s() -> float:
    """Seconds for the same in ComfyUI's own functions: each load, encoding, sampling and decoding
    once, nothing saved.
    """
    import comfy.model_management
    import comfy.sd
    import folder_paths
    import torch

    import nodes

    started = time.monotonic()
    with torch.inference_mode():
        for number in range(1, 5):
            path = folder_paths.get_full_path_or_raise("checkpoints", checkpoint(number))
            model, clip, vae = comfy.sd.load_checkpoint_guess_config(
                path, output_vae=True, output_clip=True
            )[:3]
            clip = clip.clone()
            clip.clip_layer(-1)
            (negative,) = nodes.CLIPTextEncode().encode(clip, "")
            for prompt in PROMPTS[:6]:
                (positive,) = nodes.CLIPTextEncode().encode(clip, prompt)
                for seed in range(4):
                    latent = {"samples": torch.zeros(1, 4, 8, 8)}
                    (sampled,) = nodes.common_ksampler(
                        model, seed, STEPS, 4.0, "euler", "normal", positive, negative, latent
                    )
                    vae.decode(sampled["samples"])
            del model, clip, vae
            comfy.model_management.unload_all_models()
    return time.monotonic() - started


def merge(base: Path) -> dict[str, Any]:
    """12 ratios of two checkpoints with one cell each: as a grid, and as files that are written,
    loaded and sampled.
    """
    import numpy
    from PIL import Image

    from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
    from cocktail.merge.recipe import Ingredient
    from cocktail.nodes.grid.engine.axes import mixes
    from cocktail.nodes.grid.engine.cell import files, mix
    from cocktail.nodes.grid.engine.plan.of_settings import make_plan
    from cocktail.nodes.host import names

    fixed = {**FIXED, "seed": 1, "prompt": PROMPTS[0], "checkpoint": ""}
    a, b = Ingredient(checkpoint(1)), Ingredient(checkpoint(2))
    axis = mixes.merge_axis(mixes.SHARE, "0.04-0.92 [12]", a, b)
    plan = make_plan("ratios", fixed, [axis], files.quiet_sha256)
    cache = names.hashes_file()
    written = set(base.rglob("*.safetensors"))
    grid_s, store = render(plan)
    assert set(base.rglob("*.safetensors")) == written, "a checkpoint was written"
    started, merged = time.monotonic(), []
    for number, value in enumerate(axis.values):
        bound = bind_to_files(mix.read(value.set["recipe"]), names.ingredient_path, cache)
        name = f"merged_{number:02}.safetensors"
        make_checkpoint(bound, names.checkpoint_path(checkpoint(1)).parent / name, "fp16")
        merged.append(name)
    files_s = time.monotonic() - started
    from_files = make_plan(
        "files",
        fixed,
        [mixes.recipes_axis([Ingredient(n) for n in merged])],
        files.quiet_sha256,
    )
    seconds, other = render(from_files)
    for mine, theirs in zip(plan.cells, from_files.cells, strict=True):
        pictures = [
            numpy.asarray(Image.open(s.cell_path(c.key)))
            for s, c in ((store, mine), (other, theirs))
        ]
        assert numpy.array_equal(*pictures), "a cell is not that of the merged file"
    for name in merged:
        names.checkpoint_path(name).unlink()
    in_memory_s, loads_s = (sum(line["load_s"] for line in s.log()) for s in (store, other))
    return {
        "merge_axis_gain": (files_s + seconds) / grid_s,
        "merge_alone_gain": (files_s + loads_s) / in_memory_s,
        "merge_grid_s": grid_s,
        "merge_files_s": files_s + seconds,
    }


def start_server(comfyui: Path, base: Path) -> Any:
    as_packages()
    from cocktail.tests.comfy import Comfy

    server = Comfy.__new__(Comfy)
    server.comfyui, server.base, server.log = comfyui.resolve(), base, base / "server.log"
    from cocktail.tests.comfy import free_port

    server.port = free_port()
    server.url = f"http://127.0.0.1:{server.port}"
    server.start()
    return server


def restarted(server: Any, comfyui: Path, base: Path) -> Any:
    server.stop()
    return start_server(comfyui, base)


def grid_prompt(plan: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return {
        "plan": {"class_type": "CocktailGridPlanJson", "inputs": {"plan": json.dumps(plan)}},
        "render": {"class_type": "CocktailRenderGrid", "inputs": {"grid": ["plan", 0], **inputs}},
    }


def queue(server: Any) -> dict[str, Any]:
    """96 cells as a grid, and as prompts in display order with the model changing fastest, from
    posting to the last one.
    """
    checkpoints = [checkpoint(number) for number in range(1, 5)]
    plan = {
        "name": "queued",
        "fixed": FIXED,
        "axes": [
            {"target": "checkpoint", "values": checkpoints},
            {"target": "prompt", "values": PROMPTS[:6]},
            {"target": "seed", "values": [0, 1, 2, 3]},
        ],
    }
    started = time.monotonic()
    outputs = server.run(grid_prompt(plan), 1200)
    grid_s = time.monotonic() - started
    assert outputs["render"]["cocktail"][0]["rendered"] == 96
    listed = server.get("/cocktail/grids/queued")["cells"]
    cells = {
        (c["settings"]["prompt"], c["settings"]["seed"], c["settings"]["checkpoint"]): c["key"]
        for c in listed
    }
    prompts = [
        server.get(f"/cocktail/grids/queued/cells/{cells[prompt, seed, name]}")["prompt"]
        for prompt in PROMPTS[:6]
        for seed in range(4)
        for name in checkpoints
    ]
    server.post("/free", {"unload_models": True, "free_memory": True})
    started = time.monotonic()
    for posted in [server.queue(prompt) for prompt in prompts]:
        server.wait(posted, 1200)
    prompts_s = time.monotonic() - started
    return {
        "vs_prompt_per_cell": prompts_s / grid_s,
        "queued_grid_s": grid_s,
        "queued_prompts_s": prompts_s,
    }


def long(server: Any) -> dict[str, Any]:
    """13 checkpoints x 21 prompts x 2 sizes x 4 seeds of 64 px, one step each."""
    import psutil

    plan = {
        "name": "long",
        "fixed": {**FIXED, "steps": 1},
        "axes": [
            {"target": "checkpoint", "values": [checkpoint(number) for number in range(1, 14)]},
            {"target": "prompt", "values": PROMPTS},
            {"target": "size", "values": ["64", "64x72"]},
            {"target": "seed", "values": [0, 1, 2, 3]},
        ],
    }
    process, folder = (
        psutil.Process(server.process.pid),
        server.base / "output" / "cocktail" / "grids" / "long",
    )
    started, samples = time.monotonic(), []
    queued = server.queue(grid_prompt(plan))
    while (entry := server.history(queued)) is None:
        log = folder / "cells.jsonl"
        done = log.read_bytes().count(b"\n") if log.is_file() else 0
        samples.append((done, process.memory_info().rss))
        time.sleep(0.2)
    seconds = time.monotonic() - started
    # Second halves of the first and of the last block: between blocks no model is in memory.
    first, last = (
        int(statistics.median(rss for done, rss in samples if end - 84 <= done < end))
        for end in (168, 2184)
    )
    (result,) = entry["outputs"]["render"]["cocktail"]
    assert (result["rendered"], result["failed"], result["loads"]) == (2184, 0, 13), result
    started = time.monotonic()
    (again,) = server.run(grid_prompt(plan, retry_failed=False))["render"]["cocktail"]
    second_s = time.monotonic() - started
    assert (again["rendered"], again["reused"]) == (0, 2184), again
    return {
        "rss_growth": last / first,
        "second_run_s": second_s,
        "long_s": seconds,
        "rss_first_mb": first // 10**6,
        "rss_last_mb": last // 10**6,
    }


def poll(grids: Path) -> dict[str, Any]:
    """What the page asks for while a large grid is rendered."""
    as_packages()
    from cocktail.nodes.grid.engine.axes.typed import typed_axis
    from cocktail.nodes.grid.engine.plan.of_settings import make_plan
    from cocktail.nodes.grid.engine.store.export import states
    from cocktail.nodes.grid.engine.store.store import Store, list_grids

    seeds = typed_axis("seed", "1-200", {})
    prompts = typed_axis("prompt", "\n".join(f"a red circle, {n}" for n in range(100)), {})
    fixed = {"checkpoint": "model", "prompt": "", "seed": 1, **FIXED}
    plan = make_plan("large", fixed, [seeds, prompts], lambda kind, name: name)
    store, made = Store(grids / plan.name), plan.cells[:15_000]
    store.save_plan(plan)
    with (store.folder / "cells.jsonl").open("w", encoding="utf-8") as log:
        for cell in made:
            file = store.cell_path(cell.key)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            line = {"key": cell.key, "time": 1.0, "status": "finished", "bytes": 1, "load_s": 1.0}
            log.write(json.dumps({**line, "settings": cell.settings.to_json()}) + "\n")

    def seconds(ask: Any) -> float:
        started = time.monotonic()
        ask()
        return time.monotonic() - started

    log_first_s = seconds(store.failures)
    store.save_failure(plan.cells[-1], "out of memory")
    return {
        "log_first_s": log_first_s,
        "log_again_s": seconds(store.failures),
        "states_s": seconds(lambda: states(store)),
        "list_s": seconds(lambda: list_grids(grids)),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
