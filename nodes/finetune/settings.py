"""The settings of a fine-tune, group by group: every node takes settings and returns a changed
copy.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from comfy_api.latest import io

from ...trainer.errors import TrainerError
from ...trainer.settings import groups
from ...trainer.settings.everydream.importing import Imported, import_everydream
from ...trainer.settings.group import Group
from ...trainer.settings.presets import PRESETS, preset
from ...trainer.settings.run_settings import RunSettings
from ...trainer.settings.text import changed_by, describe
from .. import types
from ..host import names
from ..host.progress import show_text
from ..schema import opt, schema
from .setting_input import group_inputs

CATEGORY = "cocktail/fine-tune"
PARTS = {
    "both": ("unet_optimizer", "text_encoder_optimizer"),
    "unet": ("unet_optimizer",),
    "text encoder": ("text_encoder_optimizer",),
}


def _settings_input() -> io.Input:
    return types.Settings.Input(
        "settings",
        tooltip="The settings to change, from Training Settings, Training Preset or another "
        "settings node.",
    )


def _settings_output(
    tooltip: str = "The changed settings, for Fine-tune or the next settings node.",
) -> io.Output:
    return types.Settings.Output("changed_settings", display_name="settings", tooltip=tooltip)


class _GroupNode(io.ComfyNode):
    """A node that replaces one group of the settings by what it shows."""

    GROUP: ClassVar[type[Group]]
    FIELD: ClassVar[str]
    ADVANCED: ClassVar[tuple[str, ...]] = ()
    LATER: ClassVar[tuple[str, ...]] = ()
    """Settings that came after the first graphs were saved."""

    @classmethod
    def group_schema(cls, **keywords: Any) -> io.Schema:
        return schema(
            category=CATEGORY,
            inputs=[
                _settings_input(),
                *group_inputs(
                    cls.GROUP, cls.ADVANCED, **{name: {"optional": True} for name in cls.LATER}
                ),
            ],
            outputs=[_settings_output()],
            **keywords,
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool | str:
        return _problem(cls.GROUP, values, f"{cls.FIELD}.")

    @classmethod
    def execute(cls, settings: RunSettings, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(
            dataclasses.replace(
                settings, **{cls.FIELD: cls.GROUP.from_json(values, f"{cls.FIELD}.")}
            )
        )


def _problem(group: type[Group], values: dict[str, Any], prefix: str) -> bool | str:
    """True, or what is wrong with the values that are known before the graph runs (linked ones are
    None).
    """
    known = {field.name for field in dataclasses.fields(group)}
    try:
        group.from_json(
            {key: value for key, value in values.items() if key in known and value is not None},
            prefix,
        )
    except TrainerError as error:
        return str(error)
    return True


class CocktailTrainingPreset(io.ComfyNode):
    """Settings by name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailTrainingPreset",
            display_name="Training Preset",
            category=CATEGORY,
            description="Settings of fine-tunes that others have published, as visible numbers. "
            "Change individual ones with Change Settings, or a whole group with its "
            "node.",
            search_aliases=[
                "EveryDream2 defaults",
                "Cosmopolitan",
                "D-Adaptation preset",
                "hyperparameters",
                "train.json",
            ],
            is_output_node=True,
            inputs=[
                opt(
                    io.Combo.Input,
                    "preset",
                    options=list(PRESETS),
                    default=next(iter(PRESETS)),
                    tooltip="Which preset. Its numbers appear under the node; the help page "
                    "says where they come from.",
                )
            ],
            outputs=[_settings_output("The preset's settings, for Fine-tune or a settings node.")],
        )

    @classmethod
    def execute(cls, preset: str) -> io.NodeOutput:
        settings = _preset(preset)
        return _shown(settings, describe(settings, everything=False))


_preset = preset


