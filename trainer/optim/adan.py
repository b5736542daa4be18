"""Adan with D-Adaptation. The one in pytorch-optimizer (3.3 to 4.1) squares the squared gradients
again, so its steps are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

BETAS = (0.98, 0.92, 0.99)
"""Adan's own (Xie et al. 2022), as decays."""


class DAdaptAdan(torch.optim.Optimizer):
    """Adan (Xie et al. 2022) whose step size d is found by D-Adaptation (Defazio & Mishchenko
    2023), as the authors' package dadaptation 3.2 has it.

    With the rate r = d lr, the gradient g and its change e = g - g_before (0 at first): m, v and s
    are running means of r g, r e and r g, n of (g + b2 e)^2, and q of r^2 sum(g^2 / D), with D =
    sqrt(n) + eps. Then d = max(d, min((sum(s^2 / D) / (1 - b3) - q) / sum(|s|), growth_rate d)) and
    x loses (m + b2 v) / D. Weight decay w: x is multiplied by 1 - r w before (`decouple`, as
    AdamW), or divided by 1 + r w after (proximal, Adan's own).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        eps: float,
        weight_decay: float,
        decouple: bool,
        d0: float,
        growth_rate: float = math.inf,
    ) -> None:
        known = {"lr": lr, "eps": eps, "weight_decay": weight_decay, "decouple": decouple}
        super().__init__(params, {**known, "growth_rate": growth_rate, "d": d0, "weighted": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of its only group of parameters; those without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        beta1, beta2, beta3 = BETAS
        rate = group["d"] * group["lr"]
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not moved:
            return loss
        sums = torch.zeros(3, dtype=torch.float64, device=moved[0].device)
        for parameter in moved:
            state, gradient = self._state(parameter), parameter.grad
            change = gradient - state["gradient"]
            state["mean"].mul_(beta1).add_(gradient, alpha=rate * (1 - beta1))
            state["change"].mul_(beta2).add_(change, alpha=rate * (1 - beta2))
            ahead = gradient + beta2 * change
            state["squares"].mul_(beta3).addcmul_(ahead, ahead, value=1 - beta3)
            state["sum"].mul_(beta3).add_(gradient, alpha=rate * (1 - beta3))
            state["gradient"].copy_(gradient)
            root = state["squares"].sqrt().add_(group["eps"])
            found = (gradient.square() / root, state["sum"].square() / root, state["sum"].abs())
            sums += torch.stack([values.sum() for values in found]).to(sums)
        gradients, weighted, size = sums.tolist()
        if not size:
            return loss
        group["weighted"] = beta3 * group["weighted"] + rate**2 * (1 - beta3) * gradients
        guess = (weighted / (1 - beta3) - group["weighted"]) / size
        if group["lr"] > 0:
            group["d"] = max(group["d"], min(guess, group["d"] * group["growth_rate"]))
        for parameter in moved:
            state = self.state[parameter]
            root = state["squares"].sqrt().add_(group["eps"])
            if group["decouple"]:
                parameter.mul_(1 - rate * group["weight_decay"])
            parameter.sub_((state["mean"] + beta2 * state["change"]) / root)
            if not group["decouple"]:
                parameter.div_(1 + rate * group["weight_decay"])
        return loss

    def _state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[parameter]
        if not state:
            for name in ("mean", "change", "squares", "sum"):
                state[name] = torch.zeros_like(parameter)
            state["gradient"] = parameter.grad.clone()  # type: ignore[union-attr]
        return state
