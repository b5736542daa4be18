"""Whatever bytes a stranger gives, each of our parsers reads them or refuses them in its own words,
soon and in little memory.

One table of targets; each is fed with samples that were damaged by a machine. By default a few each
and always the same, under `--all` for a minute each and always others.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cocktail.merge.blocks import parse_rules, parse_values
from cocktail.merge.errors import MergeError
from cocktail.merge.licence import parse_by_hand
from cocktail.merge.metadata import read_recipe
from cocktail.merge.presets import read_own_presets
from cocktail.merge.recipe_json import load_json
from cocktail.merge.safetensors_file import read_header
from cocktail.merge.text import parse, parse_settings
from cocktail.nodes.grid.engine.axes import lists, prompts
from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.feed.fed_grid import Order, order_from_json
from cocktail.nodes.grid.engine.feed.remote import Failed, Odd, Refused, Server
from cocktail.nodes.grid.engine.feed.servers import read_settings as read_servers
from cocktail.nodes.grid.engine.plan.rules import read_rules
from cocktail.nodes.grid.engine.store import cell_file
from cocktail.nodes.grid.engine.store.plan_file import read_plan_file, read_whole_plan
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.log import VoteLog
from cocktail.trainer import marks
from cocktail.trainer.data.caption.captioner import CaptionSettings
from cocktail.trainer.data.caption.job import CaptionJob
from cocktail.trainer.data.captions import as_choices, chosen
from cocktail.trainer.data.fetch.network import (
    BadURL,
    NetworkSettings,
    RefusedAddress,
    check_url,
    read_network_settings,
)
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.folder.strict_text import parse_json, parse_yaml
from cocktail.trainer.data.manifest import Dataset, Pair
from cocktail.trainer.data.table.columns import guess
from cocktail.trainer.data.table.condition import check_condition
from cocktail.trainer.data.table.table import open_table
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.job import Job, read_state
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.jobs.tickets import Ticket, _read, _words
from cocktail.trainer.model.single_file import read_header as trainers_header
from cocktail.trainer.model.single_file import read_shapes
from cocktail.trainer.notes import read_notes
from cocktail.trainer.recycle_bin import Bin
from cocktail.trainer.resume import FORMAT as POINT_FORMAT
from cocktail.trainer.resume import _manifest as point_manifest
from cocktail.trainer.runs import Run, State
from cocktail.trainer.settings.everydream.importing import import_everydream
from cocktail.trainer.settings.run_settings import RunSettings
from cocktail.trainer.settings.text import changed_by
from cocktail.trainer.sweep.sweep import Sweep
from cocktail.trainer.sweep.variants import read_variants

from .spoiled import ODD, spoiled

MOST_S, MOST_BYTES = 2.0, 200 << 20
EXAMPLES, EXAMPLES_OF_SLOW = 60, 12
ALL_S = 60.0
LONGEST = 1 << 20
WORDS = (
    b"", b'"', b"'", b"{", b"}", b"[", b"]", b"(", b")", b":", b",", b"\n", b"\r", b"\t", b"\0",
    b"\xff", b"NaN", b"1e999", b"-1", b"9" * 30, b"-0", b"null", b"true", b'"\\ud800"', b"../",
    b"*", b"&a", b"!!python/object:os.system", b"%", b"\\", b"  ", b"#", b"=", b"<img src=x>",
    b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xef\xbb\xbf", b"\xff\xfe", b"\xd9\xa3", b"1-999999999",
    b"0x10", b"1_000", b"[[", b'{"a":', b"((((",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A parser, what it may refuse with, and samples of what it reads: all but the last `unsound`
    ones are read whole, and something is found in each.
    """

    name: str
    read: Callable[[bytes, Path], object]
    refuses: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]
    is_slow: bool = False
    refuses_nothing: bool = False
    """Whether what makes no sense is passed over."""
    unsound: int = 0


