"""The groups of run settings, one for each side of a fine-tune."""

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
    """How the weights of one part (UNet or text encoder) move. Its learning rate is a setting of
    the run.
    """

    optimizer: str = setting(
        "adamw",
        "The optimizer. D-Adaptation and Prodigy find the step size themselves: give them a "
        "learning rate of 1, or 0.1 to be careful. Lion needs a tenth of AdamW's rate. 'adamw 8 "
        "bit' needs the bitsandbytes package.",
        choices=OPTIMIZERS,
    )
    beta1: float = setting(
        0.9,
        "Decay of the running mean of the gradient. 'd-adapt adan' uses Adan's own value.",
        between=(0.0, 0.9999),
        step=0.001,
    )
    beta2: float = setting(
        0.999,
        "Decay of the running mean of the squared gradient. 0.99 is usual for Lion.",
        between=(0.0, 0.99999),
        step=0.001,
    )
    epsilon: float = setting(
        1e-8,
        "Small number that prevents division by zero.",
        between=(0.0, 1.0),
        step=1e-9,
    )
    weight_decay: float = setting(
        -1.0,
        "How strongly weights are pulled towards 0. -1 = the run's weight_decay.",
        between=(-1.0, 10.0),
        step=0.001,
    )
    momentum: float = setting(
        0.0,
        "Momentum of 'd-adapt sgd'. The other optimizers use the betas.",
        between=(0.0, 0.9999),
        step=0.01,
    )
    d0: float = setting(
        1e-6,
        "First guess of the step size of D-Adaptation and Prodigy.",
        between=(1e-12, 1.0),
        step=1e-7,
    )
    growth_rate: float = setting(
        0.0,
        "The most that D-Adaptation and Prodigy may multiply their step size by in one step, "
        "such as 1.02. 0 = no limit.",
        between=(0.0, 1e6),
        step=0.01,
    )
    decouple: bool = setting(
        True,
        "Apply weight decay separately from the gradient, as AdamW does (D-Adaptation and "
        "Prodigy).",
    )
    safeguard_warmup: bool = setting(
        True,
        "Keep Prodigy's estimate of the step size low during the warm-up.",
    )
    schedule: str = setting(
        "constant",
        "How the learning rate changes over the run, after the warm-up.",
        choices=SCHEDULES,
    )
    warmup_steps: int = setting(
        0,
        "Steps over which the learning rate rises from 0.",
        between=(0, 10_000_000),
    )
    decay_steps: int = setting(
        0,
        "The step at which the schedule ends. 0 = the run's last step. In a longer run the rate "
        "stays where the schedule ended.",
        between=(0, 100_000_000),
    )
    cycles: int = setting(
        1,
        "Number of restarts of 'cosine with restarts'.",
        between=(1, 1000),
    )
    power: float = setting(
        1.0,
        "Power of the polynomial schedule. 1 is a straight line.",
        between=(0.01, 10.0),
        step=0.1,
    )
    end_share: float = setting(
        0.0,
        "Share of the learning rate that is left at the end of a linear, cosine or polynomial "
        "schedule.",
        between=(0.0, 1.0),
        step=0.01,
    )


UNET_LAYERS = ("all", "attention", "cross attention")


@dataclass(frozen=True)
class LayersSettings(Group):
    """Which layers are trained. The others need no gradient, no optimizer state and, below the
    first trained one, no backward pass.
    """

    train_unet: bool = setting(
        True,
        "Train the UNet.",
    )
    unet_layers: str = setting(
        "all",
        "Which layers of the UNet are trained: all of them, the attention blocks, or only the "
        "cross attention to the text.",
        choices=UNET_LAYERS,
    )
    text_encoder_last_layers: int = setting(
        0,
        "Train only this many layers at the end of the text encoder, and its final norm. 0 = "
        "all layers.",
        between=(0, 12),
    )
    freeze_embeddings: bool = setting(
        False,
        "Leave the text encoder's token and position embeddings unchanged.",
    )
    freeze_final_norm: bool = setting(
        False,
        "Leave the text encoder's final layer norm unchanged.",
    )
    text_encoder_rate_scale: float = setting(
        1.0,
        "Factor for the text encoder's learning rate.",
        between=(0.0, 100.0),
        step=0.01,
    )


