"""What runs and their panel cost ComfyUI's server, its prompts and a browser's page.

    python benchmarks/panel.py            # about eight minutes on two cores; needs Chromium
    python benchmarks/panel.py --no-page  # the server's part alone

Starts a ComfyUI with the pack in a temporary folder, with a run of 200,000 logged steps made by
code and a real one of the miniature. The last line is JSON:

    prompt_latency_ms   by how much a run in the background lengthens an empty prompt, besides what
                        a program that keeps the processor as busy costs; medians
    poll_200k_ms        the server's answer to a poll of the long run that finds one new step
    open_200k_s         from the click on the panel's icon, and then on the run, to its chart, of
                        which nobody has asked the server before; by the page's own clock, since the
                        robot that clicks looks only now and then
    memory_growth_mb    of the page's heap while the panel follows 10,000 new steps, which come one
                        by one; the page is told of them four times a second at most
    pause_s             from queueing a prompt until a polite run has left the device, the longest
                        of three; step_s is what one step takes, and step_beside_s the longest of
                        a run that does not give way to such a prompt: both share the processor

Exit status 1: a figure misses its target.
"""

from __future__ import annotations

# Puts the repository, not this folder, whose select.py would hide the standard library's, on the
# path.
import poll  # isort: skip

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for name in ("cocktail", "cocktail.nodes"):
    module = types.ModuleType(name)
    module.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = module

from tests.comfy import Comfy  # noqa: E402
from tests.nodes.graphs import fine_tune, node  # noqa: E402
from trainer.jobs.job import exclusive  # noqa: E402
from trainer.jobs.lines import Lines  # noqa: E402
from trainer.model.miniature import make_miniature  # noqa: E402
from trainer.runs import State  # noqa: E402

TARGETS = {
    "prompt_latency_ms": 20.0,
    "poll_200k_ms": 5.0,
    "open_200k_s": 1.0,
    "memory_growth_mb": 5.0,
}
PROMPTS, POLLS = 30, 50
UPDATES, PAUSE_S = 10_000, 0.01
LIMIT_S = 600.0
BUSY = """import torch
def work(): torch.randn(512, 512) @ torch.randn(512, 512)
work()
print("busy", flush=True)
while True: work()"""
CLOCK = """() => {
    addEventListener("click", () => (window.cocktailClicked ??= performance.now()), true);
    new MutationObserver(() => {
        if (document.querySelector(".cocktail-runs .plot canvas"))
            requestAnimationFrame(() => (window.cocktailDrawn ??= performance.now()));
    }).observe(document.body, { childList: true, subtree: true });
}"""
"""When somebody first clicked, and the first frame with a chart, in milliseconds."""
COMPUTE = {
    "gradient_checkpointing": False,
    "attention": "sdpa",
    "tf32": False,
    "compile": False,
    "deterministic": False,
}


def graph(name: str, **sharing: Any) -> dict[str, Any]:
    """A fine-tune that goes on until it is stopped, and nothing that waits for it."""
    found = fine_tune(name, epochs=1000, save_every_epochs=1000)
    found["compute"] = node(
        "CocktailComputeSettings", settings=["settings", 0], **COMPUTE, **sharing
    )
    found["run"]["inputs"]["settings"] = ["compute", 0]
    return {key: found[key] for key in found if key not in ("wait", "pick")}


def picture(seed: int, steps: int = 60) -> dict[str, Any]:
    """A prompt that takes a while."""
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name="miniature_base.safetensors"),
        "words": node("CLIPTextEncode", text="a red circle", clip=["load", 1]),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=4),
        "sample": node(
            "KSampler",
            model=["load", 0],
            positive=["words", 0],
            negative=["words", 0],
            latent_image=["empty", 0],
            seed=seed,
            steps=steps,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("PreviewImage", images=["decode", 0]),
    }


