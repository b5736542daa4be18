"""What is known about ComfyUI's samplers: which can sample cells together, and what a step costs.

Which samplers keep the cells of a batch apart was found by running every sampler of ComfyUI 0.3.75
on three cells, together and one by one; the tests run them again. A sampler in neither list, such
as a later one, samples its cells one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import GridError

WITHOUT_NOISE = frozenset(
    {
        "euler",
        "euler_cfg_pp",
        "heun",
        "heunpp2",
        "dpm_2",
        "lms",
        "dpm_fast",
        "dpmpp_2m",
        "dpmpp_2m_cfg_pp",
        "ipndm",
        "ipndm_v",
        "deis",
        "res_multistep",
        "res_multistep_cfg_pp",
        "gradient_estimation",
        "gradient_estimation_cfg_pp",
        "ddim",
        "uni_pc",
        "uni_pc_bh2",
    }
)
"""Samplers that draw no noise after the start, and do the same to every item of a batch."""


WITH_NOISE_PER_SEED = frozenset(
    {
        "dpmpp_sde",
        "dpmpp_sde_gpu",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_gpu",
        "dpmpp_2m_sde_heun",
        "dpmpp_2m_sde_heun_gpu",
        "dpmpp_3m_sde",
        "dpmpp_3m_sde_gpu",
    }
)
"""Samplers that draw noise from a Brownian tree for each item of a batch if each has its seed."""


def keeps_apart(sampler: str) -> bool:
    """Whether every cell stays its own when several are sampled together."""
    return sampler in WITHOUT_NOISE or sampler in WITH_NOISE_PER_SEED


EVALUATIONS = {
    "heun": 2, "heunpp2": 2, "dpm_2": 2, "dpm_2_ancestral": 2, "dpmpp_2s_ancestral": 2,
    "dpmpp_2s_ancestral_cfg_pp": 2, "dpmpp_sde": 2, "dpmpp_sde_gpu": 2, "seeds_2": 2,
    "exp_heun_2_x0": 2, "exp_heun_2_x0_sde": 2, "seeds_3": 3, "sa_solver_pece": 2,
}  # fmt: skip
"""Evaluations of the model in one step, for the samplers that need more than one."""


OF_A1111 = {
    "dpm2": "dpm_2", "dpm2_a": "dpm_2_ancestral", "unipc": "uni_pc", "uniform": "normal",
}  # fmt: skip
"""Samplers and schedulers of A1111's web UI (modules/sd_samplers_kdiffusion, sd_schedulers) with
names of their own.
"""


def as_people_write(name: str, known: Sequence[str]) -> str | None:
    """The one of these samplers or schedulers that a name of A1111's web UI means, whatever its
    case: `DPM++ 2S a` is dpmpp_2s_ancestral. Raises GridError for a name that holds both.
    """
    plain = re.sub(r"\s+", "_", name.strip().lower()).replace("dpm++", "dpmpp")
    ancestral = re.sub(r"_a$", "_ancestral", plain)
    for found in (plain, OF_A1111.get(plain), ancestral, f"{plain}_uniform"):
        if found in known:
            return found
    sampler, _, scheduler = name.strip().rpartition(" ")
    if scheduler.lower() in ("karras", "exponential") and (
        found := as_people_write(sampler, known) if sampler else None
    ):
        raise GridError(
            f"{name!r} is the sampler {found} with the scheduler {scheduler.lower()} here. "
            f"Write {found}, and {scheduler.lower()} as the scheduler."
        )
    if plain == "automatic":
        raise GridError(
            "'Automatic' is another scheduler for every sampler in A1111: karras for most of "
            "DPM++, else normal. Write the one you mean."
        )
    return None
