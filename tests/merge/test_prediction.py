"""Models that predict the noise and models that predict v are told apart."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from cocktail.merge.checkpoint import SAME_FILE, bind_to_files, make_checkpoint, notes_of, remake
from cocktail.merge.command_line import main
from cocktail.merge.errors import MergeError
from cocktail.merge.family import family_of
from cocktail.merge.prediction import EPSILON, METADATA, OF_COMFYUI, V, prediction_of
from cocktail.merge.reading import open_checkpoint
from cocktail.merge.text import parse

from .conftest import UNET, sd15_tensors

EMPTY = torch.tensor([])
V_PRED, ZTSNR = {"v_pred": EMPTY}, {"ztsnr": EMPTY}


def sdxl(seed):
    """A UNet with the shapes that identify SDXL."""
    random = torch.Generator().manual_seed(seed)

    def tensor(*shape):
        return torch.randn(shape, generator=random).half()

    return {
        UNET + "input_blocks.0.0.weight": tensor(320, 4, 3, 3),
        UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight": tensor(8, 2048),
    }


def sd2(seed, spread):
    tensors = sdxl(seed)
    name = UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    bias = spread * torch.tensor([1.0, -1.0] * 32)
    return tensors | {
        name: tensors[name][:, :1024].clone(),
        UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias": bias.half(),
    }


@pytest.fixture
def mix(tmp_path, write):
    def run(text, **files):
        for name, given in files.items():
            tensors, metadata = given if isinstance(given, tuple) else (given, None)
            write(name, tensors, metadata)
        bound = bind_to_files(parse(text), lambda name: tmp_path / f"{name}.safetensors")
        out = tmp_path / "out.safetensors"
        out.unlink(missing_ok=True)
        make_checkpoint(bound, out)
        return load_file(out), open_checkpoint(out).metadata, " ".join(notes_of(bound, "fp16"))

    return run


@pytest.mark.parametrize(
    "mark",
    [
        V_PRED,
        {"edm_vpred.sigma_max": torch.tensor(120.0)},
        {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)},
    ],
)
@pytest.mark.parametrize("marked_first", [True, False])
def test_a_mix_of_both_is_refused_and_names_what_says_so(mix, mark, marked_first):
    sides = (sdxl(1) | mark, sdxl(2)) if marked_first else (sdxl(1), sdxl(2) | mark)
    with pytest.raises(MergeError, match="do not predict the same") as error:
        mix("0.5 a + 0.5 b", a=sides[0], b=sides[1])
    assert next(iter(mark)) in str(error.value) and "--allow mixed-prediction" in str(error.value)


@pytest.mark.parametrize("field", [METADATA, OF_COMFYUI])
@pytest.mark.parametrize("family", [sdxl, sd15_tensors])
def test_metadata_tells_them_apart_too(mix, family, field):
    with pytest.raises(MergeError, match=rf"b predicts v \({field} is 'v'\)"):
        mix("0.5 a + 0.5 b", a=family(1), b=(family(2), {field: "v"}))
    with pytest.raises(MergeError, match="ss_v_parameterization is True"):
        mix("0.5 a + 0.5 b", a=family(1), b=(family(2), {"ss_v_parameterization": "True"}))


@pytest.mark.parametrize("marked", ["a", "b", "ab"])
def test_marks_and_metadata_are_carried_when_all_agree(mix, marked):
    v = {METADATA: "v"}
    files = {n: (sdxl(i) | (V_PRED if n in marked else {}), v) for i, n in enumerate("ab")}
    made, metadata, _ = mix("0.5 a + 0.5 b", **files)
    assert "v_pred" in made and metadata[METADATA] == "v"
    files = {n: sdxl(i) for i, n in enumerate("ab")}
    made, metadata, _ = mix("0.5 a + 0.5 b", **files)
    assert "v_pred" not in made and METADATA not in metadata


def test_a_zero_terminal_mark_of_one_is_kept_and_told(mix):
    made, _, told = mix("0.5 a + 0.5 b", a=sdxl(1) | V_PRED, b=sdxl(2) | V_PRED | ZTSNR)
    assert "ztsnr" in made and "Only b has the mark ztsnr" in told


def test_the_scale_of_edm_is_copied_and_not_rounded(mix):
    sigma = {"edm_vpred.sigma_max": torch.tensor(119.123456)}
    made, metadata, _ = mix("0.5 a + 0.5 b", a=sdxl(1) | sigma, b=sdxl(2) | sigma)
    assert torch.equal(made["edm_vpred.sigma_max"], sigma["edm_vpred.sigma_max"])
    assert metadata[METADATA].startswith("v")


def test_stable_diffusion_2_is_told_by_the_spread_of_a_bias_as_in_comfyui(mix, write):
    for spread, kind in ((0.08, EPSILON), (0.1, V)):
        header = open_checkpoint(write("x", sd2(1, spread)))
        found = prediction_of(header, family_of(header))
        assert found is not None and found.kind == kind
    with pytest.raises(MergeError, match="do not predict the same"):
        mix("0.5 a + 0.5 b", a=sd2(1, 0.08), b=sd2(2, 0.1))


def test_it_can_be_allowed_and_is_said_and_made_again(write, tmp_path, capsys):
    write("a", sdxl(1))
    write("b", sdxl(2) | V_PRED)
    out, again = tmp_path / "made" / "o.safetensors", tmp_path / "made" / "p.safetensors"
    command = ["run", "0.5 a + 0.5 b", str(out), "--models", str(tmp_path)]
    assert main(command) == 1 and not out.exists()
    assert main([*command, "--allow", "mixed-prediction"]) == 0
    assert "The mix predicts neither" in capsys.readouterr().out
    assert "v_pred" not in load_file(out)
    assert remake(out, again, tmp_path.joinpath) == SAME_FILE


def test_only_the_unet_counts(mix):
    files = {"a": sd15_tensors(1), "b": (sd15_tensors(2), {METADATA: "v"})}
    made, _, _ = mix("a with text_encoder b", **files)
    assert any(name.startswith("cond_stage_model") for name in made)
