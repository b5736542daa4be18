"""A folder as EveryDream2 reads it: captions made of a main prompt and tags, and settings for a
picture, a folder or a tree.

Follows its data/dataset.py (commit 5098db8), with three differences. `shuffle_tags: true` in a
global.yaml also holds below it, as its documentation says; in EveryDream2 a folder without a
global.yaml of its own loses it, and so does a picture that is captioned by its name. A caption in a
single text file stays as it is written; in EveryDream2 `a,b,b` becomes `a, b`. A path as a caption
is read as a file only in a list of pairs.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..image import PACKAGES
from .listing import Listing, split_suffix, suffix
from .reading import (
    MAX_WEIGHT,
    Entry,
    Problem,
    Reading,
    check_caption,
    group_of,
    kind,
    locate,
    number,
    text_from_file,
)
from .strict_text import MAX_JSON_BYTES, Unreadable, parse_json, parse_yaml, read_text

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".jfif", *PACKAGES))
"""The pictures that EveryDream2 reads, and those of other packages."""
TEXTS = (".txt", ".caption")
SIDECARS = (*TEXTS, ".json", ".yml", ".yaml")
"""Files beside a picture; a later one overrides an earlier one. EveryDream2 can read .json but does
not look for it there.
"""
NUMBERS = ("multiply.txt", "cond_dropout.txt", "flip_p.txt", "loss_scale.txt")
TREE_FILES = ("global.yaml", "global.yml")
LOCAL_FILES = ("local.yaml", "local.yml")
WITHOUT_COUNTERPART = ("batch_id.txt",)
MAX_LOSS_SCALE = 100
FOLDER_FILES = (*NUMBERS, *TREE_FILES, *LOCAL_FILES, *WITHOUT_COUNTERPART, "shuffle_tags.txt")


@dataclass(frozen=True)
class Config:
    """What one file says, or several together; None where they say nothing."""

    main_prompts: tuple[str, ...] = ()
    tags: tuple[tuple[str, float], ...] = ()
    multiply: float | None = None
    cond_dropout: float | None = None
    flip_p: float | None = None
    loss_scale: float | None = None
    shuffle_tags: bool | None = None
    unused: tuple[str, ...] = ()
    text: str | None = None
    """The caption as it is written, as long as it comes from a single text."""

    def under(self, other: Config) -> Config:
        """Both together; `other` overrides this one, and its words come first."""
        text = other.text if not self.words else self.text if not other.words else None
        return Config(
            tuple(dict.fromkeys(other.main_prompts + self.main_prompts)),
            tuple(dict.fromkeys(other.tags + self.tags)),
            self.multiply if other.multiply is None else other.multiply,
            self.cond_dropout if other.cond_dropout is None else other.cond_dropout,
            self.flip_p if other.flip_p is None else other.flip_p,
            self.loss_scale if other.loss_scale is None else other.loss_scale,
            self.shuffle_tags if other.shuffle_tags is None else other.shuffle_tags,
            tuple(dict.fromkeys(self.unused + other.unused)),
            text,
        )

    @property
    def words(self) -> bool:
        return bool(self.main_prompts or self.tags)


NOTHING = Config()
KEYS = frozenset(
    (
        "main_prompt",
        "tags",
        "multiply",
        "cond_dropout",
        "flip_p",
        "loss_scale",
        "shuffle_tags",
        "caption",
    )
)


def read_everydream(listing: Listing, reading: Reading, caption_text: str) -> None:
    """Every picture that EveryDream2 would read, with what the files beside it and above it say."""
    pairs = pair_list(listing)
    if pairs and not _has_settings(listing):
        _read_pair_list(listing, reading, pairs, caption_text)
        return
    if pairs:
        reading.notes.append(
            f"{pairs} is a list of pairs, not read because the pictures have files of their own"
        )
    local: dict[str, Config] = {}
    trees: dict[str, Config] = {}
    for file in listing.pictures:
        if suffix(file) not in SUFFIXES:
            continue
        reading.awake()
        folder = posixpath.dirname(file)
        if folder not in local:
            local[folder] = _local(listing, reading, folder)
        levels = [_tree(listing, reading, folder, trees), local[folder]]
        sidecars = _beside(listing, file)
        reading.read.update(sidecars)
        try:
            for sidecar in sidecars:
                config, more = _sidecar(listing, sidecar, caption_text)
                levels.append(config)
                reading.cut_lines += more
            entry = _entry(file, levels, reading)
        except Unreadable as error:
            reading.problems.append(Problem(file, error.reason, error.detail))
            continue
        reading.entries.append(entry)


def everydream_sign(listing: Listing) -> str | None:
    """A file that only EveryDream2 uses: settings of a folder, or YAML beside a picture."""
    for file in listing.files:
        settings = file.rpartition("/")[2] in FOLDER_FILES
        if settings or file.endswith((".yaml", ".yml")):
            beside = split_suffix(file)[0] in listing.by_stem
            if settings != beside:
                return file
    return None


def _beside(listing: Listing, file: str) -> list[str]:
    """The files that are about this picture only; a later one overrides an earlier one."""
    found = listing.sidecars(file, SIDECARS)
    return [sidecar for sidecar in found if sidecar.rpartition("/")[2] not in FOLDER_FILES]


def _has_settings(listing: Listing) -> bool:
    """Whether any picture has a caption or settings of its own, or any folder has settings."""
    return any(file.rpartition("/")[2] in FOLDER_FILES for file in listing.files) or any(
        _beside(listing, file) for file in listing.pictures
    )


def _entry(file: str, levels: list[Config], reading: Reading) -> Entry:
    """The pair of a picture."""
    config = NOTHING
    for level in levels:
        config = config.under(level)
    if not config.main_prompts:
        reading.named.add(file)
        config = config.under(
            _from_text(posixpath.splitext(posixpath.basename(file))[0].split("_")[0])
        )
    if not config.main_prompts:
        where = "no caption, and nothing before the first _ of the picture's name"
        raise Unreadable("the caption is empty", where)
    main, *others = config.main_prompts
    tags = [tag for tag, _ in sorted(config.tags, key=lambda tag: tag[1] or 1.0, reverse=True)]
    caption = config.text if config.text is not None else ", ".join([main, *tags])
    shuffle = any(level.shuffle_tags for level in levels)
    options: dict[str, Any] = group_of(file)
    if config.multiply is not None:
        options["weight"] = config.multiply
    if config.cond_dropout is not None:
        options["conditional_dropout"] = config.cond_dropout
    if config.flip_p:
        options["flip"] = config.flip_p
    if config.loss_scale is not None:
        options["loss_scale"] = config.loss_scale
    if shuffle and tags:
        options |= {"shuffle_tags": True, "keep_tags": main.count(",") + 1}
        reading.unused["weights of tags when they are shuffled"] += (
            len({weight for _, weight in config.tags}) > 1
        )
    reading.unused["main prompts after the first"] += bool(others)
    reading.unused.update(config.unused)
    return Entry(file, check_caption(caption, posixpath.basename(file)), options)


def _tree(listing: Listing, reading: Reading, folder: str, trees: dict[str, Config]) -> Config:
    """What the global files of a folder and of the folders above it say; the nearest one wins."""
    if folder not in trees:
        above = _tree(listing, reading, posixpath.dirname(folder), trees) if folder else NOTHING
        for name in TREE_FILES:
            above = above.under(_settings(listing, reading, posixpath.join(folder, name), _yaml))
        trees[folder] = above
    return trees[folder]


def _local(listing: Listing, reading: Reading, folder: str) -> Config:
    """What the files of a folder say about the pictures in it, but not in the folders below."""
    config = NOTHING
    for name in (*NUMBERS, *LOCAL_FILES, *WITHOUT_COUNTERPART):
        read = {".txt": _number, ".yaml": _yaml, ".yml": _yaml}[suffix(name)]
        if name in WITHOUT_COUNTERPART:
            read = _without_counterpart
        config = config.under(_settings(listing, reading, posixpath.join(folder, name), read))
    shuffle = posixpath.join(folder, "shuffle_tags.txt")
    if shuffle in listing.files:
        reading.read.add(shuffle)
        config = replace(config, shuffle_tags=True)
    return config


def _settings(
    listing: Listing, reading: Reading, file: str, read: Callable[[Listing, str], Config]
) -> Config:
    """What a file of settings says; nothing when it is missing, or cannot be understood, which is
    noted.
    """
    if file not in listing.files and file not in listing.folders and file not in listing.odd:
        return NOTHING
    reading.read.add(file)
    try:
        return read(listing, file)
    except Unreadable as error:
        reading.unread.append(Problem(file, error.reason, error.detail))
        return NOTHING


def _number(listing: Listing, file: str) -> Config:
    """What one of the files with a number says."""
    key = posixpath.basename(file).removesuffix(".txt")
    text = text_from_file(listing, file, "the number").strip()
    try:
        value: Any = float(text)
    except ValueError:
        value = text
    return _numbers({key: value})


def _without_counterpart(listing: Listing, file: str) -> Config:
    return Config(unused=(posixpath.basename(file).removesuffix(".txt"),))


def _yaml(listing: Listing, file: str) -> Config:
    """What a YAML or JSON file says."""
    text = text_from_file(listing, file, "the file")
    try:
        value = parse_json(text) if suffix(file) == ".json" else parse_yaml(text)
    except ValueError as error:
        raise Unreadable(
            "the file is not understood", f"{posixpath.basename(file)}: {error}"
        ) from error
    if value is None:
        return NOTHING
    if not isinstance(value, dict):
        raise Unreadable("the file is not understood", f"{posixpath.basename(file)}: {kind(value)}")
    try:
        return _from_mapping(value)
    except Unreadable as error:
        detail = f"{posixpath.basename(file)}: {error.detail}"
        raise Unreadable(error.reason, detail) from error


def _sidecar(listing: Listing, file: str, caption_text: str) -> tuple[Config, bool]:
    """What a file beside a picture says, and whether it has unused lines."""
    if suffix(file) not in TEXTS:
        return _yaml(listing, file), False
    text = text_from_file(listing, file).strip()
    first = text.split("\n", 1)[0].strip()
    return _from_text(
        first if caption_text == "first line" else text
    ), first != text and caption_text == "first line"


def _from_text(text: str) -> Config:
    """A main prompt and tags, separated by commas."""
    main, *tags = (part.strip() for part in text.split(","))
    return Config(
        (main,) if main else (),
        tuple(dict.fromkeys((tag, 1.0) for tag in tags if tag)),
        text=text.strip() if main else None,
    )


def _from_mapping(values: dict[Any, Any], depth: int = 0) -> Config:
    """What the keys of a YAML or JSON file say. Raises Unreadable for values of the wrong type."""
    prompts = values.get("main_prompt")
    shuffle = values.get("shuffle_tags")
    if shuffle is not None and not isinstance(shuffle, bool):
        raise Unreadable("shuffle_tags is neither true nor false", kind(shuffle))
    config = replace(
        _numbers(values),
        main_prompts=_texts(prompts, "main_prompt"),
        tags=tuple(dict.fromkeys(_tags(values.get("tags")))),
        shuffle_tags=shuffle,
        unused=tuple(
            str(key)[:40] for key, value in values.items() if key not in KEYS and value is not None
        ),
    )
    caption = values.get("caption")
    if isinstance(caption, dict) and depth < 2:
        return config.under(_from_mapping(caption, depth + 1))
    if caption is not None and not isinstance(caption, str):
        raise Unreadable("caption is not text", kind(caption))
    return config.under(_from_text(caption)) if caption else config


def _texts(value: Any, what: str) -> tuple[str, ...]:
    """One text or several."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise Unreadable(f"{what} is not text", f"{kind(text)}; put it in quotes")
    return tuple(dict.fromkeys(text.strip() for text in texts if text and text.strip()))


