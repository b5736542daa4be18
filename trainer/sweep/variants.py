"""The variants of a sweep: lines such as `clip_skip = 2`, each the baseline with one change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import TrainerError, nearest
from ..jobs.job import NAME
from ..settings.run_settings import RunSettings
from ..settings.text import changed_by, clip_skip_words, setting_lines

BASELINE = "baseline"
MOST = 50
"""The most variants of a sweep."""
_OTHER_PICTURES = "pictures would be measured at other sizes"
_OTHER_TARGET = "the loss would measure something else"
_RANGE_TEST = "a range test validates before its first step only"
NOT_COMPARED = {
    "seed": "the validation would have other noise",
    "validation_timesteps": "the validation would have other noise levels",
    "resolution": _OTHER_PICTURES,
    "bucket_step": _OTHER_PICTURES,
    "bucket_table": _OTHER_PICTURES,
    "loss.prediction": _OTHER_TARGET,
    "loss.zero_terminal_snr": _OTHER_TARGET,
    "range_test.steps": _RANGE_TEST,
    "range_test.start_share": _RANGE_TEST,
    "ema.decay": "the validation loss is that of the plain weights, which EMA leaves as they are",
    "ema.every_steps": "the validation loss is that of the plain weights",
    "ema.device": "the validation loss is that of the plain weights",
    "ema.save": "the validation loss is that of the plain weights",
}
"""Settings whose runs have validation losses that cannot be compared pair by pair, and why."""


@dataclass(frozen=True)
class Variant:
    """A run of a sweep. `setting` and `value` are the one that differs from the baseline, which
    itself has the setting "".
    """

    setting: str
    value: Any
    settings: RunSettings

    @property
    def label(self) -> str:
        """What the variant is called in tables and on sheets."""
        if not self.setting:
            return BASELINE
        if self.setting == "clip_skip":
            return clip_skip_words(self.value)
        return f"{self.setting} {value_text(self.value)}"

    @property
    def suffix(self) -> str:
        """What follows the sweep's name in the name of the run."""
        if not self.setting:
            return BASELINE
        text = re.sub(r"^-", "minus ", value_text(self.value))
        return f"{self.setting}-" + (re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "none")


def value_text(value: Any) -> str:
    """A setting's value in words, as short as it can be: 0.1, 5, true, mse to huber."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def variant_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(number, setting, line) of every line that is neither empty nor a `# remark`. Raises
    TrainerError for one that names no setting, and when there are none or too many.
    """
    known = [name for name, _, _ in setting_lines(RunSettings())]
    count = 0
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        count += 1
        name, equals, value = (part.strip() for part in line.partition("="))
        where = f"Line {number} of the variants ({line:.100})"
        if not equals or not value:
            raise TrainerError(
                f"{where} changes no setting. Write SETTING = VALUE, such as clip_skip = 2."
            )
        if name not in known:
            raise TrainerError(f"{where}: unknown run setting {name!r}.{nearest(name, known)}")
        if name in NOT_COMPARED:
            raise TrainerError(
                f"{where}: runs with another {name} cannot be compared loss by loss, as "
                f"{NOT_COMPARED[name]}. Leave the line out; Loss Chart shows the change of each "
                "run from its own start."
            )
        if count > MOST:
            raise TrainerError(f"A sweep can have {MOST} variants. Leave some out.")
        yield number, name, line
    if not count:
        raise TrainerError(
            "The sweep has no variants. Write one per line, SETTING = VALUE, such as clip_skip = 2."
        )


def read_variants(baseline: RunSettings, text: str) -> list[Variant]:
    """The baseline and then the variants in the order of their lines.

    Raises TrainerError, which names the line, for what is no setting or no value of it, for a
    variant that trains as the baseline or another variant does, and for settings whose runs cannot
    be compared (NOT_COMPARED).
    """
    variants = [Variant("", None, baseline)]
    lines = {_identity(baseline): ""}
    for number, name, line in variant_lines(text):
        where = f"Line {number} of the variants ({line:.100})"
        try:
            settings = changed_by(baseline, [line])
        except TrainerError as error:
            raise TrainerError(f"{where}: {error}") from error
        if settings == baseline:
            raise TrainerError(f"{where}: the baseline has that value already. Leave the line out.")
        same = lines.get(_identity(settings))
        if same == "":
            raise TrainerError(
                f"{where}: {name} changes only what is shown or saved, so the run would be the "
                "baseline again. Leave the line out."
            )
        if same:
            raise TrainerError(f"{where}: {same} is the same run. Leave one of them out.")
        lines[_identity(settings)] = f"line {number}"
        value = {name: value for name, value, _ in setting_lines(settings)}[name]
        variants.append(Variant(name, value, settings))
    return variants


def run_names(sweep: str, variants: list[Variant]) -> list[str]:
    """The name of each run: NAME-baseline, NAME-clip_skip-2. Raises TrainerError when one is too
    long, or two differ in nothing but capitals and marks.
    """
    names = [f"{sweep}-{variant.suffix}" for variant in variants]
    seen: dict[str, str] = {}
    for variant, name in zip(variants, names, strict=True):
        if not NAME.fullmatch(name):
            raise TrainerError(
                f"The run of {variant.label:.100} would be called {name:.200} ({len(name)} "
                "letters); 64 is the most. Give the sweep a shorter name."
            )
        if other := seen.get(name.lower()):
            raise TrainerError(
                f"The runs of {other} and {variant.label} would both be called {name}. Leave one "
                "of them out, or put it into a sweep of another name."
            )
        seen[name.lower()] = variant.label
    return names


def _identity(settings: RunSettings) -> str:
    return repr(settings.identity())
