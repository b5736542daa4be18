"""Whether the pack can be published: every check of a release, on the archive that would be sent.

    python dev.py release

Uploads nothing. docs/releasing.md says what has to be done by hand.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tomllib
from PIL import Image

from .test_loader import load

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_000_000
"""Bytes of a file."""
SLOWEST_S = 0.3
"""Seconds of processor time for importing the pack, at the best of IMPORTS tries."""
IMPORTS = 3
WARNS = "Environment ::"
"""Classifiers that make the registry's page warn owners of other devices."""
LEFT_OUT = (".ci/", ".comfy/", ".venv/", "benchmarks/", "tests/", "dev.py")
UNUSED = ("docs/art/",)
"""May be left out: the registry takes these by their address."""
BYTECODE = re.compile(r"(^|/)__pycache__/|\.py[co]$")
CONTRACT = "tests/node_contract.json"
Problems = list[str]


def main() -> int:
    checks: dict[str, Callable[[], Problems]] = {
        "addresses, icon and banner": lambda: addresses(project()),
        "what the registry wants": lambda: metadata(project()),
        "version": lambda: version(project(), tags(), changelog()),
        "promises of the nodes": promises,
        "the archive": archive,
        "comfy node validate": validate,
    }
    failed = 0
    for name, check in checks.items():
        found = check()
        failed += bool(found)
        print(f"{'refused' if found else 'ok     '}  {name}", flush=True)
        for problem in found:
            print(f"         - {problem}")
    print(f"\n{'Not to be published yet.' if failed else 'Ready: comfy node publish'}")
    return 1 if failed else 0


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout


def tags() -> list[str]:
    """Tags of releases, v1.2.3, the newest version first."""
    found = [tag for tag in git("tag", "--list", "v*").split() if numbers(tag[1:])]
    return sorted(found, key=lambda tag: numbers(tag[1:]) or (), reverse=True)


def numbers(text: str) -> tuple[int, ...] | None:
    """The three numbers of a version; None for anything else."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, match.groups())) if match else None


def addresses(found: Mapping[str, Any]) -> Problems:
    """The registry refuses a pack without a repository, and shows pictures by their address."""
    problems = []
    where = found["project"].get("urls", {}).get("Repository", "")
    if not re.fullmatch(r"https://[^\s/]+/[^\s/]+/[^\s/]+", where):
        problems.append("[project.urls] Repository is missing: the address of this repository.")
    for name, file in (("Icon", "icon.png"), ("Banner", "banner.png")):
        value = found["tool"]["comfy"].get(name, "")
        if not re.fullmatch(rf"https://\S+/docs/art/{re.escape(file)}", value):
            problems.append(f"[tool.comfy] {name} is missing: the address of docs/art/{file}.")
    if "URL-OF-THIS-REPOSITORY" in (ROOT / "README.md").read_text(encoding="utf-8"):
        problems.append("README.md still says URL-OF-THIS-REPOSITORY.")
    return problems


def metadata(found: Mapping[str, Any]) -> Problems:
    """Rules of docs.comfy.org/registry/specifications."""
    problems = []
    name = found["project"]["name"]
    if not re.fullmatch(r"[A-Za-z]+([-_.]?[A-Za-z0-9]+)*", name) or "comfyui" in name.lower():
        problems.append(f"The name {name!r} is not one that the registry takes.")
    problems += [
        f"The classifier {one!r} warns owners of other devices."
        for one in found["project"]["classifiers"]
        if one.startswith(WARNS)
    ]
    for key in ("PublisherId", "DisplayName", "requires-comfyui"):
        if not found["tool"]["comfy"].get(key):
            problems.append(f"[tool.comfy] {key} is missing.")
    for file, right in (("icon.png", _square), ("banner.png", _banner)):
        with Image.open(ROOT / "docs" / "art" / file) as picture:
            if not right(*picture.size):
                problems.append(f"docs/art/{file} has {picture.size} pixels.")
    return problems


def _square(width: int, height: int) -> bool:
    return width == height <= 400


def _banner(width: int, height: int) -> bool:
    return width * 9 == height * 21


def version(found: Mapping[str, Any], released: list[str], changes: str) -> Problems:
    """Newer than the last release, and the one that the changelog begins with."""
    own = found["project"]["version"]
    if numbers(own) is None:
        return [f"The version {own!r} is not three numbers."]
    problems = []
    if released and numbers(own) <= numbers(released[0][1:]):
        problems.append(f"Version {own} is not newer than {released[0]}.")
    heading = re.search(r"^## (\S+)", changes, re.MULTILINE)
    if not heading or heading[1] != own:
        problems.append(f"CHANGELOG.md does not begin with version {own}.")
    return problems


def promises() -> Problems:
    """The contract of the last release's nodes still holds; nothing to compare before the first."""
    if not tags():
        return []
    before = json.loads(git("show", f"{tags()[0]}:{CONTRACT}"))
    now = json.loads((ROOT / CONTRACT).read_text(encoding="utf-8"))
    return broken(before, now)


