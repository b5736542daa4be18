"""What the licences of a lineage allow together."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from ..licence import Licence, warnings
from ..pickled import ENDINGS as PICKLED
from ..recipe import short_name
from ..safetensors_file import ENDINGS
from .lineage import Lineage, Model

UNKNOWN = "not recorded"
KNOWN_ID = re.compile(r"[a-z0-9][a-z0-9.-]{1,60}")


def called(lineage: Lineage) -> dict[str, str]:
    """What every checkpoint that the released one goes back to is called, by its key: as short as
    tells it from the others.
    """
    models = _older(lineage)
    found = {model.key: short_name(model.name) for model in models}
    for longer in (lambda model: model.name, lambda model: f"{model.name} {model.key[:10]}"):
        times = Counter(found.values())
        found |= {m.key: longer(m) for m in models if times[found[m.key]] > 1}
    return found


def given(lineage: Lineage, by_hand: Mapping[str, Licence]) -> dict[str, Licence]:
    """The licences given `by_hand`, by name with or without folder and ending, by the key of the
    checkpoint that each is for.
    """
    return {key: by_hand[name] for name, keys in _meant(lineage, by_hand) for key in keys}


def nowhere(lineage: Lineage, by_hand: Mapping[str, Licence]) -> Iterator[str]:
    """A sentence about each licence given by hand that is for none of the checkpoints."""
    for name, keys in _meant(lineage, by_hand):
        if not keys:
            yield f"A licence was given for {name}, but this card has no such checkpoint."


def _meant(lineage: Lineage, by_hand: Mapping[str, Licence]) -> Iterator[tuple[str, list[str]]]:
    """Every name that was given, and the keys of the checkpoints that have it."""
    models = _older(lineage)
    for name in sorted(by_hand, key=lambda name: "/" in name or "." in name):
        exact = [model.key for model in models if model.name == name]
        yield name, exact or [model.key for model in models if _bare(model.name) == _bare(name)]


def _bare(name: str) -> str:
    """A name without folder and ending."""
    name = short_name(name)
    endings = (*ENDINGS, *PICKLED)
    ending = next((one for one in endings if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def _older(lineage: Lineage) -> list[Model]:
    return list(lineage.models.values())[1:]


def of_lineage(lineage: Lineage, by_hand: Mapping[str, Licence]) -> dict[str, Licence | None]:
    """The licence of every checkpoint that the released one goes back to, by what it is `called`;
    those given `by_hand` first. What was made of others and has none of its own counts as these.
    """
    found: dict[str, Licence | None] = {}
    names, by_key = called(lineage), given(lineage, by_hand)
    for model in _older(lineage):
        told = by_key.get(model.key) or model.licence
        if told is not None or not (model.made_of or model.base):
            found[names[model.key]] = told
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
