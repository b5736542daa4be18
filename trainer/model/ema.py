"""A running mean of the weights (exponential moving average)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..settings.groups import EmaSettings
from .layers import put_back

if TYPE_CHECKING:
    import torch


class Ema:
    """The mean of the trained parameters, in fp32.

    mean = d mean + (1 - d) weights, with d = min((1 + n) / (10 + n), decay) at update n (the
    warm-up of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(
        self,
        trained: Mapping[str, Mapping[str, torch.nn.Parameter]],
        settings: EmaSettings,
    ) -> None:
        import torch

        self.settings = settings
        self.updates = 0
        self.parameters = {
            f"{part}/{name}": parameter
            for part, parameters in trained.items()
            for name, parameter in parameters.items()
        }
        self.mean = {
            name: parameter.detach().to(self._device(parameter), torch.float32, copy=True)
            for name, parameter in self.parameters.items()
        }

    def _device(self, parameter: torch.nn.Parameter) -> Any:
        return "cpu" if self.settings.device == "cpu" else parameter.device

    def update(self, step: int) -> None:
        """After optimizer step `step`, counted from 0."""
        import torch

        if (step + 1) % self.settings.every_steps:
            return
        decay = min((1 + self.updates) / (10 + self.updates), self.settings.decay)
        self.updates += 1
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                weights = parameter.detach().to(self.mean[name].device)
                self.mean[name].lerp_(weights, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters are the mean for a while; afterwards they have their old bits."""
        import torch

        with put_back(list(self.parameters.values())):
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(self.mean[name])
            yield

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in state["mean"].items():
            self.mean[name].copy_(value)
