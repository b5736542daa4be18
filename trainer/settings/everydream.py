"""EveryDream2's train.json, optimizer.json and validation.json as run settings, with a report of
every key.

The keys and what they do are EveryDream2's of March 2023 (3744bc0), October 2023 (bc1058a) and May
2025 (5098db8). A key that is not in train.json counts as EveryDream2's own default counts. Its
command line, which can overrule the files, is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import TrainerError, nearest
from .everydream_keys import (
    DEAD,
    ELSEWHERE,
    FREEZING_KEYS,
    OPTIMIZER_KEYS,
    OPTIMIZER_TOP_KEYS,
    TRAIN_KEYS,
    VALIDATION_KEYS,
    Kinds,
)
from .run_settings import RunSettings
from .strict_json import parse_object

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw 8 bit",
    "lion": "lion",
    "lion8bit": "lion",
    "prodigy": "prodigy",
    "dadapt_adam": "d-adapt adam",
    "dadapt_adan": "d-adapt adan",
    "dadapt_lion": "d-adapt lion",
    "dadapt_sgd": "d-adapt sgd",
}
LOSSES = {"mse": "mse", "huber": "huber", "mse_huber": "huber to mse", "huber_mse": "mse to huber"}
ATTENTIONS = {"sdp": "sdpa", "xformers": "xformers", "slice": "sliced"}
SCHEDULES = {
    "constant": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "polynomial": "polynomial",
}
END_SHARES = {"constant": 0.0, "linear": 0.34, "cosine": 0.26, "polynomial": 0.34}
"""What is left of the rate at the end of a run when EveryDream2 stretches the schedule to 1.5 times
the run.
"""


@dataclass(frozen=True)
class Line:
    """What became of a key: "taken" as it is, "translated", or "ignored", and how or why."""

    file: str
    key: str
    value: Any
    fate: str
    text: str

    def __str__(self) -> str:
        return f"{self.file} {self.key} = {self.value!r}: {self.fate}, {self.text}"


@dataclass(frozen=True)
class Imported:
    """Settings and where they came from."""

    settings: RunSettings
    lines: tuple[Line, ...]

    def report(self) -> str:
        """A line for each key: first those that were ignored though they ask for something, then
        the rest.
        """
        counts = ", ".join(
            f"{sum(line.fate == fate for line in self.lines)} {fate}"
            for fate in ("taken", "translated", "ignored")
        )
        return "\n".join([f"{len(self.lines)} keys: {counts}", *map(str, self.lines)])


def import_everydream(
    train: str, optimizer: str = "", validation: str = "", steps_per_epoch: int = 0
) -> Imported:
    """Run settings from the texts of EveryDream2's files; an empty text is a file that is not
    there.

    `steps_per_epoch` (batches in an epoch) turns what EveryDream2 derives from the length of a run
    into steps; at 0 the nearest shares are taken. Raises TrainerError for a text that is no JSON, a
    value of the wrong type, and an optimizer that there is none of here.
    """
    reading = _Reading(steps_per_epoch)
    values = _checked("train.json", parse_object(train, "train.json"), TRAIN_KEYS)
    reading.train(values)
    file = "optimizer.json"
    reading.optimizers(parse_object(optimizer, file) if optimizer.strip() else {}, values)
    if validation.strip():
        name = "validation.json"
        reading.validation(_checked(name, parse_object(validation, name), VALIDATION_KEYS))
    elif values.get("validation_config") is None:
        # EveryDream2 does not validate then; the smallest that a run does here is after its last
        # epoch.
        reading.settings.setdefault("validation", {})["every_epochs"] = 0
    return Imported(RunSettings.from_json(reading.settings), tuple(reading.lines))


@dataclass
class _Reading:
    """Settings and report lines as they come together."""

    steps_per_epoch: int
    settings: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    file: str = "train.json"

    def say(self, key: str, value: Any, fate: str, text: str) -> None:
        self.lines.append(Line(self.file, key, value, fate, text))

    def put(self, name: str, value: Any) -> None:
        """Set `name` or `group.name`."""
        group, dot, key = name.partition(".")
        if dot:
            self.settings.setdefault(group, {})[key] = value
        else:
            self.settings[name] = value

    def take(self, key: str, value: Any, name: str) -> None:
        self.put(name, value)
        self.say(key, value, "taken", f"as {name}")

    def translate(self, key: str, value: Any, name: str, to: Any, why: str) -> None:
        self.put(name, to)
        self.say(key, value, "translated", f"{name} = {to!r}: {why}")

    def steps(self, batches: float) -> int:
        """EveryDream2 counts batches where Cocktail counts optimizer steps."""
        return max(1, round(batches / self.settings["data"]["accumulate"]))

    def train(self, given: dict[str, Any]) -> None:
        """train.json."""
        values = {name: default for name, (_, default) in TRAIN_KEYS.items()} | given
        for key in ("grad_accum", "max_epochs"):
            if values[key] < 1:
                raise TrainerError(f"train.json: {key} is {values[key]}; it must be at least 1.")
        self.put("bucket_table", "EveryDream2")
        self.put("data", {"accumulate": values["grad_accum"], "crop_jitter": 0.02})
        self.put("data.crop_variants", 4)
        for key in given:
            if key not in TRAIN_KEYS:
                self.say(key, given[key], "ignored", _unknown(key, tuple(TRAIN_KEYS) + tuple(DEAD)))
            elif key in ELSEWHERE:
                self.say(key, given[key], "ignored", ELSEWHERE[key])
        for key, name in PLAIN.items():
            self._plain(key, values[key], name, key in given)
        self._numbers(values, given)
        self._saving(values, given)
        self._switches(values, given)
        self._ema(values, given)

    def _plain(self, key: str, value: Any, name: str, given: bool) -> None:
        if given:
            self.take(key, value, name)
        else:
            self.put(name, value)
            self.say(
                key,
                value,
                "translated",
                f"{name} = {value!r}: not in the file, EveryDream2's own default",
            )

    def _numbers(self, values: dict[str, Any], given: dict[str, Any]) -> None:
        seed = values["seed"]
        if seed < 0:
            self.translate(
                "seed", seed, "seed", 555, "-1 draws a seed by chance; runs here can be repeated"
            )
        else:
            self._plain("seed", seed, "seed", "seed" in given)
        skip = values["clip_skip"]
        self.translate(
            "clip_skip", skip, "clip_skip", min(max(skip, 1), 4), "0 and 1 are both the last layer"
        )
        accumulate = values["grad_accum"]
        if accumulate > 1:
            self.translate(
                "grad_accum",
                accumulate,
                "data.accumulate",
                accumulate,
                "the loss is their mean here, their sum in EveryDream2",
            )
        elif "grad_accum" in given:
            self.take("grad_accum", accumulate, "data.accumulate")
        clip = values["clip_grad_norm"]
        if clip is None:
            self.translate("clip_grad_norm", clip, "gradient_clip", 0.0, "null is no clipping")
        else:
            self.translate(
                "clip_grad_norm",
                clip,
                "gradient_clip",
                float(clip),
                "UNet and text encoder each; EveryDream2 clips the UNet only",
            )
        for key, name in (
            ("min_snr_gamma", "loss.min_snr_gamma"),
            ("pyramid_noise_discount", "loss.pyramid_noise"),
        ):
            if values[key] is not None:
                self._plain(key, float(values[key]), name, key in given)
            elif key in given:
                self.translate(key, None, name, 0.0, "null is off")
        loss = values["loss_type"]
        kind = _choice("train.json", "loss_type", loss, LOSSES)
        if "loss_type" not in given:
            self.translate(
                "loss_type",
                "mse",
                "loss.kind",
                "mse",
                "not in the file; the loss of all versions of 2023",
            )
        elif loss in ("mse", "huber"):
            self.take("loss_type", loss, "loss.kind")
        else:
            self.translate(
                "loss_type",
                loss,
                "loss.kind",
                kind,
                "as EveryDream2 computes it, which is the other way round than it says",
            )
        if "flip_p" in given:
            self.translate(
                "flip_p",
                given["flip_p"],
                "data.flip",
                float(given["flip_p"]),
                "as documented; EveryDream2 of 2025 does not use it",
            )
        if values["embedding_perturbation"]:
            self.say(
                "embedding_perturbation",
                values["embedding_perturbation"],
                "ignored",
                "there is no noise on text embeddings here",
            )
        elif "embedding_perturbation" in given:
            self.say("embedding_perturbation", 0.0, "ignored", "it is off")

    def _saving(self, values: dict[str, Any], given: dict[str, Any]) -> None:
        epochs, minutes = values["save_every_n_epochs"], values["ckpt_every_n_minutes"]
        if epochs:
            self.translate(
                "save_every_n_epochs",
                epochs,
                "save_every_epochs",
                epochs,
                "at the epoch's end, not one step later; the best and the last are saved as well",
            )
        else:
            last = values["max_epochs"]
            self.translate(
                "save_every_n_epochs",
                epochs,
                "save_every_epochs",
                last,
                "none but the best and the last",
            )
        if minutes:
            self.translate(
                "ckpt_every_n_minutes",
                minutes,
                "saving.every_minutes",
                float(minutes),
                "the same minutes",
            )
        elif not epochs:
            self.translate(
                "ckpt_every_n_minutes",
                minutes,
                "saving.every_minutes",
                20.0,
                "EveryDream2 saves every 20 minutes when it is told nothing",
            )
        elif "ckpt_every_n_minutes" in given:
            self.translate(
                "ckpt_every_n_minutes", minutes, "saving.every_minutes", 0.0, "null is never"
            )
        first = values["save_ckpts_from_n_epochs"]
        if "save_ckpts_from_n_epochs" in given:
            why = (
                "0 leaves nothing out"
                if not first
                else "checkpoints are saved from the first on; saving.keep_last removes old ones"
            )
            self.say("save_ckpts_from_n_epochs", first, "ignored", why)
        full = values["save_full_precision"]
        if full:
            self.translate("save_full_precision", full, "save_precision", "fp32", "the same")
        elif "save_full_precision" in given:
            self.translate("save_full_precision", full, "save_precision", "fp16", "the same")

    def _switches(self, values: dict[str, Any], given: dict[str, Any]) -> None:
        off = values["disable_textenc_training"]
        self.translate(
            "disable_textenc_training",
            off,
            "train_text_encoder",
            not off,
            "the same; off saves its time and memory here",
        )
        if "disable_unet_training" in given:
            off = given["disable_unet_training"]
            self.translate("disable_unet_training", off, "layers.train_unet", not off, "the same")
        if values["disable_amp"]:
            self.translate("disable_amp", True, "precision", "fp32", "the same")
        else:
            self.translate(
                "disable_amp",
                False,
                "precision",
                "bf16",
                "EveryDream2 uses fp16; bf16 needs no loss scaling. On NVIDIA cards before 2020 choose fp16",
            )
        attention = values["attn_type"]
        if "attn_type" in given:
            to = _choice("train.json", "attn_type", attention, ATTENTIONS)
            self.translate("attn_type", attention, "compute.attention", to, "the same")
        if "disable_xformers" in given:
            self.translate(
                "disable_xformers",
                given["disable_xformers"],
                "compute.attention",
                self.settings.get("compute", {}).get("attention", "sdpa"),
                "which attention is used changes speed, not results",
            )
        steps = max(0, values["sample_steps"])
        why = "batches counted as optimizer steps; the prompts come from Sample nodes"
        self.translate(
            "sample_steps", steps, "samples.every_steps", self.steps(steps) if steps else 0, why
        )
        if values["enable_zero_terminal_snr"]:
            self.say(
                "enable_zero_terminal_snr",
                True,
                "ignored",
                "it makes sense with v-prediction only: set loss.prediction and loss.zero_terminal_snr together",
            )
        elif "enable_zero_terminal_snr" in given:
            self.say(
                "enable_zero_terminal_snr",
                given["enable_zero_terminal_snr"],
                "ignored",
                "it is off",
            )

    def _ema(self, values: dict[str, Any], given: dict[str, Any]) -> None:
        decay, strength = values["ema_decay_rate"], values["ema_strength_target"]
        interval = values["ema_update_interval"] or 500
        if strength is not None and not 0.0 < strength < 1.0:
            raise TrainerError(
                f"train.json: ema_strength_target is {strength}; it must be between 0 and 1."
            )
        if strength is not None and self.steps_per_epoch:
            accumulate = self.settings["data"]["accumulate"]
            batches = self.steps_per_epoch * values["max_epochs"]
            updates = max(1, batches // (interval * accumulate))
            decay = strength ** (1 / updates)
            self.translate(
                "ema_strength_target",
                strength,
                "ema.decay",
                min(decay, 0.999999),
                f"for {updates} updates in the run",
            )
        elif strength is not None:
            self.say(
                "ema_strength_target",
                strength,
                "ignored",
                "it needs the number of batches in an epoch: give steps_per_epoch, or set ema.decay",
            )
        elif "ema_strength_target" in given:
            self.say("ema_strength_target", None, "ignored", "it is off")
        if strength is None and decay is not None:
            self.translate(
                "ema_decay_rate",
                decay,
                "ema.decay",
                float(decay),
                "the same, but for a warm-up of the decay",
            )
        elif "ema_decay_rate" in given:
            why = "ema_strength_target decides" if strength is not None else "it is off"
            self.say("ema_decay_rate", given["ema_decay_rate"], "ignored", why)
        on = self.settings.get("ema", {}).get("decay")
        if on:
            self.translate(
                "ema_update_interval",
                values["ema_update_interval"],
                "ema.every_steps",
                interval,
                "optimizer steps; null would be a crash in EveryDream2, 500 is its default",
            )
            device = "cpu" if (values["ema_device"] or "cpu") == "cpu" else "as the weights"
            self.translate("ema_device", values["ema_device"], "ema.device", device, "the same")
        for key in ("ema_update_interval", "ema_device"):
            if key in given and not on:
                self.say(key, given[key], "ignored", "there is no EMA without a decay")

    def optimizers(self, given: dict[str, Any], train: dict[str, Any]) -> None:
        """optimizer.json, with what train.json says of learning rate and schedule."""
        self.file = "optimizer.json"
        flat = "base" not in given and any(key in given for key in OPTIMIZER_KEYS)
        if flat:
            top = {key: value for key, value in given.items() if key not in OPTIMIZER_KEYS}
            base = {key: value for key, value in given.items() if key in OPTIMIZER_KEYS}
        else:
            top, base = dict(given), _object(given, "base")
        _checked("optimizer.json", base, OPTIMIZER_KEYS, "" if flat else "base.")
        overrides = _object(given, "text_encoder_overrides")
        _checked("optimizer.json", overrides, OPTIMIZER_KEYS, "text_encoder_overrides.")
        for key, value in top.items():
            if key in ("base", "text_encoder_overrides", "text_encoder_freezing"):
                continue
            known = OPTIMIZER_TOP_KEYS
            if key == "text_encoder_lr_scale":
                continue
            self.say(
                key,
                "..." if isinstance(value, dict) else value,
                "ignored",
                known.get(key) or _unknown(key, tuple(known)),
            )
        for prefix, part in (
            ("" if flat else "base.", base),
            ("text_encoder_overrides.", overrides),
        ):
            for key in part:
                if key not in OPTIMIZER_KEYS:
                    self.say(
                        prefix + key, part[key], "ignored", _unknown(key, tuple(OPTIMIZER_KEYS))
                    )
        inherited = {
            key: base.get(key)
            for key in (
                "optimizer",
                "lr",
                "lr_scheduler",
                "lr_decay_steps",
                "lr_warmup_steps",
                "betas",
                "epsilon",
                "weight_decay",
            )
        }
        for key in ("lr", "lr_scheduler", "lr_decay_steps", "lr_warmup_steps"):
            if train.get(key) is not None and (key == "lr" or not inherited[key]):
                inherited[key] = train[key]
        mine = {key: value for key, value in base.items() if key not in inherited}
        self._part(
            "unet_optimizer", "learning_rate", "" if flat else "base.", inherited | mine, base
        )
        own = {key: value for key, value in overrides.items() if value is not None}
        if train.get("lr") is not None:
            own["lr"] = train["lr"]
        self._part(
            "text_encoder_optimizer",
            "text_encoder_learning_rate",
            "text_encoder_overrides.",
            inherited | own,
            overrides,
        )
        self._lr_keys(train)
        scale = given.get("text_encoder_lr_scale")
        if scale is not None and flat:
            _type("optimizer.json", "text_encoder_lr_scale", scale, (float,))
            self.take("text_encoder_lr_scale", float(scale), "layers.text_encoder_rate_scale")
        elif "text_encoder_lr_scale" in given:
            self.say(
                "text_encoder_lr_scale",
                scale,
                "ignored",
                OPTIMIZER_TOP_KEYS["text_encoder_lr_scale"],
            )
        freezing = _object(given, "text_encoder_freezing")
        self._freezing(
            _checked("optimizer.json", freezing, FREEZING_KEYS, "text_encoder_freezing.")
        )

    def _part(
        self, part: str, rate: str, prefix: str, values: dict[str, Any], given: dict[str, Any]
    ) -> None:
        """One part's optimizer. `values` is what counts for it, `given` what its own object says."""

        def note(key: str, fate: str, text: str) -> None:
            if key in given:
                self.say(prefix + key, given[key], fate, text)

        name = (values.get("optimizer") or "adamw8bit").lower()
        if name not in OPTIMIZERS:
            raise TrainerError(
                f"optimizer.json: {prefix}optimizer is {name!r}, which is not known here."
                f"{nearest(name, OPTIMIZERS)} There are: {', '.join(OPTIMIZERS)}."
            )
        self.put(f"{part}.optimizer", OPTIMIZERS[name])
        remarks = {
            "dadapt_adan": "; EveryDream2 takes AdamW 8 bit without a word",
            "lion8bit": "; its state in fp32",
        }
        note(
            "optimizer",
            "translated",
            f"{part}.optimizer = {OPTIMIZERS[name]!r}{remarks.get(name, '')}",
        )
        self.put(rate, float(values["lr"]) if values.get("lr") is not None else 1e-6)
        note(
            "lr",
            "taken" if values.get("lr") is not None else "translated",
            f"as {rate} = {self.settings[rate]:g}",
        )
        betas = values.get("betas") or [0.9, 0.999]
        if len(betas) != 2 or any(type(beta) not in (int, float) for beta in betas):
            raise TrainerError(
                f"optimizer.json: {prefix}betas is {betas!r}; it must be two numbers."
            )
        self.put(f"{part}.beta1", float(betas[0]))
        self.put(f"{part}.beta2", float(betas[1]))
        note("betas", "translated", f"{part}.beta1 and beta2")
        for key, default in (
            ("epsilon", 1e-8),
            ("weight_decay", 0.01),
            ("d0", 1e-6),
            ("momentum", 0.0),
        ):
            value = values.get(key)
            self.put(f"{part}.{key}", float(default if value is None else value))
            note(key, "taken", f"as {part}.{key} = {self.settings[part][key]:g}")
        growth = values.get("growth_rate")
        limited = growth is not None and growth != float("inf")
        self.put(f"{part}.growth_rate", float(growth) if limited and growth is not None else 0.0)
        note(
            "growth_rate",
            "translated",
            f"{part}.growth_rate = {self.settings[part]['growth_rate']:g}; 0 is no limit",
        )
        for key in ("decouple", "safeguard_warmup"):
            value = values.get(key)
            self.put(f"{part}.{key}", True if value is None else value)
            note(key, "taken", f"as {part}.{key}")
        note("no_prox", "ignored", "it belongs to an optimizer that EveryDream2 cannot choose")
        self._schedule(part, prefix, values, given)

    def _schedule(
        self, part: str, prefix: str, values: dict[str, Any], given: dict[str, Any]
    ) -> None:
        schedule = _choice(
            "optimizer.json",
            f"{prefix}lr_scheduler",
            values.get("lr_scheduler") or "constant",
            SCHEDULES,
        )
        self.put(f"{part}.schedule", schedule)
        decay, warmup = values.get("lr_decay_steps") or 0, values.get("lr_warmup_steps")
        told = ""
        batches = self.steps_per_epoch * self.settings["epochs"]
        if schedule == "constant":
            self.put(f"{part}.decay_steps", 0)
            self.put(f"{part}.warmup_steps", 0)
            told = "a constant rate has neither warm-up nor decay"
        elif decay or batches:
            decay = decay if decay >= 1 else int(batches * 1.5)
            warmup = warmup or int(decay / 50)
            self.put(f"{part}.decay_steps", self.steps(decay))
            self.put(f"{part}.warmup_steps", self.steps(warmup) if warmup else 0)
            told = f"in optimizer steps: {self.settings[part]['warmup_steps']} of warm-up, {self.settings[part]['decay_steps']} to the end of the schedule"
        else:
            self.put(f"{part}.end_share", END_SHARES[schedule])
            self.put(f"{part}.warmup_steps", self.steps(warmup) if warmup else 0)
            told = f"EveryDream2 stretches the schedule to 1.5 times the run, so that {END_SHARES[schedule]:.0%} is left at its end: {part}.end_share. "
            told += "Its warm-up of 3 % of the run needs steps_per_epoch" if not warmup else ""
        for key in ("lr_scheduler", "lr_decay_steps", "lr_warmup_steps"):
            if key in given:
                what = f"{part}.schedule = {schedule!r}" if key == "lr_scheduler" else told
                self.say(prefix + key, given[key], "translated", what)

    def _lr_keys(self, train: dict[str, Any]) -> None:
        """The keys of train.json that optimizer.json's stand beside."""
        self.file = "train.json"
        for key in ("lr", "lr_scheduler", "lr_decay_steps", "lr_warmup_steps"):
            if key not in train:
                continue
            if key == "lr" and train[key] is not None:
                self.say(
                    key,
                    train[key],
                    "translated",
                    "learning_rate and text_encoder_learning_rate: over those of optimizer.json",
                )
            elif train[key] in (None, 0):
                self.say(key, train[key], "ignored", "optimizer.json decides")
            else:
                self.say(key, train[key], "translated", "where optimizer.json says nothing")
        self.file = "optimizer.json"

    def _freezing(self, values: dict[str, Any]) -> None:
        last, front = values.get("unfreeze_last_n_layers"), values.get("freeze_front_n_layers")
        if front is not None and "unfreeze_last_n_layers" not in values:
            last = -front if front < 0 else 12 - front
        if last is not None and last < 1:
            raise TrainerError(
                f"optimizer.json: text_encoder_freezing leaves {last} layers to learn; it must be 1 to 12."
            )
        some = last is not None and last < 12
        self.put("layers.text_encoder_last_layers", last if some else 0)
        frozen = values.get("freeze_embeddings")
        self.put("layers.freeze_embeddings", some if frozen is None else frozen)
        self.put("layers.freeze_final_norm", bool(values.get("freeze_final_layer_norm")))
        told = {
            "unfreeze_last_n_layers": f"layers.text_encoder_last_layers = {last if some else 0}, layers.freeze_embeddings = {self.settings['layers']['freeze_embeddings']}",
            "freeze_front_n_layers": f"layers.text_encoder_last_layers = {last if some else 0}",
            "freeze_embeddings": "layers.freeze_embeddings",
            "freeze_final_layer_norm": "layers.freeze_final_norm",
        }  # fmt: skip
        for key, value in values.items():
            fate = "translated" if key in told else "ignored"
            self.say(
                f"text_encoder_freezing.{key}",
                value,
                fate,
                told.get(key) or _unknown(key, tuple(told)),
            )

    def validation(self, values: dict[str, Any]) -> None:
        """validation.json."""
        self.file = "validation.json"
        for key, value in values.items():
            if key not in VALIDATION_KEYS:
                self.say(key, value, "ignored", _unknown(key, tuple(VALIDATION_KEYS)))
        every = values.get("every_n_epochs", 1)
        if every <= 0:
            raise TrainerError(f"validation.json: every_n_epochs is {every}; it must be above 0.")
        if every >= 1:
            self.put("validation.every_epochs", round(every))
            told = f"validation.every_epochs = {round(every)}"
        elif self.steps_per_epoch:
            steps = self.steps(self.steps_per_epoch * every)
            self.put("validation.every_epochs", 1)
            self.put("validation.every_steps", steps)
            told = f"validation.every_steps = {steps}"
        else:
            self.put("validation.every_epochs", 1)
            told = (
                "after every epoch; more often needs steps_per_epoch, or set validation.every_steps"
            )
        share = float(values.get("stabilize_split_proportion", 0.15))
        stabilised = values.get("stabilize_training_loss", False)
        self.put("validation.train_share", share if stabilised else 0.0)
        told_of = {
            "every_n_epochs": told,
            "stabilize_training_loss": f"validation.train_share = {share if stabilised else 0.0}",
            "stabilize_split_proportion": "validation.train_share"
            if stabilised
            else "stabilize_training_loss is off",
        }
        for key, value in values.items():
            if key in told_of:
                self.say(key, value, "translated", told_of[key])
            elif key in VALIDATION_KEYS:
                self.say(
                    key,
                    "..." if isinstance(value, dict) and value else value,
                    "ignored",
                    ELSEWHERE[f"validation {key}"],
                )


