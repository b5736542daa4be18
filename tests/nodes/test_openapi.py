"""web/openapi.json: every route is in it, and answers as it says, whatever it is asked."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from PIL import Image

from cocktail.nodes.grid.engine.store.store import Store
from cocktail.trainer.data.caption import job as caption_job
from cocktail.trainer.data.caption.captioner import CaptionSettings
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.jobs.job import exclusive
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.runs import State
from cocktail.trainer.sweep.sweep import Member, Sweep

from ..comfy import free_port
from ..grid.drawn import Drawn, draw_grid, drawn_plan
from ..grid.feeding import axis, ended, plan_of
from .run_folders import HTML, ask, ask_all, make_run, with_checkpoints

FILE = Path(__file__).parents[2] / "web" / "openapi.json"
CONTRACT = Path(__file__).parents[1] / "route_contract.json"
DELETED = "/cocktail/runs?deleted=true"
CELLS = 200
"""More than are rendered before a grid is paused."""
BAD_NAMES = ("../up", "..", "%2e%2e", "x" * 300, "🍸", "CON", "a\\b", "a b", "-x", "\0", HTML)
BAD_VALUES: tuple[Any, ...] = (
    None, True, -1, 10**30, 1.5, "", "x" * 5000, "\ud800", "../up", HTML, [], [None], {}, {"a": {}},
)  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture
def prepared(here: Path) -> Path:
    """A finished run with everything in it, one in the bin, and a rendered grid."""
    run = make_run(here, status="finished")
    with_checkpoints(run, 1, 2)
    Lines(run.folder / "metrics.jsonl").append(
        {"kind": "step", "epoch": 1, "step": 1, "time": 1.0, "loss": 0.5},
        {"kind": "validation", "epoch": 1, "step": 10, "time": 2.0, "loss": 0.5},
    )
    with_pairs = {"epoch": 1, "step": 10, "pairs": {"b": 0.25, "c": 0.75}}
    Lines(run.folder / "validation.jsonl").append(with_pairs)
    make_run(here, "failing", status="failed")
    make_run(here, "gone")
    assert ask("POST", "/cocktail/runs/gone/delete")[0] == 200
    folder = here / "output" / "cocktail" / "grids" / "g"
    Store(folder).save_plan(drawn_plan())
    draw_grid(drawn_plan(), folder, Drawn())
    return here


def registered() -> set[tuple[str, str]]:
    """Method and path of every route of the pack."""
    from cocktail.nodes import routes

    table = web.RouteTableDef()
    routes.add(table)
    return {(route.method, route.path) for route in table if isinstance(route, web.RouteDef)}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every route."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def check(document: dict[str, Any], operation: dict[str, Any], status: int, value: Any) -> None:
    """That an answer is one of those that the document tells of."""
    assert str(status) in operation["responses"], (operation["operationId"], status, value)
    content = operation["responses"][str(status)]["content"]
    if "application/json" in content:
        schema = {**content["application/json"]["schema"], "components": document["components"]}
        problem = next(Draft202012Validator(schema).iter_errors(value), None)
        assert problem is None, f"{operation['operationId']}: {problem}"


def path_of(here: Path, path: str) -> str:
    """A path with the names of what is there."""
    (gone,) = (here / "output" / "cocktail" / ".bin" / "runs").glob("gone.*")
    assert gone.is_dir()
    if path.endswith("/restore"):
        return path.replace("{name}", "gone")
    name = "g" if path.startswith("/cocktail/grids") else "one"
    key = drawn_plan().cells[0].key
    return path.replace("{name}", name).replace("{key}", key).replace("{id}", "b")


def body_of(here: Path, operation_id: str) -> dict[str, Any]:
    """A body that a route accepts, where {} is not enough."""
    (gone,) = (here / "output" / "cocktail" / ".bin" / "runs").glob("gone.*")
    plan = drawn_plan().to_json()
    return {
        "extendRun": {"epochs": 9, "start": False},
        "forkRun": {"name": "two", "epoch": 1, "start": False},
        "renameRun": {"title": HTML},
        "pinCheckpoint": {"step": 10},
        "restoreRun": {"key": gone.name},
        "planGrid": {"plan": plan},
        "feedGrid": {"plan": plan},
        "castVote": {"question": "0" * 32, "shown": [cell["key"] for cell in plan["cells"][:2]]},
    }.get(operation_id, {})


def test_every_route_is_in_it_and_nothing_else(document, here):
    Draft202012Validator.check_schema({"$defs": document["components"]["schemas"]})
    assert {(method, path) for method, path, _ in operations(document)} == registered()
    ids = [operation["operationId"] for *_, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for _, path, operation in operations(document):
        named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def keys_of(document: dict[str, Any], schema: dict[str, Any], within: tuple[str, ...]) -> set[str]:
    """The keys of all that a schema describes, such as "runs[].name"; those that may be missing end
    with "?". `within` are the named schemas that it is part of.
    """
    if name := schema.get("$ref", "").rpartition("/")[2]:
        if name in within:
            return set()
        return keys_of(document, document["components"]["schemas"][name], (*within, name))
    found = set()
    for key, value in schema.get("properties", {}).items():
        found.add(key if key in schema.get("required", ()) else f"{key}?")
        for below in keys_of(document, value, within):
            found.add(f"{key}{'' if below.startswith('[') else '.'}{below}")
    for part in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
        found |= keys_of(document, part, within)
    for name, mark in (("items", "[]."), ("additionalProperties", "{}.")):
        if isinstance(below := schema.get(name), dict):
            found |= {mark + key for key in keys_of(document, below, within)}
    return found


def promises(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What callers rely on, by method and path: what each route must and may be asked, which values
    are chosen from and what is meant without one, and the keys of its answer.
    """
    found = {}
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        body = content.get("application/json", {}).get("schema", {})
        asked = [q for q in operation.get("parameters", ()) if q["in"] == "query"]
        queries = {f"{q['name']}?" for q in asked}
        values = {q["name"]: q["schema"] for q in asked} | body.get("properties", {})
        answer = operation["responses"]["200"]["content"]
        schema = answer.get("application/json", {}).get("schema", {})
        found[f"{method} {path}"] = {
            "asks": sorted(queries | keys_of(document, body, ())),
            "choices": {name: v["enum"] for name, v in values.items() if "enum" in v},
            "defaults": {name: v["default"] for name, v in values.items() if "default" in v},
            "types": sorted(answer),
            "answers": sorted(keys_of(document, schema, ())),
        }
    return found


