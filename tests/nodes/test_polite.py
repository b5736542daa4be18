"""A polite run and ComfyUI's prompts: it gives way to one, ends with the bits of an undisturbed
run, and is waited for with a prompt behind. What counts are the times that the run and ComfyUI have
noted, not when the test looks.
"""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import load_file

from cocktail.trainer.files import write_json
from cocktail.trainer.jobs.job import exclusive
from cocktail.trainer.settings.groups import ComputeSettings
from cocktail.trainer.sharing import requests

from ..made_runs import make_run
from ..trainer.conftest import make_tiny_base
from .graphs import fine_tune, node
from .test_runs import folder_of, held

IDLE_S = 2.0
LIMIT_S = 600.0


@pytest.fixture(scope="module")
def base(comfy):
    """The name of a checkpoint that trains in no time."""
    file = comfy.base / "models" / "checkpoints" / "tiny-polite.safetensors"
    yield make_tiny_base(file, 1).name
    file.unlink()


def graph(base, run_name, policy):
    """Draw, load, split and fine-tune; nothing waits."""
    found = fine_tune(run_name, count=16, batch_size=2, epochs=8, save_every_epochs=8)
    for key in ("wait", "pick"):
        del found[key]
    found["base"]["inputs"]["checkpoint"] = base
    few = "layers.unet_layers = cross attention\nvalidation.every_epochs = 0"
    found["few"] = node("CocktailChangeSettings", settings=["settings", 0], changes=few)
    found["compute"] = node(
        "CocktailComputeSettings",
        settings=["few", 0],
        policy=policy,
        idle_s=IDLE_S,
        **ComputeSettings().to_json(),
    )
    found["run"]["inputs"]["settings"] = ["compute", 0]
    return found


def waiting(base, run_name, policy):
    """The same graph with Wait for Run: it finds the run at work."""
    return graph(base, run_name, policy) | {"wait": node("CocktailWaitForRun", run=["run", 0])}


def prompts(comfy, count):
    """Queue prompts that do nothing, each another; the ids."""
    return [
        comfy.queue({"1": node("PreviewAny", source=str(time.time_ns()))}) for _ in range(count)
    ]


def state(comfy, name):
    return comfy.get(f"/cocktail/runs/{name}")


def until(comfy, name, reached, meanwhile=lambda: None):
    """The run once it is so; it must not end before."""
    deadline = time.monotonic() + LIMIT_S
    while not reached(run := state(comfy, name)):
        assert run["status"] not in ("failed", "finished", "interrupted", "stopped"), run
        assert time.monotonic() < deadline, run
        meanwhile()
        time.sleep(0.02)
    return run


def steps_of(comfy, name):
    """The lines of a run's steps."""
    text = (folder_of(comfy, name) / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == "step"]


def result(comfy, name):
    """The weights that a run has saved, and the losses of its steps."""
    (file,) = (comfy.base / "models" / "checkpoints" / "cocktail" / name).glob("*.safetensors")
    losses = [(line["step"], line["loss"]) for line in steps_of(comfy, name)]
    return load_file(file), losses


def ended_at(comfy, prompt):
    """When a prompt was done, in seconds since 1970."""
    comfy.wait(prompt)
    messages = dict(comfy.history(prompt)["status"]["messages"])
    return messages["execution_success"]["timestamp"] / 1000


def wait_for_turn(comfy, prompt):
    """Until ComfyUI works on a prompt."""
    deadline = time.monotonic() + LIMIT_S
    while prompt not in [entry[1] for entry in comfy.get("/queue")["queue_running"]]:
        assert time.monotonic() < deadline and comfy.history(prompt) is None
        time.sleep(0.02)


def test_comfyui_unloads_its_models_for_a_run_that_asks_for_their_memory(comfy):
    log = comfy.log

    def loads():
        """How often the text encoder has been loaded, after some words more."""
        load = node("CheckpointLoaderSimple", ckpt_name="miniature_base.safetensors")
        words = node("CLIPTextEncode", text=str(time.time_ns()), clip=["1", 1])
        comfy.run({"1": load, "2": words, "3": node("PreviewAny", source=["2", 0])})
        return log.read_text(errors="replace").count("Requested to load SD1ClipModel")

    before = loads()
    assert loads() == before, "it is there already"
    run = make_run(comfy.base, "needy", epochs=1)
    request = requests(comfy.base / "output" / "cocktail" / ".queue") / f"{run.name}.json"
    said = "ComfyUI's models are unloaded for the run needy"
    deadline = time.monotonic() + LIMIT_S
    with exclusive(run, "cpu"):
        write_json(request, {"device": "cpu", "bytes": 1})
        while loads() == before or said not in log.read_text(errors="replace"):
            assert time.monotonic() < deadline, "it stays"
        request.unlink()


def test_a_polite_run_gives_way_to_a_prompt_and_ends_with_the_same_bits(comfy, base):
    comfy.run(waiting(base, "undisturbed", "exclusive"))

    comfy.run(graph(base, "polite", "polite"))
    until(comfy, "polite", lambda run: run["status"] == "running" and run["step"] >= 1)
    queued = []
    paused = until(
        comfy,
        "polite",
        lambda run: run["status"] == "paused",
        lambda: queued.extend(prompts(comfy, 5)),
    )
    since = time.time()
    assert "Has left the device to a prompt" in paused["message"]
    idle = max(ended_at(comfy, prompt) for prompt in queued)
    process = held(comfy, "polite", paused["step"] + 1)
    waits = comfy.queue(waiting(base, "polite", "polite"))
    (behind,) = prompts(comfy, 1)
    wait_for_turn(comfy, waits)
    process.resume()
    assert comfy.wait(waits, timeout=LIMIT_S)
    assert comfy.wait(behind, timeout=LIMIT_S)
    assert state(comfy, "polite")["status"] == "finished"
    early = [line for line in steps_of(comfy, "polite") if since < line["time"] < idle + IDLE_S / 2]
    assert early == [], "it trained before the prompts were done and the device was idle"

    (weights, losses), (expected, expected_losses) = (
        result(comfy, name) for name in ("polite", "undisturbed")
    )
    assert losses == expected_losses != []
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []
