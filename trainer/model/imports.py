"""Importing the libraries of the models in less time.

transformers and diffusers import every optional package that they find, whether or not it is used.
Those below take a quarter of the time until a training begins, and no part of a training needs
them through these two libraries.
"""

from __future__ import annotations

import importlib
import sys

UNNEEDED = ("bitsandbytes", "scipy", "torchvision")
MODELS = (
    "transformers.models.clip.modeling_clip",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
)


def import_models() -> None:
    """Import what a training needs of transformers and diffusers as if UNNEEDED were not installed.

    For processes of our own only: both libraries remember what they found. Afterwards the packages
    can be imported as usual, as the 8-bit optimizer does with bitsandbytes.
    """
    hidden = [name for name in UNNEEDED if name not in sys.modules]
    for name in hidden:
        # A module that is None cannot be imported and has no spec.
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    try:
        for name in MODELS:
            importlib.import_module(name)
    finally:
        for name in hidden:
            del sys.modules[name]
