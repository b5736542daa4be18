"""The optimizers: one for each part that learns, from torch, pytorch-optimizer or bitsandbytes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TrainerError
from ..model.layers import put_back
from ..settings.groups import OptimizerSettings
from ..settings.run_settings import RunSettings

if TYPE_CHECKING:
    import torch

Parameters = Sequence["torch.nn.Parameter"]


def optimizer_settings(part: str, settings: RunSettings) -> OptimizerSettings:
    """How a part ("unet", "text_encoder") is optimized."""
    return settings.unet_optimizer if part == "unet" else settings.text_encoder_optimizer


def base_rate(part: str, settings: RunSettings) -> float:
    """The learning rate of a part before its schedule."""
    if part == "unet":
        return settings.learning_rate
    return settings.text_encoder_learning_rate * settings.layers.text_encoder_rate_scale


def make_optimizer(part: str, parameters: Parameters, settings: RunSettings) -> Any:
    """The optimizer of a part of a run."""
    own = optimizer_settings(part, settings)
    decay = settings.weight_decay if own.weight_decay < 0 else own.weight_decay
    return make_part_optimizer(parameters, own, base_rate(part, settings), decay)


def make_part_optimizer(
    parameters: Parameters, settings: OptimizerSettings, learning_rate: float, weight_decay: float
) -> Any:
    """The optimizer that these settings name. Raises TrainerError when its package is missing or
    refuses a value.

    AdamW (Loshchilov & Hutter 2019) from torch, in 8 bits (Dettmers et al. 2022) from bitsandbytes;
    Lion (Chen et al. 2023), Adafactor (Shazeer & Stern 2018, with the given rate), D-Adaptation
    (Defazio & Mishchenko 2023), Prodigy (Mishchenko & Defazio 2023) and schedule-free AdamW
    (Defazio et al. 2024) from pytorch-optimizer, but for D-Adapt Adan, which is the project's own.
    """
    make = MAKERS[settings.optimizer]
    try:
        return make(parameters, settings, {"lr": learning_rate, "weight_decay": weight_decay})
    except ValueError as error:
        raise TrainerError(
            f"The optimizer {settings.optimizer} cannot be made with these settings: {error}."
        ) from error


def _adamw(parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]) -> Any:
    import torch

    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.AdamW(
        parameters, betas=_betas(settings), eps=settings.epsilon, fused=fused or None, **rates
    )


def _adamw_8_bit(parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]) -> Any:
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise TrainerError(
            "The optimizer 'adamw 8 bit' comes from the package bitsandbytes, which is not "
            "installed. Run `pip install bitsandbytes`, or choose adamw."
        ) from error
    return AdamW8bit(parameters, betas=_betas(settings), eps=settings.epsilon, **rates)


def _lion(parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]) -> Any:
    return _library().Lion(parameters, betas=_betas(settings), **rates)


def _adafactor(parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]) -> Any:
    return _library().AdaFactor(
        parameters,
        betas=(None, settings.beta2),
        scale_parameter=False,
        relative_step=False,
        **rates,
    )


def _d_adapt_adam(
    parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]
) -> Any:
    return _library().DAdaptAdam(
        parameters,
        betas=_betas(settings),
        eps=settings.epsilon,
        weight_decouple=settings.decouple,
        bias_correction=True,
        **_growth(settings),
        **rates,
    )


def _d_adapt_adan(
    parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]
) -> Any:
    from .adan import DAdaptAdan

    return DAdaptAdan(
        parameters, eps=settings.epsilon, decouple=settings.decouple, **_growth(settings), **rates
    )


def _d_adapt_lion(
    parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]
) -> Any:
    return _library().DAdaptLion(
        parameters,
        betas=_betas(settings),
        d0=settings.d0,
        weight_decouple=settings.decouple,
        **rates,
    )


def _d_adapt_sgd(parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]) -> Any:
    """Weight decay is always part of the gradient, as in the authors' package: the step sets the
    weights from their start and the sum of gradients, so decay beside the gradient would be lost,
    all of it without momentum.
    """
    return _library().DAdaptSGD(
        parameters,
        momentum=settings.momentum,
        weight_decouple=False,
        **_growth(settings),
        **rates,
    )


def _prodigy(parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]) -> Any:
    decay = rates["weight_decay"]
    optimizer = _library().Prodigy(
        parameters,
        lr=rates["lr"],
        betas=_betas(settings),
        eps=settings.epsilon,
        bias_correction=True,
        safeguard_warmup=settings.safeguard_warmup,
        weight_decay=decay if settings.decouple else 0.0,
        **_growth(settings),
    )
    if decay and not settings.decouple:
        # The library adds it to the gradient after the gradient has been used.
        optimizer.register_step_pre_hook(_decay_in_gradient(decay))
    return optimizer


def _schedule_free_adamw(
    parameters: Parameters, settings: OptimizerSettings, rates: dict[str, Any]
) -> Any:
    optimizer = _library().ScheduleFreeAdamW(
        parameters, betas=_betas(settings), eps=settings.epsilon, **rates
    )
    optimizer.train()
    return optimizer


MAKERS: dict[str, Callable[[Parameters, OptimizerSettings, dict[str, Any]], Any]] = {
    "adamw": _adamw,
    "adamw 8 bit": _adamw_8_bit,
    "lion": _lion,
    "adafactor": _adafactor,
    "d-adapt adam": _d_adapt_adam,
    "d-adapt adan": _d_adapt_adan,
    "d-adapt lion": _d_adapt_lion,
    "d-adapt sgd": _d_adapt_sgd,
    "prodigy": _prodigy,
    "schedule-free adamw": _schedule_free_adamw,
}


def _betas(settings: OptimizerSettings) -> tuple[float, float]:
    return settings.beta1, settings.beta2


def _growth(settings: OptimizerSettings) -> dict[str, float]:
    """Where the step size of D-Adaptation and Prodigy begins, and how fast it may grow."""
    return {"d0": settings.d0, "growth_rate": settings.growth_rate or math.inf}


def _decay_in_gradient(weight_decay: float) -> Any:
    """A hook that adds weight decay to the gradients before each step (L2 regularisation)."""
    import torch

    def add(optimizer: Any, *_: Any) -> None:
        with torch.no_grad():
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=weight_decay)

    return add


def _library() -> Any:
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise TrainerError(
            "This optimizer comes from the package pytorch-optimizer, which is not installed. "
            "Run `pip install pytorch-optimizer`, or choose adamw."
        ) from error
    return pytorch_optimizer


def effective_rate(optimizer: Any) -> float | None:
    """The step size that D-Adaptation or Prodigy has found (d times the learning rate), None for
    other optimizers.
    """
    group = optimizer.param_groups[0]
    return float(group["d"]) * float(group["lr"]) if "d" in group else None


@contextlib.contextmanager
def evaluation_weights(optimizer: Any) -> Iterator[None]:
    """With a schedule-free optimizer, the parameters are their mean for a while; afterwards they
    have their old bits.

    The optimizer's own way back is an interpolation that rounds, so a copy is kept meanwhile.
    """
    if type(optimizer).__name__ != "ScheduleFreeAdamW":
        yield
        return
    with put_back([p for group in optimizer.param_groups for p in group["params"]]):
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()
