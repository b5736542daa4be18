"""A resume point consists of files that every version since format 2 can write and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.model.ema import Ema
from cocktail.trainer.model.layers import Weights
from cocktail.trainer.resume import (
    Point,
    Position,
    drop_points,
    load_point,
    restore,
    set_aside,
    take_point,
    write_point,
)
from cocktail.trainer.settings.groups import EmaSettings

ADAMW = {
    "lr": 0.1,
    "betas": {"tuple": [0.5, 0.5]},
    "eps": 1e-08,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": True,
    "params": {"list": [0]},
}
VALUES = {
    "unet-optimizer": {
        "dict": [
            [
                "state",
                {
                    "dict": [
                        [
                            0,
                            {
                                "dict": [
                                    [name, {"tensor": f"state.state.0.{name}"}]
                                    for name in ("step", "exp_avg", "exp_avg_sq")
                                ]
                            },
                        ]
                    ]
                },
            ],
            ["param_groups", {"list": [{"dict": [list(entry) for entry in ADAMW.items()]}]}],
        ]
    },
    "ema": {
        "dict": [
            ["updates", 1],
            ["mean", {"dict": [["unet/conv.weight", {"tensor": "state.mean.unet/conv.weight"}]]}],
        ]
    },
    "scaler": {
        "scale": 1024.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 0,
    },
}
TENSORS = {
    "unet": {"conv.weight": [0.9, 2.1]},
    "unet-optimizer": {
        "state.state.0.step": 1.0,
        "state.state.0.exp_avg": [0.5, -0.5],
        "state.state.0.exp_avg_sq": [0.5, 0.5],
    },
    "ema": {"state.mean.unet/conv.weight": [0.91, 2.09]},
}
POSITION = {"epoch": 2, "batch": 1, "step": 7}


@pytest.fixture
def written(tmp_path) -> Path:
    """A folder with the point of step 7 as its bytes have always been, made without `trainer`."""
    point = tmp_path / "step-00000007"
    point.mkdir()
    for component, tensors in TENSORS.items():
        found = {name: torch.tensor(values) for name, values in tensors.items()}
        save_file(found, point / f"{component}.safetensors")
    manifest = {
        "format": 2,
        "position": POSITION,
        "sizes": {file.name: file.stat().st_size for file in point.glob("*.safetensors")},
        "values": VALUES,
    }
    (point / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def components(start: list[float]) -> dict[str, object]:
    parameter = torch.nn.Parameter(torch.tensor(start))
    trained = {"conv.weight": parameter}
    return {
        "unet": Weights(trained),
        "unet-optimizer": torch.optim.AdamW([parameter], lr=0.1, betas=(0.5, 0.5), weight_decay=0),
        "ema": Ema({"unet": trained}, EmaSettings(decay=0.9)),
        "scaler": torch.amp.GradScaler("cpu", init_scale=1024.0),
    }


def moved(found: dict[str, object]) -> dict[str, object]:
    """The components after one step."""
    (parameter,) = found["unet"].parameters.values()
    parameter.grad = torch.tensor([1.0, -1.0])
    found["unet-optimizer"].step()
    found["ema"].update(0)
    return found


def test_a_point_is_written_as_it_has_always_been(tmp_path):
    write_point(tmp_path, take_point(Position(**POSITION), moved(components([1.0, 2.0]))))
    (point,) = tmp_path.iterdir()
    assert point.name == "step-00000007"
    manifest = json.loads((point / "manifest.json").read_text(encoding="utf-8"))
    files = {f"{component}.safetensors" for component in TENSORS}
    assert {file.name for file in point.iterdir()} == {*files, "manifest.json"}
    assert manifest.keys() == {"format", "position", "sizes", "values"}
    assert (manifest["format"], manifest["position"]) == (2, POSITION)
    assert manifest["sizes"] == {name: (point / name).stat().st_size for name in files}
    rest = manifest["values"]
    options = dict(rest["unet-optimizer"]["dict"][1][1]["list"][0]["dict"])
    assert {name: options[name] for name in ADAMW if name in options} == {
        name: value for name, value in ADAMW.items() if name in options
    }, "torch may add options"
    assert rest["unet-optimizer"]["dict"][0] == VALUES["unet-optimizer"]["dict"][0]
    assert {name: rest[name] for name in ("ema", "scaler")} == {
        name: VALUES[name] for name in ("ema", "scaler")
    }
    for component, tensors in TENSORS.items():
        found = load_file(point / f"{component}.safetensors")
        assert found.keys() == tensors.keys()
        for name, values in tensors.items():
            assert torch.allclose(found[name], torch.tensor(values)), name


def test_a_point_of_an_earlier_version_brings_every_component_back(written):
    found = components([5.0, 5.0])
    point, _ = load_point(written)
    assert point.position == Position(**POSITION)
    restore(point, found)
    (parameter,) = found["unet"].parameters.values()
    assert parameter.tolist() == pytest.approx([0.9, 2.1])
    (state,) = found["unet-optimizer"].state.values()
    assert state["step"] == 1 and state["exp_avg"].tolist() == [0.5, -0.5]
    assert found["unet-optimizer"].param_groups[0]["betas"] == (0.5, 0.5)
    assert found["ema"].updates == 1
    assert found["ema"].mean["unet/conv.weight"].tolist() == pytest.approx([0.91, 2.09])
    assert found["scaler"].get_scale() == 1024.0


def test_a_point_that_lacks_a_component_is_refused(written):
    point, _ = load_point(written)
    without = replace(point, values={n: v for n, v in point.values.items() if n != "scaler"})
    with pytest.raises(TrainerError, match="point of step 7 has no scaler"):
        restore(without, components([5.0, 5.0]))
    other = Point(point.position, {"unet": {"conv.bias": torch.zeros(2)}}, {})
    with pytest.raises(TrainerError, match="other layers were trained"):
        restore(other, {"unet": components([5.0, 5.0])["unet"]})


def test_cut_points_are_named_and_the_newest_whole_one_is_used(tmp_path):
    for step in (1, 2, 3, 4):
        write_point(tmp_path, take_point(Position(0, step, step), components([1.0, float(step)])))
    names = ["step-00000003", "step-00000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    torn = tmp_path / names[1] / "unet.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    point, passed_over = load_point(tmp_path)
    assert point.position.step == 3 and passed_over == names[1:]
    for text in ('{"format": 2', "[]", '{"format": 2}'):
        (tmp_path / names[0] / "manifest.json").write_text(text)
        assert load_point(tmp_path) == (None, names[::-1])


def test_a_cut_point_never_pushes_out_a_whole_one(tmp_path):
    for step in (1, 9):
        write_point(tmp_path, take_point(Position(0, step, step), components([1.0, 2.0])))
    (tmp_path / "step-00000009" / "ema.safetensors").write_bytes(b"")
    for step in (2, 3):
        write_point(tmp_path, take_point(Position(0, step, step), components([1.0, 2.0])))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_an_unreadable_point_of_the_right_size_is_set_aside_and_written_again(tmp_path):
    for step in (1, 2):
        write_point(tmp_path, take_point(Position(0, step, step), components([1.0, 2.0])))
    newest = tmp_path / "step-00000002" / "unet.safetensors"
    newest.write_bytes(bytes(newest.stat().st_size))
    point, passed_over = load_point(tmp_path)
    assert point.position.step == 1 and passed_over == ["step-00000002"]
    set_aside(tmp_path, passed_over)
    drop_points(tmp_path, keep=1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step-00000001", ".step-00000002.damaged"}
    write_point(tmp_path, take_point(Position(0, 2, 2), components([1.0, 2.0])))
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000001", "step-00000002"}
    assert load_point(tmp_path)[0].position.step == 2
