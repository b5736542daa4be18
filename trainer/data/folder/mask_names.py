"""Which pictures of a folder are masks: they say what of another picture training learns from.

The mask of `a.jpg` is `a-masklabel.png` beside it, as OneTrainer names them, or a picture of its
name in a folder `mask` or `masks` beside it. White counts whole, black as `loss.mask_outside` says.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from posixpath import basename, dirname, join, split, splitext

END = "-masklabel"
FOLDERS = frozenset(("mask", "masks"))


@dataclass(frozen=True)
class Masks:
    """The masks in a listing: by the path of their picture without its suffix, and those that no
    picture has.
    """

    of: dict[str, str]
    alone: tuple[str, ...]

    @property
    def files(self) -> frozenset[str]:
        return frozenset((*self.of.values(), *self.alone))

    def mask(self, picture: str) -> str:
        """The mask of a picture, "" without one."""
        return self.of.get(splitext(picture)[0], "")


def is_labelled(mask: str) -> bool:
    """Whether a mask says by its own name that it is one."""
    return splitext(mask)[0].endswith(END)


def find_masks(pictures: Iterable[str], no_masks: Container[str] = ()) -> Masks:
    """Which of these files with the suffix of a picture are masks. A picture in a folder `mask` is
    one only if a picture of its name is beside that folder, and not if it is one of `no_masks`. Of
    several masks of one picture the one that says `-masklabel` counts, then the first by its path.
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
    return Masks(found, tuple(alone))


def _beside_folder(stem: str) -> str:
    """What the picture is called whose mask this may be, in a folder of masks; "" elsewhere."""
    folder, name = split(stem)
    return join(dirname(folder), name) if basename(folder).lower() in FOLDERS else ""
