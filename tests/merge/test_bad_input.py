"""Everything that can be wrong with a merge: what the person is told, word for word, and that
nothing is left behind.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from safetensors.torch import load_file

from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.engine import write_file
from cocktail.merge.errors import MergeError
from cocktail.merge.hashing import file_sha256
from cocktail.merge.inspection import inspect_file, report, tree, tree_text
from cocktail.merge.key_names import with_usual_names
from cocktail.merge.metadata import read_precision, read_recipe, read_title
from cocktail.merge.plan import make_plan
from cocktail.merge.recipe import Ingredient, Part, WeightedSum, weighted_sum
from cocktail.merge.recipe_json import from_json, load_json, to_json
from cocktail.merge.safetensors_file import read_header
from cocktail.merge.text import parse, to_text

from .conftest import TEXT, UNET

A, B = Ingredient("a.safetensors"), Ingredient("b.safetensors")
MIX = weighted_sum([(A, 1), (B, 1)])
ROOT = Path(__file__).resolve().parents[2]
BIAS = UNET + "out.2.bias"


@pytest.fixture
def folder(tmp_path, write, sd15):
    """A folder with two sound ingredients, a and b."""
    for seed, name in enumerate("ab", 1):
        write(name, sd15(seed))
    return tmp_path


def merge(folder: Path, recipe=MIX, out="out.safetensors", **options) -> None:
    make_checkpoint(bind_to_files(recipe, folder.joinpath), folder / out, **options)


def refusal(folder: Path, *arguments, **options) -> str:
    """The message, without the folder's name; nothing is written, and no file is changed."""
    before = contents(folder)
    with pytest.raises(MergeError) as error:
        merge(folder, *arguments, **options)
    assert contents(folder) == before
    return str(error.value).replace(str(folder) + os.sep, "").replace(str(folder), "FOLDER")


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file_sha256(file) for file in folder.iterdir()}


