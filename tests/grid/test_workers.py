"""Several processes on one grid: no cell is taken twice, and what a dead one had taken is free
again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cocktail.nodes.grid.engine.render.claims import Work, Worker

from .drawn import drawn_plan


def nothing(key: str) -> bool:
    return False


def test_no_cell_is_taken_twice_and_none_is_left(tmp_path: Path):
    plan = drawn_plan()
    one, two = Work(plan.render_order), Work(plan.render_order)
    taken = []
    with Worker(tmp_path) as first, Worker(tmp_path) as second:
        while True:
            cells = [first.take(one, nothing), second.take(two, nothing)]
            taken += [cell.key for cell in cells if cell is not None]
            if cells == [None, None]:
                break
    assert sorted(taken) == sorted(cell.key for cell in plan.cells)
    assert list((tmp_path / "workers").glob("*-*")) == []


def test_each_process_stays_at_its_checkpoint_as_long_as_there_are_cells_of_it(tmp_path: Path):
    plan = drawn_plan(checkpoints=2, prompts=2, seeds=2)
    one, two = Work(plan.render_order), Work(plan.render_order)
    with Worker(tmp_path) as first, Worker(tmp_path) as second:
        models = [
            (
                first.take(one, nothing).settings.checkpoint,
                second.take(two, nothing).settings.checkpoint,
            )
            for _ in range(4)
        ]
    assert models == [("model 0", "model 1")] * 4


def test_cells_that_others_have_finished_or_failed_are_not_taken(tmp_path: Path):
    plan = drawn_plan(checkpoints=1)
    finished, failed = plan.render_order[0].key, plan.render_order[1].key
    work = Work(plan.render_order)
    with Worker(tmp_path) as first, Worker(tmp_path) as second:
        first.take(Work(plan.render_order[1:2]), nothing)
        first.has_failed(failed)
        first.take(Work([]), nothing)
        cell = second.take(work, lambda key: key == finished)
    assert cell == plan.render_order[2]
    assert work.count() == len(plan.cells) - 3


def test_the_cells_of_a_process_that_was_killed_are_free_at_once(tmp_path: Path):
    code = (
        "import sys, time; from tests import conftest; from pathlib import Path\n"
        "from cocktail.nodes.grid.engine.render.claims import Work, Worker\n"
        "from tests.grid.drawn import drawn_plan\n"
        "worker = Worker(Path(sys.argv[1])); work = Work(drawn_plan(1, 1, 1).cells)\n"
        "print(worker.take(work, lambda key: False) is not None, flush=True); time.sleep(600)"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        work = Work(drawn_plan(1, 1, 1).cells)
        with Worker(tmp_path) as worker:
            assert worker.take(work, nothing) is None
            assert work
            process.kill()
            process.wait()
            assert worker.take(work, nothing) is not None
    finally:
        process.kill()
        process.wait()