def _tags(value: Any) -> list[tuple[str, float]]:
    """Tags with their weights, each a text or a mapping of tag and weight."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unreadable("tags is not a list", kind(value))
    tags: list[tuple[str, float]] = []
    for item in value:
        weight = item.get("weight") if isinstance(item, dict) else None
        for text in _texts(item.get("tag") if isinstance(item, dict) else item, "a tag"):
            least = 1.0 if weight is None else number(weight, "the weight of a tag", 0, 1e6)
            tags.append((text, least))
    return tags


def _numbers(values: dict[Any, Any]) -> Config:
    """The settings that are numbers. Raises Unreadable for numbers outside their limits."""

    def value(key: str, least: float, most: float, above: bool = False) -> float | None:
        found = values.get(key)
        return None if found is None else number(found, key, least, most, above)

    return Config(
        multiply=value("multiply", 0, MAX_WEIGHT, above=True),
        cond_dropout=value("cond_dropout", 0, 1),
        flip_p=value("flip_p", 0, 1),
        loss_scale=value("loss_scale", -MAX_LOSS_SCALE, MAX_LOSS_SCALE),
    )


def pair_list(listing: Listing) -> str | None:
    """The .json file in the top folder that is a list of pairs, EveryDream2's other kind of
    data_root; None without one.
    """
    for file in sorted(listing.files):
        if "/" in file or suffix(file) != ".json" or listing.files[file].size > MAX_JSON_BYTES:
            continue
        try:
            with (listing.root / file).open("rb") as opened:
                head = opened.read(4096)
        except OSError:
            continue
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") and b'"image"' in head:
            return file
    return None


def _read_pair_list(listing: Listing, reading: Reading, file: str, caption_text: str) -> None:
    """The pairs of a list of objects with "image", and with "caption" or the keys of a YAML file. A
    picture may occur more than once.
    """
    reading.read.add(file)
    reading.notes.append(f"{file} says which pictures are pairs")
    try:
        values = parse_json(read_text(listing.root / file, "the list", MAX_JSON_BYTES))
    except (Unreadable, ValueError) as error:
        reading.problems.append(Problem(file, "the list is not understood", str(error)))
        return
    for place, value in enumerate(values, start=1):
        reading.awake()
        where = f"{file}, entry {place}"
        if not isinstance(value, dict) or not isinstance(value.get("image"), str):
            reading.problems.append(Problem(where, "the entry names no picture"))
            continue
        try:
            picture = locate(listing, value["image"])
            caption = value.get("caption")
            config = _from_mapping({key: value[key] for key in value if key != "image"})
            if (
                isinstance(caption, str)
                and suffix(caption) in SIDECARS
                and caption in listing.files
            ):
                values_without = {
                    key: value[key] for key in value if key not in ("image", "caption")
                }
                reading.read.add(caption)
                config = _from_mapping(values_without).under(
                    _sidecar(listing, caption, caption_text)[0]
                )
            entry = _entry(picture, [config], reading)
        except Unreadable as error:
            reading.problems.append(Problem(where, error.reason, error.detail))
            continue
        reading.entries.append(entry)
