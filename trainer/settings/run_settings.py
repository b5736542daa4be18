"""The settings of a run: one frozen value, JSON in and out. Together with the base and the dataset
it is the run's identity.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..data.buckets import TABLES, make_buckets
from ..errors import TrainerError
from .group import Group, setting
from .groups import (
    GROUPS,
    ComputeSettings,
    DataSettings,
    EmaSettings,
    LayersSettings,
    LoggingSettings,
    LossSettings,
    OptimizerSettings,
    RangeTestSettings,
    SamplesSettings,
    SavingSettings,
    SharingSettings,
    ValidationSettings,
)


@dataclass(frozen=True)
class RunSettings(Group):
    """What a fine-tune does with its base and its dataset.

    Learning rates, dropout, clip skip and weight decay default to EveryDream2's for Stable
    Diffusion 1.5.
    """

    resolution: int = setting(
        512,
        "Side in pixels of the square whose area no bucket exceeds, a multiple of the bucket step. "
        "SD1.5 was trained at 512; 768 shows more detail and takes about 2.5 times as long for "
        "each step.",
        between=(64, 2048),
        step=8,
    )
    bucket_step: int = setting(
        64,
        "The sides of the buckets are multiples of this many pixels. 64 is usual; smaller steps "
        "crop less, but there are more buckets with fewer pictures each.",
        between=(8, 128),
        step=8,
    )
    epochs: int = setting(10, "How many times every pair is seen.", between=(1, 10_000))
    batch_size: int = setting(
        4,
        "Pairs in a batch. More need more memory and make the steps less noisy.",
        between=(1, 1024),
    )
    learning_rate: float = setting(
        1.5e-6,
        "Learning rate of the UNet. 1.5e-6 is EveryDream2's value for SD1.5 and AdamW; a rate that "
        "is too high ruins the model.",
        between=(0.0, 1.0),
        step=1e-7,
    )
    train_text_encoder: bool = setting(
        True,
        "Train the text encoder too. Without it the run needs less memory and words keep their "
        "meaning.",
    )
    text_encoder_learning_rate: float = setting(
        1.5e-6,
        "Learning rate of the text encoder, if it is trained.",
        between=(0.0, 1.0),
        step=1e-7,
    )
    conditional_dropout: float = setting(
        0.04,
        "Share of the pairs, from 0 to 1, that are trained with an empty caption so that CFG keeps "
        "working. 0.04 to 0.1 is usual.",
        between=(0.0, 1.0),
        step=0.01,
    )
    clip_skip: int = setting(
        1,
        "Which layer of the text encoder the UNet reads, counted from the end: 1 = the last one "
        "(-1 in ComfyUI), 2 = the one before it (-2). Sample with the same value. EveryDream2's 0 "
        "and 1 both mean 1.",
        between=(1, 12),
    )
    weight_decay: float = setting(
        0.01,
        "How strongly weights are pulled towards 0. 0.01 is usual.",
        between=(0.0, 1.0),
        step=0.001,
    )
    gradient_clip: float = setting(
        1.0,
        "Largest L2 norm that the gradient of the UNet or the text encoder may have in a step; "
        "larger ones are scaled down. 0 = no limit.",
        between=(0.0, 1000.0),
        step=0.1,
    )
    seed: int = setting(
        555,
        "Decides order, noise, noise levels and dropout. The same seed, base and pairs give the "
        "same result, bit for bit on a CPU.",
        between=(0, 2**53 - 1),
    )
    save_every_epochs: int = setting(
        1,
        "Epochs between checkpoints. One is also saved at the end and whenever the validation loss "
        "is the lowest so far.",
        between=(1, 10_000),
    )
    validation_timesteps: int = setting(
        4,
        "The number of noise levels at which each validation pair is measured, one in each equal "
        "part of the schedule. More give a steadier loss and take longer.",
        between=(1, 100),
    )
    precision: str = setting(
        "bf16",
        "Precision of the forward and backward pass. bf16 is faster and needs half the memory; "
        "fp32 is exact; fp16 is for older NVIDIA GPUs. Weights, noise and loss are always fp32.",
        choices=("bf16", "fp32", "fp16"),
    )
    save_precision: str = setting(
        "fp16",
        "How saved checkpoints store the trained weights. fp16: 2 bytes per number, which most "
        "tools expect. bf16: 2 bytes, less exact with a wider range. fp32: 4 bytes.",
        choices=("fp16", "bf16", "fp32"),
    )
    bucket_table: str = setting(
        "generated",
        "Which sizes pictures are fitted to: sizes generated from resolution and bucket step, or "
        "EveryDream2's own, for resolutions from 256 to 1536 that are multiples of 64.",
        choices=TABLES,
    )
    unet_optimizer: OptimizerSettings = OptimizerSettings()
    text_encoder_optimizer: OptimizerSettings = OptimizerSettings()
    layers: LayersSettings = LayersSettings()
    loss: LossSettings = LossSettings()
    data: DataSettings = DataSettings()
    validation: ValidationSettings = ValidationSettings()
    ema: EmaSettings = EmaSettings()
    compute: ComputeSettings = ComputeSettings()
    samples: SamplesSettings = SamplesSettings()
    saving: SavingSettings = SavingSettings()
    logging: LoggingSettings = LoggingSettings()
    sharing: SharingSettings = SharingSettings()
    range_test: RangeTestSettings = RangeTestSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers.train_unet and not self.train_text_encoder:
            raise TrainerError(
                "Neither the UNet nor the text encoder is trained. Switch one of them on."
            )
        if self.bucket_table == "EveryDream2":
            make_buckets(self.resolution, self.bucket_step, table=self.bucket_table)
        if self.resolution % self.bucket_step:
            raise TrainerError(
                f"Run setting resolution is {self.resolution}; it must be a multiple of "
                f"bucket_step, {self.bucket_step}."
            )

    def schedules_over_the_length(self, steps: int) -> dict[str, str]:
        """By the parts that learn, the schedules that would have given a run of more epochs other
        learning rates in its first `steps` steps: those that fall until the run's last step.
        """
        parts = {"unet": self.layers.train_unet, "text_encoder": self.train_text_encoder}
        found = {}
        for part, learns in parts.items():
            chosen: OptimizerSettings = getattr(self, f"{part}_optimizer")
            falls = chosen.schedule != "constant" and chosen.end_share != 1
            over = falls and not chosen.decay_steps and steps > chosen.warmup_steps
            if learns and over and not self.range_test.steps:
                found[part.replace("_", " ")] = chosen.schedule
        return found

    def identity(self) -> dict[str, Any]:
        """What counts for the identity of a run: the weights follow from it.

        Settings that came after the first runs were made count where they are not at their
        defaults, so that old runs keep theirs; what only shows or saves (HARMLESS) never counts.
        """
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in GROUPS:
                if field.name not in HARMLESS and (changed := value.changed()):
                    found[field.name] = changed
            elif value != field.default or field.name not in LATER:
                found[field.name] = value
        return found


LATER = ("bucket_table",)
"""Settings that came after the first runs were made: these have the identity they always had."""

HARMLESS = ("samples", "saving", "logging", "sharing")
"""Groups that do not affect the weights: they may change while a run is under way."""
