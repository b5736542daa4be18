"""A grid as a folder without a server: whole or not at all, never over another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cocktail.nodes.grid.engine.render.execution import render
from cocktail.nodes.grid.engine.store import pixels
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.view import bundle, thumbnails
from cocktail.nodes.grid.engine.view.folder import (
    ExportStopped,
    export_folder,
    script,
    without_folders,
)

from .drawn import Drawn, draw_grid, drawn_plan

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "nodes" / "grid" / "engine" / "view" / "command.py"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A finished grid of twelve cells."""
    plan = drawn_plan()
    store = Store(tmp_path / "grids" / "g")
    store.save_plan(plan)
    draw_grid(plan, store.folder, Drawn())
    return store


def data_of(folder: Path) -> dict:
    text = (folder / "data.js").read_text(encoding="utf-8")
    begin = text.index("{grid: ") + len("{grid: ")
    return json.loads(text[begin : text.rindex(", cells:")])


def test_what_cannot_be_read_or_lies_elsewhere_is_left_out(store: Store, tmp_path: Path):
    keys = [*store.files()]
    store.cell_path(keys[0]).write_bytes(b"no picture")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    linked = store.cell_path(keys[1])
    linked.unlink()
    linked.symlink_to(secret)
    shown: list[tuple[int, int]] = []
    folder = export_folder(
        store, tmp_path / "exports", tmp_path / "small", lambda *far: shown.append(far)
    )
    data = data_of(folder)
    left = {key for key, state in zip(data["keys"], data["states"], strict=True) if state != "f"}
    assert left == set(keys[:2])
    assert len({*data["pixels"].values()}) == 10
    assert (shown[0], shown[-1]) == ((0, 12), (12, 12))
    for kind in ("pictures", "small"):
        names = {file.stem for file in (folder / kind).glob("*/*")}
        assert names == {key for key in data["keys"] if key not in left}


def test_one_that_is_stopped_leaves_nothing_and_a_name_is_taken_once(store: Store, tmp_path: Path):
    exports = tmp_path / "exports"
    with pytest.raises(ExportStopped):
        export_folder(store, exports, tmp_path / "small", is_stopped=lambda: True)
    assert [*exports.iterdir()] == []
    (exports / "g").mkdir()
    assert export_folder(store, exports, tmp_path / "small").name == "g-2"
    assert [*(exports / "g").iterdir()] == []
    assert {folder.name for folder in exports.iterdir()} == {"g", "g-2"}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "[Errno 2] No such file: '/home/my name/ComfyUI/x y.pt'",
            "[Errno 2] No such file: 'x y.pt'",
        ),
        (r"C:\Users\My Name\models\a.safetensors cannot be read", "a.safetensors cannot be read"),
        ("C:/Users/me/a.pt and /mnt/b/c.pt differ", "a.pt and c.pt differ"),
        (r"\\nas\share\me\a.pt", "a.pt"),
        ("see ~/models/a.pt", "see a.pt"),
        ("no cell of anime/one.pt at 3/4, 1 / 2; http://a.example/b", None),
        ("out of memory: 4 GB/s", None),
    ],
)
def test_reasons_of_failed_cells_name_no_folder_of_the_machine(
    store: Store, tmp_path: Path, reason: str, told: str | None
):
    assert without_folders(reason) == (reason if told is None else told)
    plan = drawn_plan()
    store.cell_path(plan.cells[0].key).unlink()
    store.save_failure(plan.cells[0], reason)
    data = data_of(export_folder(store, tmp_path / "exports", tmp_path / "small"))
    assert data["reasons"] == {plan.cells[0].key: reason if told is None else told}


def test_only_unfinished_exports_of_dead_processes_are_removed(store: Store, tmp_path: Path):
    exports = tmp_path / "exports"
    mine, young, left = (exports / f".{name}.part" for name in ("mine", "g.1.1", "g.2.2"))
    for folder in (mine, young, left):
        (folder / "in").mkdir(parents=True)
    for folder in (mine, left):
        for path in (folder / "in", folder):
            os.utime(path, (1, 1))
    export_folder(store, exports, tmp_path / "small")
    assert {one.name for one in exports.iterdir()} == {mine.name, young.name, "g"}


def test_the_command_needs_no_comfyui(store: Store):
    command = [sys.executable, "-E", COMMAND, store.folder]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    folder = store.folder.parents[1] / "exports" / "g"
    assert said.splitlines()[-1] == str(folder)
    assert {file.name for file in folder.iterdir()} == {
        "index.html", "data.js", "view.js", "view.css", "cells", "pictures", "small",
    }  # fmt: skip


def test_data_ends_no_script():
    text = script({"a": "</script><!--\u2028"})
    assert "<" not in text and "\u2028" not in text and json.loads(text)["a"][-1] == "\u2028"


def test_modules_that_are_written_otherwise_are_refused(tmp_path: Path):
    entry = tmp_path / "entry.mjs"
    (tmp_path / "other.mjs").write_text("export const two = 2;\n")
    entry.write_text('import { two } from "./other.mjs";\nexport function four() {}\n')
    assert "const m0 = " in bundle.bundle(entry)
    for line in ('import two from "./other.mjs";', "export default 1;", 'import("./other.mjs");'):
        entry.write_text(f"{line}\n")
        with pytest.raises(bundle.CannotBundle, match=r"entry\.mjs"):
            bundle.bundle(entry)


def test_thumbnails_are_made_and_pixels_noted_when_cells_are_written(tmp_path: Path):
    plan, small = drawn_plan(), tmp_path / "small"
    store = Store(tmp_path / "g")
    store.save_plan(plan)

    def keep(file: Path, picture: object) -> None:
        thumbnails.keep(file, picture, small)

    render(plan.render_order, store, Drawn(), lambda text: None, written=keep)
    made = {file: file.stat().st_mtime_ns for file in small.glob("256/*.webp")}
    assert len(made) == len(store.files()) == 12
    found = {thumbnails.thumbnail(store.cell_path(key), 256, small) for key in store.files()}
    assert {file: file.stat().st_mtime_ns for file in found} == made
    # Without time to read pictures, all are known.
    assert pixels.classes(store, 0)[1] == 0
    key = plan.cells[0].key
    assert store.pixels()[key][0] == pixels.pixel_hash(store.cell_path(key))
