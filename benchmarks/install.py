"""Whether installing the pack changes what the user has: pip's plan on an old and a new ComfyUI.

    .venv/bin/python benchmarks/install.py      # after `python dev.py setup`; asks a package index

Makes a throw-away environment for each transformers, which takes all other packages from this one,
and asks pip what `pip install -r requirements.txt` would do there (`--dry-run --report`). Nothing
of the user's may be replaced, and what is added may not break what transformers asks for.
"""

from __future__ import annotations

import sys

# Run by its path, this file would stand in a folder where `select` is a benchmark.
sys.path.pop(0)

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSIDE = "Scripts/python.exe" if os.name == "nt" else "bin/python"
VERSIONS = {"oldest": "transformers==4.50.3", "newest": "transformers"}
"""ComfyUI 0.3.75 asks for 4.50.3 or newer."""
OURS = (
    "accelerate",
    "diffusers",
    "duckdb",
    "filelock",
    "krippendorff",
    "matplotlib",
    "pytorch-optimizer",
    "segno",
)
"""Hidden from pip in the environment, as on a fresh ComfyUI."""
KEPT = {
    "numpy",
    "torch",
    "torchvision",
    "torchaudio",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "pillow",
    "scipy",
    "xformers",
    "aiohttp",
    "av",
    "einops",
}
PLAN = """
import importlib.metadata as m, json, sys
from packaging.requirements import Requirement
report = json.load(open(sys.argv[1]))
new = {i["metadata"]["name"].lower().replace("_", "-"): i["metadata"]["version"]
       for i in report["install"]}
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
broken = []
for line in m.requires("transformers") or ():
    asked = Requirement(line)
    name = asked.name.lower().replace("_", "-")
    if name in new and (not asked.marker or asked.marker.evaluate({"extra": ""})):
        if not asked.specifier.contains(new[name], prereleases=True):
            broken.append(f"{asked} but {new[name]}")
print(json.dumps({"new": {n: [version(n), v] for n, v in new.items()}, "broken": broken,
                  "have": {n: version(n) for n in ("torch", "numpy", "transformers")}}))
"""


def main() -> int:
    bad = False
    for label, wanted in VERSIONS.items():
        found = plan(wanted)
        print(f"{label}: {', '.join(f'{n} {v}' for n, v in found['have'].items())}")
        for name, (before, after) in sorted(found["new"].items()):
            print(f"  {name:24} {before or 'new':>12} -> {after}")
        replaced = {name for name, (before, _) in found["new"].items() if before} & KEPT
        added = {name for name, (before, _) in found["new"].items() if not before} & KEPT
        for problem in [
            *(f"{name} would be replaced" for name in sorted(replaced)),
            *(f"{name} would be installed" for name in sorted(added)),
            *(f"transformers asks for {line}" for line in found["broken"]),
        ]:
            bad = True
            print(f"  WRONG: {problem}")
    print("Something of the user's would change." if bad else "Nothing of the user's changes.")
    return int(bad)


def plan(wanted: str) -> dict:
    """What pip would install into an environment with this transformers."""
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder), wanted)
        report = Path(folder) / "report.json"
        pip(
            python,
            "--quiet",
            "--dry-run",
            "--report",
            report,
            "-r",
            ROOT / "requirements.txt",
        )
        told = subprocess.run(
            [python, "-c", PLAN, report], check=True, capture_output=True, text=True
        )
        return json.loads(told.stdout)


def environment(folder: Path, wanted: str) -> Path:
    """An environment that sees the packages of .venv, without the pack's own, and a transformers of
    its own with what that asks for.
    """
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / INSIDE
    pip(python, "--quiet", "--upgrade", "setuptools")
    asks = "import sysconfig; print(sysconfig.get_path('purelib'))"
    seen = folder / "seen"
    seen.mkdir()
    hidden = tuple(f"{name.replace('-', '_')}-" for name in (*OURS, "transformers"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(hidden) and entry.name != "pip":
            (seen / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
            if entry.name.startswith("torch-"):
                complete(seen / entry.name)
    own = Path(subprocess.check_output([python, "-c", asks], text=True).strip())
    (own / "seen.pth").write_text(f"{seen}\n")
    pip(python, "--quiet", wanted)
    return python


def complete(torch: Path) -> None:
    """Let a torch count as whole that was installed without libraries that this machine has no use
    for. Otherwise pip would mend it, whatever is being installed.
    """
    real = torch.resolve()
    torch.unlink()
    shutil.copytree(real, torch)
    lines = (torch / "METADATA").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("Requires-Dist:")]
    (torch / "METADATA").write_text("".join(kept), encoding="utf-8")


def pip(python: Path, *words: str | Path) -> None:
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", *words]
    # What a machine's pip is told to keep to would hide what a user's would do.
    subprocess.run(command, check=True, env={**os.environ, "PIP_CONSTRAINT": os.devnull})


if __name__ == "__main__":
    sys.exit(main())
