"""The checks of `python dev.py release`: what they refuse, and that this pack passes those that do
not wait for its publication.
"""

from __future__ import annotations

import ast
import copy
import json
import zipfile

import pytest

from . import release

URL = "https://example.org/someone/cocktail"


@pytest.fixture
def found():
    """pyproject.toml as it will be when it is published."""
    project = copy.deepcopy(release.project())
    project["project"]["urls"] = {"Repository": URL}
    for name in ("Icon", "Banner"):
        project["tool"]["comfy"][name] = f"{URL}/raw/main/docs/art/{name.lower()}.png"
    return project


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    file = tmp_path_factory.mktemp("archive") / "pack.zip"
    release.make_archive(file)
    return file


def test_nothing_is_published_without_its_address_and_its_pictures(found):
    assert all("README.md" in problem for problem in release.addresses(found))
    for table, key in (("project", "urls"), ("tool", "comfy")):
        without = copy.deepcopy(found)
        without[table].pop(key) if key == "urls" else without[table][key].pop("Icon")
        problem = release.addresses(without)[0]
        assert "is missing" in problem
    found["project"]["urls"]["Repository"] = "URL-OF-THIS-REPOSITORY"
    assert "Repository is missing" in release.addresses(found)[0]


def test_the_registry_takes_this_packs_words_and_warns_nobody(found):
    assert release.metadata(found) == []
    found["project"]["classifiers"].append("Environment :: GPU :: NVIDIA CUDA")
    found["project"]["name"] = "comfyui-cocktail"
    found["tool"]["comfy"].pop("DisplayName")
    assert len(release.metadata(found)) == 3


def test_a_version_is_newer_than_the_last_and_stands_in_the_changelog(found):
    own = found["project"]["version"]
    assert release.version(found, [], release.changelog()) == []
    assert "not newer" in release.version(found, [f"v{own}"], release.changelog())[0]
    assert "not newer" in release.version(found, ["v10.0.0"], release.changelog())[0]
    assert "CHANGELOG" in release.version(found, [], "# Changelog\n\n## 9.9.9\n")[0]
    found["project"]["version"] = "1.0"
    assert "three numbers" in release.version(found, [], release.changelog())[0]


def test_versions_are_ordered_by_number():
    assert release.numbers("0.10.0") > release.numbers("0.9.9")
    assert release.numbers("0.1.0rc1") is None


NODE = {
    "inputs": {
        "a": {"type": "COMBO", "choices": ["x", "y"], "default": "x"},
        "b": {"type": "INT", "optional": True, "default": 1},
    },
    "outputs": [["out", "STRING"]],
    "output_node": True,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda node: node["inputs"].pop("a"), "inputs were"),
        (lambda node: node.update(inputs=dict(reversed(node["inputs"].items()))), "inputs were"),
        (lambda node: node["inputs"].update(c={"type": "INT"}), "not optional"),
        (lambda node: node["inputs"]["a"].update(choices=["x", "z"]), "no longer offers y"),
        (lambda node: node["inputs"]["b"].update(default=2), "default was 1"),
        (lambda node: node["inputs"]["b"].update(type="FLOAT"), "type was 'INT'"),
        (lambda node: node["inputs"]["b"].pop("optional"), "no longer optional"),
        (lambda node: node["outputs"].insert(0, ["new", "INT"]), "outputs"),
        (lambda node: node.update(output_node=False), "output node"),
    ],
)
def test_a_broken_promise_of_a_node_is_told(change, words):
    now = copy.deepcopy(NODE)
    change(now)
    (problem,) = release.broken({"N": NODE}, {"N": now})
    assert words in problem


def test_appending_breaks_no_promise_and_leaving_out_a_node_does():
    now = copy.deepcopy(NODE)
    now["inputs"]["a"]["choices"].append("z")
    now["inputs"]["c"] = {"type": "INT", "optional": True, "default": 3}
    now["outputs"].append(["more", "INT"])
    assert release.broken({"N": NODE}, {"N": now, "M": NODE}) == []
    assert release.broken({"N": NODE}, {}) == ["N is gone."]
    contract = json.loads((release.ROOT / release.CONTRACT).read_text(encoding="utf-8"))
    assert release.broken(contract, contract) == []


def test_the_archive_holds_what_a_user_needs_and_nothing_else(archive):
    tracked = release.git("ls-files").splitlines()
    with zipfile.ZipFile(archive) as packed:
        assert release.contents(packed.infolist(), tracked) == []
        names = set(packed.namelist())
    assert {"__init__.py", "requirements.txt", "LICENSE", "web/cocktail.js"} <= names
    assert {"workflows/weighted_sum.json", "locales/en/nodeDefs.json"} <= names


def test_what_is_too_much_or_missing_is_told(archive, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        bad.writestr("tests/test_x.py", "")
        bad.writestr("nodes/__pycache__/x.cpython-311.pyc", "")
        bad.writestr("web/large.bin", b"0" * (release.LARGEST + 1))
        link = zipfile.ZipInfo("nodes/link")
        link.external_attr = 0o120777 << 16
        bad.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(tmp_path / "bad.zip") as bad:
        problems = release.contents(bad.infolist(), ["__init__.py", "tests/comfy.py"])
    for words in ("no use", "bytecode", "bytes", "a link", "__init__.py is not in"):
        assert [problem for problem in problems if words in problem], words
    assert len(problems) == 5


def test_security_md_names_every_place_that_starts_a_program():
    named = (release.ROOT / "SECURITY.md").read_text(encoding="utf-8")
    starts, computes = set(), set()
    for folder in ("trainer", "merge", "nodes"):
        for file in (release.ROOT / folder).rglob("*.py"):
            name = file.relative_to(release.ROOT).as_posix()
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    words = ast.unparse(node)
                    if "subprocess" in words or "multiprocessing" in words:
                        starts.add(name)
                elif isinstance(node, ast.Call):
                    function = ast.unparse(node.func)
                    shell = any(keyword.arg == "shell" for keyword in node.keywords)
                    if function in ("eval", "exec", "os.system") or shell:
                        computes.add(name)
    assert starts and not [name for name in sorted(starts) if f"`{name}`" not in named]
    assert not computes