PLAIN = {
    "resolution": "resolution",
    "batch_size": "batch_size",
    "max_epochs": "epochs",
    "cond_dropout": "conditional_dropout",
    "zero_frequency_noise_ratio": "loss.offset_noise",
    "timestep_start": "loss.timestep_start",
    "timestep_end": "loss.timestep_end",
    "gradient_checkpointing": "compute.gradient_checkpointing",
    "wandb": "logging.wandb",
}
"""Keys of train.json whose values are settings as they stand."""


def _checked(
    file: str, values: dict[str, Any], keys: dict[str, Kinds], prefix: str = ""
) -> dict[str, Any]:
    """The values, all of the types that their keys take. Raises TrainerError for another."""
    for key, value in values.items():
        if key in keys:
            kinds = keys[key][0]
            _type(file, prefix + key, value, kinds)
    return values


def _type(file: str, key: str, value: Any, kinds: tuple[type | None, ...]) -> None:
    allowed = {type(None) if kind is None else kind for kind in kinds}
    if float in allowed:
        allowed.add(int)
    if type(value) not in allowed:
        words = {
            int: "a whole number",
            float: "a number",
            str: "a text",
            bool: "true or false",
            dict: "an object",
            list: "a list",
            type(None): "null",
        }
        kinds_in_words = [words[type(None) if kind is None else kind] for kind in kinds]
        raise TrainerError(f"{file}: {key} is {value!r}; it must be {' or '.join(kinds_in_words)}.")


def _object(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    if value is not None and not isinstance(value, dict):
        raise TrainerError(f"optimizer.json: {key} is {value!r}; it must be an object.")
    return value or {}


def _choice(file: str, key: str, value: str, choices: dict[str, str]) -> str:
    if value not in choices:
        raise TrainerError(f"{file}: {key} is {value!r}; it must be one of {', '.join(choices)}.")
    return choices[value]


def _unknown(key: str, known: tuple[str, ...]) -> str:
    if key in DEAD:
        return DEAD[key]
    return f"EveryDream2 has no such key.{nearest(key, known)}"
