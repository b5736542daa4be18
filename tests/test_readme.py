"""README.md and the other pages for people say what is so: links, commands, graphs, titles."""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cocktail.trainer import command_line

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "SKILL.md", ROOT / "SECURITY.md", *ROOT.glob("docs/*.md")]
HELP_PAGES = sorted(ROOT.glob("web/docs/*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
HELP_PICTURES_BYTES, ONE_HELP_PICTURE_BYTES = 600_000, 60_000


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def graph(name: str, folder: str = "workflows") -> dict:
    return json.loads((ROOT / folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_is_short():
    assert README.count("\n") <= 250


def test_the_pictures_of_help_pages_are_there_and_small():
    """The page of ComfyUI looks for a relative address beside the help page; a folder, or one that
    leads upwards, is not certain to work.
    """
    used = {
        link for page in HELP_PAGES for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text(page))
    }
    assert len(used) >= 8
    sizes = {name: (ROOT / "web" / "docs" / name).stat().st_size for name in used}
    assert not [name for name in used if "/" in name]
    assert not {name: size for name, size in sizes.items() if size > ONE_HELP_PICTURE_BYTES}
    assert sum(sizes.values()) < HELP_PICTURES_BYTES
    in_readme = {Path(link).name for link in LINK.findall(README) if link.startswith("web/docs/")}
    assert {file.name for file in ROOT.glob("web/docs/*.jpg")} == used | in_readme


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_the_commands_of_readme_exist(dev):
    code = re.findall(r"`([^`\n]+)`", README) + README.splitlines()
    commands = {one.split("  #")[0].strip() for one in code if one.startswith("python ")}
    made = {}
    for command in commands:
        _, *words = shlex.split(command)
        if words[0] == "dev.py":
            dev.parse([str(ROOT) if word == "path/to/folder" else word for word in words[1:]])
        elif words[0].endswith("/trainer/__main__.py") or words[:2] == ["-m", "trainer"]:
            words = words[1:] if words[0] != "-m" else words[2:]
            options = command_line._parser().parse_args(words) if words else None
            if words[:1] == ["miniature"]:
                made[options.out.name] = tuple(words[2:])
        elif words[0] == "-m":
            assert words[1] == "pip" or module(words[1]), command
        else:
            assert (ROOT / words[0]).exists(), command
    assert len(commands) > 8
    assert made == dev.MINIATURES


def module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def test_the_scripts_of_performance_md_exist():
    page = text(ROOT / "docs" / "performance.md")
    named = re.findall(r"`(?:python benchmarks/)?(\w+\.py)([^`|]*)`", page)
    assert len(named) > 20
    for script, options in named:
        source = text(ROOT / "benchmarks" / script)
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in source, (script, option)


def test_the_request_of_readme_fits_its_graph():
    (name, body), *others = re.findall(
        r"/cocktail/graphs/(\w+) \\\n\s+-d '([^']+)'", README, re.MULTILINE
    )
    assert not others
    nodes = graph(name, "workflows/api").values()
    inputs = {(node["_meta"]["title"], entry) for node in nodes for entry in node["inputs"]}
    for target in json.loads(body)["values"]:
        title, _, entry = target.rpartition(".")
        assert (title, entry) in inputs, target


def test_the_map_of_the_method_has_all_graphs_and_no_others():
    table = README.partition("| step | graph |")[2].partition("\n\n")[0]
    named = re.findall(r"`([^`]+)`", table)
    graphs = {file.stem for file in ROOT.glob("workflows/*.json")}
    assert not [name for name in named if not any(fnmatch(one, name) for one in graphs)]
    assert not [one for one in graphs if not any(fnmatch(one, name) for name in named)]


def test_the_nodes_to_change_for_own_models_are_in_the_graph():
    part = README.partition("**With your own models**")[2].partition("\n## ")[0]
    titles = [node.get("title") or "" for node in graph("cosmopolitan_miniature")["nodes"]]
    named = [name for name in re.findall(r"\*\*([^*]+)\*\*", part) if "your own" not in name]
    assert len(named) >= 5
    for name in named:
        assert any(title == name or title.startswith(f"{name} at") for title in titles), name