class CocktailImportEveryDream2(io.ComfyNode):
    """EveryDream2's configuration as settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def text(id: str, file: str, **keywords: Any) -> io.Input:
            return io.String.Input(
                id,
                multiline=True,
                default="",
                placeholder=file,
                tooltip=f"EveryDream2's {file}: its text, or the name of a file in "
                "ComfyUI's input folder.",
                **keywords,
            )

        return schema(
            node_id="CocktailImportEveryDream2",
            display_name="Import EveryDream2 Settings",
            category=CATEGORY,
            description="Turns EveryDream2's train.json, optimizer.json and validation.json into "
            "settings. For every key it reports whether it was taken, translated or "
            "ignored, and why.",
            search_aliases=[
                "train.json",
                "optimizer.json",
                "EveryDream",
                "ED2 config",
                "convert settings",
            ],
            is_output_node=True,
            inputs=[
                text("train", "train.json"),
                text("optimizer", "optimizer.json, if there is one"),
                text("validation", "validation.json, if there is one"),
                io.Int.Input(
                    "steps_per_epoch",
                    default=0,
                    min=0,
                    max=10_000_000,
                    tooltip="Batches in an epoch. With it, warm-up, decay and EMA, which "
                    "EveryDream2 derives from the length of a run, become steps. 0 = "
                    "approximate them.",
                ),
            ],
            outputs=[
                _settings_output("The settings, for Fine-tune or a settings node."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What became of every key, one line each.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        train: str | None,
        optimizer: str | None,
        validation: str | None,
        steps_per_epoch: int | None,
    ) -> bool | str:
        if None in (train, optimizer, validation, steps_per_epoch):
            return True
        try:
            _imported(train or "", optimizer or "", validation or "", steps_per_epoch or 0)
        except (TrainerError, names.BadName) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> list[str]:
        """A file in the input folder can change under its name."""
        try:
            return [_text(value) for value in values.values() if isinstance(value, str)]
        except names.BadName:
            return []

    @classmethod
    def execute(
        cls, train: str, optimizer: str, validation: str, steps_per_epoch: int
    ) -> io.NodeOutput:
        found = _imported(train, optimizer, validation, steps_per_epoch)
        return _shown(found.settings, found.report(), with_text=True)


def _imported(train: str, optimizer: str, validation: str, steps_per_epoch: int) -> Imported:
    if not train.strip():
        raise TrainerError(
            "Give EveryDream2's train.json: its text, or a file's name in the input folder."
        )
    return import_everydream(_text(train), _text(optimizer), _text(validation), steps_per_epoch)


def _text(value: str) -> str:
    """A text as it is, or that of the file in the input folder which it names."""
    name = value.strip()
    if not name or "\n" in name or not name.lower().endswith(".json") or name.startswith("{"):
        return value
    return names.input_text(name)


class CocktailChangeSettings(io.ComfyNode):
    """Single settings changed by name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailChangeSettings",
            display_name="Change Settings",
            category=CATEGORY,
            description="Changes individual settings by name and leaves all others unchanged, such "
            "as those of a preset. Show Settings lists all names.",
            search_aliases=[
                "override settings",
                "set parameter",
                "--set",
                "experiment",
                "one parameter",
            ],
            inputs=[
                _settings_input(),
                io.String.Input(
                    "changes",
                    multiline=True,
                    default="",
                    placeholder="epochs = 20\nloss.min_snr_gamma = 5",
                    tooltip="One setting per line, NAME = VALUE, such as epochs = 20 or "
                    "unet_optimizer.schedule = cosine. NAME *= FACTOR multiplies a number, such as "
                    "learning_rate *= 0.5. Empty lines and lines that begin with # are ignored.",
                ),
            ],
            outputs=[_settings_output()],
        )

    @classmethod
    def execute(cls, settings: RunSettings, changes: str) -> io.NodeOutput:
        return io.NodeOutput(changed_by(settings, changes.splitlines()))


