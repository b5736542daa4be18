"""What a checkpoint's UNet predicts: the noise (epsilon) or v. A mix of both predicts neither.

Few files say it. ComfyUI goes by tensors without weights (comfy/supported_models.py: SDXL's v_pred,
ztsnr and edm_*), and for Stable Diffusion 2 by the spread of one bias; training tools write it into
the metadata (ModelSpec's prediction_type, sd-scripts' ss_v_parameterization). What says nothing is
taken for epsilon, as ComfyUI does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import MergeError
from .family import SD2, SD15, SDXL, Family
from .key_names import UNET
from .reading import read_values
from .recipe import Ingredient, short_name
from .safetensors_file import Header

EPSILON, V = "epsilon", "v"
V_PRED, ZERO_TERMINAL = "v_pred", "ztsnr"
MARKERS = (V_PRED, ZERO_TERMINAL, "edm_mean", "edm_std")
"""Names of tensors that say what a UNet predicts, beside those that begin with `EDM`."""
EDM = "edm_vpred."
METADATA = "modelspec.prediction_type"
OF_COMFYUI = "modelspec.predict_key"
"""What ComfyUI's Save Checkpoint calls the same."""
BIAS = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
SPREAD = 0.09
"""Of `BIAS` in Stable Diffusion 2: above it ComfyUI takes a model for one that predicts v."""
FAMILIES = (SD15.kind, SD2.kind, SDXL.kind)


@dataclass(frozen=True)
class Prediction:
    """What is predicted, and what says so; None if it is only what one assumes."""

    kind: str
    by: str | None

    def __str__(self) -> str:
        return f"{self.kind} ({self.by or 'nothing in it says otherwise'})"


def is_marker(name: str) -> bool:
    """Whether a tensor holds no weights but says what the UNet predicts."""
    return name in MARKERS or name.startswith(EDM)


def prediction_of(header: Header, family: Family) -> Prediction | None:
    """What the UNet of a file predicts; None for families in which all predict the same."""
    if family.kind not in FAMILIES:
        return None
    names = header.tensors
    if "edm_mean" in names and "edm_std" in names:
        return Prediction("EDM", "the tensors edm_mean and edm_std")
    if EDM + "sigma_max" in names:
        return Prediction("v in EDM's scale", f"the tensor {EDM}sigma_max")
    if V_PRED in names:
        return Prediction(V, f"the tensor {V_PRED}")
    for field in (METADATA, OF_COMFYUI):
        if told := header.metadata.get(field, "").strip().lower():
            kind = V if told.startswith("v") else EPSILON if told.startswith("eps") else told
            return Prediction(kind, f"{field} is {told!r}")
    if header.metadata.get("ss_v_parameterization") == "True":
        return Prediction(V, "ss_v_parameterization is True")
    if family == SD2 and BIAS in names:
        spread = float(read_values(header, BIAS).std(unbiased=False))
        return Prediction(V if spread > SPREAD else EPSILON, "the spread of one of its biases")
    return Prediction(EPSILON, None)


def common_prediction(
    headers: Mapping[Ingredient, Header],
    families: Mapping[Ingredient, Family],
    is_mix_allowed: bool,
) -> tuple[Prediction | None, list[str]]:
    """What all of these ingredients of a UNet predict, and notes. None if they are not alike, or if
    their family has no choice.

    Raises MergeError if they are not alike, unless that is allowed.
    """
    found = {i: prediction_of(header, families[i]) for i, header in headers.items()}
    given = {i: prediction for i, prediction in found.items() if prediction}
    kinds = {prediction.kind for prediction in given.values()}
    if len(kinds) > 1:
        told = ", ".join(f"{short_name(i.name)} predicts {p}" for i, p in given.items())
        if not is_mix_allowed:
            raise MergeError(
                f"These models do not predict the same: {told}. A mix of them predicts neither. "
                "Mix models of one kind; if a file does not say what it is, or you want to try, "
                "switch on allow_mixed_prediction of the merge node, or add "
                "--allow mixed-prediction to `python -m merge run`."
            )
        return None, [f"These models do not predict the same: {told}. The mix predicts neither."]
    if not given:
        return None, []
    having = [i for i in given if ZERO_TERMINAL in headers[i].tensors]
    notes = []
    if having and len(having) < len(given):
        notes.append(
            f"Only {_names(having)} has the mark {ZERO_TERMINAL} (zero terminal SNR); the result "
            "has it too."
        )
    stated = [prediction for prediction in given.values() if prediction.by]
    return (stated or list(given.values()))[0], notes


def _names(found: Sequence[Ingredient]) -> str:
    return ", ".join(short_name(ingredient.name) for ingredient in found)