@st.composite
def damaged(draw: st.DrawFn, samples: tuple[bytes, ...]) -> bytes:
    """A sample in which pieces were cut out, put in, changed or repeated; seldom none of it. One of
    JSON may have something odd at any place instead, and is sound otherwise.
    """
    data = draw(st.sampled_from(samples))
    if data[:1] in (b"{", b"[") and draw(st.integers(0, 2)) == 0:
        first, end, rest = data.partition(b"\n") if data.count(b"}\n") > 1 else (data, b"", b"")
        with contextlib.suppress(ValueError):
            chance, odd = draw(st.randoms(use_true_random=False)), draw(st.sampled_from(ODD))
            return spoiled(chance, first.decode(), odd).replace("\n", " ").encode() + end + rest
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([0, 1, 2, 8, 100, LONGEST])))
        how = draw(st.sampled_from(["cut", "put", "put", "repeat", "bytes"]))
        piece = data[at:end]
        if how == "put":
            piece = draw(st.sampled_from(WORDS)) * draw(
                st.sampled_from([1, 1, 1, 1, 1, 2, 300, 20_000])
            )
        elif how == "repeat":
            piece *= draw(st.sampled_from([2, 2, 3, 50, 3000]))
        elif how == "bytes":
            piece = draw(st.binary(max_size=9))
        else:
            piece = b""
        data = (data[:at] + piece[:LONGEST] + data[end:])[:LONGEST]
    return data


