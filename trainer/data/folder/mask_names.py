"""Which pictures of a folder are masks: they say what of another picture training learns from.

The mask of `a.jpg` is `a-masklabel.png` beside it, as OneTrainer names them, or a picture of its
name in a folder `mask` or `masks` beside it. White counts whole, black as `loss.mask_outside` says.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from posixpath import basename, dirname, join, split, splitext

END = "-masklabel"
FOLDERS = frozenset(("mask", "masks"))
OTHER_ENDS = ("_mask", "-mask", ".mask", "-condlabel", "_condlabel")
OTHER_FOLDERS = frozenset(("conditioning", "conditioning_images"))
"""Of pictures that belong to others and that training does not use."""


@dataclass(frozen=True)
class Masks:
    """The masks in a listing: by the path of their picture without its suffix, and those that no
    picture has.

    `others` belong to a picture by their names, but are not used: masks of other names, and
    conditioning. `doubtful` are named like masks of pictures that are not there; they are pairs.
    """

    of: dict[str, str]
    alone: tuple[str, ...]
    others: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()

    @cached_property
    def files(self) -> frozenset[str]:
        """What is no pair."""
        return frozenset((*self.of.values(), *self.alone, *self.others))

    def mask(self, picture: str) -> str:
        """The mask of a picture, "" without one."""
        return self.of.get(splitext(picture)[0], "")


def is_labelled(mask: str) -> bool:
    """Whether a mask says by its own name that it is one."""
    return splitext(mask)[0].endswith(END)


def find_masks(
    pictures: Iterable[str], no_masks: Container[str] = (), captioned: Container[str] = ()
) -> Masks:
    """Which of these files with the suffix of a picture are masks. A picture in a folder `mask` is
    one only if a picture of its name is beside that folder, and not if it is one of `no_masks`. Of
    several masks of one picture the one that says `-masklabel` counts, then the first by its path.

    `captioned` are the paths without suffix that have a caption file: such a picture is a pair, in
    a folder of masks too, unless it is the mask of a picture that is there or says `-masklabel`.
    """
    stems = {file: splitext(file)[0] for file in pictures}
    there = set(stems.values())
    found: dict[str, str] = {}
    alone: list[str] = []
    for labelled in (True, False):
        for file, stem in stems.items():
            if is_labelled(file) != labelled or (not labelled and file in no_masks):
                continue
            picture = stem.removesuffix(END) if labelled else _beside_folder(stem)
            known = picture in there
            if known and found.setdefault(picture, file) == file:
                continue
            if known or labelled:
                alone.append(file)
    of_masks = {dirname(file) for file in found.values() if not is_labelled(file)}
    known = {*found.values(), *alone}
    others: list[str] = []
    doubtful: list[str] = []
    for file, stem in stems.items():
        picture = _other(stem) or _beside_folder(stem)
        if not picture or file in known or file in no_masks or stem in captioned:
            continue
        if dirname(file) in of_masks:
            alone.append(file)
        else:
            (others if picture in there else doubtful).append(file)
    return Masks(found, tuple(alone), tuple(others), tuple(doubtful))


def _other(stem: str) -> str:
    """What the picture is called whose mask or conditioning this may be, of the kinds that are not
    used; "" for another name.
    """
    folder, name = split(stem)
    if basename(folder).lower() in OTHER_FOLDERS:
        return join(dirname(folder), name)
    end = next((end for end in OTHER_ENDS if name.lower().endswith(end)), "")
    return stem[: -len(end)] if end and len(name) > len(end) else ""


def _beside_folder(stem: str) -> str:
    """What the picture is called whose mask this may be, in a folder of masks; "" elsewhere."""
    folder, name = split(stem)
    return join(dirname(folder), name) if basename(folder).lower() in FOLDERS else ""
