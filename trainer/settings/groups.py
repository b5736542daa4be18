"""The groups of run settings, one for each side of a fine-tune. Every default is what a run does
when nothing is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import TrainerError
from .group import Group, setting

OPTIMIZERS = (
    "adamw",
    "adamw 8 bit",
    "lion",
    "adafactor",
    "d-adapt adam",
    "d-adapt adan",
    "d-adapt lion",
    "d-adapt sgd",
    "prodigy",
    "schedule-free adamw",
)
SCHEDULES = ("constant", "linear", "cosine", "cosine with restarts", "polynomial")


@dataclass(frozen=True)
class OptimizerSettings(Group):
    """How the weights of one part (UNet or text encoder) move. The learning rates stand in the
    run's own settings.
    """

    optimizer: str = setting(
        "adamw",
        "Which optimizer moves the weights. D-Adaptation and Prodigy find the step size themselves: give them a learning rate of 1 "
        "(0.1 to be careful). Lion wants a tenth of AdamW's rate. 'adamw 8 bit' needs the package bitsandbytes.",
        choices=OPTIMIZERS,
    )
    beta1: float = setting(
        0.9,
        "Decay of the running mean of the gradient. 'd-adapt adan' keeps Adan's own.",
        0.0,
        0.9999,
        step=0.001,
    )
    beta2: float = setting(
        0.999,
        "Decay of the running mean of the squared gradient. 0.99 is usual for Lion.",
        0.0,
        0.99999,
        step=0.001,
    )
    epsilon: float = setting(
        1e-8, "Small number that keeps divisions by 0 away.", 0.0, 1.0, step=1e-9
    )
    weight_decay: float = setting(
        -1.0, "Pull of the weights towards 0. -1 = the run's weight_decay.", -1.0, 10.0, step=0.001
    )
    momentum: float = setting(
        0.0, "Momentum of 'd-adapt sgd'; the others have betas.", 0.0, 0.9999, step=0.01
    )
    d0: float = setting(
        1e-6, "First guess of the step size of D-Adaptation and Prodigy.", 1e-12, 1.0, step=1e-7
    )
    growth_rate: float = setting(
        0.0,
        "How many times larger the step size of D-Adaptation and Prodigy may get in one step, such as 1.02. 0 = no limit.",
        0.0,
        1e6,
        step=0.01,
    )
    decouple: bool = setting(
        True, "Weight decay apart from the gradient, as in AdamW (D-Adaptation and Prodigy)."
    )
    safeguard_warmup: bool = setting(
        True, "Keeps Prodigy's estimate of the step size low while the rate is warming up."
    )
    schedule: str = setting(
        "constant",
        "How the learning rate changes over the run, after the warm-up.",
        choices=SCHEDULES,
    )
    warmup_steps: int = setting(0, "Steps in which the learning rate rises from 0.", 0, 10_000_000)
    decay_steps: int = setting(
        0,
        "Step at which the schedule has come to its end. 0 = the run's last step. Longer runs stay at the end.",
        0,
        100_000_000,
    )
    cycles: int = setting(1, "Restarts of 'cosine with restarts'.", 1, 1000)
    power: float = setting(
        1.0, "Power of the polynomial schedule; 1 is a straight line.", 0.01, 10.0, step=0.1
    )
    end_share: float = setting(
        0.0,
        "Share of the learning rate that is left at the end of linear, cosine and polynomial schedules.",
        0.0,
        1.0,
        step=0.01,
    )


UNET_LAYERS = ("all", "attention", "cross attention")


@dataclass(frozen=True)
class LayersSettings(Group):
    """Which layers learn. What does not learn costs no gradient, no optimizer state and, below it,
    no backward pass.
    """

    train_unet: bool = setting(True, "Whether the UNet learns.")
    unet_layers: str = setting(
        "all",
        "Which layers of the UNet learn: all, its attention blocks, or only the cross attention to the text.",
        choices=UNET_LAYERS,
    )
    text_encoder_last_layers: int = setting(
        0,
        "Only the last so many layers of the text encoder learn, and the final norm. 0 = all.",
        0,
        12,
    )
    freeze_embeddings: bool = setting(
        False, "Keep the text encoder's token and position embeddings as they are."
    )
    freeze_final_norm: bool = setting(False, "Keep the text encoder's final layer norm as it is.")
    text_encoder_rate_scale: float = setting(
        1.0, "The text encoder's learning rate is multiplied by this.", 0.0, 100.0, step=0.01
    )


PREDICTIONS = ("epsilon", "v-prediction")
LOSSES = ("mse", "huber", "pseudo-huber", "mse to huber", "huber to mse")
HUBER_SCHEDULES = ("constant", "exponential", "snr")
TIMESTEP_SAMPLINGS = ("uniform", "stratified", "logit-normal")


@dataclass(frozen=True)
class LossSettings(Group):
    """What is minimised. Validation always uses the plain mean squared error, so that its curves
    stay comparable.
    """

    prediction: str = setting(
        "epsilon",
        "What the UNet predicts. SD1.5 models predict epsilon; a v-prediction model needs ModelSamplingDiscrete in ComfyUI.",
        choices=PREDICTIONS,
    )
    kind: str = setting(
        "mse",
        "Measure of the error. mse is usual. huber (delta 1) and pseudo-huber weigh large errors less; 'mse to huber' goes from mse at low "
        "noise to huber at high noise as EveryDream2's mse_huber is documented, 'huber to mse' the other way, as it is coded.",
        choices=LOSSES,
    )
    huber_c: float = setting(
        0.1, "Where pseudo-huber turns from square to straight.", 1e-6, 100.0, step=0.01
    )
    huber_schedule: str = setting(
        "snr",
        "How pseudo-huber's c depends on the noise level, as in kohya's sd-scripts.",
        choices=HUBER_SCHEDULES,
    )
    min_snr_gamma: float = setting(
        0.0,
        "Min-SNR weighting: weight min(SNR, gamma) / SNR, for v-prediction min(SNR, gamma) / (SNR + 1). 5 is usual. 0 = off.",
        0.0,
        1000.0,
        step=0.5,
    )
    debiased: bool = setting(
        False,
        "Debiased estimation: weight 1 / sqrt(SNR), SNR at most 1000. Not together with min-SNR.",
    )
    zero_terminal_snr: bool = setting(
        False,
        "Rescale the noise schedule so that its last level is pure noise. Needs v-prediction.",
    )
    offset_noise: float = setting(
        0.0,
        "Strength of a noise that shifts whole channels, for darker and brighter pictures. EveryDream2's 2023 baseline: 0.02.",
        0.0,
        1.0,
        step=0.01,
    )
    pyramid_noise: float = setting(
        0.0,
        "Discount of coarser noise that is added layer by layer. EveryDream2 ships 0.03. 0 = off.",
        0.0,
        0.99,
        step=0.01,
    )
    timestep_start: int = setting(0, "Lowest noise level that is trained, of 1000.", 0, 999)
    timestep_end: int = setting(1000, "Noise level below which training stays.", 1, 1000)
    timestep_sampling: str = setting(
        "uniform",
        "How noise levels are drawn: uniform; stratified = spread evenly over each batch; logit-normal = more of the middle.",
        choices=TIMESTEP_SAMPLINGS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timestep_end <= self.timestep_start:
            raise TrainerError(
                f"Run setting loss.timestep_end is {self.timestep_end}; it must be above loss.timestep_start, {self.timestep_start}."
            )
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise TrainerError(
                "Run setting loss.zero_terminal_snr needs loss.prediction v-prediction: at pure noise, "
                "epsilon says nothing about the picture."
            )
        if self.debiased and self.min_snr_gamma:
            raise TrainerError("Choose loss.debiased or loss.min_snr_gamma, not both.")


@dataclass(frozen=True)
class DataSettings(Group):
    """How pairs become batches."""

    accumulate: int = setting(
        1,
        "Batches that make one optimizer step; the loss is the mean over all their pairs.",
        1,
        1024,
    )
    flip: float = setting(
        0.0, "Chance of being mirrored for pairs that do not say their own.", 0.0, 1.0, step=0.05
    )
    crop_jitter: float = setting(
        0.0,
        "Share of a picture's smaller side that crops may take away at each side. EveryDream2: 0.02. Needs crop_variants.",
        0.0,
        0.25,
        step=0.01,
    )
    crop_variants: int = setting(
        1,
        "How many crops of each picture are encoded and drawn from: the centred one and jittered ones.",
        1,
        64,
    )
    text_chunks: int = setting(
        1,
        "Captions longer than 75 tokens are read in up to so many chunks of 75, as ComfyUI reads them; what is beyond is cut.",
        1,
        8,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.crop_jitter > 0) != (self.crop_variants > 1):
            raise TrainerError(
                f"Run settings data.crop_jitter is {self.crop_jitter} and data.crop_variants {self.crop_variants}: jittered crops "
                "need a jitter above 0 and 2 or more variants."
            )


TREND_ACTIONS = ("warn", "save", "stop")


@dataclass(frozen=True)
class ValidationSettings(Group):
    """When and how the run is measured."""

    every_epochs: int = setting(
        1,
        "Validate after every so many epochs, and after the last. 0 = only after the last.",
        0,
        10_000,
    )
    every_steps: int = setting(
        0, "Validate after every so many steps as well. 0 = not.", 0, 10_000_000
    )
    train_share: float = setting(
        0.0,
        "Share of the training pairs that is measured like the validation pairs: the stabilised training loss. 0 = off.",
        0.0,
        1.0,
        step=0.01,
    )
    trend_action: str = setting(
        "warn",
        "What to do when the validation loss has been rising consistently: warn, save a checkpoint, or stop the run.",
        choices=TREND_ACTIONS,
    )
    trend_patience: int = setting(
        5, "Validations since the best one before the trend is judged.", 3, 1000
    )


EMA_DEVICES = ("cpu", "as the weights")
EMA_SAVES = ("both", "ema only", "plain only")


@dataclass(frozen=True)
class EmaSettings(Group):
    """A running mean of the weights, often better than the last weights. Decay warms up as min((1 +
    n) / (10 + n), decay).
    """

    decay: float = setting(
        0.0,
        "Share of the mean that stays at each update; 0.999 to 0.9999. 0 = no EMA.",
        0.0,
        0.999999,
        step=0.0001,
    )
    every_steps: int = setting(1, "Update after every so many steps.", 1, 100_000)
    device: str = setting(
        "cpu", "Where the mean lies: in main memory, or beside the weights.", choices=EMA_DEVICES
    )
    save: str = setting("both", "Which weights checkpoints are saved of.", choices=EMA_SAVES)


ATTENTIONS = ("sdpa", "xformers", "sliced")


@dataclass(frozen=True)
class ComputeSettings(Group):
    """Speed, memory and exactness."""

    gradient_checkpointing: bool = setting(
        False,
        "Compute activations again in the backward pass: less memory, about a quarter slower.",
    )
    attention: str = setting(
        "sdpa",
        "How attention is computed: PyTorch's own, xformers if it is installed, or in slices for little memory. Results agree.",
        choices=ATTENTIONS,
    )
    tf32: bool = setting(False, "Let NVIDIA cards round fp32 products to TF32: faster, coarser.")
    compile: bool = setting(
        False, "Compile the UNet by torch.compile: slow start, faster steps. Needs a compiler."
    )
    deterministic: bool = setting(
        False,
        "Only algorithms that give the same bits every time. On a CPU they always do; on a GPU it is slower.",
    )


@dataclass(frozen=True)
class SamplePrompt(Group):
    """A picture to draw during the run."""

    prompt: str = setting("", "What to draw.")
    negative: str = setting("", "What to keep away from.")
    width: int = setting(512, "Pixels, a multiple of 8.", 64, 2048, step=8)
    height: int = setting(512, "Pixels, a multiple of 8.", 64, 2048, step=8)
    seed: int = setting(555, "Seed of the noise.", 0, 2**53 - 1)
    cfg: float = setting(7.0, "Strength of the guidance.", 0.0, 100.0, step=0.5)
    steps: int = setting(20, "Steps of the sampler (DDIM).", 1, 1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "height"):
            if getattr(self, name) % 8:
                raise TrainerError(
                    f"A sample's {name} is {getattr(self, name)}; it must be a multiple of 8."
                )


@dataclass(frozen=True)
class SamplesSettings(Group):
    """Pictures drawn while the run is at work. They change nothing about its weights."""

    every_epochs: int = setting(0, "Draw after every so many epochs. 0 = not.", 0, 10_000)
    every_steps: int = setting(0, "Draw after every so many steps. 0 = not.", 0, 10_000_000)
    prompts: tuple[SamplePrompt, ...] = setting((), "What to draw.")

    def __post_init__(self) -> None:
        super().__post_init__()
        prompts = tuple(
            prompt
            if isinstance(prompt, SamplePrompt)
            else SamplePrompt.from_json(prompt, f"samples.prompts[{number}].")
            for number, prompt in enumerate(self.prompts)
        )
        object.__setattr__(self, "prompts", prompts)


PINNED = re.compile(r"\d+(\s*,\s*\d+)*|")


@dataclass(frozen=True)
class SavingSettings(Group):
    """Which checkpoints are saved and kept besides those of save_every_epochs, and how often the
    run makes itself safe.
    """

    every_steps: int = setting(
        0, "Save a checkpoint after every so many steps as well. 0 = not.", 0, 10_000_000
    )
    every_minutes: float = setting(
        0.0, "Save a checkpoint after every so many minutes as well. 0 = not.", 0.0, 100_000.0
    )
    keep_last: int = setting(
        0,
        "Keep only so many of the newest checkpoints; the best, the last and the pinned ones always stay. 0 = keep all.",
        0,
        10_000,
    )
    pinned_epochs: str = setting("", "Epochs whose checkpoints always stay, such as 10, 20, 30.")
    resume_minutes: float = setting(
        10.0,
        "Write a resume point after every so many minutes besides those at each epoch's end: what a kill can cost. 0 = only at each epoch's end.",
        0.0,
        100_000.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not PINNED.fullmatch(self.pinned_epochs.strip()):
            raise TrainerError(
                f"Run setting saving.pinned_epochs is {self.pinned_epochs!r}; write epochs with commas, such as 10, 20, 30."
            )

    @property
    def pinned(self) -> frozenset[int]:
        """The pinned epochs as numbers."""
        return frozenset(int(number) for number in self.pinned_epochs.split(",") if number.strip())


@dataclass(frozen=True)
class LoggingSettings(Group):
    """What is written down."""

    norms_every_steps: int = setting(
        25,
        "Measure the size of the updates against the weights after every so many steps. 0 = never.",
        0,
        1_000_000,
    )
    wandb: bool = setting(
        False,
        "Send the figures to Weights & Biases as well; the package wandb and its own settings are needed. Uses the network.",
    )


GROUPS: dict[str, Any] = {
    "unet_optimizer": OptimizerSettings,
    "text_encoder_optimizer": OptimizerSettings,
    "layers": LayersSettings,
    "loss": LossSettings,
    "data": DataSettings,
    "validation": ValidationSettings,
    "ema": EmaSettings,
    "compute": ComputeSettings,
    "samples": SamplesSettings,
    "saving": SavingSettings,
    "logging": LoggingSettings,
}
"""Every group by its name in the run's settings."""
