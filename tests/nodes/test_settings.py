"""The settings nodes in a real ComfyUI: each group reaches the run, presets and imports show their
numbers, wrong values are refused.
"""

from __future__ import annotations

import dataclasses
import json

import pytest

from cocktail.trainer.settings.everydream.importing import import_everydream
from cocktail.trainer.settings.groups import GROUPS, OptimizerSettings, SamplePrompt
from cocktail.trainer.settings.presets import PRESETS, preset
from cocktail.trainer.settings.run_settings import RunSettings

from .graphs import node

CHANGES = {
    "CocktailLayerSettings": ("layers", {"unet_layers": "attention", "freeze_embeddings": True}),
    "CocktailLossSettings": ("loss", {"min_snr_gamma": 5.0, "kind": "huber", "offset_noise": 0.02}),
    "CocktailDataSettings": ("data", {"accumulate": 3, "flip": 0.5, "text_chunks": 2}),
    "CocktailValidationSettings": ("validation", {"every_steps": 7, "trend_action": "stop"}),
    "CocktailEmaSettings": ("ema", {"decay": 0.999, "save": "ema only"}),
    "CocktailComputeSettings": ("compute", {"gradient_checkpointing": True}),
    "CocktailSampleSettings": ("samples", {"every_epochs": 2}),
    "CocktailSavingSettings": ("saving", {"keep_last": 2, "pinned_epochs": "10, 20"}),
    "CocktailLoggingSettings": ("logging", {"norms_every_steps": 5}),
}
SHARING = {"policy": "polite", "leave_gb": 3.0, "idle_s": 1.0}
"""What Compute Settings changes besides its group."""


def shown(outputs, id):
    return outputs[id]["cocktail"][0]["settings"]


def plain(settings):
    """Settings as a client gets them."""
    return json.loads(json.dumps(settings.to_json()))


def values_of(group, **changes):
    """What a node of the group sends: every value that it shows."""
    value = group().to_json() | changes
    return {key: value[key] for key in value if key != "prompts"}


def test_the_nodes_of_all_groups_in_a_chain_reach_the_settings(comfy):
    graph = {"0": node("CocktailTrainingPreset", preset="ED2 2023 baseline")}
    last, expected = "0", preset("ED2 2023 baseline").to_json()
    for number, (kind, (name, changes)) in enumerate(CHANGES.items(), 1):
        values = values_of(GROUPS[name], **changes)
        more = SHARING if kind == "CocktailComputeSettings" else {}
        graph[str(number)] = node(kind, settings=[last, 0], **values, **more)
        expected[name] |= values
        expected["sharing"] |= more
        last = str(number)
    optimizer = values_of(OptimizerSettings, optimizer="lion", beta2=0.99)
    graph["both"] = node(
        "CocktailOptimizerSettings", settings=[last, 0], part="both", **values_of(OptimizerSettings)
    )
    graph["text"] = node(
        "CocktailOptimizerSettings", settings=["both", 0], part="text encoder", **optimizer
    )
    prompts = [dataclasses.asdict(SamplePrompt(text, seed=3)) for text in ("a cat", "a dog")]
    graph["cat"] = node("CocktailSample", settings=["text", 0], **prompts[0])
    graph["dog"] = node("CocktailSample", settings=["cat", 0], **prompts[1])
    changes = "epochs = 3\nloss.kind = mse"
    graph["change"] = node("CocktailChangeSettings", settings=["dog", 0], changes=changes)
    graph["show"] = node("CocktailShowSettings", settings=["change", 0])
    outputs = comfy.run(graph)
    expected["unet_optimizer"], expected["text_encoder_optimizer"] = (
        values_of(OptimizerSettings),
        optimizer,
    )
    expected["samples"]["prompts"], expected["epochs"], expected["loss"]["kind"] = prompts, 3, "mse"
    assert shown(outputs, "show") == expected
    assert "epochs = 3" in outputs["show"]["text"][0]
    assert shown(outputs, "0") == plain(preset("ED2 2023 baseline"))
    assert "loss.offset_noise = 0.02" in outputs["0"]["text"][0]