class CocktailShowSettings(io.ComfyNode):
    """All settings as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailShowSettings",
            display_name="Show Settings",
            category=CATEGORY,
            description="Shows settings as text: under the node those that differ from the "
            "defaults, in the output all of them, as lines that Change Settings reads.",
            search_aliases=[
                "print settings",
                "settings to text",
                "hyperparameters",
                "preview settings",
            ],
            is_output_node=True,
            inputs=[
                types.Settings.Input(
                    "settings", tooltip="The settings to show, from any settings node."
                )
            ],
            outputs=[
                _settings_output("The same settings, for Fine-tune."),
                io.String.Output(
                    "text",
                    display_name="text",
                    tooltip="All settings, one per line, starting with those that differ from the "
                    "defaults. For Preview as Text.",
                ),
            ],
        )

    @classmethod
    def execute(cls, settings: RunSettings) -> io.NodeOutput:
        show_text(describe(settings, everything=False))
        text = describe(settings)
        return io.NodeOutput(settings, text, ui=_ui(settings, text))


class CocktailOptimizerSettings(_GroupNode):
    """The optimizer and schedule of UNet, text encoder or both."""

    GROUP, FIELD = groups.OptimizerSettings, "unet_optimizer"
    ADVANCED = (
        "beta1",
        "beta2",
        "epsilon",
        "momentum",
        "d0",
        "growth_rate",
        "decouple",
        "safeguard_warmup",
        "decay_steps",
        "cycles",
        "power",
        "end_share",
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        found = cls.group_schema(
            node_id="CocktailOptimizerSettings",
            display_name="Optimizer Settings",
            description="Optimizer and learning-rate schedule of the UNet, the text encoder or "
            "both. The learning rates themselves are in Training Settings.",
            search_aliases=[
                "AdamW",
                "D-Adaptation",
                "Prodigy",
                "Lion",
                "Adafactor",
                "learning rate schedule",
                "warm-up",
                "cosine",
                "optimizer.json",
            ],
        )
        part = opt(
            io.Combo.Input,
            "part",
            options=list(PARTS),
            default="both",
            tooltip="Whose optimizer to set: the UNet's, the text encoder's, or both. Chain two "
            "of these nodes to give them different ones.",
        )
        found.inputs.insert(1, part)
        return found

    @classmethod
    def validate_inputs(cls, part: str | None = None, **values: Any) -> bool | str:
        if part is not None and part not in PARTS:
            return f"part is {part!r}; it must be one of {', '.join(PARTS)}."
        return _problem(cls.GROUP, values, f"{PARTS[part or 'both'][0]}.")

    @classmethod
    def execute(cls, settings: RunSettings, part: str, **values: Any) -> io.NodeOutput:
        changed = {name: cls.GROUP.from_json(values, f"{name}.") for name in PARTS[part]}
        return io.NodeOutput(dataclasses.replace(settings, **changed))


class CocktailLayerSettings(_GroupNode):
    """Which layers learn."""

    GROUP, FIELD = groups.LayersSettings, "layers"
    ADVANCED = ("freeze_embeddings", "freeze_final_norm")

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailLayerSettings",
            display_name="Layer Settings",
            description="Which layers of the UNet and the text encoder are trained. The "
            "others need neither gradient nor optimizer state.",
            search_aliases=[
                "freeze layers",
                "train UNet",
                "cross attention only",
                "text encoder freezing",
                "unfreeze_last_n_layers",
            ],
        )


class CocktailLossSettings(_GroupNode):
    """What is minimised."""

    GROUP, FIELD = groups.LossSettings, "loss"
    ADVANCED = (
        "prediction",
        "huber_c",
        "huber_schedule",
        "debiased",
        "zero_terminal_snr",
        "timestep_start",
        "timestep_end",
        "timestep_sampling",
    )
    LATER = ("mask_outside",)

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailLossSettings",
            display_name="Loss Settings",
            description="What a fine-tune minimises: the prediction, how the error is "
            "measured, the weight of each noise level, and extra noise. "
            "Validation always uses the plain mean squared error.",
            search_aliases=[
                "min SNR gamma",
                "huber",
                "offset noise",
                "pyramid noise",
                "v-prediction",
                "zero terminal SNR",
                "debiased estimation",
                "masked training",
                "timesteps",
            ],
        )


class CocktailDataSettings(_GroupNode):
    """How pairs become batches."""

    GROUP, FIELD = groups.DataSettings, "data"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailDataSettings",
            display_name="Data Settings",
            description="How pairs become batches: gradient accumulation, mirroring, crop jitter "
            "and long captions.",
            search_aliases=[
                "gradient accumulation",
                "grad_accum",
                "flip",
                "crop jitter",
                "long prompts",
                "75 tokens",
            ],
        )


class CocktailValidationSettings(_GroupNode):
    """When a run is measured."""

    GROUP, FIELD = groups.ValidationSettings, "validation"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailValidationSettings",
            display_name="Validation Settings",
            description="When a run measures its validation loss, and what it does when that loss "
            "keeps rising.",
            search_aliases=[
                "validation loss",
                "early stopping",
                "overfitting",
                "stabilize training loss",
                "validation.json",
            ],
        )


class CocktailEmaSettings(_GroupNode):
    """A running mean of the weights."""

    GROUP, FIELD = groups.EmaSettings, "ema"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailEmaSettings",
            display_name="EMA Settings",
            description="A running mean of the weights (exponential moving average), often better "
            "than the last weights.",
            search_aliases=["EMA", "exponential moving average", "ema_decay_rate"],
        )


class CocktailComputeSettings(_GroupNode):
    """Speed, memory and exactness, and how the device is shared."""

    GROUP, FIELD = groups.ComputeSettings, "compute"
    ADVANCED = ("tf32", "compile", "deterministic")
    SHARING: ClassVar[tuple[str, ...]] = tuple(
        field.name for field in dataclasses.fields(groups.SharingSettings)
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        optional = {name: {"optional": True} for name in cls.SHARING}
        return schema(
            node_id="CocktailComputeSettings",
            display_name="Compute Settings",
            category=CATEGORY,
            description="Speed, memory and exactness of a fine-tune, and what it does while "
            "prompts use its device.",
            search_aliases=[
                "gradient checkpointing",
                "xformers",
                "sdpa",
                "TF32",
                "torch.compile",
                "deterministic",
                "low VRAM",
                "GPU sharing",
                "pause while generating",
            ],
            inputs=[
                _settings_input(),
                *group_inputs(cls.GROUP, cls.ADVANCED),
                *group_inputs(groups.SharingSettings, **optional),
            ],
            outputs=[_settings_output()],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool | str:
        found = super().validate_inputs(**values)
        return _problem(groups.SharingSettings, values, "sharing.") if found is True else found

    @classmethod
    def execute(cls, settings: RunSettings, **values: Any) -> io.NodeOutput:
        given = {name: values.pop(name) for name in cls.SHARING if name in values}
        sharing = groups.SharingSettings.from_json(settings.sharing.to_json() | given, "sharing.")
        return super().execute(dataclasses.replace(settings, sharing=sharing), **values)


class CocktailSample(io.ComfyNode):
    """One picture to draw during a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        text = {"multiline": True}
        return schema(
            node_id="CocktailSample",
            display_name="Sample",
            category=CATEGORY,
            description="Adds one picture to those that a run draws while it works. Chain as many "
            "as you like; Sample Settings says when they are drawn.",
            search_aliases=[
                "sample prompt",
                "sample_prompts.txt",
                "preview during training",
                "test image",
            ],
            inputs=[
                _settings_input(),
                *group_inputs(groups.SamplePrompt, prompt=text, negative=text),
            ],
            outputs=[_settings_output("The settings with one more sample.")],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool | str:
        return _problem(groups.SamplePrompt, values, "samples.prompts.")

    @classmethod
    def execute(cls, settings: RunSettings, **values: Any) -> io.NodeOutput:
        samples = settings.samples
        prompts = (*samples.prompts, groups.SamplePrompt.from_json(values, "samples.prompts."))
        return io.NodeOutput(
            dataclasses.replace(settings, samples=dataclasses.replace(samples, prompts=prompts))
        )


class CocktailSampleSettings(_GroupNode):
    """When samples are drawn."""

    GROUP, FIELD = groups.SamplesSettings, "samples"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailSampleSettings",
            display_name="Sample Settings",
            description="When a run draws its samples. The Sample nodes before or after this one "
            "say what it draws.",
            search_aliases=["sample_steps", "sample every n steps", "preview during training"],
        )

    @classmethod
    def execute(cls, settings: RunSettings, **values: Any) -> io.NodeOutput:
        samples = dataclasses.replace(settings.samples, **values)
        return io.NodeOutput(dataclasses.replace(settings, samples=samples))


