"""Settings by name: fine-tunes of Stable Diffusion 1.5 that others have published, in plain
numbers.

"ED2 2023 baseline" is EveryDream2's train.json and optimizer.json as shipped in March 2023, the
starting point of its users' experiments of that time. The two Cosmopolitan presets are the fine-
tunes of FollowFox's article of November 2023 on EveryDream2 as of October 2023: resolutions,
optimizers, epochs and the checkpoint after every ten epochs are the article's; learning rate and
weight decay of D-Adaptation are those of the file that EveryDream2 ships for it
(optimizer_dadapt.json); everything else is EveryDream2's default of that month. AdamW keeps its
state in fp32 here, where EveryDream2 rounds it to 8 bit, and autocast is bf16, where EveryDream2's
is fp16.
"""

from __future__ import annotations

from typing import Any

from ..errors import TrainerError, nearest
from .run_settings import RunSettings

ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "schedule": "constant",
}

EVERYDREAM2: dict[str, Any] = {
    "resolution": 512,
    "bucket_table": "EveryDream2",
    "epochs": 30,
    "batch_size": 10,
    "learning_rate": 1.5e-6,
    "train_text_encoder": True,
    "text_encoder_learning_rate": 1.5e-6,
    "conditional_dropout": 0.04,
    "clip_skip": 1,
    "weight_decay": 0.01,
    "gradient_clip": 0.0,
    "seed": 555,
    "save_every_epochs": 20,
    "precision": "bf16",
    "save_precision": "fp16",
    "unet_optimizer": ADAMW,
    "text_encoder_optimizer": ADAMW,
    "loss": {"kind": "mse", "min_snr_gamma": 0.0, "offset_noise": 0.02, "pyramid_noise": 0.0},
    "data": {"accumulate": 1, "flip": 0.0, "crop_jitter": 0.02, "crop_variants": 4},
    "validation": {"every_epochs": 1},
    "compute": {"gradient_checkpointing": True},
}  # fmt: skip

D_ADAPTATION: dict[str, Any] = {
    "optimizer": "d-adapt adam",
    "weight_decay": 0.8,
    "d0": 1e-6,
    "decouple": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    "ED2 2023 baseline": EVERYDREAM2,
    "Cosmopolitan 512 D-Adaptation": {
        **EVERYDREAM2,
        "epochs": 70,
        "save_every_epochs": 10,
        "learning_rate": 0.1,
        "text_encoder_learning_rate": 0.1,
        "unet_optimizer": {**ADAMW, **D_ADAPTATION},
        "text_encoder_optimizer": {**ADAMW, **D_ADAPTATION},
    },
    "Cosmopolitan 768 AdamW": {
        **EVERYDREAM2,
        "resolution": 768,
        "epochs": 60,
        "save_every_epochs": 10,
    },
}
"""What each preset sets; everything else has its default."""


def preset(name: str) -> RunSettings:
    """The settings of a preset. Raises TrainerError, naming the nearest one, if there is none."""
    if name not in PRESETS:
        raise TrainerError(
            f"There is no preset {name!r}.{nearest(name, PRESETS)} There are: {', '.join(PRESETS)}."
        )
    return RunSettings.from_json(PRESETS[name])