def broken(before: Mapping[str, Any], now: Mapping[str, Any]) -> Problems:
    """What saved graphs relied on and is no longer so: only appending is allowed."""
    problems = [f"{name} is gone." for name in before if name not in now]
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        known, given = list(old["inputs"]), list(new["inputs"])
        if given[: len(known)] != known:
            problems.append(f"{name}: inputs were {known} and are {given}.")
            continue
        for entry in given[len(known) :]:
            if not new["inputs"][entry].get("optional"):
                problems.append(f"{name}.{entry} is new and not optional.")
        for entry in known:
            problems += _changed(f"{name}.{entry}", old["inputs"][entry], new["inputs"][entry])
        if new["outputs"][: len(old["outputs"])] != old["outputs"]:
            problems.append(f"{name}: outputs have changed.")
        if new["output_node"] != old["output_node"]:
            problems.append(f"{name}: whether it is an output node has changed.")
    return sorted(problems)


def _changed(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Problems:
    problems = []
    if gone := [one for one in old.get("choices", ()) if one not in new.get("choices", ())]:
        problems.append(f"{where} no longer offers {', '.join(map(str, gone))}.")
    if old.get("optional") and not new.get("optional"):
        problems.append(f"{where} is no longer optional.")
    for key in ("type", "default"):
        if old.get(key) != new.get(key):
            problems.append(f"{where}: {key} was {old.get(key)!r} and is {new.get(key)!r}.")
    return problems


def archive() -> Problems:
    """The archive that comfy-cli makes: what is in it, and whether the pack loads from it."""
    problems = []
    if changed := git("status", "--porcelain").splitlines():
        problems.append(f"Not committed: {', '.join(line[3:] for line in changed)}")
    entries = git("ls-files", "--stage").splitlines()
    problems += [f"A link: {line.split(None, 3)[3]}" for line in entries if line[:6] == "120000"]
    with tempfile.TemporaryDirectory() as folder:
        file, pack = Path(folder) / "pack.zip", Path(folder) / "cocktail"
        make_archive(file)
        with zipfile.ZipFile(file) as packed:
            problems += contents(packed.infolist(), git("ls-files").splitlines())
            packed.extractall(pack)
        problems += loads(pack, Path(folder) / "bytecode")
        files = {one.relative_to(pack).as_posix() for one in pack.rglob("*") if one.is_file()}
        new = sorted(files - {one.filename for one in packed.infolist()})
        problems += [f"Loading it wrote {name} into the pack's folder." for name in new]
    return problems


def make_archive(file: Path) -> None:
    """What `comfy node publish` would send."""
    makes = "import sys; from comfy_cli.file_utils import zip_files; zip_files(sys.argv[1])"
    subprocess.run([sys.executable, "-c", makes, str(file)], cwd=ROOT, check=True)


def contents(packed: Iterable[zipfile.ZipInfo], tracked: list[str]) -> Problems:
    """What is too much in the archive, and what a user would miss."""
    problems, names = [], set()
    for one in packed:
        names.add(one.filename)
        if one.file_size > LARGEST:
            problems.append(f"{one.filename} has {one.file_size:,} bytes.")
        if stat.S_ISLNK(one.external_attr >> 16):
            problems.append(f"{one.filename} is a link.")
        if BYTECODE.search(one.filename):
            problems.append(f"{one.filename} is bytecode.")
        if one.filename.startswith(LEFT_OUT):
            problems.append(f"{one.filename} is of no use to a user: see .comfyignore.")
    left_out = (*LEFT_OUT, *UNUSED)
    missing = [name for name in tracked if not name.startswith(left_out) and name not in names]
    return problems + [f"{name} is not in the archive." for name in missing]


def loads(pack: Path, bytecode: Path) -> Problems:
    """Whether ComfyUI's loader takes the unpacked archive, quickly and with all nodes."""
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    found = [load(comfyui, pack, bytecode) for _ in range(IMPORTS + 1)][1:]
    fastest = min(one["seconds"] for one in found)
    print(f"         imported in {fastest:.2f} s of processor time")
    problems = []
    if fastest >= SLOWEST_S:
        problems.append(f"Importing the pack takes {fastest:.2f} s.")
    promised = json.loads((ROOT / CONTRACT).read_text(encoding="utf-8"))
    if missing := promised.keys() - {node["id"] for node in found[0]["nodes"]}:
        problems.append(f"Nodes that do not load from the archive: {', '.join(sorted(missing))}.")
    return problems


def validate() -> Problems:
    """comfy-cli's own check, which warns of exec, eval and two commands in a line."""
    program = Path(sys.executable).with_name("comfy")
    words = [str(program), "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    told = result.stdout + result.stderr
    clean = result.returncode == 0 and "passed" in told and "arning" not in told
    return [] if clean else [line for line in told.splitlines() if line.strip()]


if __name__ == "__main__":
    sys.exit(main())
