"""Makes the thumbnails of the saved graphs again, with models that have learned.

    COMFYUI_PATH=.comfy/comfyui .venv/bin/python -m tests.thumbnails FOLDER MINIATURES

MINIATURES holds the three miniature checkpoints, such as .comfy/base/models/checkpoints. Runs the
demo in FOLDER, then every other saved graph with the demo's picks and their mix in place
of the untrained miniatures. FOLDER keeps everything, so that a second call takes seconds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from .comfy import Comfy
from .demo import Demo

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "workflows"
DEMO = WORKFLOWS / "api" / "cosmopolitan_miniature.json"
WIDEST = 900
"""Pixels of the longer side, but for the demo's tall sheet."""
LARGEST_BYTES = 300_000


def main(folder: Path, miniatures: Path) -> None:
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    untrained = {file.name: file for file in miniatures.glob("*.safetensors")}
    server = start(comfyui, folder / "demo", untrained)
    try:
        demo = Demo(server, DEMO)
        demo.run()
        keep(demo.pictures("CocktailGridSheet")[-1], DEMO.stem)
        names = [pick["checkpoint"] for pick in demo.results("CocktailPickCheckpoint")]
        names.append(demo.results("CocktailMergeToFile")[0]["checkpoint"])
    finally:
        server.stop()
    files = [server.base / "models" / "checkpoints" / name for name in names]
    server = start(comfyui, folder / "graphs", dict(zip(sorted(untrained), files, strict=True)))
    try:
        for graph in sorted(WORKFLOWS.glob("api/*.json")):
            if graph != DEMO:
                outputs = server.run(json.loads(graph.read_text(encoding="utf-8")), timeout=3600)
                keep(last_picture(server, outputs), graph.stem)
                print(graph.stem, flush=True)
    finally:
        server.stop()


def start(comfyui: Path, base: Path, checkpoints: dict[str, Path]) -> Comfy:
    """A ComfyUI whose checkpoints are these files under these names."""
    server = Comfy(comfyui, base, ROOT)
    for name, file in checkpoints.items():
        link = base / "models" / "checkpoints" / name
        if not link.exists():
            os.link(file, link)
    server.start()
    return server


def last_picture(server: Comfy, outputs: dict[str, Any]) -> Path:
    """What the last node that shows pictures shows first."""
    shown = [outputs[key]["images"] for key in sorted(outputs, key=int) if "images" in outputs[key]]
    image = shown[-1][0]
    return server.base / image["type"] / image["subfolder"] / image["filename"]


def keep(picture: Path, name: str) -> None:
    """Write a picture as the thumbnail of a saved graph, as good as its size allows."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB")
    small.thumbnail((WIDEST, 2 * WIDEST))
    for quality in range(90, 30, -5):
        small.save(WORKFLOWS / f"{name}.jpg", quality=quality, optimize=True)
        if (WORKFLOWS / f"{name}.jpg").stat().st_size < LARGEST_BYTES:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
