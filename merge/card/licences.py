"""What the licences of a lineage allow together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ..licence import Licence, warnings
from ..recipe import short_name
from .lineage import Lineage

UNKNOWN = "not recorded"
KNOWN_ID = re.compile(r"[a-z0-9][a-z0-9.-]{1,60}")


def of_lineage(lineage: Lineage, by_hand: Mapping[str, Licence]) -> dict[str, Licence | None]:
    """The licence of every checkpoint that the released one goes back to, by its name; those given
    `by_hand` first. What was made of others and has none of its own counts as these.
    """
    found: dict[str, Licence | None] = {}
    for model in list(lineage.models.values())[1:]:
        name = short_name(model.name)
        told = by_hand.get(model.name) or by_hand.get(name) or model.licence
        if told is not None or not (model.made_of or model.base):
            found[name] = told
    return found


def told(found: Mapping[str, Licence | None], own: Licence | None) -> list[str]:
    """What to know before sharing, one sentence each, without the word Licence at its beginning."""
    sentences = [line.removeprefix("Licence: ") for line in warnings(found)]
    if found and not any(found.values()):
        sentences.append(f"The licence is not recorded for {', '.join(found)}.")
    if own is not None:
        sentences += _against(found, own)
    # A name keeps its first letter.
    begins = ("may not", "credit", "unknown")
    return [s[:1].upper() + s[1:] if s.startswith(begins) else s for s in sentences]


def _against(found: Mapping[str, Licence | None], own: Licence) -> list[str]:
    """Where the licence of the released checkpoint itself does not go with those it is made of."""
    sentences = []
    for name, licence in found.items():
        if licence is None:
            continue
        if licence.must_be_kept and licence.name != own.name:
            sentences.append(
                f"{name} ({licence}) must keep its licence, but this checkpoint is given as {own}."
            )
        elif licence.forbids_sale and not own.forbids_sale:
            sentences.append(
                f"{name} ({licence}) forbids sale, but this checkpoint is given as {own}, which "
                "allows it."
            )
    return sentences


def words(licence: Licence | None) -> str:
    """A licence with what it says of merging, sale and credit, as far as it is known."""
    if licence is None:
        return UNKNOWN
    said = []
    if licence.forbids_merging:
        said.append("no merges")
    if licence.forbids_sale:
        said.append("no sale")
    if licence.must_be_kept:
        said.append("same licence")
    if licence.no_credit is False:
        said.append("credit")
    return f"{licence}" + (f" ({', '.join(said)})" if said else "")


def front_matter(licence: Licence | None) -> list[str]:
    """The lines about the licence in the header that Hugging Face reads."""
    if licence is None or not licence.name:
        return []
    name = licence.name.lower()
    if KNOWN_ID.fullmatch(name):
        return [f"license: {name}"]
    return ["license: other", f"license_name: {json.dumps(licence.name)}"]