def test_every_setting_has_an_input_with_the_trainers_own_default(comfy):
    nodes = comfy.get("/object_info")
    kinds = {name: kind for kind, (name, _) in CHANGES.items()}
    kinds |= {"unet_optimizer": "CocktailOptimizerSettings"}
    for name, kind in kinds.items():
        inputs = {**nodes[kind]["input"]["required"], **nodes[kind]["input"].get("optional", {})}
        for field in dataclasses.fields(GROUPS[name]):
            if field.name != "prompts":
                assert inputs[field.name][1]["default"] == field.default, field.name
    compute = nodes["CocktailComputeSettings"]["input"]["optional"]
    for field in dataclasses.fields(GROUPS["sharing"]):
        assert compute[field.name][1]["default"] == field.default, field.name
    flat = nodes["CocktailTrainingSettings"]["input"]
    for field in dataclasses.fields(RunSettings):
        if field.name not in GROUPS:
            assert field.name in flat["required"] or field.name in flat["optional"]
    assert nodes["CocktailTrainingPreset"]["input"]["required"]["preset"][0] in (
        list(PRESETS),
        "COMBO",
    )


def test_training_settings_keep_the_groups_that_come_in(comfy):
    flat = {
        key: value for key, value in RunSettings(epochs=2).to_json().items() if key not in GROUPS
    }
    graph = {
        "preset": node("CocktailTrainingPreset", preset="Cosmopolitan 512 D-Adaptation"),
        "flat": node("CocktailTrainingSettings", settings=["preset", 0], **flat),
        "show": node("CocktailShowSettings", settings=["flat", 0]),
    }
    found = shown(comfy.run(graph), "show")
    assert found == plain(preset("Cosmopolitan 512 D-Adaptation")) | flat


def test_everydream2s_files_come_as_text_or_by_name(comfy):
    train, optimizer = {"lr": 2e-6, "max_epochs": 5}, {"base": {"optimizer": "lion"}}
    (comfy.base / "input" / "train.json").write_text(json.dumps(train), encoding="utf-8")
    found = node(
        "CocktailImportEveryDream2",
        train="train.json",
        optimizer=json.dumps(optimizer),
        validation="",
        steps_per_epoch=0,
    )
    outputs = comfy.run({"import": found})
    expected = import_everydream(json.dumps(train), json.dumps(optimizer))
    assert shown(outputs, "import") == plain(expected.settings)
    assert outputs["import"]["text"] == [expected.report()]


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("CocktailLossSettings", {"zero_terminal_snr": True}, "needs loss.prediction v-prediction"),
        ("CocktailLossSettings", {"debiased": True, "min_snr_gamma": 5.0}, "not both"),
        ("CocktailLossSettings", {"kind": "l1"}, "loss.kind is 'l1'; it must be one of"),
        ("CocktailEmaSettings", {"decay": 2.0}, "ema.decay is 2.0; it must be between"),
        ("CocktailSavingSettings", {"pinned_epochs": "ten"}, "write epochs with commas"),
    ],
)
def test_a_wrong_combination_is_refused_before_anything_runs(comfy, kind, changes, words):
    values = values_of(GROUPS[CHANGES[kind][0]], **changes)
    flat = {key: value for key, value in RunSettings().to_json().items() if key not in GROUPS}
    graph = {
        "flat": node("CocktailTrainingSettings", **flat),
        "wrong": node(kind, settings=["flat", 0], **values),
        "show": node("CocktailShowSettings", settings=["wrong", 0]),
    }
    assert words in json.dumps(comfy.errors(graph))


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("", "Give EveryDream2's train.json"),
        ("{,}", "train.json is not valid JSON at line 1"),
        ("../secret.json", "is refused"),
        ("none.json", "There is no file 'none.json'"),
        ('{"batch_size": "4"}', "batch_size is '4'; it must be a whole number"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_runs(comfy, train, words):
    wrong = node(
        "CocktailImportEveryDream2", train=train, optimizer="", validation="", steps_per_epoch=0
    )
    assert words in json.dumps(comfy.errors({"wrong": wrong}))
