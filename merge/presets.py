"""The named block weights that merging tools share, and your own ones from a file.

The curves are those of merge-block-weighted's and supermerger's lists, computed by their formulas
over x = 0..1 from the first block to the last and rounded to ten digits like those lists; steps and
tables are taken from the lists. For SDXL a curve is computed for its 19 blocks and a list is
resampled. As in those lists BASE is 0 except in ALL_B: a preset keeps the text encoder of A.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .blocks import LAYOUTS, BlockWeights, block_weights, parse_rules, parse_values
from .errors import MergeError, nearest
from .numbers import json_number, shown, written


def _smooth(x: float) -> float:
    return 3 * x * x - 2 * x**3


def _fold(y: float) -> float:
    y %= 2
    return 2 - y if y > 1 else y


def _hermite(x: float) -> float:
    return 19 / 3 * x**3 - 19 / 2 * x * x + 25 / 6 * x


CURVES: dict[str, Callable[[float], float]] = {
    "GRAD_V": lambda x: abs(1 - 2 * x),
    "GRAD_A": lambda x: 1 - abs(1 - 2 * x),
    "FLAT_25": lambda x: 0.25,
    "FLAT_75": lambda x: 0.75,
    "SMOOTHSTEP": _smooth,
    "REVERSE-SMOOTHSTEP": lambda x: 1 - _smooth(x),
    "COSINE": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "REVERSE_COSINE": lambda x: (1 - math.cos(math.pi * x)) / 2,
    "FAKE_CUBIC_HERMITE": _hermite,
    "FAKE_REVERSE_CUBIC_HERMITE": lambda x: 1 - _hermite(x),
    "ALL_A": lambda x: 0.0,
    "ALL_B": lambda x: 1.0,
}
for _q in (2, 3, 4):
    CURVES |= {
        f"SMOOTHSTEP*{_q}": lambda x, q=_q: _fold(q * _smooth(x)),
        f"R_SMOOTHSTEP*{_q}": lambda x, q=_q: 1 - _fold(q * _smooth(x)),
        f"SMOOTHSTEP/{_q}": lambda x, q=_q: _smooth(_fold(q * x)),
        f"R_SMOOTHSTEP/{_q}": lambda x, q=_q: 1 - _smooth(_fold(q * x)),
    }


def _steps(*ranges: tuple[int, int, float]) -> list[float]:
    """25 numbers: `value` on the blocks first..last of every (first, last, value), else 0."""
    values = [0.0] * 25
    for first, last, value in ranges:
        values[first : last + 1] = [value] * (last + 1 - first)
    return values


_TRUE_HERMITE = [
    0, 0.199032, 0.325762, 0.424642, 0.498457, 0.549992, 0.582031, 0.597361, 0.598765, 0.589030,
    0.570939, 0.547279, 0.520833, 0.494388, 0.470727, 0.452637, 0.442901, 0.444306, 0.459635,
    0.491675, 0.543210, 0.617025, 0.715905, 0.842635, 1,
]  # fmt: skip
_LOW_OFFSET_HERMITE = [
    0, 0.0995, 0.1629, 0.2123, 0.2492, 0.2750, 0.2910, 0.2987, 0.2994, 0.2945, 0.2855, 0.2736,
    0.2615, 0.2494, 0.2457, 0.2376, 0.2229, 0.2243, 0.2346, 0.2477, 0.2732, 0.3120, 0.3609, 0.4226,
    0.5,
]  # fmt: skip
LISTS: dict[str, list[float]] = {
    "WRAP08": _steps((0, 3, 1), (21, 24, 1)),
    "WRAP12": _steps((0, 5, 1), (19, 24, 1)),
    "WRAP14": _steps((0, 6, 1), (18, 24, 1)),
    "WRAP16": _steps((0, 7, 1), (17, 24, 1)),
    "MID12_50": _steps((5, 18, 0.5)),
    "OUT07": _steps((18, 24, 1)),
    "OUT12": _steps((13, 24, 1)),
    "OUT12_5": _steps((12, 12, 0.5), (13, 24, 1)),
    "RING08_5": _steps((6, 9, 1), (15, 18, 1)),
    "RING08_SOFT": _steps(
        (5, 5, 0.5), (6, 8, 1), (9, 9, 0.5), (15, 15, 0.5), (16, 18, 1), (19, 19, 0.5)
    ),
    "RING10_5": _steps((5, 9, 1), (15, 19, 1)),
    "RING10_3": _steps((6, 10, 1), (14, 18, 1)),
    "TRUE_CUBIC_HERMITE": _TRUE_HERMITE,
    "TRUE_REVERSE_CUBIC_HERMITE": [1 - value for value in _TRUE_HERMITE],
    "LOW_OFFSET_CUBIC_HERMITE": _LOW_OFFSET_HERMITE,
}  # fmt: skip
OTHER_NAMES = {
    "REVERSE_SMOOTHSTEP": "REVERSE-SMOOTHSTEP",
    **{f"{q}SMOOTHSTEP": f"SMOOTHSTEP*{q}" for q in (2, 3, 4)},
    **{f"{q}R_SMOOTHSTEP": f"R_SMOOTHSTEP*{q}" for q in (2, 3, 4)},
    **{
        f"{word}_{r}SMOOTHSTEP": f"{r}SMOOTHSTEP/{q}"
        for q, word in ((2, "HALF"), (3, "ONE_THIRD"), (4, "ONE_FOURTH"))
        for r in ("", "R_")
    },
}
"""The spellings that sd-meh uses."""
PRESETS: tuple[str, ...] = (*CURVES, *LISTS)
CUSTOM = "custom"
"""The choice beside the presets' names: numbers of your own instead of a preset."""


