"""The pass over the cells: what is finished stays, whatever happens to the rest."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from subprocess import PIPE

import numpy
import pytest
from PIL import Image

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.grid.engine.plan.plan import Plan
from cocktail.nodes.grid.engine.render.claims import Worker
from cocktail.nodes.grid.engine.render.writer import MOST_WAITING, Writer
from cocktail.nodes.grid.engine.store.cell_file import PNG, SUFFIXES, WEBP
from cocktail.nodes.grid.engine.store.store import Store

from .drawn import Drawn, Interrupted, draw_grid, drawn_plan, picture_of
from .grids import pixels

ROOT = Path(__file__).resolve().parents[2]
KILLS = 50


def assert_right(plan: Plan, folder: Path, all_there: bool = True) -> None:
    """Every cell is right, or absent unless `all_there`."""
    store = Store(folder)
    for cell in plan.cells:
        if all_there or store.is_finished(cell.key):
            assert numpy.array_equal(pixels(store.cell_path(cell.key)), picture_of(cell))


@pytest.mark.parametrize("save_as", SUFFIXES)
def test_every_cell_is_drawn_once_with_one_load_a_checkpoint(tmp_path: Path, save_as: str):
    plan, renderer = drawn_plan(checkpoints=3), Drawn()
    outcome = draw_grid(plan, tmp_path, renderer, save_as)
    assert outcome.rendered == 18
    assert renderer.loads == ["model 0", "model 1", "model 2"]
    assert_right(plan, tmp_path)
    assert {file.suffix for file in tmp_path.glob("cells/*/*")} == {SUFFIXES[save_as]}
    for other in (PNG, WEBP):
        assert draw_grid(plan, tmp_path, Drawn(), other).rendered == 0


def test_a_picture_too_wide_for_webp_is_saved_as_png(tmp_path: Path):
    for width, save_as in ((16_376, WEBP), (16_384, PNG)):
        folder = tmp_path / str(width)
        plan = drawn_plan(1, 1, 2, width=width)
        assert draw_grid(plan, folder, Drawn(), WEBP).rendered == 2
        assert_right(plan, folder)
        assert {file.suffix for file in folder.glob("cells/*/*")} == {SUFFIXES[save_as]}
        assert {line["save_as"] for line in Store(folder).log()} == {save_as}
        assert draw_grid(plan, folder, Drawn(), WEBP).rendered == 0


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path):
    plan = drawn_plan()
    bad = plan.cells[3]
    outcome = draw_grid(plan, tmp_path, Drawn(fails=lambda cell: cell.key == bad.key))
    assert (outcome.rendered, outcome.reasons) == (11, ["out of memory"])
    assert Store(tmp_path).failures() == {bad.key: "out of memory"}
    again = Drawn()
    draw_grid(plan, tmp_path, again)
    assert again.drawn == [bad]
    assert Store(tmp_path).failures() == {}
    assert_right(plan, tmp_path)


def test_cells_that_go_together_are_drawn_together_and_are_other_cells_than_exact_ones(
    tmp_path: Path,
):
    exact, batched = drawn_plan(seeds=5), drawn_plan(seeds=5, batch_size=4)
    assert not {cell.key for cell in exact.cells} & {cell.key for cell in batched.cells}
    assert {c.key for c in batched.cells} == {
        c.key for c in drawn_plan(seeds=5, batch_size=2).cells
    }
    renderer = Drawn()
    draw_grid(exact, tmp_path, Drawn())
    draw_grid(batched, tmp_path, renderer)
    assert (len(renderer.drawn), renderer.batches) == (30, [4, 4, 4, 3] * 2)
    for plan in (exact, batched):
        assert_right(plan, tmp_path)
    marked = [
        json.loads(Image.open(Store(tmp_path).cell_path(plan.cells[0].key)).info["cocktail"])
        for plan in (exact, batched)
    ]
    assert [note.get("batched", False) for note in marked] == [False, True]


def test_a_sampler_that_lets_cells_change_each_other_is_never_batched(tmp_path: Path):
    plan = drawn_plan(sampler="euler_ancestral", batch_size=4)
    assert [c.key for c in plan.cells] == [
        c.key for c in drawn_plan(sampler="euler_ancestral").cells
    ]
    assert (
        "Cells of euler_ancestral are exact: in a batch they would change each other." in plan.notes
    )
    renderer = Drawn()
    draw_grid(plan, tmp_path, renderer)
    assert set(renderer.batches) == {1}


def test_a_batch_that_fails_is_drawn_cell_by_cell(tmp_path: Path):
    plan = drawn_plan(batch_size=4)
    bad = plan.cells[3]
    renderer = Drawn(fails=lambda cell: cell.key == bad.key)
    outcome = draw_grid(plan, tmp_path, renderer)
    assert (outcome.rendered, outcome.reasons) == (11, ["out of memory"])
    assert sorted(renderer.batches) == [1, 1, 1, 1, 2, 2, 4, 4]
    assert set(Store(tmp_path).failures()) == {bad.key}


def test_interrupt_keeps_all_finished_cells(tmp_path: Path):
    plan, first = drawn_plan(), Drawn(until=5)
    with pytest.raises(Interrupted):
        draw_grid(plan, tmp_path, first)
    store = Store(tmp_path)
    assert [cell.key for cell in first.drawn if not store.is_finished(cell.key)] == []
    again = Drawn()
    draw_grid(plan, tmp_path, again)
    assert len(first.drawn) == 5
    assert len(again.drawn) == 7


def test_a_damaged_or_swapped_file_is_put_aside_and_the_cell_drawn_again(tmp_path: Path):
    plan = drawn_plan()
    draw_grid(plan, tmp_path, Drawn())
    store = Store(tmp_path)
    cut, swapped, empty = (store.cell_path(cell.key) for cell in plan.cells[:3])
    cut.write_bytes(cut.read_bytes()[:-20])
    shutil.copyfile(store.cell_path(plan.cells[5].key), swapped)
    empty.write_bytes(b"")
    again = Drawn()
    draw_grid(plan, tmp_path, again)
    assert {cell.key for cell in again.drawn} == {cell.key for cell in plan.cells[:3]}
    assert_right(plan, tmp_path)
    assert len(list((tmp_path / "damaged").iterdir())) == 3
    reasons = [line["reason"] for line in store.log() if line["status"] == "damaged"]
    assert sorted(reasons) == [
        "its file is another cell's",
        "its file is damaged",
        "its file is no picture",
    ]


def test_a_cell_whose_process_was_killed_before_it_was_noted_is_noted_by_the_next(tmp_path: Path):
    plan = drawn_plan()
    draw_grid(plan, tmp_path, Drawn())
    store, log = Store(tmp_path), tmp_path / "cells.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(lines[:-2]), encoding="utf-8")
    old, young = (json.loads(line) for line in lines[-2:])
    os.utime(store.cell_path(old["key"]), (1e9, 1e9))
    again = Drawn()
    draw_grid(plan, tmp_path, again)
    assert not again.drawn
    found = store.log()
    assert Counter(line["key"] for line in found).most_common(1)[0][1] == 1
    assert young["key"] not in {line["key"] for line in found}, "it may be noted any moment"
    late = next(line for line in found if line["key"] == old["key"])
    assert late == {key: old[key] for key in late} | {"time": 1e9}
    assert late["numerics"] and late["bytes"] == store.cell_path(old["key"]).stat().st_size


def test_a_disk_that_refuses_ends_the_pass_with_what_to_do(tmp_path: Path):
    plan = drawn_plan()
    cells, aside = tmp_path / "cells", tmp_path / "aside"
    draw_grid(plan, tmp_path, Drawn(fails=lambda cell: cell.settings.seed == 1))
    cells.rename(aside)
    cells.write_text("in the way")
    with pytest.raises(GridError, match="cannot be saved in .*Free space"):
        draw_grid(plan, tmp_path, Drawn())
    cells.unlink()
    aside.rename(cells)
    assert draw_grid(plan, tmp_path, Drawn()).rendered == 6
    assert_right(plan, tmp_path)


def test_a_disk_with_no_room_for_a_note_says_so_too(tmp_path: Path, monkeypatch):
    def no_room(worker: Worker) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Worker, "_note", no_room)
    with pytest.raises(GridError, match="No space left on device. Free space"):
        draw_grid(drawn_plan(), tmp_path, Drawn())


def test_two_grids_of_one_name_keep_their_plans_and_every_cell_is_right(tmp_path: Path):
    one, other, store = drawn_plan(), drawn_plan(prompts=4, seeds=1), Store(tmp_path)

    def draw(plan: Plan) -> None:
        store.save_plan(plan)
        draw_grid(plan, tmp_path, Drawn(seconds=0.01))

    threads = [threading.Thread(target=draw, args=(plan,)) for plan in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for plan in (one, other):
        assert_right(plan, tmp_path)
    assert len(list((tmp_path / "plans").iterdir())) == 2
    assert max(Counter(line["key"] for line in store.log()).values()) == 1


def test_the_numerics_class_of_every_cell_is_known(tmp_path: Path):
    plan = drawn_plan()
    draw_grid(plan, tmp_path, Drawn())
    classes = Store(tmp_path).numerics()
    assert set(classes) == {cell.key for cell in plan.cells}
    (made_by,) = set(classes.values())
    described = json.loads((tmp_path / "numerics" / f"{made_by}.json").read_text())
    assert described == {"device": "pencil"}


def test_a_cut_off_line_of_the_log_swallows_no_other(tmp_path: Path):
    plan = drawn_plan(1, 1, 2)
    draw_grid(plan, tmp_path, Drawn(fails=lambda cell: cell.settings.seed == 0))
    with (tmp_path / "cells.jsonl").open("ab") as file:
        file.write(b'{"key": "abc", "sta')
    draw_grid(plan, tmp_path, Drawn())
    assert Counter(line["status"] for line in Store(tmp_path).log()) == {"failed": 1, "finished": 2}


def test_pictures_wait_for_the_disk_instead_of_piling_up_in_memory():
    gate, saved = threading.Event(), []

    def save(number: int) -> None:
        gate.wait()
        saved.append(number)

    handed_over = []

    def sample() -> None:
        with Writer(save) as writer:
            for number in range(20):
                writer.put(number)
                handed_over.append(number)

    thread = threading.Thread(target=sample)
    thread.start()
    while len(handed_over) < MOST_WAITING:
        time.sleep(0.001)
    thread.join(0.1)
    assert len(handed_over) <= MOST_WAITING + 2
    gate.set()
    thread.join()
    assert sorted(saved) == list(range(20))


DRAWING = (
    "import os, sys; from tests import conftest; from pathlib import Path\n"
    "from tests.grid.drawn import Drawn, draw_grid, drawn_plan\n"
    "plan = drawn_plan(4, 5, 10)\n"
    "for line in sys.stdin:\n"
    "    child = os.fork()\n"
    "    if child == 0:\n"
    "        draw_grid(plan, Path(line.strip()), Drawn(seconds=0.001))\n"
    "        os._exit(0)\n"
    "    print(child, flush=True)\n"
    "    sys.stdin.readline()\n"
    "    print(os.waitpid(child, 0)[1], flush=True)\n"
)
"""Forks a process for every folder that it is told, which draws 200 cells there: quick to start,
and to be killed. Its pid is its own until the next line is told, even if it has ended.
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")


