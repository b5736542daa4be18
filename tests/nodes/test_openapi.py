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

from cocktail.nodes.grid.engine.store.store import Store
from cocktail.trainer.jobs.lines import Lines

from ..grid.drawn import Drawn, draw_grid, drawn_plan
from .run_folders import HTML, ask, ask_all, make_run, with_checkpoints

FILE = Path(__file__).parents[2] / "web" / "openapi.json"
DELETED = "/cocktail/runs?deleted=true"
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