class CocktailSavingSettings(_GroupNode):
    """Which checkpoints are saved and kept."""

    GROUP, FIELD = groups.SavingSettings, "saving"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailSavingSettings",
            display_name="Saving Settings",
            description="Which checkpoints a run saves and keeps in addition to those of "
            "save_every_epochs, and how often it writes a resume point.",
            search_aliases=[
                "save every n steps",
                "keep last checkpoints",
                "ckpt_every_n_minutes",
                "resume point",
            ],
        )


class CocktailLoggingSettings(_GroupNode):
    """What is written down."""

    GROUP, FIELD = groups.LoggingSettings, "logging"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.group_schema(
            node_id="CocktailLoggingSettings",
            display_name="Logging Settings",
            description="What a run records besides losses and learning rates.",
            search_aliases=["wandb", "Weights & Biases", "gradient norm", "log_step"],
        )


def _shown(settings: RunSettings, text: str, with_text: bool = False) -> io.NodeOutput:
    """The settings, with the text under the node, for API clients and, if asked for, as output."""
    show_text(text)
    return io.NodeOutput(settings, *([text] if with_text else []), ui=_ui(settings, text))


def _ui(settings: RunSettings, text: str) -> dict[str, list]:
    return {"text": [text], "cocktail": [{"settings": settings.to_json()}]}
