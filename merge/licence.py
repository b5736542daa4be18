"""What the authors of the ingredients allow: read, recorded in the result, and compared. Nothing
here forbids a merge; there are only warnings.

The four questions are those of Civitai (allowNoCredit, allowCommercialUse, allowDerivatives,
allowDifferentLicense); the names of common licences, such as cc-by-nc-sa-4.0, answer them too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import MergeError

SIDE_FILES = (".license.json", ".civitai.info", ".metadata.json", ".json")
"""Endings of files beside a checkpoint that can state its licence; the first one that does counts.
"""
LONGEST = 4 << 20
FLAGS = {
    "allowNoCredit": "no_credit",
    "allowDerivatives": "derivatives",
    "allowDifferentLicense": "different_licence",
}
NOT_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non-?commercial")
NO_DERIVATIVES = re.compile(r"(?<![a-z])nd(?![a-z])|no-?deriv")
SAME_LICENCE = re.compile(r"(?<![a-z])sa(?![a-z])|share-?alike|gpl")


@dataclass(frozen=True)
class Licence:
    """A licence's name and what it allows; None is unknown. `source` is where it was read."""

    name: str | None = None
    no_credit: bool | None = None
    commercial: tuple[str, ...] | None = None
    derivatives: bool | None = None
    different_licence: bool | None = None
    source: str = ""

    @property
    def forbids_sale(self) -> bool:
        """Whether commercial use is not allowed at all, or only for pictures."""
        if self.commercial is not None:
            return not set(self.commercial) - {"None", "Image"}
        return bool(self.name and NOT_COMMERCIAL.search(self.name.lower()))

    @property
    def forbids_merging(self) -> bool:
        if self.derivatives is not None:
            return not self.derivatives
        return bool(self.name and NO_DERIVATIVES.search(self.name.lower()))

    @property
    def must_be_kept(self) -> bool:
        """Whether what is made of it must have the same licence."""
        if self.different_licence is not None:
            return not self.different_licence
        return bool(self.name and SAME_LICENCE.search(self.name.lower()))

    def __str__(self) -> str:
        return self.name or "a licence of its own"


def to_json(licence: Licence | None) -> dict[str, Any] | None:
    """The licence as a merged file records it, in Civitai's words."""
    if licence is None:
        return None
    value: dict[str, Any] = {"license": licence.name}
    value |= {key: getattr(licence, field) for key, field in FLAGS.items()}
    if licence.commercial is not None:
        value["allowCommercialUse"] = list(licence.commercial)
    value["source"] = licence.source
    return {key: found for key, found in value.items() if found is not None}


def from_json(value: Any, source: str) -> Licence | None:
    """The licence in a JSON value, at its top or where Civitai's side files have it; None if there
    is none.
    """
    for place in ((), ("model",), ("civitai", "model"), ("license",)):
        found = value
        for key in place:
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            continue
        name = found.get("license", found.get("licence", found.get("modelspec.license")))
        flags = {
            field: found[key] for key, field in FLAGS.items() if isinstance(found.get(key), bool)
        }
        commercial = _commercial(found.get("allowCommercialUse"))
        if (isinstance(name, str) and name.strip()) or flags or commercial is not None:
            told = name.strip() if isinstance(name, str) and name.strip() else None
            where = found.get("source")
            return Licence(
                told,
                commercial=commercial,
                source=where if isinstance(where, str) else source,
                **flags,
            )
    return None


def _commercial(value: Any) -> tuple[str, ...] | None:
    """Civitai has written this as a truth value, as one word, as "{Image,Rent}" and as a list."""
    if isinstance(value, bool):
        return ("Sell",) if value else ()
    if isinstance(value, str):
        value = re.findall(r"\w+", value)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(word for word in value if word != "None")
    return None


def read_licence(path: Path, metadata: Mapping[str, str]) -> Licence | None:
    """The licence of a checkpoint file: from a side file (NAME.license.json, ...) or else its own
    metadata; None if neither has one.
    """
    for ending in SIDE_FILES:
        side = path.with_name(path.stem + ending)
        try:
            if not side.is_file() or side.stat().st_size > LONGEST:
                continue
            value = json.loads(side.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if found := from_json(value, side.name):
            return found
    name = metadata.get("modelspec.license", metadata.get("license", "")).strip()
    return Licence(name, source="its metadata") if name else None


def parse_by_hand(text: str) -> dict[str, Licence]:
    """Licences given by hand, one per line: NAME: LICENCE, where the licence is a name or a JSON
    object with Civitai's four answers.
    """
    found = {}
    for line in filter(str.strip, text.splitlines()):
        name, colon, licence = (part.strip() for part in line.partition(":"))
        told = None
        if licence.startswith("{"):
            try:
                told = from_json(json.loads(licence), "given by hand")
            except (ValueError, RecursionError):
                told = None
        elif licence:
            told = Licence(licence, source="given by hand")
        if not name or not colon or told is None:
            raise MergeError(
                f"{line.strip()!r} is not a licence. Write NAME: LICENCE, such as vodka: "
                "cc-by-4.0, "
                'or NAME: {"allowDerivatives": true}.'
            )
        found[name] = told
    return found


def warnings(licences: Mapping[str, Licence | None]) -> list[str]:
    """What to know before sharing a mix of these, one sentence each. `licences` are by the
    ingredients' names.
    """
    known = {name: licence for name, licence in licences.items() if licence is not None}
    told = [
        f"Licence: {name} does not allow merges ({licence})."
        for name, licence in known.items()
        if licence.forbids_merging
    ]
    kept = {name: licence for name, licence in known.items() if licence.must_be_kept}
    for number, (name, licence) in enumerate(kept.items()):
        for other, theirs in list(known.items()):
            if other == name or (other in kept and list(kept).index(other) < number):
                continue
            if other in kept and licence.name != theirs.name:
                told.append(
                    f"Licence: {name} ({licence}) and {other} ({theirs}) must both keep their own "
                    "licence, which is not possible in a mix."
                )
            elif other not in kept and theirs.forbids_sale and not licence.forbids_sale:
                told.append(
                    f"Licence: {name} ({licence}) must keep its licence, which allows sale, but "
                    f"{other} ({theirs}) forbids it."
                )
    not_sold = [name for name, licence in known.items() if licence.forbids_sale]
    if not_sold:
        told.append(f"Licence: may not be sold because of {', '.join(not_sold)}.")
    credit = [name for name, licence in known.items() if licence.no_credit is False]
    if credit:
        told.append(f"Licence: credit {', '.join(credit)}.")
    unknown = [name for name in licences if name not in known]
    if unknown and known:
        told.append(f"Licence: unknown for {', '.join(unknown)}.")
    return told