def preset(name: str, layout: str = "SD1.5") -> BlockWeights:
    """The block weights of a preset, by its name in either spelling. Raises MergeError for an
    unknown one.
    """
    name = OTHER_NAMES.get(name, name)
    count = len(LAYOUTS[layout])
    if name in CURVES:
        values = [CURVES[name](i / (count - 1)) for i in range(count)]
    elif name in LISTS:
        values = [LISTS[name][round(i * 24 / (count - 1))] for i in range(count)]
    else:
        raise MergeError(
            f"There is no preset {shown(name)}.{nearest(name, PRESETS)} "
            f"Use one of your own, or one of these: {', '.join(PRESETS)}."
        )
    exact = [Fraction(f"{value:.10f}") for value in values]
    return block_weights(exact, base=1 if name == "ALL_B" else 0)


def read_weights(
    text: str,
    layout: str = "SD1.5",
    base: str = "",
    time: str = "",
    rules: str = "",
    own: Mapping[str, BlockWeights] | None = None,
) -> BlockWeights:
    """Block weights from a preset's name (first one of your `own`) or a list of numbers, with
    `base`, `time` and `rules` unless these are empty.

    `layout` is for presets; numbers show theirs by their count. Raises MergeError for any other
    text.
    """
    text = text.strip()
    if own and text in own:
        found = own[text]
    elif text[:1].isalpha() or text in OTHER_NAMES:
        found = preset(text, layout)
    else:
        found = block_weights(parse_values(text))
    return block_weights(
        found.blocks,
        base or found.base,
        time or found.time,
        parse_rules(rules, found.layout),
    )


def curves(own: Mapping[str, BlockWeights]) -> dict[str, dict[str, list[int | float | str]]]:
    """BASE and the blocks of every preset by its name and layout, for JSON. Your own ones have one
    layout and replace built-in ones of the same name.
    """
    found = {
        name: {layout: preset(name, layout) for layout in LAYOUTS}
        for name in (*PRESETS, *OTHER_NAMES)
    }
    found |= {name: {weights.layout: weights} for name, weights in own.items()}
    return {
        name: {
            layout: [json_number(value) for value in (weights.base, *weights.blocks)]
            for layout, weights in layouts.items()
        }
        for name, layouts in found.items()
    }


@dataclass(frozen=True)
class OwnPresets:
    """Your own presets by name, and what is wrong with the other lines of their file."""

    weights: Mapping[str, BlockWeights]
    problems: tuple[str, ...] = ()


def read_own_presets(path: Path) -> OwnPresets:
    """Your own presets from a text file in the usual form: a name, then a tab or a colon, then the
    values. Without a file there are none.

    Empty lines, comments (#) and the heading of supermerger's list are passed over; a line that is
    not a preset is skipped and told.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return OwnPresets({})
    except (OSError, UnicodeDecodeError) as error:
        return OwnPresets({}, (f"{path} cannot be read: {error}.",))
    found, problems = {}, []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#") or line.split() == HEADING:
            continue
        match = re.fullmatch(r"([^\t:]+)[\t:](.+)", line)
        try:
            if not match:
                raise MergeError("write NAME: VALUES")
            found[match[1].strip()] = block_weights(parse_values(match[2]))
        except MergeError as error:
            problems.append(f"Line {number} of {path.name} is not a preset: {error}")
    return OwnPresets(found, tuple(problems))


def read_presets(path: Path) -> Mapping[str, BlockWeights]:
    """Your own presets, as `read_own_presets` finds them."""
    return read_own_presets(path).weights


HEADING = ["preset_name", "preset_weights"]
"""The first line of supermerger's mbwpresets.txt."""
PRESET_NAME = re.compile(r"[^\W\d][\w*/+-]{0,63}")


def save_preset(path: Path, name: str, weights: BlockWeights) -> bool:
    """Add a line to a file of your own presets; False if this very preset is there already.

    Raises MergeError for a name that has other weights, is not a word, or is that of a built-in
    preset; for rules and a separate time embedding, which the file's form cannot hold; and if the
    file cannot be written or read. Nothing is ever overwritten.
    """
    if not PRESET_NAME.fullmatch(name):
        raise MergeError(
            f"{name!r} cannot be the name of a preset: use up to 64 letters, digits, '_', '-', "
            "'+', "
            "'*' and '/', beginning with a letter."
        )
    if name in PRESETS or name in OTHER_NAMES:
        raise MergeError(f"{name} is a built-in preset. Choose another name.")
    if name == CUSTOM:
        raise MergeError(f"{name} means your own numbers. Choose another name.")
    if weights.rules or weights.time != weights.blocks[0]:
        raise MergeError(
            "A preset can only hold the numbers of BASE and the blocks. Set rules and the time "
            "embedding in Block Weights."
        )
    known = read_presets(path).get(name)
    if known == weights:
        return False
    if known is not None:
        raise MergeError(
            f"There is already a preset {name} with different weights. Choose another name."
        )
    values = ",".join(written(value) for value in (weights.base, *weights.blocks))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        line = f"{name}\t{values}\n".encode()
        with path.open("ab") as file:
            file.write(line if not before or before.endswith(b"\n") else b"\n" + line)
    except OSError as error:
        raise MergeError(f"{path} cannot be written: {error.strerror}.") from error
    return True
