"""What strangers can send costs little, whatever it is: each of these is answered in words, after
less than two seconds of work and with less than 200 MB.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import struct
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest
import torch  # noqa: F401 - what is imported on first use is not the reader's cost
from PIL import Image

from cocktail.merge.errors import MergeError
from cocktail.merge.pickled import load_tensors
from cocktail.merge.recipe import BlockSum, Ingredient, add_difference, method
from cocktail.merge.recipe_json import load_json
from cocktail.merge.safetensors_file import read_header
from cocktail.merge.text import parse, to_text
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.feed.remote import Odd, Server
from cocktail.nodes.grid.engine.plan.of_settings import make_plan
from cocktail.nodes.grid.engine.plan.plan import MOST_CELLS
from cocktail.nodes.grid.engine.plan.rules import read_rules
from cocktail.nodes.grid.engine.store.plan_file import read_plan_file, read_whole_plan
from cocktail.nodes.grid.engine.store.since import states_since
from cocktail.nodes.grid.engine.store.store import Store, list_grids
from cocktail.nodes.grid.engine.vote.ballot import Ballot
from cocktail.nodes.grid.engine.vote.log import PAIR
from cocktail.trainer.data.decoding import scans, tiles
from cocktail.trainer.data.fetch.attempt import Failure, examine
from cocktail.trainer.data.folder.strict_text import parse_json, parse_yaml
from cocktail.trainer.data.image import open_rgb
from cocktail.trainer.data.manifest import COLUMNS, HEADER, Dataset, Pair
from cocktail.trainer.errors import TrainerError, nearest
from cocktail.trainer.jobs.job import read_state
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.model.single_file import read_shapes
from cocktail.trainer.recorded_steps import Followed as CurveFile
from cocktail.trainer.runs import State, list_runs

from .grid.test_plan import FIXED, content_of, replacing, typed

MOST_S, MOST_BYTES = 2.0, 200 << 20
NAME = "n" * 5_000_000
SAMPLER = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "none"}},
    "5": {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1},
    },
}


@contextlib.contextmanager
def cheap(pid: int = os.getpid()) -> Iterator[None]:
    """Assert what a process spends in the block: seconds of work, and memory at its peak."""
    process = psutil.Process(pid)
    before, held = process.cpu_times(), process.memory_info().rss
    if sys.platform == "linux":
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    yield
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    assert spent < MOST_S, f"{spent:.1f} s"
    if sys.platform == "linux":
        status = Path(f"/proc/{pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
        assert peak - held < MOST_BYTES, f"{(peak - held) >> 20} MB"


@pytest.mark.parametrize(
    "rules",
    [
        " " * 60_000 + "x",
        "seed" + " " * 60_000 + "!",
        "seed = 1 and" + " " * 60_000 + "x",
        "seed = 1" + " and seed" * 8_000,
        "seed = 1\n" * 60_000,
        "=" * 60_000,
        "s!" * 900 + "= 1",
        " and " * 390 + "= 1",
    ],
    ids=lambda rules: repr(rules[:12]),
)
def test_rules(rules):
    with cheap(), pytest.raises(GridError):
        read_rules(rules, ["seed", "checkpoint"])


@pytest.mark.parametrize(
    ("prompt", "values"),
    [
        ("a" * 300_000, ["x" * 2_000]),
        ("a" * 9_000, ["x" * 100_000]),
        ("b" * 10_000 + "a", [f"x{number}" for number in range(15_000)]),
        ("b" * 1_000_000 + "a", [f"x{number}" for number in range(100)]),
    ],
    ids=["found too often", "too long", "in too many cells", "too much in each"],
)
def test_searches_that_make_endless_texts(prompt, values):
    with cheap(), pytest.raises(GridError, match="more than 10,000 times|50,000,000"):
        make_plan("g", FIXED | {"prompt": prompt}, [replacing("a", *values)], content_of)


@pytest.mark.parametrize(
    ("rules", "prompt"),
    [
        ("\n".join([" and ".join(["seed != x"] * 140)] * 30), "a"),
        ("\n".join([" and ".join(["seed != x"] * 90)] * 30 + ["steps = 1"]), "a"),
        ("\n".join(["prompt = *b*c"] * 500), "a" * 10_000),
        ("prompt = *b*c\n" * 20_000, "a"),
    ],
    ids=["too many conditions", "tried too often", "long prompts", "too long"],
)
def test_rules_that_are_tried_on_every_cell(rules, prompt):
    seeds = typed("seed", "1-5000")
    with cheap(), pytest.raises(GridError, match="too long|conditions|is the most"):
        make_plan("g", FIXED | {"prompt": prompt}, [seeds], content_of, rules)


def twice(levels: int) -> str:
    """A short text of a recipe in which each level is used four times by the next."""
    text = "a"
    for _ in range(levels):
        text = f"sum_twice({text}, b, c; share_of_b 0.2, share_of_c 0.2)"
    return text


@pytest.mark.parametrize("levels", [13, 40, 90])
def test_a_recipe_that_uses_its_parts_again_and_again(levels):
    with cheap(), pytest.raises(MergeError, match="more than 5,000|nested more than"):
        parse(twice(levels))


def test_recipes_that_a_graph_shares_between_its_nodes():
    for grow in (
        lambda r: add_difference(r, r, r, 0.5),
        lambda r: BlockSum(r, r, parse("mix(a, b, [GRAD_V])").share_of_b),
        lambda r: method("ties", (r, r, r)),
        lambda r: parse("a with vae b").__class__(r, r, r),
    ):
        recipe = Ingredient("a")
        with cheap(), pytest.raises(MergeError, match="more than 5,000 ingredients"):
            for _ in range(90):
                recipe = grow(recipe)


def test_a_recipe_of_ordinary_size_is_read_and_written():
    with cheap():
        recipe = parse(twice(4))
        assert parse(to_text(recipe)) == recipe


def test_deep_recipes_as_json():
    value = {"kind": "ingredient", "name": "a"}
    for _ in range(300):
        value = {"kind": "parts", "recipe": value}
    with cheap(), pytest.raises(MergeError, match="nested more than"):
        load_json(json.dumps(value))


def test_many_keys():
    text = "{" + ", ".join(f"k{number}: 1" for number in range(20_000)) + "}"
    with cheap():
        assert len(parse_yaml(text)) == 20_000
    with cheap(), pytest.raises(ValueError, match="more than 60,000 values"):
        parse_yaml("\n".join(f"k{number}: 1" for number in range(120_000)))
    twice = text[:-1] + ", k19999: 2}"
    with cheap(), pytest.raises(ValueError, match="'k19999' twice"):
        parse_yaml(twice)
    with cheap(), pytest.raises(ValueError, match="'k19999' twice"):
        parse_json(re.sub(r"(k\d+)", r'"\1"', twice))


def test_long_names_are_not_compared():
    known = [f"checkpoint-{number}.safetensors" for number in range(5_000)]
    with cheap():
        assert nearest(NAME, known) == "" and nearest("checkpoin-4999.safetensors", [NAME]) == ""


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    written = io.BytesIO()
    Image.linear_gradient("L").save(written, "JPEG", progressive=True)
    data = written.getvalue()
    start = data.rindex(b"\xff\xda")
    last = data[start:-2]
    refined = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0x00, 1, 63, 0x00) + last[10:]
    return data[:start] + last + refined * count + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans(tmp_path):
    data = jpeg_of_scans(4_000)
    (tmp_path / "a.jpg").write_bytes(data)
    with cheap(), pytest.raises(TrainerError, match="scans"):
        open_rgb(data)
    with cheap(), pytest.raises(Failure, match="scans"):
        examine(tmp_path / "a.jpg", 1 << 30)
    for progressive in (False, True):
        written = io.BytesIO()
        Image.new("RGB", (64, 64)).save(written, "JPEG", progressive=progressive)
        assert open_rgb(written.getvalue()).size == (64, 64)


@pytest.mark.parametrize("kind", ["fill bytes", "PNG"])
def test_a_picture_in_millions_of_pieces(tmp_path, kind):
    written = io.BytesIO()
    Image.new("RGB", (64, 64)).save(written, "PNG")
    data, piece = written.getvalue(), struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt"))
    data = data[:33] + piece * 1_500_000 + data[33:]
    if kind == "fill bytes":
        data = b"\xff\xd8" + b"\xff" * 20_000_000
    (tmp_path / "a.jpg").write_bytes(data)
    with cheap(), pytest.raises(TrainerError, match="small pieces"):
        open_rgb(data)
    with cheap(), pytest.raises(Failure, match="small pieces"):
        examine(tmp_path / "a.jpg", 1 << 30)


def test_what_a_camera_puts_beside_the_picture_is_no_scan(tmp_path):
    """Thumbnails and other data in segments, and a film behind the end."""
    data = jpeg_of_scans(5)
    inside = b"\xff\xe2" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    film = b"\x00\xff\xda" * 2_000_000
    photograph = data[:2] + inside * 40 + data[2:] + film
    assert scans(io.BytesIO(data)) == data.count(b"\xff\xda") == scans(io.BytesIO(photograph))
    assert open_rgb(photograph).size == (256, 256)
    (tmp_path / "a.jpg").write_bytes(photograph)
    assert examine(tmp_path / "a.jpg", 1 << 30) == (".jpg", 256, 256)
    with pytest.raises(TrainerError, match="scans"):
        open_rgb(data[:2] + inside * 40 + jpeg_of_scans(101)[2:])


@pytest.mark.parametrize("plain", [True, False], ids=["j2k", "jp2"])
def test_a_jpeg_2000_of_very_many_tiles(plain):
    """Also where a box before it holds another codestream, of one tile."""
    written = io.BytesIO()
    options = {"no_jp2": plain, "tile_size": (64, 64), "num_resolutions": 1}
    Image.new("RGB", (300, 200)).save(written, "JPEG2000", **options)
    data = written.getvalue()
    assert tiles(io.BytesIO(data)) == 5 * 4 * 3
    assert open_rgb(data).size == (300, 200)
    start = data.index(b"\xff\x4f\xff\x51")
    small = struct.pack(">8I", 1000, 1000, 0, 0, 4, 4, 0, 0)
    many = data[: start + 8] + small + data[start + 40 :]
    if not plain:
        size = many.index(b"ihdr") + 4
        many = many[:size] + struct.pack(">2I", 1000, 1000) + many[size + 8 :]
        decoy = data[start : start + 60]
        many = many[:12] + struct.pack(">I4s", 8 + len(decoy), b"free") + decoy + many[12:]
    with cheap(), pytest.raises(TrainerError, match="tiles"):
        open_rgb(many)


def chain(count: int) -> dict:
    """A workflow in which a latent passes through so many nodes before it is shown."""
    prompt = json.loads(json.dumps(SAMPLER))
    for number in range(100, 100 + count):
        before = str(number - 1) if number > 100 else "5"
        inputs = {"samples": [before, 0], "amount": 1}
        prompt[str(number)] = {"class_type": "RepeatLatentBatch", "inputs": inputs}
    inputs = {"samples": [str(99 + count), 0], "vae": ["4", 2]}
    prompt["8"] = {"class_type": "VAEDecode", "inputs": inputs}
    prompt["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    return prompt


def samplers() -> dict:
    """A workflow with four samplers."""
    prompt = json.loads(json.dumps(SAMPLER))
    for number in range(4):
        inputs = {
            **{"model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "seed": 1},
            **{"latent_image": [str(9 + number) if number else "5", 0], "steps": 1, "cfg": 1.0},
            **{"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        }
        prompt[str(10 + number)] = {"class_type": "KSampler", "inputs": inputs}
    prompt["6"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a", "clip": ["4", 1]}}
    prompt["8"] = {
        "class_type": "VAEDecode",
        "inputs": {"samples": ["13", 0], "vae": ["4", 2]},
    }
    prompt["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    return prompt


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


EVERY_SAMPLER = {f"{number}.sampler_name": "*" for number in range(10, 14)}
ONE = [{"target": "5.width", "values": "64, 128"}]
PLANS = {
    "four samplers": {
        "workflow": samplers(),
        "axes": [{"target": "10.seed", "values": [{"label": "all", "set": EVERY_SAMPLER}]}],
    },
    "a long chain and a link to nowhere": {
        "workflow": chain(1_200),
        "axes": [{"target": "8.samples", "values": [{"set": {"8.samples": ["?", 0]}}]}],
    },
    "too many nodes": {"workflow": chain(6_000), "axes": ONE},
    "many cells of many nodes": {
        "workflow": chain(4_900),
        "axes": [{"target": "5.width", "values": "64-32864 (+8)"}],
    },
    "a long name": {"workflow": {"1": {"class_type": NAME, "inputs": {}}}, "axes": ONE},
    "a long target": {"workflow": chain(1), "axes": [{"target": f"{NAME}.x", "values": "1"}]},
    "many dots": {"workflow": chain(1), "axes": [{"target": "." * 20_000, "values": "1"}]},
    "blanks as rules": {"workflow": chain(1), "axes": ONE, "rules": " " * 60_000 + "x"},
    "many axes": {"workflow": chain(1), "axes": ONE * 20_000},
    "no title": {"workflow": {"1": {"class_type": "?", "inputs": {}, "_meta": None}}, "axes": ONE},
    "deep": {"workflow": {"1": {"class_type": "?", "inputs": {"x": deep(900)}}}, "axes": ONE},
    "half a character": {"workflow": chain(1), "axes": ONE, "name": "\ud800"},
}  # fmt: skip


@pytest.mark.parametrize("plan", list(PLANS))
def test_plans_of_workflows(comfy, plan):
    body = json.dumps({"name": "costly", **PLANS[plan]}).encode()
    request = urllib.request.Request(
        f"{comfy.url}/cocktail/grids/plan", body, {"Content-Type": "application/json"}
    )
    with cheap(comfy.process.pid), pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 400 and json.load(refused.value)["error"]


JSON = {"Content-Type": "application/json"}
BODIES: dict[str, tuple[dict[str, str], object, int]] = {
    "many values": (JSON, b'{"a": [' + b"[]," * 5_000_000 + b"1]}", 400),
    "in pieces": (JSON, (b" " * (1 << 20) for _ in range(60)), 413),
    "packed": ({**JSON, "Content-Encoding": "gzip"}, gzip.compress(b" " * 90_000_000), 400),
    "not packed": ({**JSON, "Content-Encoding": "gzip"}, b"{}", 400),
    "punycode": ({"Content-Type": "application/json; charset=punycode"}, b"a-" * 200_000, 400),
    "digits": (JSON, b'{"a": ' + b"9" * 4_000 + b"}", 400),
}


@pytest.mark.parametrize("what", list(BODIES))
def test_bodies_of_requests(comfy, what):
    headers, body, status = BODIES[what]
    request = urllib.request.Request(f"{comfy.url}/cocktail/grids/plan", body, headers)
    with cheap(comfy.process.pid):
        try:
            urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as refused:
            assert refused.code == status and json.load(refused)["error"]
        except (ConnectionError, urllib.error.URLError):
            assert status == 413, "it may close the connection before all has been sent"
        else:
            raise AssertionError("it was taken")


EMPTY = "[" + "[]," * 5_000_000 + "1]"
"""15 MB that would be 350 MB."""
SHORT = EMPTY[: 3 << 20] + "1]"


def a_plan(folder: Path) -> object:
    (folder / "g").mkdir()
    (folder / "g" / "plan.json").write_text(f'{{"axes": [], "cells": {EMPTY}}}')
    (listed,) = list_grids(folder)
    raise GridError(listed["unreadable"])


def many_cells(folder: Path) -> object:
    (folder / "g").mkdir()
    cells = '\n  {\n   "key": "a",\n  },' * 2_000_000
    (folder / "g" / "plan.json").write_text(f'{{"axes": [],\n "cells": [{cells}\n ]}}')
    return read_plan_file(folder / "g" / "plan.json")


def cells_in_a_line(folder: Path) -> object:
    (folder / "g").mkdir()
    plan = {"axes": [], "cells": [{"key": "a"}] * 100_000}
    (folder / "g" / "plan.json").write_text(json.dumps(plan))
    return read_plan_file(folder / "g" / "plan.json")


def a_run(folder: Path) -> object:
    text = json.dumps({"format": 1, "settings": "here"}).replace('"here"', SHORT)
    (folder / "a").mkdir()
    (folder / "a" / "run.json").write_text(text)
    (listed,) = list_runs(folder)
    raise TrainerError(listed.state().message)


def a_state(folder: Path) -> object:
    (folder / "state.json").write_text(f'{{"status": "running", "best": {SHORT}}}')
    return read_state(folder / "state.json", State)


def lines(folder: Path) -> object:
    line = f'{{"kind": "step", "epoch": 1, "step": 1, "x": {SHORT}}}\n'
    short = f'{{"kind": "step", "epoch": 1, "step": 1, "x": {EMPTY[:200_000]}1]}}\n'
    (folder / "metrics.jsonl").write_text(line + short * 20)
    read = Lines(folder / "metrics.jsonl").read()
    assert read.lines == [] and read.damaged == 21
    _, marks, _ = CurveFile(folder / "metrics.jsonl").read()
    assert marks == []
    raise TrainerError("left out")


def no_lines(folder: Path) -> object:
    """300 MB that take no room on the disk."""
    with (folder / "metrics.jsonl").open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(OSError, match="larger than 32 MB"):
        Lines(folder / "metrics.jsonl").read()
    return CurveFile(folder / "metrics.jsonl").read()


def an_answer(folder: Path) -> object:
    class Lavish(Server):
        def _open(self, request: object, most_bytes: int = 1) -> bytes:
            return EMPTY.encode()

    return Lavish("http://127.0.0.1:1").known()


def a_manifest(folder: Path) -> object:
    """300,000 equal pairs are 12 kB."""
    pair = Pair("id", "a.png", "0" * 64, 64, 64, "a caption", split="train")
    Dataset("few", "somewhere", (pair,)).save(folder / "one.parquet")
    with duckdb.connect() as database:
        said = database.execute(
            "SELECT value FROM parquet_kv_metadata(?)", [str(folder / "one.parquet")]
        ).fetchall()
        header = said[0][0].decode()
        database.execute(
            f"COPY (SELECT one.* FROM read_parquet('{folder}/one.parquet') one, range(300000)) "
            f"TO '{folder}/many.parquet' (FORMAT parquet, KV_METADATA {{'{HEADER}': '{header}'}})"
        )
    return Dataset.load(folder / "many.parquet")


def long_captions(folder: Path) -> object:
    """One caption of 1 MB that 500 pairs share."""
    with duckdb.connect() as database:
        pair = ", ".join(
            f"'{'x' * 1_000_000 if name == 'caption' else ''}'::{kind} AS \"{name}\""
            if kind == "VARCHAR"
            else f'0::{kind} AS "{name}"'
            for name, kind in COLUMNS.items()
        )
        database.execute(
            f"COPY (SELECT {pair} FROM range(500)) TO '{folder}/long.parquet' "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{'{HEADER}': '{{\"format\": 2}}'}})"
        )
    return Dataset.load(folder / "long.parquet")


def a_pickle(folder: Path) -> object:
    data = b"\x80\x02" + b"N0" * 4_000_000 + b"}."
    (folder / "long.ckpt").write_bytes(data)
    with pytest.raises(MergeError):
        load_tensors(folder / "long.ckpt")
    with zipfile.ZipFile(folder / "zip.ckpt", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return load_tensors(folder / "zip.ckpt")


COSTLY = {
    "plan.json": (a_plan, "too many values"),
    "cells of a plan": (many_cells, "2,000,000 cells"),
    "cells in a line": (cells_in_a_line, "has 100,000 cells, and 20,000 is the most"),
    "run.json": (a_run, "too many values"),
    "state.json": (a_state, "too many values"),
    "metrics.jsonl": (lines, "left out"),
    "metrics.jsonl without lines": (no_lines, "larger than 32 MB"),
    "an answer": (an_answer, "too many values"),
    "a manifest": (a_manifest, "300,000 pairs"),
    "captions": (long_captions, "MB of text"),
    "a pickle": (a_pickle, "is not opened"),
    "a caption file": (lambda folder: parse_json(EMPTY), "too many values"),
    "YAML": (lambda folder: parse_yaml(EMPTY[: 1 << 20] + "1]"), "more than 60,000 values"),
}


REFUSALS = (GridError, TrainerError, MergeError, ValueError, OSError, Odd)


@pytest.mark.parametrize("what", list(COSTLY))
def test_files_of_received_folders_are_measured_before_they_are_read(tmp_path, what):
    read, words = COSTLY[what]
    with cheap(), pytest.raises(REFUSALS, match=words):
        read(tmp_path)


def test_a_plan_of_as_many_cells_as_there_may_be_opens(tmp_path):
    """Of the longest kind: each with a prompt of 1,000 characters."""
    fixed = {**FIXED, "prompt": "a castle, " * 100}
    plan = make_plan("g", fixed, [typed("seed", *range(1, MOST_CELLS + 1))], content_of)
    store = Store(tmp_path / "g")
    store.save_plan(plan)
    (listed,) = list_grids(tmp_path)
    assert listed["cells"] == MOST_CELLS, listed
    with cheap():
        assert len(states_since(store, "")["keys"]) == MOST_CELLS
    with cheap(), pytest.raises(GridError, match="has 20,000 values, and 500 is the most that can"):
        Ballot(store).question("Ann", PAIR)
    assert len(read_whole_plan(tmp_path / "g" / "plan.json")["cells"]) == MOST_CELLS


@pytest.mark.parametrize("inside", ['"%d": {}', "0"], ids=["objects", "numbers"])
def test_a_header_of_very_many_tensors(tmp_path, inside):
    entries = ",".join(inside % n if "%" in inside else inside for n in range(4_000_000))
    text = (f"{{{entries}}}" if "%" in inside else f'{{"a": [{entries}]}}').encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    for read, refuses in ((read_header, MergeError), (read_shapes, TrainerError)):
        with cheap(), pytest.raises(refuses, match="far more than that of any checkpoint"):
            read(path)


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        (None, ""),
        (zipfile.ZIP_STORED, "data.pkl"),
        (zipfile.ZIP_STORED, "DATA.PKL"),
        (zipfile.ZIP_DEFLATED, "data.pkl"),
    ],
)
def test_a_long_name_in_a_pickle_is_refused_at_once(tmp_path, packed, name):
    """PyTorch's words about such a name take hours for a megabyte."""
    data, path = b"\x80\x02co" + b"}" * 1_000_000 + b"\no\n.", tmp_path / "a.ckpt"
    path.write_bytes(data)
    if packed is not None:
        with zipfile.ZipFile(path, "w", packed) as archive:
            archive.writestr(f"archive/{name}", data)
            archive.writestr("archive/version", "3\n")
    with cheap(), pytest.raises(MergeError, match="could be code|is not a checkpoint"):
        load_tensors(path)


