"""Importing this imports what a training needs, once, before processes are forked for trainings."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for name in ("cocktail",):
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT)]
        sys.modules[name] = package

import accelerate  # noqa: E402, F401
import diffusers  # noqa: E402
import duckdb  # noqa: E402, F401
import pytorch_optimizer  # noqa: E402, F401
import torch.utils.tensorboard  # noqa: E402, F401
import transformers  # noqa: E402

for module in ("loop", "preparation", "samples", "model"):
    importlib.import_module(f"cocktail.trainer.{module}")
_ = (
    diffusers.UNet2DConditionModel,
    diffusers.AutoencoderKL,
    transformers.CLIPTextModel,
    transformers.CLIPTokenizer,
)
