"""What all tests share: the pack under the name `cocktail`, miniature checkpoints, and one real
ComfyUI.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

from .comfy import Comfy
from .demo import Demo

ROOT = Path(__file__).resolve().parents[1]
SERVERS: list[Comfy] = []
CHECKPOINT = "lively.safetensors"
DEMO = ("test_browser.py", "test_pipeline.py")
LONG = (
    *DEMO, "test_saved_graphs.py", "grid/test_live.py", "trainer/test_resume.py",
    "trainer/test_training.py", "nodes/test_runs.py", "merge/test_nodes.py", "grid/test_feed.py",
    "trainer/test_experiments.py", "grid/test_kills.py", "test_panel.py", "merge/test_loads.py",
    "test_walk.py", "grid/test_ray.py",
)  # fmt: skip
"""Files of tests that take minutes, the longest first."""

for name in ("cocktail", "cocktail.nodes"):
    if name not in sys.modules:
        # The folder can have any name, and these __init__.py are for ComfyUI: the cores are
        # imported around them.
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """All tests of a file run in one process, and those with the demo's graph too."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "demo" if file.endswith(DEMO) else file

    return ByFile(config, log)


def pytest_configure(config: pytest.Config) -> None:
    key = Path(tempfile.gettempdir(), f"cocktail-tests-{getpass.getuser()}", "installation.key")
    os.environ.setdefault("COCKTAIL_KEY_FILE", str(key))
    # Before there are other processes that would make it too.
    from cocktail.trainer import marks

    marks.mark("made")
    config.addinivalue_line("markers", "only_all: runs only with `python dev.py test --all`")
    config.addinivalue_line("markers", "more_with_all(what): `--all` makes it longer, by this")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first; what only `--all` runs is left out without it."""
    items.sort(key=lambda item: LONG.index(place(item)) if place(item) in LONG else len(LONG))
    if os.environ.get("COCKTAIL_ALL"):
        return
    for item in items:
        if item.get_closest_marker("only_all"):
            item.add_marker(pytest.mark.skip(reason="only with `python dev.py test --all`"))
            item.user_properties.append(("with --all", "also runs"))
        elif more := item.get_closest_marker("more_with_all"):
            item.user_properties.append(("with --all", more.args[0]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which tests `--all` adds."""
    reports = [r for group in terminalreporter.stats.values() for r in group]
    adds = {
        f"{report.nodeid}: {text}"
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == "with --all"
    }
    if adds:
        terminalreporter.section("python dev.py test --all adds")
        for line in sorted(adds):
            terminalreporter.line(line)


def place(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").as_posix()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def dev(root: Path) -> ModuleType:
    """dev.py as a module."""
    spec = importlib.util.spec_from_file_location("dev", root / "dev.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dev"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI to test with."""
    folder = os.environ.get("COMFYUI_PATH", "")
    if not Path(folder, "main.py").is_file() or not folder:
        pytest.fail(
            "The tests need a ComfyUI: run them by `python dev.py test`, or set COMFYUI_PATH."
        )
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def tokenizer(comfyui: Path) -> Path:
    """The folder of CLIP's tokenizer."""
    return comfyui / "comfy" / "sd1_tokenizer"


@pytest.fixture(scope="session")
def miniatures(dev: ModuleType, root: Path) -> Path:
    """A folder with miniature_base, _v1 and _v3.safetensors, kept until the code that makes them
    changes.
    """
    recipe = (root / "trainer" / "model" / "miniature.py").read_bytes() + repr(
        dev.MINIATURES
    ).encode()
    kept = root / ".comfy" / "test-models"
    folder = kept / hashlib.sha256(recipe).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / ".lock"):
        for old in kept.iterdir():
            if old.is_dir() and old != folder:
                shutil.rmtree(old)
        dev.make_miniatures(Path(sys.executable), folder)
    return folder


@pytest.fixture(scope="session")
def comfy(
    comfyui: Path, miniatures: Path, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Comfy]:
    """A ComfyUI with this pack and the miniature checkpoints, for all tests together. It and all
    that it starts write nothing into the pack.
    """
    before = pack_files()
    server = Comfy(comfyui, tmp_path_factory.mktemp("comfy base"), root)
    for file in miniatures.glob("*.safetensors"):
        link_or_copy(file, server.base / "models" / "checkpoints" / file.name)
    server.start()
    SERVERS.append(server)
    yield server
    server.stop()
    shutil.rmtree(server.base / "models")
    assert pack_files() - before == set()


def pack_files() -> set[Path]:
    """The files of the pack that users get, without compiled modules: Python writes those."""
    return {
        file
        for part in ROOT.iterdir()
        if part.name != "tests" and not part.name.startswith((".", "__pycache__"))
        for file in (part.rglob("*") if part.is_dir() else [part])
        if file.suffix != ".pyc" and file.name != "__pycache__"
    }


@pytest.fixture(scope="session")
def lively(comfy: Comfy) -> str:
    """A checkpoint whose pictures depend on all that a cell sets.

    The untrained miniature predicts no noise and has silent text layers: with it, wrong prompts or
    clip skips would go unnoticed.
    """
    import numpy
    from safetensors.numpy import load_file, save_file

    folder = comfy.base / "models" / "checkpoints"
    tensors = load_file(folder / "miniature_base.safetensors")
    random = numpy.random.default_rng(7)
    for name, tensor in tensors.items():
        if name.endswith(("diffusion_model.out.2.weight", "mlp.fc2.weight")):
            noise = random.normal(0.0, 0.02, tensor.shape)
            tensors[name] = noise.astype(tensor.dtype)
    save_file(tensors, folder / CHECKPOINT)
    return CHECKPOINT


@pytest.fixture(scope="module", autouse=True)
def tidy() -> Iterator[None]:
    """What a file of tests has put among the checkpoints goes with it (half a gigabyte each), but
    not the demo's.
    """
    before = {path for server in SERVERS for path in server.checkpoints()}
    yield
    for server in SERVERS:
        for path in server.checkpoints() - before - server.kept:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@pytest.fixture(scope="session")
def demo(comfy: Comfy, root: Path) -> Demo:
    """The demo's graph, run once on the ComfyUI of the session."""
    demo = Demo(comfy, root / "workflows" / "api" / "cosmopolitan_miniature.json")
    demo.run()
    comfy.kept |= comfy.checkpoints()
    return demo


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