@pytest.mark.parametrize("wide", [True, False])
def test_a_zip_file_of_very_many_files_is_not_listed(tmp_path, wide):
    path, count = tmp_path / "a.ckpt", 1_000_000 if wide else 60_000
    name = b"a" * (1 if wide else 200)
    entry = b"PK\1\2" + struct.pack("<6H3L5H2L", *[0] * 9, len(name), *[0] * 6) + name
    size = len(entry) * count
    with path.open("wb") as file:
        file.write(b"PK\3\4".ljust(600, b"\0") + entry * count)
        if wide:
            file.write(
                b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, count, count, size, 600)
            )
            file.write(b"PK\6\7" + struct.pack("<LQL", 0, 600 + size, 1))
        shown = (65535, 65535, 0, 0) if wide else (count, count, size, 600)
        file.write(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, *shown, 0))
    with cheap(), pytest.raises(MergeError, match="is not a checkpoint but a zip archive"):
        load_tensors(path)
    with path.open("r+b") as file:
        file.seek(30)
        file.write(b"archive/data.pkl")
    with cheap(), pytest.raises(MergeError, match="is not opened"):
        load_tensors(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files")
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_a_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (read_header, load_tensors):
        with cheap(), pytest.raises(MergeError, match="is not a regular file"):
            read(tmp_path / name)
    with pytest.raises(TrainerError, match="There is no file"):
        read_shapes(tmp_path / name)
