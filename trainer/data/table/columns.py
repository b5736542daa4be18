"""Which column of a table holds what: known public layouts, and for others a guess that a person
confirms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ...errors import TrainerError, nearest
from ...settings.group import Group

SHOWN_ROWS = 5
SHOWN_LETTERS = 60
ONE_USER_SHARE = 0.95
"""When one value fills more than this of the user column, it is the posting bot, not the person."""


@dataclass(frozen=True)
class Mapping(Group):
    """The names of columns by what they hold; "" = the table has no such column.

    `content` holds whole Midjourney messages, `prompt` only texts, `arguments` parameters that are
    kept apart from the text. Without a `user` column, the user is the mention in `content`.
    `upscaled` holds true or false.
    """

    CALLED: ClassVar[str] = "column mapping entry"

    preset: str = "generic"
    image: str = ""
    content: str = ""
    prompt: str = ""
    arguments: str = ""
    user: str = ""
    upscaled: str = ""
    width: str = ""
    height: str = ""
    version: str = ""
    aspect: str = ""
    captions: tuple[str, ...] = ()

    def columns(self) -> dict[str, str]:
        """Column names by role, without the roles that have no column; further captions are
        caption_0, caption_1, ...
        """
        single = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("preset", "captions") and getattr(self, field.name)
        }
        return single | {f"caption_{number}": name for number, name in enumerate(self.captions)}


PRESETS: dict[str, Mapping] = {
    "followfox_v51": Mapping(
        "followfox_v51", image="Attachments", content="Content", version="version", aspect="aspect"
    ),
    "wanng_v5_clean": Mapping(
        "wanng_v5_clean", image="Attachments", content="Content", upscaled="upscaled"
    ),
    "discord_exporter": Mapping(
        "discord_exporter", image="Attachments", content="Content", user="AuthorID"
    ),
    "vivym_messages": Mapping(
        "vivym_messages", image="url", content="content", width="width", height="height"
    ),
    "mj_threads": Mapping(
        "mj_threads",
        image="url_png",
        prompt="text",
        arguments="args",
        user="userid",
        upscaled="label",
        captions=("caption_0", "caption_1", "caption_2", "caption_3"),
    ),
    "mj_v6_520k": Mapping("mj_v6_520k", image="filename", prompt="caption"),
}
"""Public layouts, the more specific first."""

_SIGNATURES: dict[str, tuple[str, ...]] = {
    "followfox_v51": ("Content", "Attachments", "version", "aspect", "clean_prompts"),
    "wanng_v5_clean": ("Content", "Attachments", "clean_prompts", "upscaled"),
    "discord_exporter": ("AuthorID", "Content", "Attachments"),
    "vivym_messages": ("channel_id", "content", "image_id", "height", "width", "url"),
    "mj_threads": ("text", "args", "userid", "label", "url_png"),
    "mj_v6_520k": ("filename", "caption", "width", "height"),
}
"""A table that has all of these columns has this layout."""

_ALIASES: dict[str, tuple[str, ...]] = {
    "image": (
        "image",
        "url",
        "attachments",
        "url_png",
        "image_url",
        "image_path",
        "path",
        "file",
        "filename",
        "file_name",
    ),
    "prompt": ("prompt", "clean_prompts", "text", "caption", "content", "main_content", "message"),
    "user": ("userid", "user_id", "authorid", "author", "user"),
    "upscaled": ("upscaled", "label", "is_upscaled"),
    "width": ("width",),
    "height": ("height",),
    "version": ("version",),
    "aspect": ("aspect",),
}
_MESSAGES = ("content", "main_content", "message")


def guess(columns: Sequence[str], samples: Sequence[Sequence[str | None]]) -> Mapping:
    """The likely mapping of a table, from its column names (ignoring letter case) and some of its
    rows.

    Raises TrainerError, with the columns and what was found, when there is no column of pictures
    or of texts, or when there are several.
    """
    by_lower = {name.lower(): name for name in columns}
    for preset, signature in _SIGNATURES.items():
        if all(name.lower() in by_lower for name in signature):
            return _prefer_mention(_spelled(PRESETS[preset], by_lower), columns, samples)
    found = {
        role: [by_lower[alias] for alias in aliases if alias in by_lower]
        for role, aliases in _ALIASES.items()
    }
    content = next(
        (
            name
            for name in found["prompt"]
            if name.lower() in _MESSAGES and _is_messages(columns, samples, name)
        ),
        "",
    )
    if content:
        found["prompt"] = []
    for role, what in (("image", "pictures"), ("prompt", "texts")):
        if not found[role] and not (role == "prompt" and content):
            raise TrainerError(
                f"No column of the table looks like its {what}. It has: {_listed(columns)}. "
                f"Say in the column mapping which one is {role}."
            )
    ambiguous = {
        role: names
        for role, names in found.items()
        if len(names) > 1 and role in ("image", "prompt", "user")
    }
    likely: dict[str, Any] = {role: names[0] for role, names in found.items() if names}
    mapping = Mapping("generic", content=content, **likely)
    mapping = _prefer_mention(mapping, columns, samples)
    if ambiguous:
        choices = "; ".join(f"{role}: {' or '.join(names)}" for role, names in ambiguous.items())
        raise TrainerError(
            f"More than one column of the table fits {choices}. "
            f"The table has: {_listed(columns)}. "
            f"The guess would be:\n{describe(mapping, columns, samples)}\n"
            "Say in the column mapping which one it is."
        )
    return mapping


def preset(name: str, columns: Sequence[str], samples: Sequence[Sequence[str | None]]) -> Mapping:
    """The mapping of a public layout, in this table's spelling. Raises TrainerError when a column
    is missing.
    """
    if name not in PRESETS:
        raise TrainerError(
            f"Unknown preset {name!r} of the column mapping. Choose one of {', '.join(PRESETS)}."
        )
    by_lower = {column.lower(): column for column in columns}
    mapping = PRESETS[name]
    needed = [mapping.image, mapping.content or mapping.prompt]
    missing = [column for column in needed if column.lower() not in by_lower]
    if missing:
        raise TrainerError(
            f"Preset {name} needs the columns {_listed(needed)}, but the table has no "
            f"{_listed(missing)}. It has: {_listed(columns)}."
        )
    return _prefer_mention(_spelled(mapping, by_lower), columns, samples)


def check(mapping: Mapping, columns: Sequence[str]) -> None:
    """Raise TrainerError when the mapping names a column that the table lacks, or has no column of
    pictures or of texts.
    """
    for role, name in mapping.columns().items():
        if name not in columns:
            raise TrainerError(
                f"The column mapping says {role} is {name!r}, but the table has no such column."
                f"{nearest(name, columns)} It has: {_listed(columns)}."
            )
    if not mapping.image:
        raise TrainerError(
            "The column mapping does not say which column is image. "
            f"The table has: {_listed(columns)}."
        )
    if not mapping.prompt and not mapping.content:
        raise TrainerError(
            "The column mapping does not say which column is prompt, or content for whole "
            f"messages. The table has: {_listed(columns)}."
        )


def describe(
    mapping: Mapping, columns: Sequence[str], samples: Sequence[Sequence[str | None]]
) -> str:
    """The mapping and the first five rows as lines of text, for a person to confirm."""
    roles = mapping.columns()
    if mapping.content and not mapping.user:
        said = "the mention in content"
    else:
        said = roles.get("user", "none")
    lines = [f"layout: {mapping.preset}"]
    lines += [f"{role}: {name}" for role, name in roles.items() if role != "user"]
    lines.append(f"user: {said}")
    for number, row in enumerate(samples[:SHOWN_ROWS], start=1):
        cells = dict(zip(columns, row, strict=False))
        shown = (f"{role} = {_short(cells.get(name))}" for role, name in roles.items())
        lines.append(f"row {number}: {' | '.join(shown)}")
    return "\n".join(lines)


def _spelled(mapping: Mapping, by_lower: dict[str, str]) -> Mapping:
    """The mapping in the table's own spelling; roles whose column is missing are left empty."""
    values: dict[str, Any] = {
        role: by_lower.get(name.lower(), "") for role, name in mapping.columns().items()
    }
    captions = [values.pop(role) for role in list(values) if role.startswith("caption_")]
    return Mapping(mapping.preset, **values, captions=tuple(filter(None, captions)))


def _prefer_mention(
    mapping: Mapping, columns: Sequence[str], samples: Sequence[Sequence[str | None]]
) -> Mapping:
    if not mapping.user or not mapping.content:
        return mapping
    values = Counter(filter(None, _cells(columns, samples, mapping.user)))
    if values and values.most_common(1)[0][1] > ONE_USER_SHARE * values.total():
        return Mapping(**{**mapping.to_json(), "captions": mapping.captions, "user": ""})
    return mapping


def _is_messages(
    columns: Sequence[str], samples: Sequence[Sequence[str | None]], name: str
) -> bool:
    cells = [cell for cell in _cells(columns, samples, name) if cell]
    return bool(cells) and 2 * sum("** - " in cell for cell in cells) >= len(cells)


def _cells(
    columns: Sequence[str], samples: Sequence[Sequence[str | None]], name: str
) -> list[str | None]:
    place = list(columns).index(name)
    return [row[place] for row in samples if place < len(row)]


def _short(cell: str | None) -> str:
    text = " ".join((cell or "").split())
    return text if len(text) <= SHOWN_LETTERS else text[: SHOWN_LETTERS - 3] + "..."


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns)
