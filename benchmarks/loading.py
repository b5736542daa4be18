"""How long ComfyUI's loader takes for this pack, in seconds of the processor; target below 0.3.

    python benchmarks/loading.py --comfyui PATH

Run it with ComfyUI's Python. Modules are compiled already, as after the first start.
"""

from __future__ import annotations

import sys

# Run by its path, this file's folder would put its select.py before the standard library's.
sys.path.insert(0, sys.path.pop(0).removesuffix("benchmarks"))

import argparse
import platform
import statistics
import tempfile
from pathlib import Path

from tests.test_loader import load

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True)
    comfyui = parser.parse_args().comfyui.resolve()
    with tempfile.TemporaryDirectory() as bytecode:
        load(comfyui, ROOT, Path(bytecode))
        times = [load(comfyui, ROOT, Path(bytecode))["seconds"] for _ in range(5)]
    print(f"Python {platform.python_version()}, {platform.platform()}")
    print(f"loading the pack: {statistics.median(times):.3f} s (median of {len(times)})")


if __name__ == "__main__":
    main()