def test_what_callers_rely_on_stays(document):
    """Routes are promises, as nodes are: what is once in route_contract.json stays. After a route
    has got more, run this once with COCKTAIL_WRITE_CONTRACT=1.
    """
    now = promises(document)
    promised = json.loads(CONTRACT.read_text(encoding="utf-8"))
    assert not promised.keys() - now.keys(), "these routes are gone"
    for route, told in promised.items():
        asks, answers = set(now[route]["asks"]), set(now[route]["answers"])
        missing = {key for key in told["asks"] if not {key, key.rstrip("?") + "?"} & asks}
        assert not missing, f"{route} can no longer be asked these"
        must = {key for key in asks if not key.endswith("?")} - set(told["asks"])
        assert not must, f"{route} must be asked these, which it did without"
        for name, choices in told["choices"].items():
            left = now[route]["choices"].get(name, ())
            assert set(choices) <= set(left), f"{route} no longer takes some values of {name}"
        defaults = {name: now[route]["defaults"].get(name) for name in told["defaults"]}
        assert defaults == told["defaults"], f"{route} means something else when they are missing"
        gone = {key for key in told["answers"] if not {key, key.rstrip("?")} & answers}
        assert not gone, f"{route} no longer answers these"
        assert set(told["types"]) <= set(now[route]["types"]), route
    if os.environ.get("COCKTAIL_WRITE_CONTRACT"):
        CONTRACT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    else:
        assert promised == now, "run once with COCKTAIL_WRITE_CONTRACT=1"


