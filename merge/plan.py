"""What happens to every tensor: which are blended with which weights, which are copied, and which
are left out.

The rules, which people also rely on in other tools:
- The VAE is not blended unless it has a recipe of its own (`recipe.Parts`): it comes from the first
  ingredient that has one.
- Integer tensors come from the first ingredient that has them, the noise schedule's buffers (names
  without a dot) from the first ingredient.
- Position ids are 0, 1, 2, ... as 64-bit integers, whatever another tool has turned them into.
- Averaged copies of training (`model_ema.*`) are left out.
- Tensors that some ingredients lack or have with another width follow the rules of `matching`.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from .errors import MergeError, listed, nearest
from .family import FIRST, LORA, Family, family_of, input_channels
from .health import POSITION_IDS
from .key_names import EMA, PARTS, TEXT_PART, UNET_PART, VAE, VAE_PART, part_of
from .lora_kinds import other_kinds
from .matching import check_shapes, cuts, notes, without
from .parts import check_parts, notes_on_parts, outside
from .prediction import common_prediction, is_marker
from .quantised import is_quantised
from .recipe import (
    Ingredient,
    Method,
    Mix,
    Parts,
    Recipe,
    flatten,
    for_part,
    ingredients,
    layouts,
    short_name,
    used_ingredients,
)
from .safetensors_file import FLOATS, Header, Tensor

PRECISIONS = {
    "fp16": "F16", "bf16": "BF16", "fp32": "F32", "fp8_e4m3fn": "F8_E4M3", "fp8_e5m2": "F8_E5M2",
}  # fmt: skip
"""How blended tensors are stored. fp8 is only for the UNet: the other parts suffer from it and are
stored as fp16.
"""


@dataclass(frozen=True)
class Source:
    """A tensor of one ingredient; `file` counts the plan's headers."""

    file: int
    tensor: Tensor


@dataclass(frozen=True)
class Blend:
    """first + the sum of weight x (source - first) over the others."""

    first: Source
    others: tuple[tuple[Source, float], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.first, *(source for source, _ in self.others))


