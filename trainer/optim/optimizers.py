"""The optimizers: one for each part that learns, from torch, pytorch-optimizer or bitsandbytes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TrainerError
from ..settings.groups import OptimizerSettings

if TYPE_CHECKING:
    import torch


def make_part_optimizer(
    parameters: Sequence[torch.nn.Parameter],
    settings: OptimizerSettings,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimizer of one part. Raises TrainerError when its package is missing or refuses a
    value.

    AdamW (Loshchilov & Hutter 2019) from torch, in 8 bits (Dettmers et al. 2022) from bitsandbytes;
    Lion (Chen et al. 2023), Adafactor (Shazeer & Stern 2018, with the given rate), D-Adaptation
    (Defazio & Mishchenko 2023), Prodigy (Mishchenko & Defazio 2023) and schedule-free AdamW
    (Defazio et al. 2024) from pytorch-optimizer, but for D-Adapt Adan, which is the project's own.
    """
    try:
        return _make(parameters, settings, learning_rate, weight_decay)
    except ValueError as error:
        raise TrainerError(
            f"The optimizer {settings.optimizer} cannot be made with these settings: {error}."
        ) from error


def _make(
    parameters: Sequence[torch.nn.Parameter],
    settings: OptimizerSettings,
    learning_rate: float,
    weight_decay: float,
) -> Any:
    import torch

    kind = settings.optimizer
    betas = (settings.beta1, settings.beta2)
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    growth: dict[str, Any] = {"d0": settings.d0, "growth_rate": settings.growth_rate or math.inf}
    if kind == "adamw":
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
        return torch.optim.AdamW(
            parameters, betas=betas, eps=settings.epsilon, fused=fused or None, **common
        )
    if kind == "adamw 8 bit":
        return _bitsandbytes().AdamW8bit(parameters, betas=betas, eps=settings.epsilon, **common)
    if kind == "d-adapt adan":
        from .adan import DAdaptAdan

        return DAdaptAdan(
            parameters, eps=settings.epsilon, decouple=settings.decouple, **growth, **common
        )
    library = _library()
    decoupled = {"weight_decouple": settings.decouple, **common}
    if kind == "lion":
        return library.Lion(parameters, betas=betas, **common)
    if kind == "adafactor":
        return library.AdaFactor(
            parameters,
            betas=(None, settings.beta2),
            scale_parameter=False,
            relative_step=False,
            **common,
        )
    if kind == "d-adapt adam":
        return library.DAdaptAdam(
            parameters,
            betas=betas,
            eps=settings.epsilon,
            bias_correction=True,
            **growth,
            **decoupled,
        )
    if kind == "d-adapt lion":
        return library.DAdaptLion(parameters, betas=betas, d0=settings.d0, **decoupled)
    if kind == "d-adapt sgd":
        # Its step sets the weights from their start and the sum of gradients: decay apart from the
        # gradient would be lost, all of it without momentum. As in the authors' package, it is
        # always part of the gradient.
        return library.DAdaptSGD(
            parameters, momentum=settings.momentum, weight_decouple=False, **growth, **common
        )
    if kind == "prodigy":
        optimizer = library.Prodigy(
            parameters,
            lr=learning_rate,
            betas=betas,
            eps=settings.epsilon,
            bias_correction=True,
            safeguard_warmup=settings.safeguard_warmup,
            weight_decay=weight_decay if settings.decouple else 0.0,
            **growth,
        )
        if weight_decay and not settings.decouple:
            # The library adds it to the gradient after the gradient has been used.
            optimizer.register_step_pre_hook(_decay_in_gradient(weight_decay))
        return optimizer
    optimizer = library.ScheduleFreeAdamW(parameters, betas=betas, eps=settings.epsilon, **common)
    optimizer.train()
    return optimizer


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


def _bitsandbytes() -> Any:
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise TrainerError(
            "The optimizer 'adamw 8 bit' comes from the package bitsandbytes, which is not installed. "
            "Run `pip install bitsandbytes`, or choose adamw."
        ) from error
    return optim


def effective_rate(optimizer: Any) -> float | None:
    """The step size that D-Adaptation or Prodigy has come to (d times the learning rate); None for
    the others.
    """
    group = optimizer.param_groups[0]
    return float(group["d"]) * float(group["lr"]) if "d" in group else None


@contextlib.contextmanager
def evaluation_weights(optimizer: Any) -> Iterator[None]:
    """With a schedule-free optimizer, the parameters are their mean for a while; afterwards they
    have their old bits.

    The optimizer's own way back is an interpolation that rounds, so the weights are kept aside.
    """
    import torch

    if type(optimizer).__name__ != "ScheduleFreeAdamW":
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def flatten_state(state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """A state dict as tensors by path, and the rest as JSON in which {"tensor": path} stands for
    each of them.

    A tensor that stands in several places is kept once.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _flatten(state, "state", tensors, {})


def _flatten(value: Any, path: str, tensors: dict[str, torch.Tensor], paths: dict[Any, str]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        memory = (value.data_ptr(), value.dtype, tuple(value.shape)) if value.numel() else path
        if memory not in paths:
            paths[memory] = path
            tensors[path] = value.detach()
        return {"tensor": paths[memory]}
    if isinstance(value, dict):
        return {
            "dict": [
                [_flatten(key, "", {}, {}), _flatten(entry, f"{path}.{key}", tensors, paths)]
                for key, entry in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        entries = [_flatten(v, f"{path}.{n}", tensors, paths) for n, v in enumerate(value)]
        return {type(value).__name__: entries}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an optimizer keeps {type(value)} in {path}")


def restore_state(tensors: Mapping[str, torch.Tensor], rest: Any) -> Any:
    """What `flatten_state` took apart, in memory of its own.

    A tensor read from a file may begin anywhere; sums over it (torch.dot in D-Adapt Lion and
    Prodigy) round otherwise there than over memory that torch has allocated. What stood in several
    places is one tensor again.
    """
    return _restore({path: tensor.clone() for path, tensor in tensors.items()}, rest)


def _restore(tensors: Mapping[str, torch.Tensor], rest: Any) -> Any:
    if not isinstance(rest, dict):
        return rest
    ((kind, value),) = rest.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {_restore(tensors, key): _restore(tensors, entry) for key, entry in value}
    entries = [_restore(tensors, entry) for entry in value]
    return tuple(entries) if kind == "tuple" else entries
