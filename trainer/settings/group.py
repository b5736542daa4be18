"""A group of settings: frozen values that know their bounds and describe themselves, JSON in and
out.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ..errors import TrainerError, nearest

G = TypeVar("G", bound="Group")


def setting(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    step: float | None = None,
) -> Any:
    """A field of a group: its default, what it means (the node's tooltip), its bounds or its
    choices, the node's step.
    """
    known = {"text": text, "low": low, "high": high, "choices": choices, "step": step}
    return dataclasses.field(default=default, metadata=known)


@dataclass(frozen=True)
class Group:
    """Base of all groups. Types follow the defaults, bounds and choices stand in each field's
    metadata.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = check_type(self.path(field.name), getattr(self, field.name), field.default)
            object.__setattr__(self, field.name, value)
            low, high = field.metadata.get("low"), field.metadata.get("high")
            check_value(self.path(field.name), value, low, high, field.metadata.get("choices"))

    @classmethod
    def path(cls, name: str) -> str:
        """How a message names a setting of this group."""
        return f"{cls.__name__.removesuffix('Settings').lower()}.{name}"

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }

    def changed(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def from_json(cls: type[G], value: Any, prefix: str = "") -> G:
        """Raises TrainerError for an unknown key, naming the nearest known one, and for a wrong
        value.

        `prefix` is how messages name the group, such as "text_encoder_optimizer."; without it the
        group's kind.
        """
        prefix = prefix or cls.path("")
        check_keys(cls, value, prefix)
        for field in fields(cls):
            if field.name in value:
                entry = check_type(prefix + field.name, value[field.name], field.default)
                low, high = field.metadata.get("low"), field.metadata.get("high")
                check_value(prefix + field.name, entry, low, high, field.metadata.get("choices"))
        return cls(**value)


def check_keys(cls: type, value: Any, prefix: str = "") -> None:
    """Raise TrainerError when a JSON object has a key that is no field of `cls`."""
    if not isinstance(value, dict):
        raise TrainerError(f"{prefix.rstrip('.') or 'Run settings'} must be a JSON object.")
    known = [field.name for field in fields(cls)]
    for key in value:
        if key not in known:
            hint = nearest(
                prefix + key, [prefix + name for name in known], lambda name: name[len(prefix) :]
            )
            raise TrainerError(f"Unknown run setting {prefix + key!r}.{hint}")


def check_type(path: str, value: Any, default: Any) -> Any:
    """The value, an int made a float where the default is one. Raises TrainerError when it is of
    another type.
    """
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is tuple and type(value) is list:
        return tuple(value)
    if type(value) is not wanted:
        raise TrainerError(
            f"Run setting {path} must be of type {wanted.__name__}, but is {value!r}."
        )
    return value


def check_value(
    path: str, value: Any, low: float | None, high: float | None, choices: Any = ()
) -> None:
    """Raise TrainerError when a value is outside its bounds or none of its choices."""
    if low is not None and high is not None and not low <= value <= high:
        raise TrainerError(f"Run setting {path} is {value}; it must be between {low} and {high}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise TrainerError(f"Run setting {path} is {value}; it must be a finite number.")
    if choices and value not in choices:
        raise TrainerError(
            f"Run setting {path} is {value!r}; it must be one of {', '.join(choices)}."
        )