def test_every_route_has_a_line_for_curl_that_fits_it(document):
    for method, path, operation in operations(document):
        words = shlex.split(operation["description"].split("```")[-2])
        (address,) = [word for word in words if word.startswith("http://127.0.0.1:8188/")]
        asked, _, query = address.removeprefix("http://127.0.0.1:8188").partition("?")
        pattern = re.sub(r"\\{\w+\\}", "[A-Z]+", re.escape(path))
        assert words[0] == "curl" and re.fullmatch(pattern, asked), address
        known = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
        assert {part.partition("=")[0] for part in query.split("&") if part} <= known, address
        assert ("-X" in words and words[words.index("-X") + 1] == "POST") == (method == "POST")
        if method == "POST":
            assert "Content-Type: application/json" in words
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            whole = {**schema, "components": document["components"]}
            Draft202012Validator(whole).validate(json.loads(words[words.index("-d") + 1]))


def test_every_route_answers_as_it_says(document, prepared):
    # What only reads comes first: a run is deleted on the way.
    known = sorted(operations(document), key=lambda operation: operation[0])
    requests = [
        (method, path_of(prepared, path), body_of(prepared, operation["operationId"]))
        for method, path, operation in known
    ]
    answered = set()
    for (*_, operation), (status, value) in zip(known, ask_all(requests), strict=True):
        check(document, operation, status, value)
        if status == 200:
            answered.add(operation["operationId"])
    check(document, document["paths"]["/cocktail/runs"]["get"], *ask("GET", DELETED))
    export = document["paths"]["/cocktail/grids/{name}/export"]["get"]
    status, value = ask("GET", "/cocktail/grids/g/export")
    assert status == 200
    check(document, export, status, value)
    assert answered >= {
        "listRuns", "getRun", "getMetrics", "getCurve", "getSamples", "getLog", "getSettings",
        "stopRun", "extendRun", "forkRun", "renameRun", "pinCheckpoint", "deleteRun", "restoreRun",
        "listCaptionings", "listGrids", "getGrid", "getCell", "getStates", "getBlockPresets",
        "getHeatMap", "getPairs", "getWords", "getTable", "listSweeps",
        "getPixels", "exportGrid", "stopExport",
        "getQuestion", "getRanking", "castVote", "undoVote", "getColumns", "getPhoneLink",
    }  # fmt: skip


def answered_as_told(document, requests) -> None:
    """That each of these, (operationId, path, body), succeeds, and answers as the document says."""
    known = {operation["operationId"]: (m, operation) for m, _, operation in operations(document)}
    asked = [(known[id][0], path, body) for id, path, body in requests]
    for (id, *_), (status, value) in zip(requests, ask_all(asked), strict=True):
        assert status == 200, (id, value)
        check(document, known[id][1], status, value)


def test_what_is_asked_of_runs_at_work_and_at_rest_is_done(document, prepared):
    output = prepared / "output" / "cocktail"
    busy = make_run(prepared, "busy")
    resting = make_run(prepared, "resting")
    resting.write_state(State("paused", at_rest=True))
    members = Member("one", "", None, "baseline"), Member("busy", "clip_skip", 2, "2")
    Sweep("s", "base.safetensors", "few", members, busy.settings).save(output / "sweeps")
    with exclusive(busy, "cpu"):
        busy.write_state(State("running", step=1))
        requests = [
            ("saveNow", "/cocktail/runs/busy/save", {}),
            ("sampleNow", "/cocktail/runs/busy/sample", {"prompts": [HTML]}),
            ("setPolicy", "/cocktail/runs/busy/policy", {"policy": "polite", "idle_s": 2}),
            ("pauseRun", "/cocktail/runs/busy/pause", {}),
            ("listDevices", "/cocktail/devices", None),
            ("resumeRun", "/cocktail/runs/resting/resume", {}),
            ("getSweep", "/cocktail/sweeps/s", None),
        ]
        answered_as_told(document, requests)
        asked = [(one["command"], one.get("prompts")) for one in busy.take_requests()]
        assert asked == [("save", None), ("sample", [HTML]), ("pause", None)]


