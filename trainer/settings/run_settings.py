"""The settings of a run: one frozen value, JSON in and out. Together with the base and the dataset
it is the run's identity.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..data.buckets import TABLES, make_buckets
from ..errors import TrainerError
from .group import check_keys, check_type, check_value
from .groups import (
    GROUPS,
    ComputeSettings,
    DataSettings,
    EmaSettings,
    LayersSettings,
    LoggingSettings,
    LossSettings,
    OptimizerSettings,
    SamplesSettings,
    SavingSettings,
    ValidationSettings,
)


@dataclass(frozen=True)
class RunSettings:
    """What a fine-tune does with its base and its dataset.

    Defaults follow EveryDream2's 2023 baseline for Stable Diffusion 1.5, with bf16 in place of
    fp16.
    """

    resolution: int = 512
    """Side in pixels of the square whose area every bucket stays within."""
    bucket_step: int = 64
    """Sides of buckets are multiples of this, in pixels; a multiple of 8."""
    epochs: int = 10
    batch_size: int = 4
    learning_rate: float = 1.5e-6
    """AdamW's learning rate for the UNet."""
    train_text_encoder: bool = True
    text_encoder_learning_rate: float = 1.5e-6
    conditional_dropout: float = 0.04
    """Share of draws in which the caption is replaced by the empty one (classifier-free guidance).
    """
    clip_skip: int = 1
    """1 = last layer, 2 = the one before it (A1111's numbers)."""
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    """Largest L2 norm of the gradient of each trained part; 0 = no clipping."""
    seed: int = 555
    save_every_epochs: int = 1
    validation_timesteps: int = 4
    """Noise levels at which every validation pair is measured, one in each equal stretch of the
    schedule.
    """
    precision: str = "bf16"
    """Autocast of the forward and backward pass: bf16, fp32, or fp16 on a GPU. Weights, loss and
    noise are always fp32.
    """
    save_precision: str = "fp16"
    """Type of the trained tensors in saved checkpoints: fp16, bf16 or fp32."""
    bucket_table: str = "generated"
    """Which sizes there are at a resolution: generated ones, or EveryDream2's."""
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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = check_type(field.name, getattr(self, field.name), field.default)
            object.__setattr__(self, field.name, value)
            low, high = RANGES.get(field.name, (None, None))
            check_value(field.name, value, low, high, CHOICES.get(field.name))
        if not self.layers.train_unet and not self.train_text_encoder:
            raise TrainerError(
                "Neither the UNet nor the text encoder is to learn. Switch one of them on."
            )
        if self.bucket_table == "EveryDream2":
            make_buckets(self.resolution, self.bucket_step, table=self.bucket_table)
        for name, step in (("bucket_step", 8), ("resolution", 8), ("resolution", self.bucket_step)):
            if getattr(self, name) % step:
                raise TrainerError(
                    f"Run setting {name} is {getattr(self, name)}; it must be a multiple of {step}."
                )

    def to_json(self) -> dict[str, Any]:
        return {
            field.name: value.to_json() if field.name in GROUPS else value
            for field in fields(self)
            for value in (getattr(self, field.name),)
        }

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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunSettings:
        """Raises TrainerError for an unknown key, naming the nearest known one."""
        check_keys(cls, value)
        return cls(
            **{
                name: GROUPS[name].from_json(entry, f"{name}.")
                if name in GROUPS and not isinstance(entry, GROUPS[name])
                else entry
                for name, entry in value.items()
            }
        )


RANGES: dict[str, tuple[float, float]] = {
    "resolution": (64, 2048),
    "bucket_step": (8, 128),
    "epochs": (1, 10_000),
    "batch_size": (1, 1024),
    "learning_rate": (0.0, 1.0),
    "text_encoder_learning_rate": (0.0, 1.0),
    "conditional_dropout": (0.0, 1.0),
    "clip_skip": (1, 12),
    "weight_decay": (0.0, 1.0),
    "gradient_clip": (0.0, 1000.0),
    "seed": (0, 2**53 - 1),
    "save_every_epochs": (1, 10_000),
    "validation_timesteps": (1, 100),
}
"""Smallest and largest value of every numeric setting; the settings node uses the same."""

CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("bf16", "fp32", "fp16"),
    "save_precision": ("fp16", "bf16", "fp32"),
    "bucket_table": TABLES,
}

LATER = ("bucket_table",)
"""Settings that came after the first runs were made: these have the identity they always had."""

HARMLESS = ("samples", "saving", "logging")
"""Groups that change nothing about the weights: they may change while a run is under way."""