@dataclass(frozen=True)
class Call:
    """The result of a method of `methods.METHODS` on its operands."""

    method: str
    operands: tuple[Formula, ...]
    settings: tuple[tuple[str, float], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(source for operand in self.operands for source in operand.sources)


@dataclass(frozen=True)
class Combination:
    """first + the sum of weight x (other - first), where any of them is a call."""

    first: Formula
    others: tuple[tuple[Formula, float], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        sides = (self.first, *(other for other, _ in self.others))
        return tuple(source for side in sides for source in side.sources)


Formula: TypeAlias = Blend | Call | Combination


@dataclass(frozen=True)
class Widened:
    """Formulas side by side along the second dimension, each with its first channel and the one
    after its last.
    """

    parts: tuple[tuple[int, int, Formula], ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(source for _, _, formula in self.parts for source in formula.sources)


@dataclass(frozen=True)
class Copy:
    """The bytes of one ingredient's tensor."""

    source: Source

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Literal:
    """These bytes."""

    data: bytes


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the result and where it comes from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Formula | Widened | Copy | Literal


@dataclass(frozen=True)
class MergePlan:
    """The result tensor by tensor, before anything is read. `vae_from` is the ingredient whose VAE
    it keeps.

    `ingredients` are those that the result depends on, in the order of `headers`; `notes` say what
    is done where they are not alike; `prediction` is what the UNet predicts if a file says it.
    """

    ingredients: tuple[Ingredient, ...]
    headers: tuple[Header, ...]
    tensors: tuple[OutputTensor, ...]
    family: Family
    vae_from: Ingredient | None
    notes: tuple[str, ...] = ()
    prediction: str | None = None


@dataclass(frozen=True)
class _Mixture:
    """How the tensors of the ingredients are mixed.

    By part: `trees`, and `users`, the ingredients in the tree. By tensor: `lacking`, the users that
    do not have it, and `mixes`, what is mixed of the others; a tensor of which nothing is left has
    no mix. `order` are the ingredients that matter, the base first.
    """

    headers: Mapping[Ingredient, Header]
    trees: Mapping[str, Recipe]
    users: Mapping[str, tuple[Ingredient, ...]]
    lacking: Mapping[str, tuple[Ingredient, ...]]
    mixes: Mapping[str, Mix]
    order: tuple[Ingredient, ...]
    vae_from: Ingredient | None
    mixes_vae: bool
    outside: Collection[str]
    keeps_markers: bool

    def source(self, ingredient: Ingredient, name: str) -> Source:
        return Source(self.order.index(ingredient), self.headers[ingredient].tensors[name])

    def is_blended(self, tensor: Tensor) -> bool:
        if tensor.dtype not in FLOATS or "." not in tensor.name or tensor.name.startswith(EMA):
            return False
        if tensor.name in self.outside or is_marker(tensor.name):
            return False
        is_kept = part_of(tensor.name) == VAE_PART and not self.mixes_vae
        return not is_kept and not tensor.name.endswith(POSITION_IDS)


def make_plan(
    recipe: Recipe,
    headers: Mapping[Ingredient, Header],
    precision: str,
    is_mixed_prediction_allowed: bool = False,
) -> MergePlan:
    """Plan the file that a recipe makes, with blended tensors stored in `precision` (see
    `PRECISIONS`).

    `headers` are those of all ingredients. Raises MergeError, which names the ingredients and the
    tensors, when they do not fit together.
    """
    check_precision(precision)
    mixture = _mixture(recipe, headers)
    order, users, base = mixture.order, mixture.users, mixture.order[0]
    families = _families(users[UNET_PART], headers)
    family = families[users[UNET_PART][0]]
    _check_layouts(recipe, family)
    check_parts(family, users, headers, _asked_for(recipe))
    prediction, told = common_prediction(
        {i: headers[i] for i in users[UNET_PART]}, families, is_mixed_prediction_allowed
    )
    mixture = replace(mixture, keeps_markers=prediction is not None)
    tensors = [tensor for i in order for tensor in headers[i].tensors.values()]
    blended = {tensor.name: None for tensor in tensors if mixture.is_blended(tensor)}
    if not blended:
        raise MergeError(f"{base.name} has no tensor that can be mixed. Choose a full checkpoint.")
    for part in PARTS:
        if users[part]:
            names = [name for name in blended if part_of(name) == part]
            check_shapes(users[part], headers, names, mixture.outside)
    kept = {tensor.name: None for tensor in tensors if not tensor.name.startswith(EMA)}
    outputs = (
        _blended(mixture, name, precision) if name in blended else _copied(mixture, name)
        for name in kept
    )
    made = tuple(output for output in outputs if output)
    channels = next((input_channels(output.shape) for output in made if output.name == FIRST), 0)
    return MergePlan(
        ingredients=order,
        headers=tuple(headers[ingredient] for ingredient in order),
        tensors=made,
        family=_family_of_result(families, headers, channels),
        vae_from=mixture.vae_from,
        prediction=prediction.kind if prediction and prediction.by else None,
        notes=(
            *told,
            *notes(users, headers, tuple(blended), channels),
            *_outside_notes(mixture, made),
            *_vae_note(recipe, base, mixture.vae_from),
            *notes_on_parts(family, headers[base], {output.name: output.shape for output in made}),
        ),
    )


def _mixture(recipe: Recipe, headers: Mapping[Ingredient, Header]) -> _Mixture:
    trees = {part: for_part(recipe, part) for part in PARTS}
    users = {part: tuple(dict.fromkeys(ingredients(tree))) for part, tree in trees.items()}
    names = {name: part_of(name) for header in headers.values() for name in header.tensors}
    lacking = {
        name: tuple(i for i in users[part] if name not in headers[i].tensors)
        for name, part in names.items()
    }
    left = {
        (part, absent): without(trees[part], absent)
        for part, absent in {(names[name], absent) for name, absent in lacking.items()}
    }
    found = {name: left[names[name], absent] for name, absent in lacking.items()}
    mixes = {name: flatten(tree, name) for name, tree in found.items() if tree is not None}
    order = _order(recipe, mixes)
    of_unet = tuple(i for i in order if i in users[UNET_PART])
    return _Mixture(
        headers=headers,
        trees=trees,
        users={part: tuple(i for i in order if i in used) for part, used in users.items()},
        lacking=lacking,
        mixes=mixes,
        order=order,
        vae_from=_owner_of_vae(recipe, users[VAE_PART], order, headers),
        mixes_vae=isinstance(recipe, Parts) and not isinstance(recipe.vae, Ingredient | None),
        outside=outside(headers, of_unet),
        keeps_markers=False,
    )


def _copied(mixture: _Mixture, name: str) -> OutputTensor | None:
    """A tensor that is not blended; None for one that the result does not have."""
    found = _owners(mixture, name)
    if not found:
        return None
    first = next(iter(found.values()))
    if name.endswith(POSITION_IDS):
        return position_ids(first)
    owner = mixture.vae_from if part_of(name) == VAE_PART else next(iter(found))
    is_of_base = "." not in name or name in mixture.outside
    if is_marker(name) and mixture.keeps_markers:
        is_of_base = False
    if owner not in found or (is_of_base and owner != mixture.order[0]):
        return None
    source = mixture.source(owner, name)
    content = Blend(source, ()) if is_quantised(source.tensor) else Copy(source)
    return OutputTensor(name, own_type(source.tensor), source.tensor.shape, content)


def _blended(mixture: _Mixture, name: str, precision: str) -> OutputTensor | None:
    """A tensor that is blended; None for one that the result does not have."""
    found = _owners(mixture, name)
    if not found:
        return None
    first = next(iter(found.values()))
    dtype = own_type(first) if part_of(name) == VAE_PART else stored_as(name, precision)
    if len({tensor.shape for tensor in found.values()}) == 1:
        formula = _formula(mixture, name, mixture.mixes[name])
        return OutputTensor(name, dtype, first.shape, formula)
    tree = mixture.trees[part_of(name)]
    parts = [
        (cut.start, cut.stop, _formula(mixture, name, flatten(left, name)))
        for cut in cuts(found)
        if (left := without(tree, (*mixture.lacking[name], *cut.lacking))) is not None
    ]
    shape = (first.shape[0], parts[-1][1], *first.shape[2:])
    return OutputTensor(name, dtype, shape, Widened(tuple(parts)))


def _owners(mixture: _Mixture, name: str) -> dict[Ingredient, Tensor]:
    """The tensors of that name that the result can be made of, in the order of the ingredients."""
    if name not in mixture.mixes:
        return {}
    users = mixture.users[part_of(name)]
    tensors = {i: mixture.headers[i].tensors.get(name) for i in users}
    return {ingredient: tensor for ingredient, tensor in tensors.items() if tensor is not None}


def _formula(mixture: _Mixture, name: str, mix: Mix) -> Formula:
    weights = dict(mix)
    used = [ingredient for ingredient in mixture.order if ingredient in weights]
    sources = [mixture.source(ingredient, name) for ingredient in used]
    shares = [float(weights.pop(ingredient)) for ingredient in used]
    calls = [_call(mixture, name, method) for method in weights if isinstance(method, Method)]
    if not calls:
        return Blend(sources[0], tuple(zip(sources[1:], shares[1:], strict=True)))
    sides: list[Formula] = [*(Blend(source, ()) for source in sources), *calls]
    shares += map(float, weights.values())
    others = tuple(zip(sides[1:], shares[1:], strict=True))
    return Combination(sides[0], others) if others else sides[0]


def _call(mixture: _Mixture, name: str, method: Method) -> Call:
    settings = tuple((k, float(method.number(k, name))) for k, _ in method.settings)
    sides = (_formula(mixture, name, flatten(side, name)) for side in method.recipes)
    return Call(method.method, tuple(sides), settings)


def check_precision(precision: str, choices: Collection[str] = tuple(PRECISIONS)) -> None:
    """Raise MergeError unless blended tensors can be stored like this."""
    if precision not in choices:
        raise MergeError(
            f"There is no precision {precision!r}.{nearest(precision, choices)} "
            f"Choose one of {', '.join(choices)}."
        )


def stored_as(name: str, precision: str) -> str:
    """The type in which a precision stores the blended tensor of that name."""
    if precision.startswith("fp8") and part_of(name) != UNET_PART:
        return "F16"
    return PRECISIONS[precision]


def position_ids(tensor: Tensor) -> OutputTensor:
    """The numbers 0, 1, 2, ... that belong into a tensor of position ids, whatever it holds."""
    return OutputTensor(tensor.name, "I64", tensor.shape, Literal(positions_of(tensor)))


def positions_of(tensor: Tensor) -> bytes:
    """0, 1, 2, ... for every element of a tensor, as 64-bit integers."""
    return struct.pack(f"<{tensor.elements}q", *range(tensor.elements))


def own_type(tensor: Tensor) -> str:
    """The type of a tensor that keeps its own; a quantised one becomes fp16."""
    return "F16" if is_quantised(tensor) else tensor.dtype


def _owner_of_vae(
    recipe: Recipe,
    users: Sequence[Ingredient],
    order: Sequence[Ingredient],
    headers: Mapping[Ingredient, Header],
) -> Ingredient | None:
    """The first ingredient that has a VAE. Raises MergeError if a VAE was asked for and none has
    one.
    """
    having = [
        ingredient
        for ingredient in order
        if ingredient in users and any(n.startswith(VAE) for n in headers[ingredient].tensors)
    ]
    if not having and isinstance(recipe, Parts) and recipe.vae is not None:
        names = listed([ingredient.name for ingredient in users])
        raise MergeError(
            f"There is no VAE in {names}. Choose a checkpoint that has one, or a VAE file."
        )
    return having[0] if having else None


def _vae_note(recipe: Recipe, base: Ingredient, vae_from: Ingredient | None) -> list[str]:
    if vae_from is None or vae_from == base:
        return []
    if isinstance(recipe, Parts) and recipe.vae is not None:
        return []
    return [
        f"{short_name(base.name)} has no VAE; the result has that of {short_name(vae_from.name)}."
    ]


def _order(recipe: Recipe, mixes: Mapping[str, Mix]) -> tuple[Ingredient, ...]:
    """The ingredients that any tensor depends on, from left to right. The first of them that the
    UNet is made of, and that is not only subtracted, comes first.
    """
    used = {i for name, mix in mixes.items() for i in used_ingredients(mix, name)}
    whole = flatten(recipe)
    used |= set(used_ingredients(whole))
    added = _added(whole, "").union(
        *(_added(mix, name) for name, mix in mixes.items() if part_of(name) == UNET_PART)
    )
    order = list(dict.fromkeys(i for i in ingredients(recipe) if i in used))
    base = next(ingredient for ingredient in order if ingredient in added)
    return (base, *(ingredient for ingredient in order if ingredient != base))


def _added(mix: Mix, tensor: str) -> set[Ingredient]:
    """The ingredients with positive weights in a mix, and those of the first operand of each
    method.
    """
    found: set[Ingredient] = set()
    for atom, weight in mix:
        if weight > 0:
            if isinstance(atom, Ingredient):
                found.add(atom)
            else:
                found |= _added(flatten(atom.recipes[0], tensor), tensor)
    return found


def _check_layouts(recipe: Recipe, family: Family) -> None:
    """Refuse block weights for a different kind of UNet."""
    for layout in layouts(recipe):
        if (layout == "SDXL") != (family.kind == "SDXL"):
            raise MergeError(
                f"These block weights are for {layout}, but the checkpoints are {family.name}. "
                "SD1.5 "
                "and SD2 have 25 blocks, SDXL has 19."
            )


def _families(
    users: Sequence[Ingredient], headers: Mapping[Ingredient, Header]
) -> dict[Ingredient, Family]:
    """The family of each ingredient. Refuses ingredients of different kinds."""
    families = {ingredient: family_of(headers[ingredient]) for ingredient in users}
    loras = [i for i, family in families.items() if family == LORA]
    if loras:
        raise MergeError(_about_loras(loras, users, headers))
    if len({family.kind for family in families.values()}) > 1:
        told = ", ".join(f"{i.name} is {family.name}" for i, family in families.items())
        raise MergeError(f"Only checkpoints of one family can be mixed: {told}.")
    return families


def _about_loras(
    loras: Sequence[Ingredient],
    users: Sequence[Ingredient],
    headers: Mapping[Ingredient, Header],
) -> str:
    """Why these cannot be mixed as checkpoints, and what can be done instead."""
    names = listed([short_name(ingredient.name) for ingredient in loras])
    kinds = other_kinds(name for i in loras for name in headers[i].tensors)
    why = (
        f"{names}: {'a LoRA file' if len(loras) == 1 else 'LoRA files'}"
        f"{f' ({listed(list(kinds))})' if kinds else ''}. LoRA files hold factors of weights, and "
        "a mix of factors is not a mix of LoRAs. "
    )
    if kinds:
        return why + "Only LoRA and LoCon files with up and down matrices can be mixed or baked."
    if len(loras) < len(users):
        return why + "Bake it into a checkpoint first (Bake LoRA), and mix that."
    return why + '`python -m merge run "0.5 a + 0.5 b" OUT` mixes LoRA files exactly.'


def _family_of_result(
    families: Mapping[Ingredient, Family], headers: Mapping[Ingredient, Header], channels: int
) -> Family:
    """The family of the ingredients whose first convolution takes as many channels as the
    result's.
    """
    for ingredient, family in families.items():
        first = headers[ingredient].tensors.get(FIRST)
        if first and input_channels(first.shape) == channels:
            return family
    return next(iter(families.values()))


def _asked_for(recipe: Recipe) -> dict[str, list[Ingredient]]:
    """The parts that a recipe takes from elsewhere, and from which ingredients."""
    if not isinstance(recipe, Parts):
        return {}
    given = {TEXT_PART: recipe.text_encoder, VAE_PART: recipe.vae}
    return {p: list(dict.fromkeys(ingredients(side))) for p, side in given.items() if side}


def _outside_notes(mixture: _Mixture, made: Sequence[OutputTensor]) -> list[str]:
    """What happens to tensors that are in no part of a checkpoint."""
    kept = {output.name for output in made}
    base = short_name(mixture.order[0].name)
    told = []
    for names, what in (
        ([n for n in mixture.outside if n in kept], f"are taken from {base}"),
        ([n for n in mixture.outside if n not in kept], f"are left out: {base} has none"),
    ):
        if names:
            count = f"{len(names)} tensors in no part of a checkpoint"
            told.append(f"{count} {what}: {listed(sorted(names), 3)}.")
    return told
