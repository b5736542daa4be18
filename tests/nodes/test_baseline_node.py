"""Compare to Baseline takes optional measures from local files, and says which are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cocktail.nodes.grid.engine.errors import GridError
from cocktail.nodes.host import names

from ..grid.drawn import drawn_plan
from ..grid.test_baseline import make_head


def refusal(**files: str) -> str:
    from cocktail.nodes.grid.baseline import CocktailCompareToBaseline

    told = CocktailCompareToBaseline.validate_inputs(**files)
    return "" if told is True else str(told)


def listed() -> list[list[str]]:
    return [names.weights_names(kind) for kind in ("lpips", "aesthetic")]


def test_files_are_listed_and_one_that_is_missing_is_named_before_anything_runs(
    here: Path, monkeypatch
):
    assert listed() == [[], []] and refusal() == ""
    for folder in ("lpips", "aesthetic"):
        (here / "models" / folder).mkdir(parents=True)
        (here / "models" / folder / "notes.txt").write_text("")
    (here / "models" / "lpips" / "alexnet.pth").write_bytes(b"")
    make_head(here / "models" / "aesthetic" / "head.pth")
    assert listed() == [["alexnet.pth"], ["head.pth"]]
    assert refusal(lpips="alexnet.pth", aesthetic_head="head.pth") == ""
    assert refusal(aesthetic_head="haed.pth") == (
        "There is no file 'haed.pth' in models/aesthetic. Did you mean head.pth? Put an aesthetic "
        "head, such as LAION's sac+logos+ava1-l14-linearMSE.pth there, and press R to refresh the "
        "lists."
    )
    assert "Put torchvision's weights of AlexNet" in refusal(lpips="vgg16.pth")
    for name in ("../aesthetic/head.pth", "/etc/passwd", "notes.txt"):
        assert refusal(lpips=name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    assert "pip install torchmetrics" in refusal(lpips="alexnet.pth") and refusal() == ""


def test_a_head_without_a_clip_model_is_refused_before_pictures_are_read(here: Path):
    from cocktail.nodes.grid.baseline import CocktailCompareToBaseline

    (here / "models" / "aesthetic").mkdir(parents=True)
    make_head(here / "models" / "aesthetic" / "head.pth")
    with pytest.raises(GridError, match="choose one as clip_model .for LAION's heads ViT-L/14."):
        CocktailCompareToBaseline.execute(drawn_plan(), "", 4, 4.0, aesthetic_head="head.pth")
