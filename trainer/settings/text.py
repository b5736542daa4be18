"""Run settings as text: `name = value` lines to read, and the same lines to change them by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import TrainerError, nearest
from .groups import GROUPS
from .run_settings import RunSettings


def changed_by(settings: RunSettings, lines: Iterable[str]) -> RunSettings:
    """The settings changed by lines such as `epochs = 20`, `loss.min_snr_gamma = 5` and
    `learning_rate *= 0.5`, which multiplies; empty lines and `# remarks` do not count.

    A value is JSON (5, 1e-6, true, "text"); anything else is taken as text. All lines count at
    once, so that their order and settings that need each other do not matter. Raises TrainerError
    for an unknown name, a name that appears twice, and for what RunSettings refuses.
    """
    value = settings.to_json()
    seen = set()
    for line in lines:
        if not line.strip() or line.strip().startswith("#"):
            continue
        name, equals, text = line.partition("=")
        factor = name.endswith("*")
        name = name.removesuffix("*").strip()
        if not equals:
            raise TrainerError(
                f"{line.strip()!r} changes no setting. Write NAME = VALUE, such as epochs = 20."
            )
        if name in seen:
            raise TrainerError(f"Run setting {name} is given twice. Leave one of them out.")
        seen.add(name)
        holder, key = _place(value, name)
        read = _times if factor else _value
        holder[key] = read(text.strip(), holder[key])
    return RunSettings.from_json(value)


def changed_to(settings: RunSettings, changes: Mapping[str, Any]) -> RunSettings:
    """The settings with other values by full name, such as {"loss.min_snr_gamma": 5}. Raises
    TrainerError for an unknown name and for what RunSettings refuses.
    """
    value = settings.to_json()
    for name, entry in changes.items():
        holder, key = _place(value, name)
        holder[key] = entry
    return RunSettings.from_json(value)


def setting_lines(settings: RunSettings) -> Iterator[tuple[str, Any, bool]]:
    """(name, value as plain data, whether it differs from the default) of every setting, in their
    order.
    """
    default = dict(_flat(RunSettings().to_json()))
    for name, value in _flat(settings.to_json()):
        yield name, value, value != default[name]


def describe(settings: RunSettings, everything: bool = True) -> str:
    """The settings as `name = value` lines that `changed_by` reads: what differs from the defaults,
    then, if asked for, the rest.
    """
    lines = list(setting_lines(settings))
    changed = [_line(name, value) for name, value, differs in lines if differs]
    text = (
        "\n".join(["# differs from the defaults:", *changed])
        if changed
        else "# all settings are at their defaults"
    )
    if everything:
        rest = [_line(name, value) for name, value, differs in lines if not differs]
        text += "\n\n" + "\n".join(["# at their defaults:", *rest])
    return text


def _line(name: str, value: Any) -> str:
    return f"{name} = {value if _is_plain(value) else json.dumps(value, ensure_ascii=False)}"


def _is_plain(value: Any) -> bool:
    """Whether a text stays itself when it is read without quotes."""
    return (
        isinstance(value, str)
        and value == value.strip()
        and bool(value)
        and "\n" not in value
        and _value(value, "") == value
        and not value.startswith(("[", "{", '"'))
    )


def _flat(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        if name in GROUPS:
            yield from ((f"{name}.{key}", inner) for key, inner in entry.items())
        else:
            yield name, entry


def _place(value: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The object and the key that a name such as `loss.min_snr_gamma` stands for."""
    group, dot, key = name.partition(".")
    if not dot and name in value and name not in GROUPS:
        return value, name
    if dot and group in GROUPS and key in value[group]:
        return value[group], key
    known = [known for known, _ in _flat(value)]
    raise TrainerError(f"Unknown run setting {name!r}.{nearest(name, known)}")


def _value(text: str, old: Any) -> Any:
    """What a text says: JSON, or itself. Where a text stands now, only quotes make it anything but
    itself.
    """
    if isinstance(old, str) and not text.startswith('"'):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def _times(text: str, old: Any) -> float:
    """A number times the factor that a text says."""
    factor = _value(text, None)
    for number in (old, factor):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TrainerError(f"{number!r} is no number: *= multiplies. Write NAME = VALUE.")
    return old * factor


def clip_skip_words(clip_skip: int) -> str:
    """Clip skip in the three ways to count it: ours and A1111's, ComfyUI's, EveryDream2's."""
    everydream = "0 or 1" if clip_skip == 1 else str(clip_skip)
    return f"clip skip {clip_skip} (ComfyUI -{clip_skip}, EveryDream2 {everydream})"