class Drawing:
    """Starts processes that draw a grid, one after the other."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRAWING], cwd=ROOT, text=True, stdin=PIPE, stdout=PIPE
        )

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def begin(self, folder: Path) -> int:
        """The pid of a process that draws the grid."""
        self._tell(str(folder))
        return self._number()

    def wait(self) -> int:
        """How the process has ended."""
        self._tell("")
        return self._number()

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def _number(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


def times(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.glob("cells/*/*.png")}


@needs_fork
def test_two_processes_share_a_grid_and_draw_nothing_twice(tmp_path: Path):
    plan = drawn_plan(4, 5, 10)
    with Drawing() as one, Drawing() as two:
        one.begin(tmp_path), two.begin(tmp_path)
        assert [one.wait(), two.wait()] == [0, 0]
    assert_right(plan, tmp_path)
    lines = Store(tmp_path).log()
    assert Counter(line["status"] for line in lines) == {"finished": 200}
    assert len({line["key"] for line in lines}) == 200


@needs_fork
def test_killed_at_any_moment_every_cell_is_right_or_absent_and_none_is_drawn_twice(tmp_path: Path):
    """The grid begins anew whenever it is finished, until there have been enough kills."""
    plan, chance, kills, grids = drawn_plan(4, 5, 10), random.Random(5), 0, 0
    with Drawing() as drawing:
        while kills < KILLS:
            folder = tmp_path / str(grids)
            grids += 1
            while kills < KILLS and len(times(folder)) < len(plan.cells):
                before = times(folder)
                pid = drawing.begin(folder)
                time.sleep(chance.random() * 0.15)
                os.kill(pid, signal.SIGKILL)
                kills += drawing.wait() != 0
                assert before.items() <= times(folder).items()
                assert_right(plan, folder, all_there=False)
            draw_grid(plan, folder, Drawn())
            assert_right(plan, folder)
            drawn = Counter(line["key"] for line in Store(folder).log())
            assert max(drawn.values()) == 1
