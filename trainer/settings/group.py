"""A group of settings: frozen values that know their bounds and describe themselves, JSON in and
out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from ..errors import TrainerError, nearest

G = TypeVar("G", bound="Group")

WORDS: dict[type | None, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
    list: "a list",
    dict: "an object",
    None: "null",
}


def setting(
    default: Any,
    text: str,
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    step: float | None = None,
) -> Any:
    """A field of a group: its default (MISSING if it must be given), what it means (the node's
    tooltip), its bounds or choices, and the step of its widget. A whole number must be a multiple
    of its step.
    """
    known = {"text": text, "between": between, "choices": choices, "step": step}
    return dataclasses.field(default=default, metadata=known)


@dataclass(frozen=True)
class Group:
    """Base of all groups. A value must be of the type its field is annotated with: bool, int,
    float, str, another group, or a tuple of one of these.
    """

    CALLED: ClassVar[str] = "run setting"
    """What messages call a setting of this group."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = self._checked(field, getattr(self, field.name), "")
            object.__setattr__(self, field.name, value)

    def to_json(self) -> dict[str, Any]:
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def changed(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def from_json(cls: type[G], value: Any, prefix: str = "") -> G:
        """Raises TrainerError for an unknown key, naming the nearest known one, and for a missing
        or wrong value.

        `prefix` is how messages name the group, such as "text_encoder_optimizer.".
        """
        if not isinstance(value, dict):
            group = prefix.rstrip(".") or f"The {cls.CALLED}s"
            raise TrainerError(f"{group} must be a JSON object.")
        known = {prefix + field.name: field for field in fields(cls)}
        for key in value:
            if prefix + key not in known:
                hint = nearest(prefix + key, known, lambda name: name[len(prefix) :])
                raise TrainerError(f"Unknown {cls.CALLED} {prefix + key!r}.{hint}")
        for path, field in known.items():
            if field.default is MISSING and field.name not in value:
                raise TrainerError(f"{cls.CALLED.capitalize()} {path} is missing.")
        return cls(**{key: cls._checked(known[prefix + key], value[key], prefix) for key in value})

    @classmethod
    def _checked(cls, field: dataclasses.Field, value: Any, prefix: str) -> Any:
        return _checked(
            cls.CALLED, prefix + field.name, value, _types(cls)[field.name], **field.metadata
        )


def check_type(path: str, value: Any, types: Iterable[type | None]) -> None:
    """Raise TrainerError when a value is of none of these types; a whole number is a number, too,
    and None stands for null.
    """
    types = tuple(types)
    kind = None if value is None else type(value)
    if kind not in types and not (kind is int and float in types):
        wanted = " or ".join(WORDS[one] for one in types)
        raise TrainerError(f"{path} is {value!r:.200}; it must be {wanted}.")


def _checked(
    called: str,
    path: str,
    value: Any,
    wanted: Any,
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    step: float | None = None,
    **_: Any,
) -> Any:
    """The value as the group keeps it: lists as tuples, objects as groups, whole numbers as floats
    where they belong. Raises TrainerError when it does not fit.
    """
    kind = get_origin(wanted) or wanted
    where = f"{called.capitalize()} {path}"
    if issubclass(kind, Group):
        return value if isinstance(value, kind) else kind.from_json(value, f"{path}.")
    if kind is tuple:
        check_type(where, value, (tuple if isinstance(value, tuple) else list,))
        entry = get_args(wanted)[0]
        return tuple(
            _checked(called, f"{path}[{number}]", one, entry, between, choices, step)
            for number, one in enumerate(value)
        )
    check_type(where, value, (kind,))
    if between and not between[0] <= value <= between[1]:
        low, high = between
        bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise TrainerError(f"{where} is {value}; it must be {bounds}.")
    if choices and value not in choices:
        raise TrainerError(f"{where} is {value!r:.200}; it must be one of {', '.join(choices)}.")
    if kind is int and step and value % step:
        raise TrainerError(f"{where} is {value}; it must be a multiple of {step}.")
    try:
        return kind(value)
    except OverflowError as error:
        raise TrainerError(f"{where} has {len(str(value))} digits; that is too large.") from error


@cache
def _types(group: type[Group]) -> dict[str, Any]:
    return get_type_hints(group)


def _plain(value: Any) -> Any:
    if isinstance(value, Group):
        return value.to_json()
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
