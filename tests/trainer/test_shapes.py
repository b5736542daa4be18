"""Drawn pairs, and the judgement of pictures made from such prompts."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image

from cocktail.trainer.errors import TrainerError
from cocktail.trainer.shapes import (
    CAPTION,
    COLOURS,
    Score,
    border_colour,
    draw_pair,
    draw_shapes,
    judge_grid,
)


def test_a_folder_gets_pictures_captions_and_a_table(tmp_path):
    draw_shapes(tmp_path / "shapes", count=30, seed=2)
    pictures = sorted((tmp_path / "shapes").glob("*.png"))
    assert len(pictures) == 30
    sizes = {Image.open(picture).size for picture in pictures}
    assert len(sizes) > 3 and any(w > h for w, h in sizes) and any(w < h for w, h in sizes)
    with (tmp_path / "shapes" / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for picture, row in zip(pictures, rows, strict=True):
        caption = picture.with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert list(row) == ["image", "prompt", "message"]
        assert (row["image"], row["prompt"]) == (picture.name, caption)
        assert row["message"].startswith(f"**{caption} --v 5.1")
        assert border_colour(Image.open(picture)) == CAPTION.fullmatch(caption).group(3)


def test_a_picture_depends_on_seed_and_number_alone():
    first, caption = draw_pair(5, 17)
    again, same = draw_pair(5, 17)
    assert first.tobytes() == again.tobytes() and caption == same
    assert any(draw_pair(6, index)[1] != draw_pair(5, index)[1] for index in range(5))


def test_drawing_again_changes_nothing_and_another_drawing_is_refused(tmp_path):
    folder = tmp_path / "shapes"
    draw_shapes(folder, count=3, seed=2)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    draw_shapes(folder, count=3, seed=2)
    assert before == {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(TrainerError, match="Choose another name"):
        draw_shapes(folder, count=4, seed=2)


def test_a_table_from_before_there_were_messages_gets_them_unless_somebody_has_changed_it(tmp_path):
    draw_shapes(tmp_path / "shapes", count=3, seed=2)
    file = tmp_path / "shapes" / "pairs.csv"
    now = file.read_bytes()
    before = b"".join(line.rpartition(b",")[0] + b"\r\n" for line in now.splitlines())
    assert before.startswith(b"image,prompt\r\n00000.png,a ")
    file.write_bytes(before)
    draw_shapes(tmp_path / "shapes", count=3, seed=2)
    assert file.read_bytes() == now
    mine = before.replace(b"a ", b"one ", 1) + b"mine.png,my own\r\n"
    for mine_too in (mine + b"\n", mine + b"long.png," + b"a" * 200_000 + b"\r\n"):
        file.write_bytes(mine_too)
        draw_shapes(tmp_path / "shapes", count=3, seed=2)
        assert file.read_bytes() == mine_too


def test_a_folder_of_somebody_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cat.png").write_bytes(b"cat")
    with pytest.raises(TrainerError, match="nothing in it is overwritten"):
        draw_shapes(tmp_path / "mine", count=3, seed=2)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["cat.png"]


def test_the_score_counts_borders_of_the_asked_colour(tmp_path):
    asked = [("red", "red"), ("blue", "blue"), ("green", "cyan")]
    with (tmp_path / "cells.jsonl").open("w", encoding="utf-8") as lines:
        for index, (background, painted) in enumerate(asked):
            key = f"{index}f"
            (tmp_path / "cells" / key).mkdir(parents=True)
            picture = Image.new("RGB", (64, 64), COLOURS[painted])
            picture.save(tmp_path / "cells" / key / f"{key}.png")
            settings = {
                "prompt": f"a white circle on a {background} background",
                "checkpoint": "some/model.safetensors",
            }
            lines.write(json.dumps({"key": key, "settings": settings}) + "\n")
    assert judge_grid(tmp_path) == [Score("some/model.safetensors", right=2, asked=3)]
