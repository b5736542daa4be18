"""The processes that train a run together, one or several, through accelerate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import TrainerError
from .jobs.device import accelerator

if TYPE_CHECKING:
    import torch

    from .settings.run_settings import RunSettings

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: only the first saves, draws samples, and pauses while a
disk is full.
"""
LAST_MEETING = timedelta(seconds=30)
"""How long it waits for them at the end of the run."""


class Workers:
    """The processes of a run. Under `accelerate launch` all of them call each method together, and
    only the first (`main`) writes anything.
    """

    def __init__(self, settings: RunSettings) -> None:
        import torch
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

        on_cpu = accelerator() is None
        if settings.precision == "fp16" and on_cpu:
            raise TrainerError("Precision fp16 needs a GPU. Choose bf16 or fp32.")
        if settings.compute.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not settings.compute.deterministic
        torch.set_float32_matmul_precision("high" if settings.compute.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = settings.compute.tf32
        # Without `cpu`, accelerate treats several processes on a machine without a GPU as separate
        # runs.
        try:
            self.accelerator = Accelerator(
                cpu=on_cpu,
                mixed_precision="no" if settings.precision == "fp32" else settings.precision,
                kwargs_handlers=[
                    DistributedDataParallelKwargs(broadcast_buffers=False),
                    InitProcessGroupKwargs(timeout=PATIENCE),
                ],
            )
        except ValueError as error:
            raise TrainerError(
                f"Precision {settings.precision} does not work on this device: {error}. "
                "Choose bf16 or fp32."
            ) from error
        self.main: bool = self.accelerator.is_main_process
        self.count: int = self.accelerator.num_processes
        self.index: int = self.accelerator.process_index
        self.device: torch.device = self.accelerator.device

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process' part of some items: every `count`-th of them."""
        return items[self.index :: self.count]

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, in the order of the processes."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def agree(self, value: T) -> T:
        """The first process' value, in all of them."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def first(self, work: Callable[[], T]) -> T:
        """Do some work in the first process, then in the others, which find its files on disk."""
        with self.accelerator.main_process_first():
            return work()

    @contextlib.contextmanager
    def apart(self, modules: Sequence[Any], last: bool):
        """Around a backward pass: only the last of a step adds up gradients between processes."""
        with contextlib.ExitStack() as stack:
            if not last and self.count > 1:
                for module in modules:
                    stack.enter_context(self.accelerator.no_sync(module))
            yield

    def unwrap(self, module: Any) -> Any:
        """The plain module within what accelerate has prepared."""
        return self.accelerator.unwrap_model(module)

    def end(self, meet: bool) -> None:
        """Close the connections between the processes, with `meet` after waiting for all of them.

        A process that ends with open connections may be killed by their threads. One that has
        failed must not wait: the others are waiting for it elsewhere, and give up when its
        connections close.
        """
        import torch

        if meet and self.count > 1 and torch.distributed.get_backend() == "gloo":
            with contextlib.suppress(RuntimeError):
                torch.distributed.monitored_barrier(timeout=LAST_MEETING)
        self.accelerator.end_training()

    def memory_bytes(self) -> int:
        """The most GPU memory used so far, or without a GPU what the process uses now."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        import psutil

        return psutil.Process().memory_info().rss
