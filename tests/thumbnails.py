"""Makes the thumbnails of the saved graphs again, with models that have learned.

    COMFYUI_PATH=.comfy/comfyui .venv/bin/python -m tests.thumbnails FOLDER MINIATURES [GRAPH ...]

MINIATURES holds the three miniature checkpoints, such as .comfy/base/models/checkpoints. Runs the
demo in FOLDER/demo, then every other saved graph, or those that are named, with the demo's picks
and their mix in place of the untrained miniatures. FOLDER keeps everything, so that a second call
takes seconds; FOLDER/demo may be a finished demo's .comfy/base.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comfy import Comfy
from .conftest import link_or_copy
from .demo import Demo
from .judge import run_voted

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "workflows"
DEMO = WORKFLOWS / "api" / "cosmopolitan_miniature.json"
WIDEST = 720
"""Pixels of the width; a picture may be twice as high."""
LARGEST_BYTES = 60_000


def main(folder: Path, miniatures: Path, graphs: Sequence[str]) -> None:
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    untrained = {file.name: file for file in miniatures.glob("*.safetensors")}
    server = start(comfyui, folder / "demo", untrained)
    try:
        demo = Demo(server, DEMO)
        demo.run()
        if not graphs or DEMO.stem in graphs:
            keep(demo.pictures("CocktailGridSheet")[-1], DEMO.stem)
        names = [pick["checkpoint"] for pick in demo.results("CocktailPickCheckpoint")]
        names.append(demo.results("CocktailMergeToFile")[0]["checkpoint"])
    finally:
        server.stop()
    files = [server.base / "models" / "checkpoints" / name for name in names]
    server = start(comfyui, folder / "graphs", dict(zip(sorted(untrained), files, strict=True)))
    try:
        for graph in sorted(WORKFLOWS.glob("api/*.json")):
            if graph != DEMO and (not graphs or graph.stem in graphs):
                prompt = json.loads(graph.read_text(encoding="utf-8"))
                outputs, _ = run_voted(server, prompt, timeout=3600)
                if is_fed(server, prompt):
                    outputs = server.run(prompt, timeout=3600)
                keep(best_picture(server, prompt, outputs), graph.stem)
                print(graph.stem, flush=True)
    finally:
        server.stop()


def start(comfyui: Path, base: Path, checkpoints: dict[str, Path]) -> Comfy:
    """A ComfyUI whose checkpoints are these files under these names."""
    server = Comfy(comfyui, base, ROOT)
    for name, file in checkpoints.items():
        link = base / "models" / "checkpoints" / name
        if not link.exists():
            link_or_copy(file, link)
    server.start()
    return server


def is_fed(server: Comfy, prompt: dict[str, Any]) -> bool:
    """Whether a graph leaves a grid to the queue; waits until that grid is finished."""
    kinds = {node["class_type"] for node in prompt.values()}
    if "CocktailQueueGrid" not in kinds:
        return False
    for node in prompt.values():
        if node["class_type"] == "CocktailWorkflowPlan":
            feed = f"/cocktail/grids/{node['inputs']['name']}/feed"
            while server.get(feed)["state"] == "running":
                time.sleep(1)
    return True


def best_picture(server: Comfy, prompt: dict[str, Any], outputs: dict[str, Any]) -> Path:
    """What the last sheet of a grid shows first; without one, the last node that shows pictures."""
    keys = [key for key in sorted(outputs, key=int) if "images" in outputs[key]]
    sheets = [key for key in keys if prompt[key]["class_type"] == "CocktailGridSheet"]
    image = outputs[(sheets or keys)[-1]]["images"][0]
    return server.base / image["type"] / image["subfolder"] / image["filename"]


def keep(picture: Path, name: str) -> None:
    """Write a picture as the thumbnail of a saved graph, as good as its size allows."""
    from PIL import Image

    with Image.open(picture) as image:
        whole = image.convert("RGB")
    for width in (WIDEST, WIDEST * 3 // 4, WIDEST // 2):
        small = whole.copy()
        small.thumbnail((width, 2 * width))
        for quality in (90, 80, 70, 60):
            small.save(WORKFLOWS / f"{name}.jpg", quality=quality, optimize=True)
            if (WORKFLOWS / f"{name}.jpg").stat().st_size < LARGEST_BYTES:
                return


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:])
