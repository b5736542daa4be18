"""The routes of runs, on run folders made by code and without a ComfyUI."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cocktail.trainer import notes
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.job import LOCK, Refused
from cocktail.trainer.jobs.lock import Lock
from cocktail.trainer.runs import State

from .run_folders import HTML, ask, get, make_run, post, with_checkpoints


def test_a_run_is_paused_resumed_and_stopped_from_the_queue(here):
    make_run(here)
    assert post("/cocktail/runs/one/resume")["status"] == "queued"
    assert "queued already" in post("/cocktail/runs/one/resume", status=409)["error"]
    paused = post("/cocktail/runs/one/pause")
    assert (paused["status"], paused["at_rest"]) == ("paused", True)
    assert post("/cocktail/runs/one/pause")["status"] == "paused", "pressed in two browsers"
    assert get("/cocktail/runs")["runs"][0]["status"] == "paused"
    assert post("/cocktail/runs/one/resume")["status"] == "queued"
    assert post("/cocktail/runs/one/stop")["status"] == "stopped"
    assert "nothing to pause" in post("/cocktail/runs/one/pause", status=409)["error"]
    (ticket,) = [
        json.loads(file.read_text())
        for file in (here / "output" / "cocktail" / ".queue").glob("*.json")
    ] or [None]
    assert ticket is None


def test_a_run_at_work_is_asked_and_nothing_else_is_done_to_it(here):
    run = make_run(here, status="running", samples={"prompts": []})
    lock = Lock(run.folder / LOCK)
    assert lock.take()
    try:
        told = post("/cocktail/runs/one/save")
        assert told["heartbeat_age_s"] < 60 and told["status"] == "running"
        post("/cocktail/runs/one/sample", {"prompts": [HTML]})
        post("/cocktail/runs/one/pause")
        assert run.take_requests() == [
            {"command": "save"},
            {"command": "sample", "prompts": [HTML]},
            {"command": "pause"},
        ]
        assert "no sample prompts" in post("/cocktail/runs/one/sample", status=409)["error"]
        for action, body in {
            "resume": {}, "extend": {"epochs": 9}, "delete": {}, "delete?": {"checkpoints": True},
        }.items():  # fmt: skip
            post(f"/cocktail/runs/one/{action}", body, status=409)
    finally:
        lock.let_go()
    assert get("/cocktail/runs/one")["status"] == "interrupted"
    for action in ("save", "sample"):
        post(f"/cocktail/runs/one/{action}", {"prompts": ["a"]} if action == "sample" else {}, 409)


def test_a_finished_run_is_extended_and_queued(here):
    run = make_run(here, status="finished")
    assert "Extend it" in post("/cocktail/runs/one/resume", status=409)["error"]
    assert "4 epochs already" in post("/cocktail/runs/one/extend", {"epochs": 4}, 400)["error"]
    told = post("/cocktail/runs/one/extend", {"epochs": 6, "start": False})
    assert (told["status"], told["epochs"]) == ("stopped", 6)
    from cocktail.nodes import supervisor

    with pytest.raises(TrainerError, match="6 epochs already"):
        supervisor.extend(run, 5, start=False)  # as a second browser had opened it before
    assert post("/cocktail/runs/one/extend", {"epochs": 7})["status"] == "queued"
    assert get("/cocktail/runs/one/settings")["settings"]["epochs"] == 7
    post("/cocktail/runs/one/pause")
    told = post("/cocktail/runs/one/extend", {"epochs": 8, "start": False})
    assert (told["status"], told["at_rest"], told["epochs"]) == ("paused", True, 8)


def test_a_run_whose_base_was_replaced_or_removed_is_not_resumed(here):
    run = make_run(here)
    base = Path(run.base.path)
    content = bytearray(base.read_bytes())
    content[-1] ^= 1
    base.unlink()
    post("/cocktail/runs/one/resume", status=400)
    base.write_bytes(bytes(content))
    assert "its content differs" in post("/cocktail/runs/one/resume", status=400)["error"]
    assert get("/cocktail/runs/one")["status"] == "stopped"


def test_a_title_is_any_text_and_no_name_of_a_file(here):
    run = make_run(here)
    assert get("/cocktail/runs/one")["title"] == "one"
    assert post("/cocktail/runs/one/rename", {"title": f" {HTML} "})["title"] == HTML
    assert get("/cocktail/runs")["runs"][0]["title"] == HTML and run.folder.name == "one"
    for title in ("a\nb", "a\u2028b", "x" * 201, "\ud800", 5, None):
        post("/cocktail/runs/one/rename", {"title": title}, 400)
    assert post("/cocktail/runs/one/rename", {"title": "../up/" + "y" * 194})["name"] == "one"
    assert post("/cocktail/runs/one/rename", {"title": ""})["title"] == "one"


def test_a_fork_begins_with_a_pinned_checkpoint_and_has_other_settings(here):
    run = make_run(here, status="finished")
    with_checkpoints(run, 1, 2)
    body = {"name": "two", "epoch": 1, "settings": {"loss.min_snr_gamma": 5.0}}
    told = post("/cocktail/runs/one/fork", body)
    assert told["status"] == "queued" and "optimizer starts anew" in told["note"]
    first, second = get("/cocktail/runs/one")["checkpoints"]
    assert (first["pinned"], second["pinned"]) == (True, False)
    assert first["size"] == Path(run.base.path).stat().st_size
    compared = get("/cocktail/runs/two/settings?compare=one")
    assert compared["differences"] == [
        {"name": "base", "here": first["name"], "there": "base.safetensors"},
        {"name": "loss.min_snr_gamma", "here": 5.0, "there": 0.0},
    ]
    refused = post("/cocktail/runs/one/delete", {"checkpoints": True}, 409)["error"]
    assert "two is made from a checkpoint of one" in refused
    assert (
        "no checkpoint of epoch 3"
        in post("/cocktail/runs/one/fork", body | {"epoch": 3}, 400)["error"]
    )
    both = body | {"name": "three", "epoch": 2, "step": 10}
    assert "epoch 2, step 10" in post("/cocktail/runs/one/fork", both, 400)["error"]
    taken = body | {"epoch": 2, "settings": {"loss.min_snr_gamma": 1.0}}
    assert "taken by another run" in post("/cocktail/runs/one/fork", taken, 400)["error"]
    assert [c["pinned"] for c in get("/cocktail/runs/one")["checkpoints"]] == [True, False]
    wrong = body | {"name": "three", "settings": {"loss.min_snr_gama": 5}}
    assert "Did you mean" in post("/cocktail/runs/one/fork", wrong, 400)["error"]
    assert {told["name"] for told in get("/cocktail/runs")["runs"]} == {"one", "two"}


def test_a_pinned_checkpoint_is_told_and_only_one_that_is_there(here):
    run = make_run(here)
    with_checkpoints(run, 1, 2)
    post("/cocktail/runs/one/pin", {"step": 20})
    assert [c["pinned"] for c in get("/cocktail/runs/one")["checkpoints"]] == [False, True]
    post("/cocktail/runs/one/pin", {"step": 20, "pinned": False})
    assert [c["pinned"] for c in get("/cocktail/runs/one")["checkpoints"]] == [False, False]
    post("/cocktail/runs/one/pin", {"step": 21}, 400)


@pytest.mark.parametrize("with_them", [False, True])
def test_a_deleted_run_waits_in_the_bin_and_comes_back_as_it_was(here, with_them):
    run = make_run(here, status="finished")
    with_checkpoints(run, 1, 2)
    post("/cocktail/runs/one/rename", {"title": HTML})
    before = get("/cocktail/runs/one")
    gone = post("/cocktail/runs/one/delete", {"checkpoints": with_them})
    assert gone["checkpoints"] == 2 * with_them and gone["title"] == HTML
    assert get("/cocktail/runs")["runs"] == [] and ask("GET", "/cocktail/runs/one")[0] == 404
    assert get("/cocktail/runs?deleted=true")["runs"] == [gone]
    assert Path(run.paths.checkpoints).exists() != with_them
    other = make_run(here, status="stopped") if with_them else None
    if other:
        refused = post("/cocktail/runs/one/restore", {"key": gone["key"]}, 409)["error"]
        assert "a run named one again" in refused
        assert post("/cocktail/runs/one/delete")["key"] != gone["key"]
    for key in ("one.1", "../one.1", "two.1", gone["key"] + "/..", ""):
        post("/cocktail/runs/one/restore", {"key": key}, 400)
    assert post("/cocktail/runs/one/restore", {"key": gone["key"]})["status"] == "finished"
    assert get("/cocktail/runs/one") == before


def test_a_run_that_is_deleted_while_somebody_resumes_it_is_not_queued(here):
    from cocktail.nodes import supervisor

    run = make_run(here)
    key = post("/cocktail/runs/one/delete")["key"]
    with pytest.raises(Refused, match="is gone"):
        supervisor.jobs().put(supervisor.RUN, run, "cpu")
    assert not run.folder.exists()
    assert post("/cocktail/runs/one/restore", {"key": key})["status"] == "stopped"


def test_a_damaged_run_can_be_deleted_and_restored(here):
    run = make_run(here)
    (run.folder / "run.json").write_text("{")
    key = post("/cocktail/runs/one/delete")["key"]
    assert get("/cocktail/runs")["runs"] == []
    (here / "output" / "cocktail" / ".bin" / "runs" / key / "deleted.json").write_text("{")
    assert get("/cocktail/runs?deleted=true")["runs"][0]["key"] == key
    assert ask("POST", "/cocktail/runs/one/restore", {"key": key})[0] == 400, "it is damaged still"
    assert get("/cocktail/runs/one")["status"] == "unreadable"


def test_a_failed_run_shows_the_end_of_its_log_and_what_to_do(here):
    run = make_run(here, status="failed")
    (run.folder / "log.txt").write_text("\n".join(f"line {n}" for n in range(50)) + f"\n{HTML}\n")
    told = get("/cocktail/runs")["runs"][0]
    assert told["log"].splitlines()[0] == "line 31" and told["log"].endswith(HTML)
    assert "resume it" in told["advice"]
    assert get("/cocktail/runs/one/log?lines=2")["text"] == f"line 49\n{HTML}"
    for lines in ("0", "x", "-1", "9" * 30, "²"):
        assert ask("GET", f"/cocktail/runs/one/log?lines={lines}")[0] == 400


def test_a_log_that_is_none_keeps_no_other_run_out_of_the_list(here):
    (make_run(here, status="failed").folder / "log.txt").mkdir()
    make_run(here, "two")
    one, two = get("/cocktail/runs")["runs"]
    assert "log.txt cannot be read" in one["log"] and two["name"] == "two"


def test_numbers_that_json_does_not_have_become_null(here):
    run = make_run(here, status="finished")
    (run.folder / "state.json").write_text('{"status": "finished", "loss": NaN, "eta_s": Infinity}')
    told = get("/cocktail/runs/one")
    assert (told["loss"], told["eta_s"]) == (None, None)
    (run.folder / "metrics.jsonl").write_text(
        '{"kind": "step", "epoch": 1, "step": 1, "loss": NaN}\n'
    )
    assert get("/cocktail/runs/one/metrics")["lines"][0]["loss"] is None
    assert get("/cocktail/runs/one/curve")["train"]["mean"] == [None]
    run.write_state(State("finished", loss=float("nan"), best={"loss": float("inf")}))
    written = json.loads((run.folder / "state.json").read_text(), parse_constant=pytest.fail)
    assert (written["loss"], written["best"]) == (None, {"loss": None})


def test_a_body_that_is_no_json_object_is_refused_in_json(here):
    make_run(here)
    for content, kind in [
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b'{"title": "\xff"}', "application/json"),
        (b'{"title": "a"}', "application/json; charset=nonsense"),
        (b"[" * 100_000, "application/json"),
        (b"{}", "text/plain"),
    ]:
        for action in ("stop", "rename", "fork"):
            path = f"/cocktail/runs/one/{action}"
            status, value = ask("POST", path, content, **{"Content-Type": kind})
            assert status == 400 and "Send a JSON object" in value["error"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="rights do not bind this user")
def test_a_folder_without_rights_is_told(here):
    run = make_run(here)
    run.folder.chmod(0)
    try:
        assert get("/cocktail/runs")["runs"][0]["status"] == "unreadable"
    finally:
        run.folder.chmod(0o755)


def test_what_the_system_refuses_is_told_in_json(here, monkeypatch):
    make_run(here)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(notes, "rename", full)
    status, value = ask("POST", "/cocktail/runs/one/rename", {"title": "a"})
    assert status == 500 and "No space left" in value["error"]


def test_the_strip_of_samples_has_a_row_for_each_prompt(here):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    run = make_run(here)
    folder = run.folder / "samples"
    folder.mkdir()
    for name, words in {
        "e001-s000010-01.png": HTML,
        "e002-s000020-01.png": HTML,
        "e002-s000020-own-01.png": "another\nwith two lines",
        "notes.txt": "",
    }.items():
        info = PngInfo()
        info.add_itxt("parameters", f"{words}\nNegative prompt: bad\nSteps: 20, Sampler: DDIM")
        Image.new("RGB", (8, 8)).save(folder / name, "PNG", pnginfo=info)
    (folder / "e003-s000030-01.png").write_bytes(b"torn")
    told = get("/cocktail/runs/one/samples")
    assert told["prompts"] == [HTML, "", "another\nwith two lines"]
    assert told["columns"] == [
        {"epoch": 1, "step": 10},
        {"epoch": 2, "step": 20},
        {"epoch": 3, "step": 30},
    ]
    assert [(p["prompt"], p["column"]) for p in told["pictures"]] == [
        (0, 0),
        (0, 1),
        (1, 2),
        (2, 1),
    ]
    assert told["pictures"][0]["subfolder"] == "cocktail/runs/one/samples"