def texts(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    """A parser of text, also with halves of characters in it, as JSON may hold them."""
    return lambda data, folder: read(data.decode("utf-8", "surrogateescape"))


def values(read: Callable[[Any], object]) -> Callable[[bytes, Path], object]:
    """A parser of JSON values; what is no JSON never comes to it."""

    def parsed(data: bytes, folder: Path) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return read(value)

    return parsed


def files(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A parser of files with that name."""

    def written(data: bytes, folder: Path) -> object:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return read(folder / name)

    return written


def safetensors(header: Any, rest: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(rest)


HEADERS = (
    safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    safetensors(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]},
            "c": {"dtype": "U8", "shape": [0], "data_offsets": [8, 8]},
        }
    ),
)
RECIPE = {
    "kind": "weighted_sum",
    "parts": [
        {"weight": weight, "recipe": {"kind": "ingredient", "name": name}}
        for name, weight in (("a", 0.25), ("b", "3/4"))
    ],
}
OF_WEB_UI = {
    "sd_merge_recipe": json.dumps(
        {
            "type": "webui",
            "primary_model_hash": "a" * 64,
            "secondary_model_hash": "b" * 64,
            "tertiary_model_hash": None,
            "interp_method": "Weighted sum",
            "multiplier": 0.3,
            "save_as_half": True,
            "custom_name": "x",
            "config_source": 0,
            "bake_in_vae": "None",
            "discard_weights": "",
            "is_inpainting": False,
            "is_instruct_pix2pix": False,
        }
    ),
    "sd_merge_models": json.dumps({"a" * 64: {"name": "a"}, "b" * 64: {"name": "b"}}),
}
WITH_RECIPES = tuple(
    safetensors({"__metadata__": metadata}, rest=0)
    for metadata in ({"cocktail.recipe": json.dumps(RECIPE)}, OF_WEB_UI)
)
PLAN = {"name": "g", "axes": [], "cells": [{"key": "a" * 64, "position": [0], "settings": {}}]}


class Told(Server):
    """A server that answers everything with the same bytes."""

    def answers(self, data: bytes) -> Told:
        self.data = data
        return self

    def _open(self, request: Any, most_bytes: int = 1 << 20) -> bytes:
        return self.data


QUESTIONS: dict[str, Callable[[Told], object]] = {
    "numerics": lambda server: server.numerics(),
    "sizes": lambda server: server.sizes("checkpoints"),
    "send": lambda server: server.send({"1": {"class_type": "x", "inputs": {}}}, "id", "9"),
    "known": lambda server: server.known(),
    "has ended": lambda server: server.has_ended("id"),
    "result": lambda server: server.result("id", "9"),
    "forget": lambda server: server.forget(["id"], True),
}


def ask_server(data: bytes, folder: Path) -> set[str]:
    """The questions that we have for a server and to which this is an answer. Raises the last
    refusal if there are none.
    """
    server, last, understood = Told("http://127.0.0.1:1").answers(data), None, set()
    for name, ask in QUESTIONS.items():
        try:
            ask(server)
            understood.add(name)
        except (Odd, Refused, Failed) as error:
            last = error
    if last and not understood:
        raise last
    return understood


HISTORY = {
    "id": {
        "status": {"messages": [["execution_start", {"timestamp": 1}]]},
        "outputs": {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}},
    }
}
ANSWERS = (
    {"system": {"comfyui_version": "1", "argv": ["--cpu"]}, "devices": [{"name": "cpu"}]},
    [{"name": "a.safetensors", "size": 4}],
    {"prompt_id": "id", "number": 1, "node_errors": {}},
    {"node_errors": {"1": {"errors": [{"message": "m", "details": "d"}]}}},
    {"queue_running": [[0, "id", {}, {}, []]], "queue_pending": []},
    HISTORY,
)


def pickled(data: bytes, folder: Path) -> object:
    """A checkpoint of PyTorch's."""
    from cocktail.merge.pickled import load_tensors

    return files("a.ckpt", load_tensors)(data, folder)


def checkpoints() -> tuple[bytes, ...]:
    import torch

    found = []
    for new in (True, False):
        written = io.BytesIO()
        state = {"state_dict": {"a": torch.zeros(2), "b": torch.ones(1, 2)}, "epoch": 1}
        torch.save(state, written, _use_new_zipfile_serialization=new)
        found.append(written.getvalue())
    return (*found, pickle.dumps({"a": [1.0]}, 2), b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.")


def a_table(name: str) -> Callable[[bytes, Path], object]:
    def read(path: Path) -> object:
        table = open_table(path)
        guess(table.columns, table.samples)
        return table.columns

    return files(name, read)


def a_folder(name: str) -> Callable[[bytes, Path], object]:
    """A dataset folder with one picture, in which this file stands."""
    from PIL import Image

    def read(path: Path) -> object:
        picture = path.parent / "a.png"
        if not picture.exists():
            Image.new("RGB", (64, 64)).save(picture)
        return load_folder(path.parent, "auto", "first line", "stop", None, None)

    return files(f"{name}/{name}", read)


def axis_lists(text: str) -> list[object]:
    """A list as all kinds of axes read it. Raises the first GridError once all have read it."""
    refusal, found = None, []
    for _, line in lists.lines(text):
        for read in (
            lists.texts,
            lists.names,
            lists.seeds,
            lambda line: lists.numbers(line, True),
            lambda line: lists.numbers(line, False),
        ):
            try:
                found.append(read(line))
            except GridError as error:
                refusal = refusal or error
    if refusal:
        raise refusal
    return found


def a_condition(text: str) -> str:
    with duckdb.connect() as connection:
        check_condition(connection, text)
    return text


def a_bin(folder: Path) -> bool:
    """Whether the bin holds a deletion with its title, or with checkpoints on the way."""
    (folder / "a.77").mkdir(exist_ok=True)
    (folder / "a.77" / "run.json").write_bytes(b"{}")
    where = Bin(folder, folder / "runs", folder / "saved")
    found = where.deleted()
    for deleted in found:
        where.complete(deleted)
    return any(deleted.title == "x" or deleted.pending for deleted in found)


def lines_of(path: Path) -> object:
    """The votes that stand."""
    read = Lines(path).read()
    Lines(path).read(read.next // 2)
    return VoteLog(path.parent).read().standing


def drawn_caption(text: str) -> bool:
    """Whether something in it was chosen."""
    choices = as_choices(text)
    return chosen(text, lambda c: c[0]) != text and bool(choices)


def an_url(text: str) -> object:
    return check_url(text, NetworkSettings())


JSON_TEXT = json.dumps({"a": [1, 2.5, None, "x"], "b": {"c": True}}).encode()
OF_A_RUN = Ticket(7, "run", "one", "cpu", ("--base", "x"))
TICKET = json.dumps({**asdict(OF_A_RUN), "mark": marks.mark(*_words(OF_A_RUN))}).encode()
RECEIPT = {"checkpoints": True, "moved": False, "mark": marks.mark("receipt", "a.77")}
VOTE = {
    "kind": "vote", "id": "1" * 32, "judge": "me", "shown": ["a" * 64, "b" * 64],
    "order": ["a" * 64], "bad": False, "time": 1.0,
}  # fmt: skip
SWEEP = {
    "format": 1,
    "base": "b",
    "dataset": "d",
    "settings": {},
    "members": [
        {"run": "one", "setting": "", "value": None, "label": "baseline"},
        {"run": "two", "setting": "epochs", "value": 3, "label": "3"},
    ],
}
RUN = {
    "format": 1, "name": "a", "id": "0" * 64, "created": 1.0,
    "base": {"name": "b", "path": "b", "sha256": "0" * 64},
    "dataset": {"name": "d", "fingerprint": "1" * 64, "train": 1, "validation": 1},
    "settings": RunSettings().to_json(),
    "paths": {"checkpoints": "c", "tokenizer": "t", "cache": "k"},
}  # fmt: skip
CAPTIONING = {
    "format": 1, "id": "0" * 64, "model_fingerprint": "1" * 64,
    "dataset": {"name": "few", "manifest": "dataset-0.parquet", "fingerprint": "2" * 64},
    "settings": CaptionSettings("model").to_json(),
}  # fmt: skip
CELLS = (
    {"key": "a" * 64, "time": 1.0, "status": "finished", "bytes": 9, "numerics": "n"},
    {"key": "a" * 64, "time": 1.0, "status": "failed", "reason": "x", "settings": {"steps": 9}},
)
OURS = (TrainerError,)


def a_log(store: Store) -> object:
    """All that is read of the log of a grid."""
    return store.log(), store.failures(), store.numerics(), store.pixels()


def a_captioning(folder: Path) -> Path:
    (folder / "job.json").write_text(json.dumps(CAPTIONING))
    return folder


TARGETS = (
    Target("safetensors header", files("a.safetensors", read_header), (MergeError,), HEADERS),
    Target("trainer's header", files("a.safetensors", read_shapes), OURS, HEADERS),
    Target("pickle", pickled, (MergeError,), (), is_slow=True, unsound=2),
    Target(
        "metadata recipe",
        files("a.safetensors", lambda path: read_recipe(read_header(path))),
        (MergeError,),
        WITH_RECIPES,
    ),
    Target("recipe JSON", texts(load_json), (MergeError,), (json.dumps(RECIPE).encode(),)),
    Target(
        "recipe text",
        texts(parse),
        (MergeError,),
        (
            b"0.5 a + 50% (b - c) + 1/2 a",
            b'mix("x y", b, [GRAD_V]) with vae c',
            b"ties(base, a, b; keep 0.2, strength 1)",
        ),
    ),
    Target(
        "recipe settings", texts(parse_settings), (MergeError,), (b"keep 0.2, strength [GRAD_V]",)
    ),
    Target("block values", texts(parse_values), (MergeError,), (b"0,0.5,1,1,1,1", b"1/3 " * 26)),
    Target(
        "block rules",
        texts(lambda text: parse_rules(text, "SD1.5")),
        (MergeError,),
        (b"IN01:attn:0.5",),
    ),
    Target("licences", texts(parse_by_hand), (MergeError,), (b"a: CC-BY-4.0\nb: CreativeML",)),
    Target(
        "block presets",
        files("presets.txt", lambda path: read_own_presets(path).weights),
        (MergeError,),
        (b"mine: " + b",".join([b"0.5"] * 26) + b"\n# other\nnext\t[1,0.5]\n",),
        refuses_nothing=True,
    ),
    Target(
        "axis lists",
        texts(axis_lists),
        (GridError,),
        (b"1-5 (+2), 7", b"1, 2, .., 10", b'"a ""b""", "c"', b"random 4\n1-9 [3]"),
    ),
    Target(
        "rules",
        texts(lambda text: read_rules(text, ("seed", "cfg", "sampler"))),
        (GridError,),
        (b"seed = 1 and cfg = 2, 3\nsampler != e*",),
    ),
    Target("YAML", texts(parse_yaml), (ValueError,), (b"a: 1\nb: [1, {c: d}]\n", JSON_TEXT)),
    Target("JSON", texts(parse_json), (ValueError,), (JSON_TEXT,)),
    Target(
        "JSON metadata folder",
        a_folder("meta_cap.json"),
        OURS,
        (json.dumps({"a.png": {"caption": "x", "tags": "y"}}).encode(),),
        is_slow=True,
    ),
    Target(
        "JSON lines folder",
        a_folder("metadata.jsonl"),
        OURS,
        (b'{"file_name": "a.png", "text": "x"}\n',),
        is_slow=True,
    ),
    Target("YAML folder", a_folder("global.yaml"), OURS, (b"multiply: 2\nadd: x\n",), is_slow=True),
    Target(
        "YAML caption",
        a_folder("a.yaml"),
        OURS,
        (b"main_prompt: x\ntags: [{tag: y}]\n",),
        is_slow=True,
    ),
    Target(
        "caption",
        a_folder("a.txt"),
        OURS,
        (b"a circle {red|blue}\n", b"\xff\xfea\0"),
        is_slow=True,
        unsound=1,
    ),
    Target(
        "drawn caption",
        texts(drawn_caption),
        OURS,
        (b"a {red|{light |}blue} circle",),
        refuses_nothing=True,
    ),
    Target(
        "CSV",
        a_table("t.csv"),
        OURS,
        (b"image,prompt\na.png,x\n", b'"image, a";c\n1;2\n', b'"a;b";"c"\n1;2\n'),
        is_slow=True,
        unsound=2,
    ),
    Target(
        "JSON lines table",
        a_table("t.jsonl"),
        OURS,
        (b'{"image": "a.png", "prompt": "x"}\n',),
        is_slow=True,
    ),
    Target("Parquet", a_table("t.parquet"), OURS, (), is_slow=True),
    Target(
        "condition",
        texts(a_condition),
        OURS,
        (b"prompt LIKE '%a%' AND width >= 512", b"length(prompt) BETWEEN 3 AND 7"),
        is_slow=True,
    ),
    Target(
        "settings lines",
        texts(lambda text: changed_by(RunSettings(), text.splitlines())),
        OURS,
        (b"epochs = 3\nlearning_rate = 1e-5\nsaving.pinned_epochs = 1, 2",),
    ),
    Target(
        "settings JSON",
        values(RunSettings.from_json),
        OURS,
        (json.dumps(RunSettings().to_json()).encode(),),
    ),
    Target(
        "sweep",
        texts(lambda text: read_variants(RunSettings(), text)),
        OURS,
        (b"epochs = 1\nlearning_rate = 1e-5",),
    ),
    Target(
        "EveryDream2",
        texts(lambda text: import_everydream(text, "{}", "{}")),
        OURS,
        (b'{"batch_size": 2, "lr": 1e-6}',),
    ),
    Target(
        "run.json",
        files("a/run.json", lambda path: Run.open(path.parent)),
        OURS,
        (json.dumps(RUN).encode(),),
    ),
    Target(
        "state.json",
        files("state.json", lambda path: read_state(path, State)),
        OURS,
        (json.dumps(asdict(State("running", step=3))).encode(),),
    ),
    Target(
        "notes.json",
        files("notes.json", lambda path: read_notes(path.parent)),
        OURS,
        (b'{"title": "x", "pinned": [3]}',),
    ),
    Target("ticket", files("00000007.json", _read), OURS, (TICKET,)),
    Target(
        "sweep.json",
        files("sweep.json", lambda path: Sweep.open(path.parent)),
        OURS,
        (json.dumps(SWEEP).encode(),),
    ),
    Target(
        "bin",
        files("a.77/deleted.json", lambda path: a_bin(path.parent.parent)),
        OURS,
        (b'{"format": 1, "time": 77, "title": "x"}',),
        refuses_nothing=True,
    ),
    Target(
        "receipt",
        files(".a.77.receipt", lambda path: a_bin(path.parent)),
        OURS,
        (json.dumps(RECEIPT).encode(),),
        refuses_nothing=True,
    ),
    Target(
        "lines",
        files("votes.jsonl", lines_of),
        OURS,
        (json.dumps(VOTE).encode() + b"\n" + b'{"kind": "undo"}\n',),
        refuses_nothing=True,
    ),
    Target(
        "plan.json",
        files("g/plan.json", lambda path: (read_plan_file(path), read_whole_plan(path))),
        (GridError,),
        (json.dumps(PLAN).encode(), json.dumps(PLAN, indent=1).encode()),
    ),
    Target("manifest", files("manifest.parquet", Dataset.load), OURS, (), is_slow=True),
    Target(
        "prompts",
        files("p.csv", lambda path: prompts.of_file(path, "prompt", "label", 9)),
        (GridError,),
        (b"prompt,label\nx,y\n", b'label,prompt\n"x","y"\n'),
    ),
    Target(
        "prompts as JSON lines",
        files("p.jsonl", lambda path: prompts.of_file(path, "prompt", "", 9)),
        (GridError,),
        (b'{"prompt": "x"}\n{"prompt": 2}\n',),
    ),
    Target(
        "cells.jsonl",
        files("g/cells.jsonl", lambda path: a_log(Store(path.parent))),
        (GridError,),
        tuple(json.dumps(line).encode() + b"\n" for line in CELLS),
        refuses_nothing=True,
    ),
    Target(
        "note of a picture",
        files("a.png", lambda path: cell_file.examine(path, "a" * 64)),
        OURS,
        (),
        is_slow=True,
        refuses_nothing=True,
    ),
    Target(
        "captioning",
        files("a/job.json", lambda path: CaptionJob.open(path.parent)),
        OURS,
        (json.dumps(CAPTIONING).encode(),),
    ),
    Target(
        "captions.jsonl",
        files("a/captions.jsonl", lambda path: CaptionJob.open(a_captioning(path.parent)).lines()),
        OURS,
        (json.dumps({"image_hash": "3" * 64, "caption": "a", "error": ""}).encode() + b"\n",),
        refuses_nothing=True,
    ),
    Target(
        "control.json",
        files("a/control.json", lambda path: Job(path.parent)._requests()),
        OURS,
        (b'{"command": "stop", "time": 0.0, "asked": [{"command": "stop"}]}',),
        refuses_nothing=True,
    ),
    Target(
        "resume point",
        files("step-1/manifest.json", lambda path: point_manifest(path.parent)),
        OURS,
        (json.dumps({"format": POINT_FORMAT, "sizes": {}, "values": {}}).encode(),),
        refuses_nothing=True,
    ),
    Target(
        "order",
        values(lambda value: order_from_json(dict(value)) if isinstance(value, dict) else None),
        (TypeError, ValueError, KeyError),
        (json.dumps(asdict(Order(("x",)))).encode(), b'{"servers": []}', b'{"servers": [1]}'),
        unsound=1,
    ),
    Target(
        "servers.json",
        files("servers.json", read_servers),
        (GridError,),
        (b'{"servers": ["http://127.0.0.1:8188"]}',),
    ),
    Target(
        "network.json", files("network.json", read_network_settings), OURS, (b'{"download": true}',)
    ),
    Target(
        "URL",
        texts(an_url),
        (BadURL, RefusedAddress),
        (b"http://example.com/a.png", b"http://[::ffff:127.0.0.1]:80/"),
        unsound=1,
    ),
    Target(
        "server's answers",
        ask_server,
        (Odd, Refused, Failed),
        tuple(json.dumps(a).encode() for a in ANSWERS),
    ),
)


def samples_of(target: Target, folder: Path) -> tuple[bytes, ...]:
    if target.name == "pickle":
        return checkpoints()
    if target.name == "Parquet":
        duckdb.sql("SELECT 'a.png' AS image, 'x' AS prompt").write_parquet(
            str(folder / "s.parquet")
        )
        return ((folder / "s.parquet").read_bytes(),)
    if target.name == "manifest":
        pair = Pair("id", "a.png", "0" * 64, 64, 64, "a", captions={"long": "b"}, split="train")
        Dataset("few", "somewhere", (pair,)).save(folder / "s.parquet")
        return ((folder / "s.parquet").read_bytes(),)
    if target.name == "note of a picture":
        pixels = numpy.zeros((2, 2, 3), numpy.uint8)
        note = {"key": "a" * 64, "numerics": "n"}
        return tuple(cell_file.encode(pixels, kind, None, "", note) for kind in cell_file.SUFFIXES)
    return target.samples


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Assert that the block's peak of memory is not far above what is held before it."""
    if sys.platform != "linux":
        yield
        return
    held = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")
    try:
        yield
    finally:
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
        assert peak - held < MOST_BYTES, f"{(peak - held) >> 20} MB"


@pytest.mark.more_with_all(f"{ALL_S:.0f} s for each parser instead of some fixed samples")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_foreign_bytes_are_read_or_refused_soon_and_in_words(target, tmp_path):
    samples = samples_of(target, tmp_path)
    refused = [0]

    def attempt(data: bytes) -> None:
        began = time.process_time()
        try:
            # Not around all attempts: Hypothesis keeps what it has tried.
            with little_memory():
                target.read(data, tmp_path)
        except target.refuses as error:
            refused[0] += 1
            assert str(error) and len(str(error)) < 5_000
            str(error).encode("utf-8", "surrogateescape")
        spent = time.process_time() - began
        assert spent < MOST_S, f"{spent:.1f} s"

    in_full = bool(os.environ.get("COCKTAIL_ALL"))
    # What is imported on first use is not the parser's.
    for sample in samples[: len(samples) - target.unsound]:
        assert target.read(sample, tmp_path), "nothing is found in a sound sample"
    for sample in samples[len(samples) - target.unsound :]:
        with pytest.raises(target.refuses):
            target.read(sample, tmp_path)
    count = EXAMPLES_OF_SLOW if target.is_slow else EXAMPLES

    def once() -> None:
        settings(
            max_examples=count,
            derandomize=not in_full,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(data=damaged(samples))(attempt))()

    once()
    until = time.monotonic() + ALL_S
    while in_full and time.monotonic() < until:
        once()
    reached = refused[0] or target.refuses_nothing
    assert reached, "nothing was refused: the samples do not reach the parser"


def test_every_question_to_a_server_has_an_answer_that_it_understands(tmp_path):
    understood = [ask_server(json.dumps(answer).encode(), tmp_path) for answer in ANSWERS]
    assert set().union(*understood) == QUESTIONS.keys()


@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(data=damaged(HEADERS))
def test_both_readers_of_headers_say_the_same(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "same.safetensors"
    path.write_bytes(data)
    verdicts: list[Any] = []
    for read, refuses in ((read_header, MergeError), (trainers_header, TrainerError)):
        try:
            found = read(path)
        except refuses:
            verdicts.append("refused")
        else:
            tensors = getattr(found, "tensors", None)
            verdicts.append(
                {name: (t.dtype, t.shape) for name, t in tensors.items()}
                if tensors
                else dict(found)
                if isinstance(found, dict)
                else {}
            )
    assert verdicts[0] == verdicts[1]
