"""A run shares its device with ComfyUI's prompts: it gives way, leaves room, waits for memory."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from cocktail.trainer import giving_way, samples
from cocktail.trainer import sharing as sharing_module
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.giving_way import park, step_aside, tensors_of
from cocktail.trainer.jobs.control import Control
from cocktail.trainer.jobs.job import Stopped
from cocktail.trainer.journal import Journal
from cocktail.trainer.loop import advance, ready_batches
from cocktail.trainer.model.memory import MemoryUse, estimate
from cocktail.trainer.model.single_file import read_shapes
from cocktail.trainer.preparation import Filling, prepare
from cocktail.trainer.resume import Position, take_point
from cocktail.trainer.settings.groups import SamplePrompt, SharingSettings
from cocktail.trainer.sharing import (
    Sharing,
    Use,
    check_room,
    in_use,
    policy_of,
    queue_folder,
    requests,
    set_policy,
)
from cocktail.trainer.workers import Workers

from .held import hold, let_go
from .test_runs import make
from .test_training import exit_status, same, wait_for, wait_for_step, weights

GB = 10**9
NEEDED = MemoryUse(4 * GB, 0, 0, 0, 0)


def test_prompts_on_one_of_two_devices_are_nothing_to_the_other(tmp_path):
    first, second = Use(tmp_path, "cuda:GPU-1"), Use(tmp_path, "cuda:GPU-2")
    assert not in_use(tmp_path, "cuda:GPU-1")
    first.say(True)
    first.say(True)
    assert in_use(tmp_path, "cuda:GPU-1") and not in_use(tmp_path, "cuda:GPU-2")
    second.say(True)
    first.say(False)
    assert not in_use(tmp_path, "cuda:GPU-1") and in_use(tmp_path, "cuda:GPU-2")
    second.say(False)


def test_one_of_two_comfyuis_is_enough(tmp_path):
    uses = [Use(tmp_path, "cpu"), Use(tmp_path, "cpu")]
    for use in uses:
        use.say(True)
    uses[0].say(False)
    assert in_use(tmp_path, "cpu")
    uses[1].say(False)
    assert not in_use(tmp_path, "cpu")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_comfyui_that_is_killed_says_nothing_any_more(tmp_path):
    said, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            Use(tmp_path, "cpu").say(True)
            os.write(tell, b"x")
            signal.pause()
        finally:
            os._exit(1)  # it must not go on with the other tests
    assert os.read(said, 1) == b"x" and in_use(tmp_path, "cpu")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not in_use(tmp_path, "cpu")
    Use(tmp_path, "cpu")
    assert not list(tmp_path.rglob("*.lock"))


def test_a_policy_asked_for_by_name_holds_until_the_settings_change(tmp_path):
    run = make(tmp_path)
    assert policy_of(run) == SharingSettings()
    polite = SharingSettings("polite", idle_s=1.0)
    set_policy(run, polite)
    assert policy_of(run) == polite
    settings = replace(run.settings, sharing=SharingSettings("share"))
    assert policy_of(make(tmp_path, settings=settings)) == SharingSettings("share")
    (run.folder / "policy.json").write_text('{"sharing": {"policy": "rude"}, "instead_of": ')
    assert policy_of(run) == SharingSettings()


def test_a_run_that_does_not_fit_beside_what_it_leaves_is_told_what_would(tiny_base):
    shapes, settings = read_shapes(tiny_base), make_settings(batch_size=64)
    needed = estimate(shapes, settings)
    total = needed.total + GB
    check_room(needed, shapes, settings, total, 1.0)
    with pytest.raises(TrainerError, match="These settings should fit: gradient checkpointing on"):
        check_room(needed, shapes, settings, total, 1.2)
    with pytest.raises(TrainerError, match=r"it has 0\.0 GB\. Leave less to others"):
        check_room(needed, shapes, settings, total, 1000.0)


def make_settings(**changes):
    from .conftest import TINY

    return replace(TINY, **changes)


class Device(Sharing):
    """Of a GPU of 10 GB whose free memory is what the test says."""

    frees: tuple[float, ...] = ()

    def free(self):
        here, *rest = self.frees
        self.frees = tuple(rest) or (here,)
        return int(here * GB), 10 * GB


def sharing_of(run, *frees, kind="cuda", **policy):
    run = replace(run, settings=replace(run.settings, sharing=SharingSettings(**policy)))
    workers = SimpleNamespace(
        main=True, count=1, device=torch.device(kind), agree=lambda v: v, gather=lambda v: v
    )
    shapes = {"model.diffusion_model.a": (1000, 1000)}
    found = Device(run, Journal(run), workers, NEEDED, shapes)
    found.frees = frees
    return found


@pytest.fixture
def one_gpu(monkeypatch):
    """Devices have names without their GPU, and time does not pass while a run waits."""
    monkeypatch.setattr(sharing_module, "device_name", lambda kind, index: f"{kind}:fake")
    monkeypatch.setattr(sharing_module, "POLL_S", 0.0)


def test_a_run_that_starts_waits_until_memory_is_really_free_and_asks_for_it(tmp_path, one_gpu):
    sharing, asked = sharing_of(make(tmp_path), 1.0, 1.0, 2.0, 3.9), []
    file = requests(queue_folder(sharing.run)) / "one.json"

    def stop():
        asked.append((file.exists(), sharing.journal.state.message))
        return False

    assert sharing.begin(stop) and not file.exists()
    assert [there for there, _ in asked] == [True, True]
    assert "3.6 GB of GPU memory are needed, 1.0 of 10.0 GB are free" in asked[0][1]


def test_memory_that_does_not_come_fails_with_the_flags_to_use(tmp_path, one_gpu, monkeypatch):
    monkeypatch.setattr(sharing_module, "MEMORY_LIMIT_S", 0.0)
    sharing = sharing_of(make(tmp_path), 1.0)
    with pytest.raises(TrainerError, match=r"1\.0 of 10\.0 GB are free.*--vram-headroom"):
        sharing.begin(lambda: False)
    assert not list(requests(queue_folder(sharing.run)).glob("*"))


def test_a_run_that_could_never_have_its_estimate_starts_when_the_gpu_is_empty(tmp_path, one_gpu):
    sharing = sharing_of(make(tmp_path), 9.2)
    sharing.needed = replace(NEEDED, weights=20 * GB)
    assert sharing.begin(lambda: pytest.fail("it waited"))


def test_a_stop_ends_every_waiting(tmp_path, one_gpu):
    sharing = sharing_of(make(tmp_path), 1.0, policy="polite", idle_s=60.0)
    assert not sharing.begin(lambda: True)
    use = Use(queue_folder(sharing.run), sharing.device)
    use.say(True)
    assert not sharing.begin(lambda: True)
    use.say(False)


def test_a_polite_run_waits_until_the_queue_has_been_empty_for_a_while(tmp_path, one_gpu):
    sharing = sharing_of(make(tmp_path), policy="polite", idle_s=0.2)
    sharing.journal.update(status="running")
    use = Use(queue_folder(sharing.run), sharing.device)
    use.say(True)
    sharing.look()
    assert sharing.prompt_waits()
    looks = []

    def stop():
        looks.append(sharing.journal.state)
        if len(looks) == 1:
            looks.append(time.monotonic())
            use.say(False)
        return False

    assert sharing.wait_until_idle(stop)
    assert looks[0].status == "paused" and "to a prompt" in looks[0].message
    assert time.monotonic() - looks[1] >= 0.2
    assert sharing.journal.state.status == "running" and sharing.journal.state.message == ""


def test_a_prompt_that_comes_while_a_run_waits_for_its_memory_goes_first(tmp_path, one_gpu):
    sharing = sharing_of(make(tmp_path), 1.0, 1.0, 9.0, policy="polite", idle_s=0.0)
    sharing.journal.update(status="running")
    use = Use(queue_folder(sharing.run), sharing.device)
    sharing.look()
    seen = []

    def stop():
        seen.append(sharing.journal.state.status)
        if "paused" in seen:
            use.say(False)
        elif len(seen) == 1:
            use.say(True)
        return False

    assert sharing.wait_to_come_back(4 * GB, stop)
    assert seen == ["running", "running", "paused", "running"]
    assert not sharing.wait_to_come_back(40 * GB, lambda: True)


def test_a_polite_run_that_is_made_exclusive_goes_on_at_once(tmp_path, one_gpu):
    sharing = sharing_of(make(tmp_path), policy="polite", idle_s=60.0)
    use = Use(queue_folder(sharing.run), sharing.device)
    use.say(True)
    sharing.look()
    assert sharing.wait_until_idle(lambda: set_policy(sharing.run, SharingSettings()) or False)
    assert not sharing.prompt_waits()
    use.say(False)


def test_a_run_at_work_that_is_to_leave_too_much_goes_on_as_it_was(tmp_path, one_gpu, capsys):
    sharing = sharing_of(make(tmp_path), 9.0, kind="cpu")
    sharing.look()
    set_policy(sharing.run, SharingSettings("share", leave_gb=7.0))
    sharing.look()
    assert sharing.policy.policy == "exclusive"
    assert "Sharing leaves 7 of 10.0 GB" in capsys.readouterr().err
    sharing = sharing_of(make(tmp_path), 9.0, kind="cpu")
    with pytest.raises(TrainerError, match="Sharing leaves 7"):
        sharing.begin(lambda: False)


def test_a_run_that_shares_a_gpu_takes_what_is_left_and_later_all_of_it_again(
    tmp_path, one_gpu, monkeypatch
):
    fractions = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: fractions.append(given)
    )
    sharing = sharing_of(make(tmp_path), 9.0, policy="share", leave_gb=2.0)
    sharing.look()
    sharing.look()
    set_policy(sharing.run, SharingSettings("exclusive"))
    sharing.look()
    assert fractions == [(0.8, torch.device("cuda")), (1.0, torch.device("cuda"))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a priority cannot be given back")
def test_a_run_that_shares_a_processor_has_a_low_priority(tmp_path, one_gpu):
    child = os.fork()
    if not child:
        try:
            sharing_of(make(tmp_path), 9.0, kind="cpu", policy="share", leave_gb=1.0).look()
        finally:
            os._exit(os.nice(0))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == max(sharing_module.NICENESS, os.nice(0))


def test_every_policy_but_polite_keeps_the_device(tmp_path, one_gpu):
    for policy in ("exclusive", "share"):
        sharing = sharing_of(make(tmp_path), 9.0, kind="cpu", policy=policy, leave_gb=1.0)
        sharing.policy = SharingSettings(policy)
        use = Use(queue_folder(sharing.run), sharing.device)
        use.say(True)
        assert not sharing.prompt_waits()
        use.say(False)


def test_parking_moves_all_that_a_training_keeps_and_changes_no_bit(make_tiny_run, alone):
    run = make_tiny_run(
        "parked",
        ema={"decay": 0.9},
        train_text_encoder=True,
        unet_optimizer={"optimizer": "prodigy"},
    )
    workers = Workers(run.settings)
    training = prepare(run, Journal(run), workers)
    training.control = Control()
    try:
        batches = ready_batches(training, training.plan(0))
        advance(training, next(batches))
        point = take_point(training.position, training.components()).copied()
        before = storages(training)
        parked = park(training, lambda tensor: tensor.clone())
        moved = storages(training)
        # What a component saves is its figures, its tensors, or both: no tensor stays behind.
        assert before.keys() == moved.keys() and len(before) > 50
        assert [name for name in before if before[name] == moved[name]] == []
        assert parked.bytes >= sum(
            t.nbytes for part in point.tensors.values() for t in part.values()
        )
        parked.bring_back()
        after = take_point(training.position, training.components())
        for component, tensors in point.tensors.items():
            assert same(dict(tensors), dict(after.tensors[component])), component
        assert len({id(t) for t in tensors_of(training)}) == len(list(tensors_of(training)))
        advance(training, next(batches))
    finally:
        training.writer.close()


def storages(training):
    """Where the tensors of a resume point are in memory."""
    point = take_point(training.position, training.components())
    return {
        f"{component}/{name}": tensor.data_ptr()
        for component, tensors in point.tensors.items()
        for name, tensor in tensors.items()
        if tensor.numel()
    }


def test_a_polite_run_gives_way_at_a_step_and_ends_with_the_bits_of_an_undisturbed_one(
    make_tiny_run, fork_training, undisturbed
):
    polite = make_tiny_run("polite", sharing={"policy": "polite", "idle_s": 0.3})
    assert undisturbed.id == polite.id
    use = Use(queue_folder(polite), "cpu")
    hold(polite.folder, 2)
    process = fork_training(polite)
    wait_for_step(polite, 2, process)
    use.say(True)
    let_go(polite.folder)
    wait_for(lambda: polite.state().status == "paused", process)
    paused_at = polite.state().step
    use.say(False)
    wait_for(lambda: polite.state().status != "paused", process)
    assert polite.state().step >= paused_at
    assert exit_status(process) == 0, polite.log_tail()
    assert same(weights(undisturbed), weights(polite))


def test_a_run_that_has_given_way_is_stopped_with_a_resume_point(make_tiny_run, fork_training):
    run = make_tiny_run(
        "stopped-meanwhile", epochs=50, sharing={"policy": "polite", "idle_s": 60.0}
    )
    use = Use(queue_folder(run), "cpu")
    process = fork_training(run)
    wait_for_step(run, 1, process)
    use.say(True)
    wait_for(lambda: run.state().status == "paused", process)
    step = run.state().step
    run.request("save")
    run.stop()
    assert exit_status(process) == 0
    use.say(False)
    assert (run.state().status, run.state().step) == ("stopped", step)
    assert step in [saved.step for saved in run.checkpoints()]
    assert (run.folder / "resume" / f"step-{step:08d}" / "manifest.json").exists()


def test_a_run_whose_memory_is_gone_again_when_it_comes_back_waits_anew(
    tmp_path, one_gpu, monkeypatch, capsys
):
    sharing = sharing_of(make(tmp_path), kind="cpu", policy="polite", idle_s=0.0)
    module, failed = torch.nn.Linear(4, 4), []
    weight = module.weight.detach().clone()

    def to_device(tensor, device):
        if len(failed) < 3:
            failed.append(tensor)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return tensor.clone()

    monkeypatch.setattr(giving_way, "to_device", to_device)
    monkeypatch.setattr(giving_way, "AGAIN_S", 0.0)
    use = Use(queue_folder(sharing.run), sharing.device)
    use.say(True)
    assert step_aside(sharing, lambda: use.say(False) or False, module)
    assert len(failed) == 3 and capsys.readouterr().err.count("taken by others meanwhile") == 3
    assert torch.equal(module.weight, weight)
    use.say(True)
    failed.clear()
    assert not step_aside(sharing, lambda: use.say(False) or len(failed) > 0, module)
    assert len(failed) == 1 and torch.equal(module.weight, weight)


def test_a_polite_run_gives_way_between_two_pictures_that_it_encodes(tmp_path, one_gpu):
    sharing = sharing_of(make(tmp_path), kind="cpu", policy="polite", idle_s=0.0)
    sharing.journal.update(status="preparing")
    use, seen, ends = Use(queue_folder(sharing.run), sharing.device), [], []

    class Asked(Control):
        def asked_to_stop(self):
            seen.append(sharing.journal.state.status)
            use.say(bool(ends))
            self.stop = len(seen) > 4
            return self.stop

    control = Asked()
    filling = Filling(sharing.run, sharing.journal, sharing.workers, control, sharing)
    filling.progress("Encoding pictures (1 of 3)")
    assert seen == ["preparing"]
    use.say(True)
    control.heed = lambda: None
    filling.progress("Encoding pictures (2 of 3)")
    assert seen == ["preparing", "paused"] and sharing.journal.state.status == "preparing"
    use.say(True)
    ends.append(True)
    with pytest.raises(Stopped):
        filling.progress("Encoding pictures (3 of 3)")
    use.say(False)


def test_a_polite_run_gives_way_between_two_samples(tmp_path, monkeypatch):
    run, drawn = make(tmp_path), []
    training = SimpleNamespace(
        run=run,
        workers=SimpleNamespace(count=1, device="cpu"),
        journal=Journal(run),
        position=Position(),
        evaluation=contextlib.nullcontext,
        text=SimpleNamespace(text_encoder=1, known=dict),
    )
    vae = torch.nn.Linear(1, 1)
    monkeypatch.setattr(samples, "load_vae", lambda base: vae)

    def draw_one(training, vae, prompt):
        drawn.append(prompt)
        return Image.new("RGB", (8, 8))

    def leave(training, *others):
        assert others == (vae,)
        return len(drawn) < 2

    monkeypatch.setattr(samples, "_draw", draw_one)
    monkeypatch.setattr(samples, "leave_to_prompts", leave)
    wanted = {tmp_path / f"{word}.png": SamplePrompt(prompt=word) for word in "abc"}
    assert samples.draw_samples(training, 0, wanted) == [SamplePrompt(prompt="c")]
    assert [file.exists() for file in wanted] == [True, True, False]
    assert run.metrics()[-1]["files"] == ["a.png", "b.png"]
