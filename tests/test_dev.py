"""dev.py: what it installs, how it adapts the demo to your own pictures, and what it prints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GRAPH = {
    "1": {"class_type": "CocktailDrawShapes", "inputs": {"name": "shapes", "count": 9}},
    "2": {
        "class_type": "CocktailLoadDataset",
        "inputs": {"folder": ["1", 0], "caption_text": "first line", "on_problem": "stop"},
        "_meta": {"title": "Load dataset"},
    },
    "3": {
        "class_type": "CocktailFineTune",
        "inputs": {"dataset": ["2", 0], "run_name": "vodka-64"},
    },
    "4": {"class_type": "CocktailAxis", "inputs": {"target": "prompt", "values": "a\nb\nc"}},
    "5": {"class_type": "CocktailAxis", "inputs": {"target": "seed", "values": "1\n2"}},
    "6": {"class_type": "CocktailGridPlan", "inputs": {"name": "epochs", "axis_1": ["4", 0]}},
    "7": {"class_type": "CocktailMergeToFile", "inputs": {"name": "mix"}},
}  # fmt: skip


@pytest.fixture
def stamps(tmp_path):
    """A folder of nine captions with a name that needs care."""
    folder = tmp_path / "my stamps (2)"
    for number in range(9):
        file = folder / "animals" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"Animal {number}.\nes=Animal.\n", encoding="utf-8")
    (folder / "latin.txt").write_bytes("K\xe4fer".encode("latin-1"))
    (folder / "empty.txt").write_text("")
    return folder


def test_what_is_left_to_torch_is_left_out_and_nothing_else(dev):
    lines = [
        "torch",
        "torchsde",
        "torchvision>=0.1",
        "Torch_Audio",
        "",
        "# torch",
        "numpy>=1.25",
        " torch==2 ; extra",
    ]
    assert dev.without(lines, {"torch", "torchvision", "torch-audio"}) == [
        "torchsde",
        "",
        "# torch",
        "numpy>=1.25",
    ]


def test_a_users_install_never_touches_what_comfyui_brings(root):
    """transformers is named without a version, so that pip chooses what goes with the one there."""
    lines = (root / "requirements.txt").read_text()
    assert lines.splitlines()[0] == "transformers"
    named = re.findall(r"^[A-Za-z0-9_.-]+", lines.partition("\n")[2], re.MULTILINE)
    brought = {
        "torch",
        "torchvision",
        "torchaudio",
        "xformers",
        "transformers",
        "tokenizers",
        "huggingface-hub",
        "safetensors",
        "numpy",
        "pillow",
        "psutil",
        "scipy",
        "tqdm",
        "aiohttp",
    }
    assert named and not brought & {name.lower() for name in named}


def test_own_pairs_take_the_place_of_the_drawn_ones(dev, stamps):
    before = json.dumps(GRAPH)
    graph = dev.with_pairs(GRAPH, stamps)
    assert json.dumps(GRAPH) == before
    assert "1" not in graph
    assert graph["2"]["inputs"]["folder"] == "my stamps (2)"
    assert graph["2"]["inputs"]["on_problem"] == "skip"
    assert graph["3"]["inputs"]["run_name"] == "my-stamps-2-vodka-64"
    assert graph["6"]["inputs"]["name"] == "my-stamps-2-epochs"
    assert graph["7"]["inputs"]["name"] == "my-stamps-2-mix"
    assert graph["4"]["inputs"]["values"] == "Animal 0.\nAnimal 3.\nAnimal 6."
    assert graph["5"]["inputs"]["values"] == "1\n2"


def test_the_names_it_gives_can_name_runs(dev, tmp_path):
    from cocktail.trainer.runs import NAME

    for name in ("..dots", "Üben", "-", "a" * 90, "_x y_"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.txt").write_text("a caption")
        assert NAME.fullmatch(dev.with_pairs(GRAPH, folder)["3"]["inputs"]["run_name"])


def test_a_folder_without_captions_is_refused_in_words(dev, tmp_path):
    with pytest.raises(dev.Problem, match=r"No \.txt file"):
        dev.with_pairs(GRAPH, tmp_path)


def test_a_refusal_names_the_node_by_its_title(dev):
    answer = {
        "node_errors": {
            "2": {"errors": [{"details": "folder - There is no folder x", "message": "m"}]}
        }
    }
    assert dev.refusals(GRAPH, answer) == ["  Load dataset: folder - There is no folder x"]
    assert dev.refusals(GRAPH, {"error": {"message": "no prompt"}}) == ["  no prompt"]


def test_a_failure_names_the_node_by_its_title(dev):
    messages = [
        ["execution_start", {}],
        ["execution_error", {"node_id": "2", "exception_message": "It broke.\n"}],
    ]
    assert dev.failures(GRAPH, messages) == ["Load dataset: It broke."]


def test_a_run_is_told_in_a_line(dev):
    state = {
        "name": "vodka",
        "status": "running",
        "message": "",
        "step": 30,
        "steps": 220,
        "epoch": 1,
        "epochs": 10,
        "steps_per_second": 2.0,
        "first_validation": 1.0,
        "last_validation": 0.5,
    }
    assert (
        dev.run_line(state)
        == "fine-tune vodka: running, step 30 of 220, epoch 2 of 10, 1 min 35 s left, "
        "validation loss 1.000 -> 0.500"
    )


def test_without_a_terminal_a_stage_is_a_plain_line(dev, capsys):
    ticker = dev.Ticker()
    ticker.show("a", "first")
    ticker.show("a", "first, a little later")
    ticker.show("b", "second")
    ticker.end()
    assert capsys.readouterr().out == "  first\n  second\n"


def test_a_missing_folder_is_refused_before_anything_is_set_up(root, tmp_path):
    result = subprocess.run(
        [sys.executable, root / "dev.py", "demo", "--pairs", tmp_path / "gone"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "there is no folder" in result.stderr and "gone" in result.stderr


def test_the_longest_tests_are_left_out_and_named_at_the_end(root):
    command = [sys.executable, "-m", "pytest", "-q", "tests/grid/test_ray.py", "-k", "two_workers"]
    environment = {name: value for name, value in os.environ.items() if name != "COCKTAIL_ALL"}
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert "1 skipped" in result.stdout, result.stdout
    _, _, added = result.stdout.partition("python dev.py test --all adds")
    assert (
        "test_a_grid_on_two_workers_of_which_one_is_killed_is_the_undisturbed_one: also runs"
        in added
    )


def test_all_of_them_run_with_all(dev, monkeypatch):
    commands = {}
    monkeypatch.setattr(dev, "setup", lambda options, for_tests: Path("comfyui"))
    monkeypatch.setattr(dev, "chromium", lambda: "chromium")
    monkeypatch.setattr(
        dev, "run", lambda words, environment: commands.update(dict.fromkeys(words, environment))
    )
    assert dev.main(["test", "--all"]) == 0
    assert commands["pytest"].items() >= dev.WITH_ALL.items()
    assert dev.main(["test"]) == 0
    assert not commands["pytest"].keys() & dev.WITH_ALL.keys()


@pytest.mark.parametrize("program", ["dev.py", "nodes/grid/engine/check/command.py"])
def test_a_program_ends_quietly_when_nobody_reads_its_output_any_more(root, program):
    reading, writing = os.pipe()
    os.close(reading)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, root / program, "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        os.close(writing)
        _, told = process.communicate(timeout=120)
    assert (told, process.returncode) == ("", 141)


def test_output_that_nobody_reads_is_told_from_a_comfyui_that_is_gone(dev, monkeypatch, capfd):
    def gone(options):
        raise ConnectionResetError(104, "Connection reset by peer")

    def closed(options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(dev.COMMANDS, "setup", gone)
    assert dev.main(["setup"]) == 1
    assert "ComfyUI no longer answers" in capfd.readouterr().err
    monkeypatch.setitem(dev.COMMANDS, "setup", closed)
    monkeypatch.setattr(dev.os, "dup2", lambda *_: None)
    assert dev.main(["setup"]) == 141
    assert capfd.readouterr().err == ""
