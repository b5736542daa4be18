"""Texts of strangers in CSV files compute nothing in a spreadsheet."""

from __future__ import annotations

import csv
import io
import re

import pytest

from cocktail.nodes.grid.engine.store.export import table
from cocktail.trainer.csv_cells import as_cell
from cocktail.trainer.data.manifest import Pair
from cocktail.trainer.figures.pairs import Standing, as_csv

FORMULAS = [
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1",
    "\uff1d1+1", "\uff0b1", "\uff0d2+3", "\uff20SUM(A1)",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_shown_as_text_in_every_table(text):
    shown = "'" + text.replace("\r", "\n").replace("\n", "\n'")
    assert as_cell(text) == shown and as_cell(f"a{text}") == f"a{shown[1:]}"
    pair = Pair("0" * 16, text, "0" * 64, 64, 64, text)
    standing = Standing(pair.id, "training", 1.0, None, (1.0,))
    written = as_csv([standing], {pair.id: pair})
    cell = {"labels": [text], "settings": {text: text}, "key": "a", "file": text, "reason": text}
    cells = table({"axes": [{"target": text}], "cells": [cell]})
    for made in (written, cells):
        read = [value for row in csv.reader(io.StringIO(made, newline="")) for value in row]
        assert shown in read and text not in read and shown[1:] not in read


@pytest.mark.parametrize("value", ["-1.5", "+3", "1e-6", "-inf", "a=b", "", "a", 5, -2.5, None])
def test_numbers_and_plain_texts_stay_as_they_are(value):
    assert as_cell(value) == value


def test_a_formula_behind_a_semicolon_or_a_line_end_is_text_too():
    """Where `;` separates cells, a spreadsheet reads quotation marks behind commas as text."""
    written = io.StringIO()
    csv.writer(written).writerow(["x", as_cell("a;=1+1;b\r\n@SUM(A1);+2;-3"), "y"])
    cells = re.split(r"[;\r\n]+", written.getvalue())
    assert cells[1:5] == ["'=1+1", "b", "'@SUM(A1)", "'+2"] and cells[5].startswith("'-3")
    assert as_cell("a; -b\n c=d;e") == "a; -b\n c=d;e"