def write_header(
    path: Path, header: dict | bytes, data: bytes = b"\0" * 8, length: int | None = None
):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(shape, *offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


TWO = [2]
LIES = {
    "outside": ({"x": tensor([4], 0, 16)}, "it should have 86 bytes but has 78: it is cut off"),
    "far outside": (
        {"x": tensor([1 << 61], 0, 1 << 63)},
        "its entry for 'x' does not describe a tensor",
    ),
    "overlapping": (
        {"x": tensor(TWO, 0, 8), "y": tensor(TWO, 0, 8)},
        "the tensor y overlaps the one before it",
    ),
    "backwards": (
        {"x": tensor(TWO, 8, 0)},
        "the size of the tensor x does not match its shape [2]",
    ),
    "negative": ({"x": tensor(TWO, -8, 0)}, "its entry for 'x' does not describe a tensor"),
    "negative shape": ({"x": tensor([-2], 0, 8)}, "its entry for 'x' does not describe a tensor"),
    "hole": ({"x": tensor(TWO, 8, 16)}, "the tensor x has a hole before it"),
    "unknown type": (
        {"x": tensor(TWO, 0, 8, dtype="F33")},
        "the tensor x has the unknown type 'F33'",
    ),
    "wrong type": (
        {"x": tensor(TWO, 0, 8, dtype="F16")},
        "the size of the tensor x does not match its shape [2]",
    ),
    "not JSON": (b"{'x': 1}", "its header is not JSON"),
    "not an object": (b"[1, 2]  ", "its header is not a JSON object"),
    "deep": (b"[" * 100_000, "its header is not JSON"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_told(folder, lie):
    header, reason = LIES[lie]
    write_header(folder / "b.safetensors", header)
    assert refusal(folder) == (
        f"b.safetensors is not a valid safetensors file: {reason}. Copy or download it again."
    )


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (2 << 30, "its header claims to have 2147483648 bytes, more than the format allows"),
        (
            (1 << 64) - 1,
            "its header claims to have 18446744073709551615 bytes, more than the format allows",
        ),
        (90_000_000, "its header claims to have 90000000 bytes, but the file ends after 77"),
    ],
)
def test_a_header_that_is_too_long_is_told_without_reading_it(folder, length, reason):
    write_header(folder / "b.safetensors", {"x": tensor(TWO, 0, 8)}, length=length)
    assert refusal(folder) == (
        f"b.safetensors is not a valid safetensors file: {reason}. Copy or download it again."
    )


def test_a_truncated_ingredient_is_told(folder):
    whole = (folder / "b.safetensors").read_bytes()
    (folder / "b.safetensors").write_bytes(whole[:-1])
    assert refusal(folder) == (
        f"b.safetensors is not a valid safetensors file: it should have {len(whole)} bytes but has "
        f"{len(whole) - 1}: it is cut off. Copy or download it again."
    )
    (folder / "b.safetensors").write_bytes(b"1234")
    assert refusal(folder) == (
        "b.safetensors is not a valid safetensors file: it has only 4 bytes. Copy or download it "
        "again."
    )


def test_an_ingredient_that_is_none_is_told(folder, write):
    (folder / "b.safetensors").unlink()
    assert refusal(folder) == "b.safetensors cannot be read: No such file or directory."
    write("b", {"note": torch.zeros(3)})
    assert refusal(folder) == (
        "Only checkpoints of one family can be mixed: a.safetensors is SD1.5, b.safetensors is a "
        "file without a Stable Diffusion UNet."
    )


def test_whole_numbers_where_weights_should_be_are_told(folder, write, sd15):
    write("b", sd15(2) | {BIAS: torch.arange(4)})
    assert refusal(folder) == (
        f"b.safetensors has whole numbers where weights should be: {BIAS}. The checkpoint is "
        "broken; use another one."
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", [BIAS, TEXT + "final_layer_norm.bias"])
def test_what_is_not_a_number_is_told(folder, write, sd15, name, value):
    broken = sd15(2)
    broken[name][1] = float(value)
    write("b", broken)
    assert refusal(folder) == (
        f"These tensors contain NaN or infinity: {name} in b.safetensors. The checkpoint is "
        "broken; use another one."
    )


def test_a_result_that_is_too_large_is_told(folder, write, sd15):
    large = sd15(2, torch.float32)
    large[BIAS][1] = 1e9
    write("b", large)
    assert refusal(folder) == (
        f"The numbers in these tensors become too large for the precision: {BIAS}. Choose bf16 or "
        "fp32."
    )


def test_two_families_are_told(folder, write, sd15):
    wide = sd15(2)
    for name in [name for name in wide if name.endswith("attn2.to_k.weight")]:
        wide[name] = torch.zeros(32, 1024)
    write("b", wide)
    assert refusal(folder) == (
        "Only checkpoints of one family can be mixed: a.safetensors is SD1.5, b.safetensors is "
        "Stable Diffusion 2."
    )


def test_tensors_of_another_shape_are_told(folder, write, sd15):
    write("b", sd15(2) | {BIAS: torch.zeros(5)})
    assert refusal(folder) == (
        f"a.safetensors and b.safetensors do not have the same tensors: {BIAS} is (4,) in "
        "a.safetensors and (5,) in b.safetensors. Mix checkpoints of the same architecture and "
        "layout."
    )


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        ("much", "'much'"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (None, "None"),
        ("1/0", "'1/0'"),
        ([1], "[1]"),
        (True, "True"),
    ],
)
def test_shares_that_are_no_numbers_are_told(share, shown):
    value = {
        "kind": "weighted_sum",
        "parts": [{"weight": share, "recipe": {"kind": "ingredient", "name": "a"}}],
    }
    with pytest.raises(MergeError) as error:
        from_json(value)
    assert str(error.value) == (
        f'{shown} is not a share. Write a number such as 0.6, or a fraction such as "1/3".'
    )


TOO_DEEP = "The recipe is nested more than 100 levels deep. Make it flatter."


def test_a_recipe_that_holds_itself_is_told():
    value = {"kind": "weighted_sum", "parts": [{"weight": 1, "recipe": None}]}
    value["parts"][0]["recipe"] = value
    with pytest.raises(MergeError) as error:
        from_json(value)
    assert str(error.value) == TOO_DEEP


def test_a_recipe_of_100000_levels_is_told_in_any_form():
    text = '{"kind":"weighted_sum","parts":[{"weight":1,"recipe":' * 100_000
    too_many = "The recipe has far more parts than any that can be merged."
    for read, written, told in (
        (load_json, text + '{"kind":"ingredient","name":"a"}' + "}]}" * 100_000, too_many),
        (parse, "(" * 99_999 + "a", TOO_DEEP),
    ):
        with pytest.raises(MergeError) as error:
            read(written)
        assert str(error.value) == told
    recipe = MIX
    with pytest.raises(MergeError) as error:
        for _ in range(100_000):
            recipe = WeightedSum((Part(recipe, 1),))
    assert str(error.value) == TOO_DEEP


def test_an_ingredient_that_changed_since_the_recipe_was_made_is_told(folder, write, sd15):
    bound = bind_to_files(MIX, folder.joinpath).recipe
    old = bound.parts[1].recipe.sha256
    write("b", sd15(3))
    assert refusal(folder, bound) == (
        "b.safetensors is not the file that this recipe was made with: its SHA-256 is "
        f"{file_sha256(folder / 'b.safetensors')[:12]}..., the recipe says {old[:12]}.... Put the "
        "original file back, or remove the sha256 from the recipe."
    )


def test_an_ingredient_that_changes_during_the_merge_is_told(folder):
    bound = bind_to_files(MIX, folder.joinpath)
    path = folder / "b.safetensors"
    with pytest.raises(MergeError) as error:
        make_checkpoint(
            bound, folder / "out.safetensors", progress=lambda *_: os.utime(path, (1, 1))
        )
    assert str(error.value) == f"{path} changed during the merge. Run it again."
    assert not (folder / "out.safetensors").exists() and not list(folder.glob(".*"))


def test_an_output_that_exists_is_told_and_kept(folder):
    (folder / "out.safetensors").write_bytes(b"a picture")
    assert refusal(folder) == (
        "out.safetensors exists already and is not a merge of Cocktail, not 0.5 a + 0.5 b in "
        "fp16. Nothing is overwritten: choose another name, or leave the name empty."
    )
    (folder / "out.safetensors").unlink()
    merge(folder)
    assert refusal(folder, weighted_sum([(A, 1), (B, 3)])) == (
        "out.safetensors exists already and is 0.5 a + 0.5 b in fp16, not 0.25 a + 0.75 b in "
        "fp16. Nothing is overwritten: choose another name, or leave the name empty."
    )
    assert refusal(folder, out="b.safetensors") == (
        "b.safetensors exists already and is not a merge of Cocktail, not 0.5 a + 0.5 b in fp16. "
        "Nothing is overwritten: choose another name, or leave the name empty."
    )


def test_a_disk_without_room_is_told_before_anything_is_written(folder, monkeypatch):
    import shutil

    full = shutil.disk_usage(folder)._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    size = sum(t.size_bytes for t in read_header(folder / "a.safetensors").tensors.values())
    message = refusal(folder)
    assert message.startswith(
        "There is not enough space for out.safetensors: it needs 0.00 GB, and FOLDER has 0.00 GB "
        "left."
    ), size
    assert message.endswith("Free some space there.")


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from merge.checkpoint import bind_to_files, make_checkpoint
from merge.errors import MergeError
from merge.recipe import Ingredient, weighted_sum
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder = Path(sys.argv[2])
mix = weighted_sum([(Ingredient("a.safetensors"), 1), (Ingredient("b.safetensors"), 1)])
try:
    make_checkpoint(bind_to_files(mix, folder.joinpath), folder / "out.safetensors")
except MergeError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for files")
def test_a_disk_that_refuses_while_it_is_written_is_told(folder):
    before = contents(folder)
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, ROOT, folder], capture_output=True, text=True
    )
    assert told.stdout == (
        f"{folder / 'out.safetensors'} could not be written: File too large. No part of it is "
        "left.\n"
    ), told.stderr
    assert contents(folder) == before