def milliseconds(work: Callable[[], Any], times: int) -> float:
    """The median of many."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def empty_prompt_ms(server: Comfy) -> float:
    """The round trip of a prompt that does nothing; each is another, so that none is cached."""

    def go() -> None:
        prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": str(time.time_ns())}}}
        id = server.queue(prompt)
        while server.history(id) is None:
            time.sleep(0.001)

    go()
    return milliseconds(go, PROMPTS)


def until(server: Comfy, name: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while True:
        run = server.get(f"/cocktail/runs/{name}")
        if reached(run):
            return run
        ended = run["status"] in ("failed", "finished", "interrupted", "stopped")
        if ended or time.monotonic() > deadline:
            raise SystemExit(f"{name} has {run['status']}: {run['message']}\n{server.log_tail()}")
        time.sleep(0.02)


def stop(server: Comfy, name: str) -> None:
    server.post(f"/cocktail/runs/{name}/stop", {})
    until(server, name, lambda run: run["status"] == "stopped")


def latency(server: Comfy) -> dict[str, float]:
    """An empty prompt alone, beside a busy program, and beside a run."""
    alone = empty_prompt_ms(server)
    busy = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    try:
        if not busy.stdout or not busy.stdout.readline():
            raise SystemExit("The program that keeps the processor busy has ended.")
        beside = empty_prompt_ms(server)
    finally:
        busy.kill()
        busy.wait()
    server.run(graph("background"))
    until(server, "background", lambda run: run["status"] == "running" and run["step"] >= 2)
    with_run = empty_prompt_ms(server)
    began = time.time()
    server.wait(server.queue(picture(100)))
    ended = time.time()
    stop(server, "background")
    file = server.base / "output" / "cocktail" / "runs" / "background" / "metrics.jsonl"
    times = [line["time"] for line in Lines(file).read().lines if line["kind"] == "step"]
    beside_prompt = [b - a for a, b in itertools.pairwise(times) if b > began and a < ended]
    return {
        "prompt_alone_ms": alone,
        "prompt_beside_busy_ms": beside,
        "prompt_beside_run_ms": with_run,
        "prompt_latency_ms": with_run - beside,
        "step_beside_s": max(beside_prompt),
    }


def pausing(server: Comfy) -> dict[str, float]:
    """How long a polite run takes to leave, and one of its steps."""
    server.run(graph("polite", policy="polite", leave_gb=2.0, idle_s=1.0))
    run = until(server, "polite", lambda run: run["status"] == "running" and run["step"] >= 5)
    taken = []
    for seed in range(3):
        began = time.perf_counter()
        queued = [server.queue(picture(10 * seed))]

        def paused(run: dict[str, Any], seed: int = 10 * seed, queued: list[str] = queued) -> bool:
            if run["status"] != "paused" and server.history(queued[-1]) is not None:
                queued.append(server.queue(picture(seed + len(queued))))
            return run["status"] == "paused"

        until(server, "polite", paused)
        taken.append(time.perf_counter() - began)
        server.wait(queued[-1])
        run = until(server, "polite", lambda run: run["status"] == "running")
    stop(server, "polite")
    return {"pause_s": max(taken), "step_s": 1 / run["steps_per_second"]}


def polls(server: Comfy, run: Any, lines: int) -> dict[str, float]:
    """The server's answers for the long run."""
    state = {"next": (run.folder / "metrics.jsonl").stat().st_size, "step": lines}

    def go() -> None:
        state["next"] = server.get(f"/cocktail/runs/long/metrics?after={state['next']}")["next"]

    taken = []
    for _ in range(POLLS):
        state["step"] += 1
        Lines(run.folder / "metrics.jsonl").append(step(state["step"]))
        taken.append(milliseconds(go, 1))
    return {
        "poll_200k_ms": statistics.median(taken),
        "curve_200k_ms": milliseconds(
            lambda: server.get("/cocktail/runs/long/curve?points=1000"), 10
        ),
    }


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "epoch": 1, "step": number, "time": time.time(), "loss": 0.123}


def page(server: Comfy, run: Any) -> dict[str, float]:
    """Opening the long run in the panel, and following it."""
    from tests.pages import launched, open_page

    kinds = types.SimpleNamespace(CHROMIUM=("chromium", "chromium-browser", "google-chrome"))
    with launched(kinds, gpu=True) as browser:
        server.post("/settings/Comfy.TutorialCompleted", True)
        opened, _ = open_page(browser, server)
        opened.evaluate(CLOCK)
        opened.locator(".cocktail-runs-tab-button").click()
        opened.locator(".cocktail-runs .runs button").filter(has_text="long").click()
        opened.locator(".cocktail-runs .plot canvas").first.wait_for()
        clicked, drawn = opened.evaluate("[cocktailClicked, cocktailDrawn]")
        session = opened.context.new_cdp_session(opened)

        def heap_mb() -> float:
            session.send("HeapProfiler.collectGarbage")
            return session.send("Runtime.getHeapUsage")["usedSize"] / 1e6

        def followed(updates: int) -> float:
            """The heap once the chart has the last of so many new steps."""
            follow(run, updates)
            last = run.written().step
            opened.locator(f'.cocktail-runs .plot[data-last-step="{last}"]').wait_for()
            return heap_mb()

        before = followed(UPDATES // 10)
        after = followed(UPDATES)
    return {"open_200k_s": (drawn - clicked) / 1000, "memory_growth_mb": after - before}


def follow(run: Any, updates: int) -> None:
    """New steps of a run at work, as its process would log them."""
    with exclusive(run):
        for _ in range(updates):
            state = run.written()
            Lines(run.folder / "metrics.jsonl").append(step(state.step + 1))
            run.write_state(replace(state, status="running", step=state.step + 1))
            time.sleep(PAUSE_S)
        run.write_state(replace(run.written(), status="stopped"))


@contextlib.contextmanager
def started(comfyui: Path, base: Path) -> Iterator[Comfy]:
    """A ComfyUI with the pack and the miniature."""
    server = Comfy(comfyui, base, ROOT)
    make_miniature(base / "models" / "checkpoints" / "miniature_base.safetensors")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".comfy" / "comfyui")
    parser.add_argument("--lines", type=int, default=200_000, help="of the long run")
    parser.add_argument("--no-page", action="store_true", help="leave the browser out")
    options = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        run = poll.make(base / "output" / "cocktail", "long", options.lines)
        run.write_state(State("stopped", step=options.lines, steps=2 * options.lines, epochs=400))
        with started(options.comfyui.resolve(), base) as server:
            if not options.no_page:
                found |= page(server, run)
            found |= polls(server, run, run.written().step)
            found |= latency(server)
            found |= pausing(server)
    missed = [name for name, most in TARGETS.items() if found.get(name, 0.0) >= most]
    if found["pause_s"] > found["step_beside_s"] + 2:
        missed.append("pause_s")
    for name, value in found.items():
        print(f"{name:24}{value:12.4g}{'   NOT MET' if name in missed else ''}")
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    print(machine)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
