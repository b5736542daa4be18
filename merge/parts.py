"""Whether the text encoder and the VAE that a result gets are of its family and whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import MergeError, listed
from .family import SD2, SD2_DEPTH, SD15, SDXL, SDXL_REFINER, Family
from .key_names import TEXT, TEXT_PART, UNET, UNET_PART, VAE, VAE_PART, part_of
from .recipe import Ingredient, short_name
from .safetensors_file import Header
from .whole_parts import Shape, faults_of

EMBEDDING = "token_embedding.weight"
TEXT_WIDTHS = {
    SD15.kind: (768,), SD2.kind: (1024,), SD2_DEPTH.kind: (1024,), SDXL.kind: (768, 1280),
    SDXL_REFINER.kind: (1280,),
}  # fmt: skip
"""The widths of the token embeddings of a family's text encoders."""
NAMES = {
    (768,): "of SD1.5 (CLIP-L)", (1024,): "of Stable Diffusion 2 (OpenCLIP-H)",
    (768, 1280): "of SDXL (CLIP-L and OpenCLIP-bigG)", (1280,): "of the SDXL refiner",
}  # fmt: skip
OPTIONAL = ("position_ids", "logit_scale", "text_projection", "text_projection.weight")
"""Endings of the names of tensors that a text encoder may lack."""
LATENT_SIDES = {
    "decoder.conv_in.weight": (1, 4), "post_quant_conv.weight": (0, 4),
    "encoder.conv_out.weight": (0, 8), "quant_conv.weight": (0, 8),
}  # fmt: skip
"""Of the VAE of all these families: the dimension of a tensor that counts the latents' channels, or
twice them for mean and variance, and its size.
"""


def outside(headers: Mapping[Ingredient, Header], users: Sequence[Ingredient]) -> set[str]:
    """The names of tensors that are in no part of a checkpoint: what training tools leave behind,
    schedules, and other models. Those that all `users` have alike do not count.

    Only files that name the UNet's tensors as such tell them apart.
    """
    if not any(name.startswith(UNET) for name in headers[users[0]].tensors):
        return set()
    names = {
        name: None
        for ingredient in users
        for name in headers[ingredient].tensors
        if "." in name and part_of(name) == UNET_PART and not name.startswith(UNET)
    }
    found = set()
    for name in names:
        tensors = [headers[ingredient].tensors.get(name) for ingredient in users]
        if None in tensors or len({tensor.shape for tensor in tensors if tensor}) > 1:
            found.add(name)
    return found


def check_parts(
    family: Family,
    users: Mapping[str, Sequence[Ingredient]],
    headers: Mapping[Ingredient, Header],
    asked_for: Mapping[str, Sequence[Ingredient]],
) -> None:
    """Raise MergeError unless the ingredients of text encoder and VAE fit the family; parts that
    are `asked_for` of these ingredients must be there, as whole as that of the UNet's first
    ingredient that has one; where none has, as whole as the family's.
    """
    article = "an" if family.name.startswith("S") and family.name[1:2].isupper() else "a"
    for ingredient in users[TEXT_PART]:
        if why := _wrong_text_encoder(family, headers[ingredient]):
            raise MergeError(
                f"{short_name(ingredient.name)} cannot give the text encoder of {article} "
                f"{family.name} checkpoint: {why}. Choose a checkpoint of that family."
            )
    for ingredient in users[VAE_PART]:
        if why := _wrong_vae(family, headers[ingredient]):
            raise MergeError(
                f"{short_name(ingredient.name)} cannot give the VAE of {article} {family.name} "
                f"checkpoint: {why}. Choose another VAE."
            )
    for part, sides in asked_for.items():
        _check_whole(family, part, sides, users[UNET_PART], headers)


def notes_on_parts(family: Family, base: Header, made: Mapping[str, Shape]) -> list[str]:
    """What is to say of a text encoder and a VAE that the base does not have: that the result has
    none, or that it has one which is not whole. `made` are the shapes of the result's tensors.
    """
    told = []
    for part in (TEXT_PART, VAE_PART):
        shapes = {name: shape for name, shape in made.items() if part_of(name) == part}
        if not shapes:
            told.append(f"The result has no {part}: none of its ingredients has one.")
            continue
        is_of_base = any(part_of(name) == part for name in base.tensors)
        if family.kind in TEXT_WIDTHS and not is_of_base and (faults := faults_of(part, shapes)):
            told.append(
                f"The {part} of the result is not whole: the base has none, and in that of the "
                f"others {listed(faults, 3)}."
            )
    return told


def _wrong_text_encoder(family: Family, header: Header) -> str | None:
    """Why a file's text encoder is another family's; None if it is not, or if it has none."""
    expected = TEXT_WIDTHS.get(family.kind)
    embeddings = [
        tensor
        for name, tensor in header.tensors.items()
        if part_of(name) == TEXT_PART and name.endswith(EMBEDDING) and len(tensor.shape) == 2
    ]
    if expected is None or not embeddings:
        return None
    widths = tuple(sorted(tensor.shape[1] for tensor in embeddings))
    if widths != expected:
        return f"its text encoder is that {NAMES.get(widths, f'of another family, {widths} wide')}"
    if family.kind == SD15.kind and not embeddings[0].name.startswith(TEXT):
        return f"its text encoder has another layout ({embeddings[0].name})"
    return None


def _wrong_vae(family: Family, header: Header) -> str | None:
    """Why a file's VAE is another family's; None if it is not, or if it has none."""
    if family.kind not in TEXT_WIDTHS:
        return None
    for name, (side, channels) in LATENT_SIDES.items():
        tensor = header.tensors.get(VAE + name)
        if tensor and len(tensor.shape) == 4 and tensor.shape[side] != channels:
            return f"{VAE}{name} is {list(tensor.shape)}, so its latents have another size"
    return None


def _check_whole(
    family: Family,
    part: str,
    sides: Sequence[Ingredient],
    of_unet: Sequence[Ingredient],
    headers: Mapping[Ingredient, Header],
) -> None:
    def of_part(ingredient: Ingredient) -> dict[str, tuple[int, ...]]:
        tensors = headers[ingredient].tensors
        return {name: t.shape for name, t in tensors.items() if part_of(name) == part}

    given = {name: shape for i in reversed(sides) for name, shape in of_part(i).items()}
    label = listed([short_name(ingredient.name) for ingredient in sides])
    if not given:
        raise MergeError(f"There is no {part} in {label}. Choose a checkpoint that has one.")
    expected = next((found for i in of_unet if (found := of_part(i))), {})
    wrong = [
        f"{name} is {'missing' if name not in given else list(given[name])}"
        for name, shape in expected.items()
        if not name.endswith(OPTIONAL) and given.get(name) != shape
    ]
    if not expected and family.kind in TEXT_WIDTHS and (faults := faults_of(part, given)):
        raise MergeError(
            f"The {part} of {label} is not whole: {listed(faults, 3)}. Choose a checkpoint with a "
            "whole one."
        )
    if wrong:
        raise MergeError(
            f"The {part} of {label} is not like the one it replaces: {listed(wrong, 3)}. "
            "Choose one of the same architecture."
        )
