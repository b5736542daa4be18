"""A merged file is made again from what it says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cocktail.merge as merge
from cocktail.merge.blocks import parse_rules
from cocktail.merge.checkpoint import (
    DIFFERENT,
    SAME_FILE,
    SAME_TENSORS,
    bind_to_files,
    make_checkpoint,
    remake,
)
from cocktail.merge.errors import MergeError
from cocktail.merge.metadata import RECIPE
from cocktail.merge.presets import read_weights
from cocktail.merge.recipe import BlockSum, Ingredient, add_difference, weighted_sum
from cocktail.merge.safetensors_file import read_header

A, B, C = (Ingredient(f"{name}.safetensors") for name in "abc")


@pytest.fixture
def merged(write, sd15, tmp_path):
    """A mix of a, b and c of many kinds, in fp32, beside its ingredients."""
    for seed, name in enumerate("abc", 1):
        write(name, sd15(seed))
    weights = read_weights("GRAD_V", time="0.3", rules="M00:attn2:1/3")
    assert weights.rules == parse_rules("M00:attn2:1/3", "SD1.5")
    recipe = add_difference(weighted_sum([(BlockSum(A, B, weights), 2), (C, 1)]), B, A, 0.1)
    path = tmp_path / "merged.safetensors"
    make_checkpoint(bind_to_files(recipe, lambda name: tmp_path / name), path, "fp32")
    return path


def again(file: Path, name: str = "again") -> str:
    folder = file.parent
    others = sorted(folder.glob("*.safetensors"))
    return remake(file, folder / f"{name}.safetensors", folder.joinpath, others)


def test_the_file_comes_out_the_same_under_any_name(merged, tmp_path):
    assert again(merged) == SAME_FILE
    assert (tmp_path / "again.safetensors").read_bytes() == merged.read_bytes()


def test_an_ingredient_that_was_renamed_is_found_by_its_content(merged, write, sd15, tmp_path):
    (tmp_path / "a.safetensors").rename(tmp_path / "moved.safetensors")
    assert again(merged, "one") == SAME_FILE
    write("a", sd15(9))
    assert again(merged, "two") == SAME_FILE


def test_an_ingredient_that_is_gone_or_changed_is_told(merged, write, sd15, tmp_path):
    write("b", sd15(8))
    with pytest.raises(MergeError, match=r"b\.safetensors is not the file"):
        again(merged)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(MergeError, match=r"b\.safetensors cannot be read"):
        again(merged)
    assert not (tmp_path / "again.safetensors").exists()


def test_what_differs_is_told(merged, tmp_path):
    raw = merged.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    (tmp_path / "noted.safetensors").write_bytes(
        (size + 8).to_bytes(8, "little") + raw[8 : 8 + size] + b" " * 8 + raw[8 + size :]
    )
    assert again(tmp_path / "noted.safetensors", "third") == SAME_TENSORS
    flipped = bytearray(raw)
    flipped[-1] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(flipped)
    assert again(tmp_path / "flipped.safetensors", "fourth") == DIFFERENT


def test_a_file_without_recipe_cannot_be_made_again(merged, tmp_path):
    assert RECIPE not in read_header(tmp_path / "a.safetensors").metadata
    with pytest.raises(MergeError, match="no recipe"):
        again(tmp_path / "a.safetensors")


def test_a_file_is_never_compared_with_itself(merged, tmp_path):
    (tmp_path / "link.safetensors").symlink_to(merged)
    for name in (merged.stem, "link"):
        with pytest.raises(MergeError, match="is the original file itself"):
            remake(merged, tmp_path / f"{name}.safetensors", tmp_path.joinpath)


def test_it_runs_from_the_command_line(merged, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "merge",
            "remake",
            merged,
            tmp_path / "out.safetensors",
            "--models",
            tmp_path,
        ],
        cwd=Path(merge.__path__[0]).parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.endswith("the same file, bit for bit\n"), done