def test_a_folder_that_is_none_is_told(folder):
    assert refusal(folder, out="a.safetensors/out.safetensors") in (
        "The folder a.safetensors cannot be made: File exists.",
        "The folder a.safetensors cannot be made: Not a directory.",
    )


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from merge.checkpoint import bind_to_files, make_checkpoint
from merge.recipe import Ingredient, weighted_sum
folder = Path(sys.argv[2])
mix = weighted_sum([(Ingredient("a.safetensors"), 1), (Ingredient("b.safetensors"), 1)])
def wait(*_):
    print("writing", flush=True)
    sys.stdin.read()
make_checkpoint(bind_to_files(mix, folder.joinpath), folder / "out.safetensors", progress=wait)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_kill_during_writing_leaves_no_file_of_that_name_and_the_next_merge_makes_it(folder):
    before = contents(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, ROOT, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = {file.name for file in folder.iterdir()} - before.keys()
    assert left and all(
        name.startswith(".out.safetensors.") and name.endswith(".part") for name in left
    )
    assert {name: sha256 for name, sha256 in contents(folder).items() if name in before} == before
    merge(folder)
    merge(folder, out="twin.safetensors")
    made, twin = (load_file(folder / f"{name}.safetensors") for name in ("out", "twin"))
    assert all(torch.equal(made[name], twin[name]) for name in twin)


NAMES = st.sampled_from(
    [
        BIAS,
        "model.diffusion_model.input_blocks.0.0.weight",
        "input_blocks.0.0.weight",
        "betas",
        "decoder.conv_in.weight",
        "first_stage_model.decoder.mid.attn_1.to_q.weight",
        "cond_stage_model.transformer.embeddings.position_ids",
        "model_ema.x",
        "a.b",
        "",
        "__metadata__",
        "double_blocks.0.x",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    ]
) | st.text(max_size=8)
INTEGERS = st.integers(-2, 70) | st.integers(-(1 << 66), 1 << 66)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F16", "F32", "BF16", "F8_E4M3", "I64", "BOOL", "F7"])
        | st.none(),
        "shape": st.lists(st.integers(0, 4) | INTEGERS, max_size=5) | st.integers(),
        "data_offsets": st.lists(INTEGERS, min_size=1, max_size=3),
    },
)
SIZES = {"F16": 2, "F32": 4, "BF16": 2, "F8_E4M3": 1, "I64": 8, "BOOL": 1}