PREDICTIONS = ("epsilon", "v-prediction")
LOSSES = ("mse", "huber", "pseudo-huber", "mse to huber", "huber to mse")
HUBER_SCHEDULES = ("constant", "exponential", "snr")
TIMESTEP_SAMPLINGS = ("uniform", "stratified", "logit-normal")


@dataclass(frozen=True)
class LossSettings(Group):
    """What is minimised. Validation always uses the plain mean squared error, so that its curves
    can be compared.
    """

    prediction: str = setting(
        "epsilon",
        "What the UNet predicts. SD1.5 models predict epsilon. To sample a v-prediction model, "
        "ComfyUI needs the node ModelSamplingDiscrete.",
        choices=PREDICTIONS,
    )
    kind: str = setting(
        "mse",
        "How the error is measured. mse is usual; huber (delta 1) and pseudo-huber give large "
        "errors less weight. 'mse to huber' goes from mse at low noise to huber at high noise, "
        "as EveryDream2 documents its mse_huber; 'huber to mse' goes the other way, as "
        "EveryDream2 computes it.",
        choices=LOSSES,
    )
    huber_c: float = setting(
        0.1,
        "The error at which pseudo-huber turns from square to linear.",
        between=(1e-6, 100.0),
        step=0.01,
    )
    huber_schedule: str = setting(
        "snr",
        "How pseudo-huber's huber_c depends on the noise level, as in kohya's sd-scripts.",
        choices=HUBER_SCHEDULES,
    )
    min_snr_gamma: float = setting(
        0.0,
        "Min-SNR weighting: weight min(SNR, gamma) / SNR, for v-prediction min(SNR, gamma) / "
        "(SNR + 1). 5 is usual. 0 = off.",
        between=(0.0, 1000.0),
        step=0.5,
    )
    debiased: bool = setting(
        False,
        "Debiased estimation: weight 1 / sqrt(SNR), with SNR at most 1000. Cannot be combined "
        "with min-SNR.",
    )
    zero_terminal_snr: bool = setting(
        False,
        "Rescale the noise schedule so that its last level is pure noise. Needs v-prediction.",
    )
    offset_noise: float = setting(
        0.0,
        "Strength of extra noise that shifts whole channels, so that the model learns darker "
        "and brighter pictures. EveryDream2's 2023 baseline: 0.02.",
        between=(0.0, 1.0),
        step=0.01,
    )
    pyramid_noise: float = setting(
        0.0,
        "Discount of the coarser layers of noise that are added. EveryDream2 ships with 0.03. 0 "
        "= off.",
        between=(0.0, 0.99),
        step=0.01,
    )
    timestep_start: int = setting(
        0,
        "The lowest of the 1000 noise levels that is trained.",
        between=(0, 999),
    )
    timestep_end: int = setting(
        1000,
        "Only noise levels below this one are trained.",
        between=(1, 1000),
    )
    timestep_sampling: str = setting(
        "uniform",
        "How noise levels are drawn. uniform: all alike; stratified: spread evenly over each "
        "batch; logit-normal: more from the middle.",
        choices=TIMESTEP_SAMPLINGS,
    )
    mask_outside: float = setting(
        1.0,
        "How much the loss counts outside a picture's mask, from 0 to 1; inside it counts whole. "
        "1 = as without masks. Load Dataset finds masks: NAME-masklabel.png, or a picture of the "
        "same name in a folder mask.",
        between=(0.0, 1.0),
        step=0.05,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timestep_end <= self.timestep_start:
            raise TrainerError(
                f"Run setting loss.timestep_end is {self.timestep_end}; it must be above "
                f"loss.timestep_start, {self.timestep_start}."
            )
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise TrainerError(
                "Run setting loss.zero_terminal_snr needs loss.prediction v-prediction: at pure "
                "noise, epsilon says nothing about the picture."
            )
        if self.debiased and self.min_snr_gamma:
            raise TrainerError("Choose loss.debiased or loss.min_snr_gamma, not both.")


@dataclass(frozen=True)
class DataSettings(Group):
    """How pairs become batches."""

    accumulate: int = setting(
        1,
        "Batches in one optimizer step. The loss is the mean over all their pairs.",
        between=(1, 1024),
    )
    flip: float = setting(
        0.0,
        "Chance that a picture is mirrored. Pairs with a chance of their own keep it.",
        between=(0.0, 1.0),
        step=0.05,
    )
    crop_jitter: float = setting(
        0.0,
        "How much a crop may cut off at each side, as a share of the picture's shorter side. "
        "EveryDream2 uses 0.02. Needs crop_variants of 2 or more.",
        between=(0.0, 0.25),
        step=0.01,
    )
    crop_variants: int = setting(
        1,
        "How many crops of each picture are encoded: the centred one and jittered ones. Each "
        "step draws one of them.",
        between=(1, 64),
    )
    text_chunks: int = setting(
        1,
        "Captions are read in chunks of 75 tokens, as in ComfyUI. This is the most chunks of a "
        "caption; anything beyond is cut off.",
        between=(1, 8),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.crop_jitter > 0) != (self.crop_variants > 1):
            raise TrainerError(
                f"Run setting data.crop_jitter is {self.crop_jitter} and data.crop_variants is "
                f"{self.crop_variants}. Jittered crops need a jitter above 0 and at least 2 "
                "variants."
            )


TREND_ACTIONS = ("warn", "save", "stop")


@dataclass(frozen=True)
class ValidationSettings(Group):
    """When and how a run measures its validation loss."""

    every_epochs: int = setting(
        1,
        "Epochs between validations. A run always validates after its last epoch; 0 = only then.",
        between=(0, 10_000),
    )
    every_steps: int = setting(
        0,
        "Steps between additional validations. 0 = none.",
        between=(0, 10_000_000),
    )
    train_share: float = setting(
        0.0,
        "Share of the training pairs that is measured in the same way as the validation pairs. "
        "This gives the stabilised training loss. 0 = off.",
        between=(0.0, 1.0),
        step=0.01,
    )
    trend_action: str = setting(
        "warn",
        "What to do when the validation loss keeps rising: warn, save a checkpoint, or stop the "
        "run.",
        choices=TREND_ACTIONS,
    )
    trend_patience: int = setting(
        5,
        "How many validations after the best one the trend is judged.",
        between=(3, 1000),
    )


EMA_DEVICES = ("cpu", "as the weights")
EMA_SAVES = ("both", "ema only", "plain only")


@dataclass(frozen=True)
class EmaSettings(Group):
    """A running mean of the weights, often better than the last weights. At update n the decay is
    min((1 + n) / (10 + n), decay).
    """

    decay: float = setting(
        0.0,
        "How much of the mean each update keeps, usually 0.999 to 0.9999. 0 = no EMA.",
        between=(0.0, 0.999999),
        step=0.0001,
    )
    every_steps: int = setting(
        1,
        "Steps between updates of the mean.",
        between=(1, 100_000),
    )
    device: str = setting(
        "cpu",
        "Where the mean is kept: in main memory, or on the device of the weights.",
        choices=EMA_DEVICES,
    )
    save: str = setting(
        "both",
        "Which weights are saved as checkpoints: the mean, the plain ones, or both.",
        choices=EMA_SAVES,
    )


ATTENTIONS = ("sdpa", "xformers", "sliced")


@dataclass(frozen=True)
class ComputeSettings(Group):
    """Speed, memory and exactness."""

    gradient_checkpointing: bool = setting(
        False,
        "Compute activations again in the backward pass instead of keeping them. Needs less "
        "memory and is about a quarter slower.",
    )
    attention: str = setting(
        "sdpa",
        "How attention is computed: by PyTorch (sdpa), by xformers if it is installed, or in "
        "slices, which needs the least memory. The results agree.",
        choices=ATTENTIONS,
    )
    tf32: bool = setting(
        False,
        "Let NVIDIA GPUs round fp32 products to TF32: faster, less exact.",
    )
    compile: bool = setting(
        False,
        "Compile the UNet with torch.compile: a slow start, then faster steps. Needs a C++ "
        "compiler.",
    )
    deterministic: bool = setting(
        False,
        "Use only algorithms that give the same bits every time. On a GPU this is slower; on a "
        "CPU they always do.",
    )


@dataclass(frozen=True)
class SamplePrompt(Group):
    """A picture to draw during the run."""

    prompt: str = setting(
        "",
        "What to draw.",
    )
    negative: str = setting(
        "",
        "What to avoid.",
    )
    width: int = setting(
        512,
        "In pixels, a multiple of 8.",
        between=(64, 2048),
        step=8,
    )
    height: int = setting(
        512,
        "In pixels, a multiple of 8.",
        between=(64, 2048),
        step=8,
    )
    seed: int = setting(
        555,
        "Seed of the noise.",
        between=(0, 2**53 - 1),
    )
    cfg: float = setting(
        7.0,
        "Guidance scale (CFG).",
        between=(0.0, 100.0),
        step=0.5,
    )
    steps: int = setting(
        20,
        "Sampling steps (DDIM).",
        between=(1, 1000),
    )


@dataclass(frozen=True)
class SamplesSettings(Group):
    """Pictures drawn during the run. They do not affect its weights."""

    every_epochs: int = setting(
        0,
        "Epochs between samples. 0 = none.",
        between=(0, 10_000),
    )
    every_steps: int = setting(
        0,
        "Steps between additional samples. 0 = none.",
        between=(0, 10_000_000),
    )
    prompts: tuple[SamplePrompt, ...] = setting(
        (),
        "What to draw.",
    )


PINNED = re.compile(r"\d+(\s*,\s*\d+)*|")


@dataclass(frozen=True)
class SavingSettings(Group):
    """Which checkpoints are saved and kept besides those of save_every_epochs, and how often the
    run writes a resume point.
    """

    every_steps: int = setting(
        0,
        "Steps between additional checkpoints. 0 = none.",
        between=(0, 10_000_000),
    )
    every_minutes: float = setting(
        0.0,
        "Minutes between additional checkpoints. 0 = none.",
        between=(0.0, 100_000.0),
    )
    keep_last: int = setting(
        0,
        "How many of the newest checkpoints to keep. The best, the last and the pinned ones are "
        "always kept. 0 = keep all.",
        between=(0, 10_000),
    )
    pinned_epochs: str = setting(
        "",
        "Epochs whose checkpoints are always kept, such as 10, 20, 30.",
    )
    resume_minutes: float = setting(
        10.0,
        "Minutes between resume points: the most work that is lost if the run is killed. There "
        "is always one at the end of each epoch; 0 = only there.",
        between=(0.0, 100_000.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not PINNED.fullmatch(self.pinned_epochs.strip()):
            raise TrainerError(
                f"Run setting saving.pinned_epochs is {self.pinned_epochs!r:.200}; write epochs "
                "with commas, such as 10, 20, 30."
            )

    @property
    def pinned(self) -> frozenset[int]:
        """The pinned epochs as numbers."""
        return frozenset(int(number) for number in self.pinned_epochs.split(",") if number.strip())


@dataclass(frozen=True)
class LoggingSettings(Group):
    """What is recorded besides losses and learning rates."""

    norms_every_steps: int = setting(
        25,
        "Steps between measurements of how large the updates are compared to the weights. 0 = "
        "never.",
        between=(0, 1_000_000),
    )
    wandb: bool = setting(
        False,
        "Also send the figures to Weights & Biases. Needs the wandb package, a log-in, and the "
        "permission of the server's owner in user/cocktail/network.json.",
    )


@dataclass(frozen=True)
class SharingSettings(Group):
    """How a run shares its device with ComfyUI's prompts."""

    policy: str = setting(
        "exclusive",
        "What the run does while prompts use its device. exclusive: it keeps what it has. share: "
        "it leaves leave_gb free, and on a CPU works with a low priority. polite: it gives way "
        "between two steps as long as a prompt is queued, and goes on afterwards with the same "
        "bits.",
        choices=("exclusive", "share", "polite"),
    )
    leave_gb: float = setting(
        2.0,
        "Gigabytes of the device's memory that share leaves to others. A run that does not fit "
        "into the rest is refused.",
        between=(0.0, 1000.0),
        step=0.5,
    )
    idle_s: float = setting(
        5.0,
        "Seconds that the queue must have been empty before a polite run goes on.",
        between=(0.0, 86_400.0),
        step=1.0,
    )


@dataclass(frozen=True)
class RangeTestSettings(Group):
    """A learning rate range test in place of a training: over its steps the learning rates rise
    exponentially up to those of the run, whatever the schedule.
    """

    steps: int = setting(
        0,
        "Steps of the test. 0 = no test but a training.",
        between=(0, 100_000),
    )
    start_share: float = setting(
        1e-4,
        "Share of the learning rate with which the test begins.",
        between=(1e-12, 1.0),
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
    "sharing": SharingSettings,
    "range_test": RangeTestSettings,
}
"""Every group by its name in the run's settings."""