def test_pictures_captionings_and_phones_answer_as_it_says(document, prepared, monkeypatch):
    folder = prepared / "output" / "cocktail" / "drawn"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    shown = make_run(prepared, "shown")
    pair = Pair("a", "a.png", "0" * 64, 8, 8, HTML, split="train")
    Dataset("drawn", str(folder), (pair,)).save(shown.folder / "dataset.parquet")
    monkeypatch.setattr(caption_job, "check_model", lambda *given: None)
    monkeypatch.setattr(caption_job, "model_fingerprint", lambda *given: "0" * 64)
    captions = prepared / "output" / "cocktail" / "captions"
    caption_job.create_job(captions, "said", shown.dataset(), CaptionSettings("model"))
    network = prepared / "user" / "cocktail" / "network.json"
    network.parent.mkdir(parents=True)
    network.write_text(json.dumps({"phone_port": free_port(), "phone_address": "127.0.0.1"}))
    requests = [
        ("getPairImage", "/cocktail/runs/shown/pairs/a/image?side=16", None),
        ("stopCaptioning", "/cocktail/captions/said/stop", {}),
        ("openToPhones", "/cocktail/grids/g/votes/phone", {}),
        ("getPhoneLink", "/cocktail/grids/g/votes/phone", None),
        ("closeToPhones", "/cocktail/grids/g/votes/phone/end", {}),
    ]
    answered_as_told(document, requests)


