"""SKILL.md and the example in docs do what they say, on a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NIGHT = 5


@pytest.fixture
def shell(comfy, root: Path, tmp_path: Path):
    """Runs lines of a shell in a copy of the folder that a person would be in."""
    for name in ("workflows", "docs"):
        shutil.copytree(root / name, tmp_path / name)

    def run(script: str, *arguments: str, ends: int = 0, told: str = "stdout") -> str:
        done = subprocess.run(
            ["sh", "-eu", *(["-c", script] if not arguments else [script, *arguments])],
            cwd=tmp_path,
            env={**os.environ, "COMFY": comfy.url, "OUTPUT": str(comfy.base / "output")},
            timeout=300,
            capture_output=True,
            text=True,
        )
        assert done.returncode == ends, done.stdout[-2000:] + done.stderr[-2000:]
        return getattr(done, told)

    return run


def test_the_commands_of_skill_md_work_one_after_the_other(shell, comfy, root, tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", (root / "SKILL.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 7
    out = shell("\n".join(blocks))
    assert out.startswith("ComfyUI answers\n")
    listed = (tmp_path / "graphs.txt").read_text(encoding="utf-8")
    assert "V1.checkpoint COMBO miniature_v1.safetensors" in listed
    assert "success\n" in out and "skill-mix.safetensors" in out
    (refusal,) = [json.loads(found) for found in re.findall(r'\{"error".*?\]\}', out)]
    assert [(one["title"], one["input"]) for one in refusal["problems"]] == [
        ("V1", "checkpoint"), ("V2", "checkpoint"),
    ]  # fmt: skip
    comfy.wait(re.findall(r'"prompt_id": "([^"]+)"', out)[-1])


def test_comfy_run_takes_an_api_prompt_to_its_end(comfy, root, tmp_path):
    """All of them pass comfy-cli's check (test_workflows.py) and run (test_saved_graphs.py)."""
    program = Path(sys.executable).with_name("comfy")
    prompt = root / "workflows" / "api" / "inspect_and_compare.json"
    done = subprocess.run(
        [
            *(program, "--skip-prompt", "--no-enable-telemetry", "run", "--workflow", prompt),
            *("--host", "127.0.0.1", "--port", str(comfy.port), "--wait", "--json"),
        ],
        env={**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1"},
        timeout=600,
        capture_output=True,
        text=True,
    )
    ended = json.loads(done.stdout.splitlines()[-1])
    assert ended["ok"], done.stdout[-2000:] + done.stderr[-2000:]
    assert comfy.history(ended["data"]["prompt_id"])["status"]["status_str"] == "success"


def test_the_words_of_its_table_are_those_of_the_answers(comfy, root):
    told = (root / "SKILL.md").read_text(encoding="utf-8")
    for path, body, words in (
        ("nope", {}, "There is no saved graph"),
        ("weighted_sum", {"values": {"A.checkpoint": "x"}}, "does not offer"),
        ("weighted_sum", {"values": {"Sample.steps": 0}}, "must be from"),
        ("weighted_sum", {"values": {"X.steps": 0}}, "The workflow has no node"),
        ("weighted_sum", {"values": {"Sample.x": 0}}, "has no input"),
        ("weighted_sum", {"values": {"60 % A + 40 % B.a": 0}}, "from another node"),
    ):
        assert words in comfy.post(f"/cocktail/graphs/{path}", body)["error"] and words in told


def test_a_night_of_grids_submits_five_plans_and_collects_their_viewers(shell, tmp_path):
    workflow = {
        "1": {"class_type": "EmptyImage",
              "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}},
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }  # fmt: skip
    plans = []
    for number in range(1, NIGHT + 1):
        axis = {"target": "1.color", "values": f"{number}, {number + 10}"}
        plan = {"name": f"night-{number}", "workflow": workflow, "axes": [axis]}
        plans.append(f"night-{number}.plan.json")
        (tmp_path / plans[-1]).write_text(json.dumps(plan), encoding="utf-8")
    told = shell("docs/night_of_grids.sh", "collected", *plans)
    assert told.count('"state": "finished"') == told.count("/index.html") == NIGHT
    for number in range(1, NIGHT + 1):
        found = json.loads((tmp_path / "collected" / f"night-{number}.json").read_text())
        assert [cell["status"] for cell in found["cells"]] == ["finished"] * 2
        viewer = tmp_path / "collected" / f"night-{number}"
        assert "<html" in (viewer / "index.html").read_text(encoding="utf-8")
    kept, torn = tmp_path / "collected" / "night-1", tmp_path / "collected" / ".night-2.part"
    mark = kept.parent / "night-2" / "made-by-night-of-grids"
    (kept / mark.name).unlink()
    for file in (kept / "index.html", mark.parent / "index.html"):
        file.write_text("old", encoding="utf-8")
    shutil.copytree(mark.parent, torn)
    told = shell("docs/night_of_grids.sh", "collected", *plans[:2])
    assert (kept / "index.html").read_text(encoding="utf-8") == "old"
    assert "collected/night-1 is something else, and stays" in told
    assert "<html" in (mark.parent / "index.html").read_text(encoding="utf-8") and mark.exists()
    assert not [one for one in kept.parent.iterdir() if one.name.startswith(".")]
    refused = plan | {"name": "night-6", "axes": [{"target": "1.colour", "values": "1"}]}
    (tmp_path / "refused.json").write_text(json.dumps(refused), encoding="utf-8")
    again = ["refused.json", plans[0]]
    told = shell("docs/night_of_grids.sh", "again", *again, ends=1, told="stderr")
    assert told.startswith("refused.json is refused: ") and "colour" in told
    assert (tmp_path / "again" / "night-1" / "index.html").is_file()
