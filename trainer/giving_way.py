"""A run at work leaves its device to ComfyUI's prompts, and comes back with the same bits."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .training import Training

if TYPE_CHECKING:
    import torch

    from .sharing import Sharing

AGAIN_S = 1.0
"""Between two attempts to come back to a device whose memory is gone each time."""


class Left(Exception):
    """What the run was doing between two steps was broken off because it is to stop; what of that
    matters is done again after a resume.
    """


def leave_to_prompts(training: Training, *others: torch.nn.Module) -> bool:
    """Between two steps: if the run is polite and a prompt is queued, leave the device to it, and
    come back when the queue has been empty for a while. False when the run is to end meanwhile: its
    state is then in RAM. `others` are modules on the device that are no part of the training.
    """
    sharing, workers = training.sharing, training.workers
    if sharing is None:
        return True
    if workers.main:
        sharing.look()
    if not workers.agree(workers.main and sharing.prompt_waits()):
        return True
    began, stop = time.monotonic(), training.control.asked_to_stop
    parked = park(training, others=others)
    if not _come_back(parked, sharing, stop):
        return False
    waited = time.monotonic() - began
    training.epoch_began += waited
    training.saved_at += waited
    training.safe_at += waited
    return True


def step_aside(sharing: Sharing, stop: Callable[[], bool], module: torch.nn.Module | None) -> bool:
    """The same while a run prepares itself, with one module on the device; for a run of one
    process. False when it is to end meanwhile.
    """
    sharing.look()
    if not sharing.prompt_waits():
        return True
    device = sharing.workers.device
    return _come_back(park_tensors(tensors_in(module), device), sharing, stop)


def _come_back(parked: Parked, sharing: Sharing, stop: Callable[[], bool]) -> bool:
    """Wait until nobody needs the device, and bring back what was parked; False when the run is to
    stop. Memory may be gone again by then: what is parked stays in RAM, and the run waits anew.
    """
    workers = sharing.workers
    wanted = parked.bytes + sharing.needed.activations
    while workers.agree(workers.main and sharing.wait_to_come_back(wanted, stop)):
        if all(workers.gather([parked.bring_back()])):
            return True
        parked.leave_again()
        if workers.agree(workers.main and stop()):
            return False
        print("The memory was taken by others meanwhile: the run waits for it.", file=sys.stderr)
        time.sleep(AGAIN_S)
    return False


@dataclass
class Parked:
    """What was moved to RAM, and from where."""

    tensors: list[tuple[torch.Tensor, torch.device]]
    bytes: int

    def bring_back(self) -> bool:
        """Move everything to where it was, with the same bits; False when the memory for that is
        gone.
        """
        import torch

        try:
            for tensor, device in self.tensors:
                tensor.data = to_device(tensor.data, device)
        except torch.cuda.OutOfMemoryError:
            return False
        return True

    def leave_again(self) -> None:
        """Move what has come back to RAM once more."""
        for tensor, _ in self.tensors:
            tensor.data = tensor.data.cpu()
        if self.tensors:
            _give_memory_back(self.tensors[0][1])


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device)


def park(
    training: Training,
    move: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor.cpu(),
    others: Sequence[torch.nn.Module] = (),
) -> Parked:
    """Move the weights, the optimizers' state, the EMA and some other modules to RAM, and give the
    device's memory back to the system. The tensors stay the objects they are, so that all who use
    them still do.
    """
    found = itertools.chain(tensors_of(training), *map(tensors_in, others))
    return park_tensors(found, training.workers.device, move)


def park_tensors(
    tensors: Iterable[torch.Tensor],
    device: torch.device,
    move: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor.cpu(),
) -> Parked:
    """Move those of some tensors that are on a device to RAM."""
    parked = Parked([], 0)
    for tensor in tensors:
        if tensor.device.type == device.type:
            parked.tensors.append((tensor, tensor.device))
            parked.bytes += tensor.nbytes
            tensor.data = move(tensor.data)
    _give_memory_back(device)
    return parked


def _give_memory_back(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def tensors_in(module: torch.nn.Module | None) -> list[torch.Tensor]:
    """The parameters and buffers of a module, none without one."""
    return [] if module is None else [*module.parameters(), *module.buffers()]


def tensors_of(training: Training) -> Iterator[torch.Tensor]:
    """Every tensor that a training keeps from step to step, once."""
    import torch

    known: set[int] = set()

    def walk(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            if id(value) not in known:
                known.add(id(value))
                yield value
                yield from walk(value.grad if value.is_leaf else None)
        elif isinstance(value, dict):
            for entry in value.values():
                yield from walk(entry)
        elif isinstance(value, list | tuple):
            for entry in value:
                yield from walk(entry)

    modules = (training.model.unet, training.model.text_encoder, training.text.text_encoder)
    for module in (*modules, *training.parts.values()):
        if module is not None:
            yield from walk(list(module.parameters()))
            yield from walk(list(module.buffers()))
    for optimizer in training.optimizers.values():
        yield from walk(dict(optimizer.state))
        yield from walk(optimizer.param_groups)
    if training.ema is not None:
        yield from walk(training.ema.mean)
