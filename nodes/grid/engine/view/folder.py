"""A grid as a folder that any browser opens, without a server and without a network.

index.html          the page
view.js, view.css   the viewer
data.js             axes, and the key and state of every cell
cells/N.js          settings and API prompts of a hundred cells each
pictures/<ab>/      the pictures; <ab> is how the key begins
small/<ab>/         small copies of them

Data is in scripts, because a page from file:// may read no other files.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .....trainer.files import DISK_FULL, write_text
from .....trainer.litter import sweep, temporary
from ..cell.settings import CellSettings
from ..errors import GridError
from ..plan.plan_json import settings_from_json
from ..store import export
from ..store.pixels import hash_of
from ..store.plan_file import naming, read_whole_plan
from ..store.store import Store
from . import thumbnails
from .bundle import bundle

VIEWER = Path(__file__).parents[4] / "web" / "view"
IN_FILE = 100
"""Cells in a file of settings."""
SMALL = 256
FORMAT = 1
FOLDERS = re.compile(
    r"(?:\b[A-Za-z]:[\\/]|\\\\|(?<![\w/:.~])~?/)(?:(?:[^\\/\s'\"<>|:]| (?![\\/]))+[\\/])+"
)
"""The folders of an absolute path."""


class ExportStopped(Exception):
    """Somebody does not want the export any more."""


def export_folder(
    store: Store,
    root: Path,
    thumbnails_dir: Path,
    show: Callable[[int, int], None] = lambda done, total: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Path:
    """Write the grid as it is now to a new folder below `root`, whole or not at all; the folder.

    It has the grid's name, with a number if that is taken. `show` is called with how many pictures
    are there, and of how many. Raises GridError, and ExportStopped when `is_stopped` says so.
    """
    name = store.folder.name
    try:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        unfinished = temporary(root / name)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()

        def shown(done: int, total: int) -> None:
            os.utime(unfinished)  # it is not abandoned, however long that takes
            show(done, total)

        try:
            _write(store, unfinished, thumbnails_dir, shown, is_stopped)
            return _publish(unfinished, root, name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        hint = "Free space" if error.errno in DISK_FULL else "Look at the folder's rights"
        raise GridError(
            f"The grid {name} cannot be exported to {root.name}: {error.strerror or error}. "
            f"{hint}, and export it again."
        ) from error


def _write(
    store: Store,
    folder: Path,
    thumbnails_dir: Path,
    show: Callable[[int, int], None],
    is_stopped: Callable[[], bool],
) -> None:
    found = export.states(store)
    hashes = _pictures(store, found["files"], folder, thumbnails_dir, show, is_stopped)
    numbers = {hash: number for number, hash in enumerate(dict.fromkeys(hashes.values()))}
    failures = store.failures()
    keys = found["keys"]
    data = {
        "format": FORMAT,
        "name": found["name"],
        "axes": found["axes"],
        "positions": found["positions"],
        "keys": keys,
        "states": "".join("f" if k in hashes else "x" if k in failures else "." for k in keys),
        "pixels": {key: numbers[hash] for key, hash in hashes.items()},
        "webp": [key for key in hashes if found["files"][key].endswith(".webp")],
        "reasons": {
            key: without_folders(failures[key]) for key in dict.fromkeys(keys) if key in failures
        },
        "in_file": IN_FILE,
        "made": time.strftime("%Y-%m-%d"),
    }
    for number, text in _cells(store, keys):
        if is_stopped():
            raise ExportStopped
        write_text(folder / "cells" / f"{number}.js", text)
    known = f"globalThis.cocktail = {{grid: {script(data)}, cells: {{}}}};\n"
    write_text(folder / "data.js", known)
    write_text(folder / "view.js", bundle(VIEWER / "exported.mjs"))
    shutil.copyfile(VIEWER / "view.css", folder / "view.css")
    page = (VIEWER / "exported.html").read_text(encoding="utf-8")
    write_text(folder / "index.html", page.replace("GRID", html.escape(found["name"])))


def _pictures(
    store: Store,
    files: dict[str, str],
    folder: Path,
    thumbnails_dir: Path,
    show: Callable[[int, int], None],
    is_stopped: Callable[[], bool],
) -> dict[str, str]:
    """Put the pictures and their small copies into the folder; by key, the hash of the pixels of
    each that can be read.
    """
    noted = store.pixels()
    for place in {key[:2] for key in files}:
        for kind in ("pictures", "small"):
            (folder / kind / place).mkdir(parents=True)

    def put(key: str) -> str | None:
        if is_stopped():
            raise ExportStopped
        picture = store.folder / files[key]
        try:
            status = picture.lstat()
            if not stat.S_ISREG(status.st_mode) or not store.is_own(picture):
                return None
            small = thumbnails.thumbnail(picture, SMALL, thumbnails_dir)
            hash, size = noted.get(key, ("", -1))
            if size != status.st_size:
                hash = _hash(picture)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            return None
        _take(picture, folder / "pictures" / key[:2] / picture.name)
        _take(small, folder / "small" / key[:2] / f"{key}.webp")
        return hash

    hashes: dict[str, str] = {}
    show(0, len(files))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for done, (key, hash) in enumerate(zip(files, pool.map(put, files), strict=True), 1):
            if hash is not None:
                hashes[key] = hash
            show(done, len(files))
    return hashes


def _hash(picture: Path) -> str:
    import numpy

    return hash_of(numpy.asarray(thumbnails.read_picture(picture)))


def _take(file: Path, to: Path) -> None:
    """The same file under another name where the disk can do that, otherwise a copy."""
    try:
        os.link(file, to)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        shutil.copyfile(file, to)


def _cells(store: Store, keys: list[str]) -> Iterator[tuple[int, str]]:
    """The files of settings and API prompts, by number. Both are texts of JSON, because a script
    has no room for all the digits of a seed.
    """
    file = store.folder / "plan.json"
    with naming(file):
        plan = read_whole_plan(file)
        settings: dict[str, CellSettings] = {
            cell["key"]: settings_from_json(plan, cell["settings"]) for cell in plan["cells"]
        }
    for number, first in enumerate(range(0, len(keys), IN_FILE)):
        cells = {
            key: {
                "settings": json.dumps(settings[key].to_json()),
                "prompt": json.dumps(settings[key].graphs("ComfyUI")["prompt"]),
            }
            for key in keys[first : first + IN_FILE]
            if key in settings
        }
        yield number, f"cocktail.cells[{number}] = {script(cells)};\n"


def without_folders(reason: str) -> str:
    """Why a cell failed, with files alone in place of their paths on this machine: an export is
    given to others.
    """
    return FOLDERS.sub("", reason)


def script(value: Any) -> str:
    """JSON that may stand in a script: nothing in it ends the script or a line of it."""
    return json.dumps(value).replace("<", "\\u003c")


def _publish(unfinished: Path, root: Path, name: str) -> Path:
    """Give a finished folder its name, which nothing else has."""
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        number += 1
        if folder.exists() or folder.is_symlink():
            continue
        try:
            unfinished.rename(folder)
            return folder
        except OSError:
            if not folder.exists():
                raise
