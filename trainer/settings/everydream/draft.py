"""The settings and the report of an import while they come together, and how values are checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...errors import TrainerError, nearest
from ..group import check_type
from .keys import DEAD, Kinds


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


@dataclass
class Draft:
    """What the files have said so far. `file` is the one that is being read."""

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

    def keep(self, key: str, value: Any, name: str, given: bool) -> None:
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

    def steps(self, batches: float) -> int:
        """EveryDream2 counts batches where Cocktail counts optimizer steps."""
        return max(1, round(batches / self.settings["data"]["accumulate"]))


def checked(
    file: str, values: dict[str, Any], keys: dict[str, Kinds], prefix: str = ""
) -> dict[str, Any]:
    """The values, all of the types that their keys take. Raises TrainerError for another."""
    for key, value in values.items():
        if key in keys:
            check_type(f"{file}: {prefix}{key}", value, keys[key][0])
    return values


def choice(file: str, key: str, value: str, choices: dict[str, str]) -> str:
    if value not in choices:
        raise TrainerError(f"{file}: {key} is {value!r}; it must be one of {', '.join(choices)}.")
    return choices[value]


def unknown(key: str, known: tuple[str, ...]) -> str:
    if key in DEAD:
        return DEAD[key]
    return f"EveryDream2 has no such key.{nearest(key, known)}"