@st.composite
def true_headers(draw):
    """Headers that fit their data, so that the rules after them are met too."""
    header, end = {}, 0
    for name in draw(
        st.lists(NAMES.filter(lambda name: name != "__metadata__"), unique=True, max_size=8)
    ):
        dtype = draw(st.sampled_from(sorted(SIZES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        size = SIZES[dtype]
        for number in shape:
            size *= number
        header[name] = tensor(shape, end, end + size, dtype=dtype)
        end += size
    return json.dumps(header).encode(), bytes(end)


@st.composite
def lying_headers(draw):
    header = draw(st.dictionaries(NAMES, ENTRIES | st.none() | st.integers(), max_size=5))
    return json.dumps(header).encode(), draw(st.binary(max_size=64))


HEADERS = (
    true_headers() | lying_headers() | st.tuples(st.binary(max_size=200), st.binary(max_size=64))
)
LENGTHS = st.none() | st.integers(0, 300) | st.integers(0, (1 << 64) - 1)


@hypothesis.settings(
    max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(HEADERS, LENGTHS, st.integers(0, 20))
def test_no_header_crashes_or_makes_anything_read_outside_its_file(
    tmp_path_factory, header, length, cut
):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path, out = folder / "a.safetensors", folder / "out.safetensors"
    write_header(path, *header, length=length)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    size = path.stat().st_size
    out.unlink(missing_ok=True)
    try:
        found = with_usual_names(read_header(path))
        assert all(8 <= t.offset <= t.offset + t.size_bytes <= size for t in found.tensors.values())
        twin = Ingredient("twin")
        plan = make_plan(weighted_sum([(A, 1), (twin, 2)]), {A: found, twin: found}, "fp16")
        write_file(plan, out, {}, threads=1)
    except MergeError as error:
        assert str(error) and "Traceback" not in str(error)
        assert not out.exists()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 1 << 70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        [
            "a.safetensors",
            "../a",
            "webui",
            "sd-webui-supermerger",
            "ingredient",
            "weighted_sum",
            "Weighted sum",
            "0" * 64,
            "f" * 64,
            "1/3",
            "1/0",
            "1e999999",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "kind",
                    "parts",
                    "recipe",
                    "weight",
                    "name",
                    "sha256",
                    "a",
                    "b",
                    "c",
                    "multiplier",
                    "share_of_b",
                    "method",
                    "settings",
                    "blocks",
                    "type",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
WEB_UI_FIELDS = [
    "primary_model_hash",
    "secondary_model_hash",
    "tertiary_model_hash",
    "interp_method",
    "multiplier",
    "bake_in_vae",
    "model_a",
    "model_b",
    "model_c",
    "mode",
    "mbw",
    "calcmode",
    "base_alpha",
    "base_beta",
    "weights_alpha",
    "weights_beta",
    "elemental_merge",
    "Include",
    "save_as_half",
    "custom_name",
]
TOLD = st.one_of(
    st.dictionaries(st.sampled_from(["type", *WEB_UI_FIELDS]), JSON),
    st.fixed_dictionaries(
        {
            "type": st.just("webui"),
            "interp_method": st.sampled_from(
                ["Weighted sum", "Add difference", "No interpolation"]
            ),
            "primary_model_hash": st.just("0" * 64),
            "secondary_model_hash": st.just("f" * 64),
            "multiplier": JSON,
            "bake_in_vae": JSON,
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("sd-webui-supermerger"),
            "mode": st.just("Weight sum"),
            "model_a": st.just("0" * 64),
            "model_b": st.just("f" * 64),
            "base_alpha": JSON,
            "weights_alpha": JSON | st.lists(JSON, min_size=25, max_size=25),
            "mbw": st.booleans(),
            "elemental_merge": JSON,
        }
    ),
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "cocktail.recipe": JSON.map(json.dumps) | st.text(max_size=20),
        "sd_merge_recipe": TOLD.map(json.dumps) | JSON.map(json.dumps),
        "sd_merge_models": JSON.map(json.dumps) | st.text(max_size=20),
        "cocktail.ingredients": JSON.map(json.dumps) | st.text(max_size=20),
        "modelspec.title": st.text(max_size=8),
        "modelspec.license": st.text(max_size=8),
        "cocktail.precision": st.text(max_size=8),
    },
)


@hypothesis.settings(
    max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(METADATA)
def test_whatever_a_file_says_of_itself_it_is_told_or_a_recipe(tmp_path_factory, metadata):
    folder = tmp_path_factory.getbasetemp() / "said"
    folder.mkdir(exist_ok=True)
    path = folder / "a.safetensors"
    write_header(path, {"__metadata__": metadata, "x": tensor(TWO, 0, 8)})
    header = read_header(path)
    assert isinstance(read_precision(header), str)
    assert read_title(header) is None or read_title(header)
    try:
        recipe = read_recipe(header)
    except MergeError as error:
        assert str(error) and "Traceback" not in str(error)
    else:
        assert to_text(recipe) and from_json(to_json(recipe)) == recipe
    inspected = inspect_file(path)
    assert report(inspected) and tree_text(tree(inspected))
