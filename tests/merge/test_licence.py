"""Licences of ingredients: found, kept in the result, and told where they do not go together."""

from __future__ import annotations

import json

import pytest

from cocktail.merge.ancestry import INGREDIENTS
from cocktail.merge.checkpoint import SAME_FILE, bind_to_files, make_checkpoint, notes_of, remake
from cocktail.merge.errors import MergeError
from cocktail.merge.licence import Licence, parse_by_hand, read_licence, warnings
from cocktail.merge.recipe import Ingredient, weighted_sum
from cocktail.merge.safetensors_file import read_header

A, B, C = (Ingredient(f"{name}.safetensors") for name in "abc")


@pytest.mark.parametrize(
    ("ending", "value", "expected"),
    [
        (".license.json", {"license": "cc-by-4.0"}, Licence("cc-by-4.0")),
        (".license.json", {"allowDerivatives": False}, Licence(derivatives=False)),
        (
            ".civitai.info",
            {"model": {"allowNoCredit": False, "allowCommercialUse": "{Image,Rent}"}},
            Licence(no_credit=False, commercial=("Image", "Rent")),
        ),
        (
            ".metadata.json",
            {"civitai": {"model": {"allowCommercialUse": ["None"]}}},
            Licence(commercial=()),
        ),
        (
            ".json",
            {"model": {"allowDifferentLicense": False, "allowCommercialUse": False}},
            Licence(different_licence=False, commercial=()),
        ),
    ],
)
def test_a_side_file_tells_a_licence(tmp_path, ending, value, expected):
    side = tmp_path / f"model{ending}"
    side.write_text(json.dumps(value), encoding="utf-8")
    found = read_licence(tmp_path / "model.safetensors", {"modelspec.license": "other"})
    assert found == Licence(**{**vars(expected), "source": side.name})


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"license": ""}', '{"license": 3}', "[" * 100_000, "\udcff"]
)
def test_a_side_file_that_tells_nothing_is_passed_over(tmp_path, text):
    (tmp_path / "m.license.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    found = read_licence(tmp_path / "m.safetensors", {"modelspec.license": " openrail "})
    assert found == Licence("openrail", source="its metadata")
    assert read_licence(tmp_path / "m.safetensors", {}) is None


def test_licences_that_do_not_go_together_are_told_by_name():
    share_alike, non_commercial = Licence("cc-by-sa-4.0"), Licence("cc-by-nc-4.0")
    assert warnings({"a": Licence("cc-by-nd-4.0")}) == [
        "Licence: a does not allow merges (cc-by-nd-4.0)."
    ]
    assert warnings({"a": share_alike, "b": non_commercial}) == [
        "Licence: a (cc-by-sa-4.0) must keep its licence, which allows sale, "
        "but b (cc-by-nc-4.0) forbids it.",
        "Licence: may not be sold because of b.",
    ]
    assert warnings({"a": share_alike, "b": Licence("agpl-3.0")}) == [
        "Licence: a (cc-by-sa-4.0) and b (agpl-3.0) must both keep their own licence, "
        "which is not possible in a mix."
    ]
    assert warnings({"a": share_alike, "b": Licence("cc-by-sa-4.0"), "c": Licence("mit")}) == []
    assert warnings({"a": Licence("mit", no_credit=False), "b": None}) == [
        "Licence: credit a.",
        "Licence: unknown for b.",
    ]
    assert warnings({"a": None, "b": None}) == []
    assert warnings({"a": Licence("ok", derivatives=False)}) == [
        "Licence: a does not allow merges (ok)."
    ]
    assert warnings({"a": Licence("snc-sandy", commercial=("Sell",))}) == []


def test_licences_are_given_by_hand():
    found = parse_by_hand('vodka: cc-by-4.0\n\nepic: {"allowDerivatives": false}')
    assert found["vodka"] == Licence("cc-by-4.0", source="given by hand")
    assert found["epic"].forbids_merging
    for wrong in ("vodka", "vodka:", ": mit", "vodka: {", "vodka: {}"):
        with pytest.raises(MergeError, match="is not a licence"):
            parse_by_hand(wrong)


def test_the_result_says_what_its_ingredients_and_theirs_allow(write, sd15, tmp_path):
    write("a", sd15(1), {"modelspec.license": "cc-by-nc-4.0"})
    write("b", sd15(2))
    write("c", sd15(3))
    side = tmp_path / "b.license.json"
    side.write_text('{"license": "cc-by-4.0", "allowNoCredit": false}', encoding="utf-8")

    def make(recipe, name, **licences):
        given = {key: Licence(value, source="given by hand") for key, value in licences.items()}
        bound = bind_to_files(recipe, tmp_path.joinpath, licences=given)
        make_checkpoint(bound, tmp_path / f"{name}.safetensors")
        return notes_of(bound, "fp16")

    make(weighted_sum([(A, 1), (B, 1)]), "first")
    entries = json.loads(read_header(tmp_path / "first.safetensors").metadata[INGREDIENTS])
    assert [entry["licence"] for entry in entries] == [
        {"license": "cc-by-nc-4.0", "source": "its metadata"},
        {"license": "cc-by-4.0", "allowNoCredit": False, "source": "b.license.json"},
    ]
    first = Ingredient("first.safetensors")
    notes = " ".join(make(weighted_sum([(first, 1), (C, 1)]), "second", c="cc-by-sa-4.0"))
    assert (
        "c (cc-by-sa-4.0) must keep its licence, which allows sale, but a (cc-by-nc-4.0) forbids "
        "it." in notes
    )
    assert "may not be sold because of a." in notes and "credit b." in notes
    side.unlink()
    again = remake(
        tmp_path / "second.safetensors", tmp_path / "again.safetensors", tmp_path.joinpath
    )
    assert again == SAME_FILE
    with pytest.raises(
        MergeError,
        match=r"A licence is given for d, but the ingredients are a, b\. Use their names\.",
    ):
        bind_to_files(
            weighted_sum([(A, 1), (B, 1)]), tmp_path.joinpath, licences={"d": Licence("x")}
        )
