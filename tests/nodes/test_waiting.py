"""Prompts that wait for runs, without a ComfyUI."""

from __future__ import annotations

import types

from cocktail.trainer.runs import State


def test_a_sweep_that_waits_leaves_the_device_to_its_polite_runs(here, monkeypatch):
    from cocktail.nodes.finetune import sweep
    from cocktail.nodes.host import sharing

    prompts = types.SimpleNamespace(get_current_queue=lambda: (["the sweep's results"], []))
    used: list[bool] = []

    class Polite:
        """A run that would wait for ever if the prompt that waits for it used its device."""

        name = "one"

        def state(self) -> State:
            used.append(sharing.uses_device(prompts))
            return State("running" if len(used) == 1 else "finished")

    monkeypatch.setattr(sweep, "Progress", lambda: lambda done, total: None)
    monkeypatch.setattr(sweep, "show_text", lambda text: None)
    sweep._wait(types.SimpleNamespace(name="few"), [Polite()])
    assert used == [False, False] and sharing.uses_device(prompts)