def test_what_needs_a_comfyui_answers_as_it_says(document, comfy):
    known = {operation["operationId"]: operation for *_, operation in operations(document)}

    def right(id: str, value: Any) -> None:
        assert "error" not in value, (id, value)
        check(document, known[id], 200, value)

    colour = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    workflow = {
        "1": {"class_type": "EmptyImage", "inputs": colour},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    plan = plan_of("plain", workflow, axis("EmptyImage.color", *range(CELLS)))
    right("planGrid", comfy.post("/cocktail/grids/plan", {"plan": plan}))
    right("feedGrid", comfy.post("/cocktail/grids", {"plan": plan}))
    for what in ("pause", "resume", "cancel", "retry", "cancel"):
        right(f"{what}Grid", comfy.post(f"/cocktail/grids/plain/{what}", {}))
    right("getFeed", ended(comfy, "plain"))
    right("exportGrid", comfy.post("/cocktail/grids/plain/export", {}))
    right("getExport", comfy.get("/cocktail/grids/plain/export"))
    right("listGraphs", comfy.get("/cocktail/graphs"))
    queued = comfy.post("/cocktail/graphs/block_weights", {})
    comfy.post("/queue", {"delete": [queued["prompt_id"]]})
    right("queueGraph", queued)


def test_no_name_leads_out_of_its_folder_or_to_an_error_of_ours(document, prepared):
    requests = [
        (method, path.replace("{name}", bad).replace("{id}", bad).replace("{key}", bad), {})
        for method, path, _ in operations(document)
        for bad in (quote(name, safe="") for name in BAD_NAMES)
        if "{" in path
    ]
    for request, (status, value) in zip(requests, ask_all(requests), strict=True):
        assert status in (400, 404, 409), (request, status, value)
        assert isinstance(value, str) or set(value) == {"error"}


def test_no_body_leads_to_an_error_of_ours(document, prepared):
    requests, asked = [], []
    for method, path, operation in operations(document):
        if method == "POST":
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            sound = body_of(prepared, operation["operationId"])
            names = [*schema.get("properties", {"plan": {}}), "unknown"]
            for name, value in itertools.product(names, BAD_VALUES):
                requests.append(("POST", path_of(prepared, path), {**sound, name: value}))
                asked.append(operation)
    for request, operation, (status, value) in zip(requests, asked, ask_all(requests), strict=True):
        assert status != 500, (request, value)
        if status != 200:
            check(document, operation, status, value)


ODD_TEXTS = (
    "", " ", "-1", "1e9", "nan", "NaN", "-inf", "9" * 40, "\u0663", "\ud800", "%00", "%ff", "\0",
    "x" * 3000, "../up", "a,b", "," * 900, HTML, "null", "[]", "con", "\u202egnp.exe", "0x10",
)  # fmt: skip


def test_no_query_leads_to_an_error_of_ours(document, prepared):
    requests, asked = [], []
    for method, path, operation in operations(document):
        given = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
        for name, value in itertools.product(
            [*given, "unknown"] if method == "GET" else [], ODD_TEXTS
        ):
            text = value if value.startswith("%") else quote(value, safe="", errors="surrogatepass")
            query = f"{name}={text}"
            requests.append(("GET", f"{path_of(prepared, path)}?{query}", None))
            requests.append(("GET", f"{path_of(prepared, path)}?{query}&{query}&{name}", None))
            asked += [operation] * 2
    for request, operation, (status, value) in zip(requests, asked, ask_all(requests), strict=True):
        assert status != 500, (request, value)
        check(document, operation, status, value)


def nested(levels: int, within: bytes = b"1") -> bytes:
    return b'{"plan": ' + b"[" * levels + within + b"]" * levels + b"}"


RAW_BODIES = (
    b"", b"{", b"[]", b"null", b"\xff", b"\xef\xbb\xbf{}", b"{}{}", b"1" * 5000, b'{"a": NaN}',
    b'{"a": 1e999}', b'{"title": "\\ud800"}', b'{"\\udfff": 1}', b'{"title": "\xed\xa0\x80"}',
    nested(500), nested(5_000), nested(200_000), b'{"a":' * 2_000, b'{"title": 1, "title": []}',
    b'{"epochs": 1' + b"0" * 5_000 + b"}", '{"title": "ä"}'.encode("utf-16"),
)  # fmt: skip
CHARSETS = ("", "latin-99", "utf-16", "idna", "rot13", "zlib", "\udcff")
CONTENT_TYPES = (
    "application/json", *(f"application/json; charset={name}" for name in CHARSETS),
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "",
)  # fmt: skip


def test_no_bytes_and_no_charset_lead_to_an_error_of_ours(document, prepared):
    posts = [o for o in operations(document) if o[0] == "POST"]
    for kind in CONTENT_TYPES:
        requests = [
            ("POST", path_of(prepared, path), body)
            for _, path, _ in posts[:: 1 if kind == CONTENT_TYPES[0] else 5]
            for body in RAW_BODIES
        ]
        kind = kind.encode("utf-8", "replace").decode()
        for request, (status, value) in zip(
            requests, ask_all(requests, **{"Content-Type": kind}), strict=True
        ):
            assert status != 500, (kind, request[1], request[2][:80], value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("what", ["pipe", "circle", "folder"])
def test_no_link_pipe_or_folder_for_a_file_leads_to_an_error_of_ours(document, prepared, what):
    output = prepared / "output" / "cocktail"
    paths = [path_of(prepared, path) for method, path, _ in operations(document) if method == "GET"]
    key = drawn_plan().cells[0].key
    (picture,) = (output / "grids" / "g").glob(f"cells/*/{key}.*")
    run = output / "runs" / "one"
    files = [run / name for name in ("metrics.jsonl", "validation.jsonl", "log.txt", "samples")]
    files += [output / "grids" / "g" / name for name in ("cells.jsonl", "votes.jsonl")]
    for file in (*files, picture):
        file.unlink(missing_ok=True)
        if what == "pipe":
            os.mkfifo(file)
        elif what == "circle":
            file.symlink_to(file)
        else:
            file.mkdir()
    requests = [("GET", path, None) for path in paths]
    for request, (status, value) in zip(requests, ask_all(requests), strict=True):
        assert status in (200, 400, 404), (request, status, value)
