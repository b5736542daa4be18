"""The trainer's tests with the oldest packages that it promises to work with.

    python benchmarks/old_packages.py              # needs `python dev.py setup` and some minutes
    python benchmarks/old_packages.py -k resume    # what follows goes to pytest

Makes a second environment, `.venv-old` beside dev.py, with transformers 4.50, diffusers 0.35 and an
older PyTorch, and runs there the tests of `tests/trainer` that are about training. Delete the
folder to start over.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand in a folder where `select` is a benchmark.
sys.path.pop(0)

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-old"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PACKAGES = (
    "torch==2.7.1",
    "torchvision==0.22.1",
    "transformers==4.50.0",
    "diffusers==0.35.0",
    "accelerate==1.0.0",
    "huggingface-hub==0.34.0",
    "safetensors==0.4.5",
    "pytorch-optimizer==4.1.0",
    "numpy<2.3",
    "duckdb>=1.4",
    "matplotlib>=3.7",
    "filelock",
    "psutil",
    "pillow",
    "scipy",
    "hypothesis",
    "jsonschema",
    "pytest",
    "setuptools<80",
    "tensorboard",
)
TESTS = (
    "attention", "config", "ema", "everydream", "experiments", "latents", "layers", "loop",
    "memory", "miniature", "noise", "optimizer_formulas",
    "optimizers", "presets", "resume", "runs", "scaler", "settings_commands",
    "single_file", "text", "training", "trend", "workers",
)  # fmt: skip
"""Names of files in tests/trainer, without `test_`."""
NEEDS_COMFYUI = "tests/trainer/test_text.py::test_long_captions_have_comfyuis_tokens"
"""Runs ComfyUI itself, whose packages are not there."""


def main() -> int:
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    versions = (
        "import torch, transformers, diffusers, accelerate\n"
        "for module in (torch, transformers, diffusers, accelerate):\n"
        "    print(module.__name__, module.__version__, end=' ')"
    )
    subprocess.run([PYTHON, "-c", versions], check=True)
    comfyui = os.environ.get("COMFYUI_PATH") or ROOT / ".comfy" / "comfyui"
    files = [ROOT / "tests" / "trainer" / f"test_{name}.py" for name in TESTS]
    command = [PYTHON, "-m", "pytest", "-q", *files, "--deselect", NEEDS_COMFYUI, *sys.argv[1:]]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "COMFYUI_PATH": str(comfyui)}
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
