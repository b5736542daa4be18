"""Captions from local models: the same words always, resumed after a kill, one bad picture apart
from its neighbours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import cocktail.trainer as trainer
from cocktail.trainer import command_line
from cocktail.trainer.data.caption import job as caption_job
from cocktail.trainer.data.caption.apply import apply_captions
from cocktail.trainer.data.caption.captioner import (
    Captioned,
    CaptionSettings,
    Picture,
    caption_images,
    load_captioner,
    pick_device,
)
from cocktail.trainer.data.caption.job import (
    CaptionJob,
    create_job,
    problems,
    result,
)
from cocktail.trainer.data.caption.model_folder import check_model, model_fingerprint
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.errors import TrainerError
from cocktail.trainer.jobs.lines import Lines
from cocktail.trainer.shapes import draw_shapes

from . import held
from .captioners import make_captioner


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captioners")
    for kind in ("blip", "git"):
        make_captioner(folder / kind, kind)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "shapes"
    draw_shapes(folder, count=12, seed=5)
    return load_folder(folder, "shapes")[0]


def settings(model: Path, **changes) -> CaptionSettings:
    return CaptionSettings(str(model), max_new_tokens=8, num_beams=1, **changes)


def say(model: Path, dataset, **changes) -> dict[str, str]:
    """What a model says to each picture, by the pair's id."""
    captioner = load_captioner(settings(model, **changes))
    pictures = [Picture(p.id, dataset.path(p), p.image_hash) for p in dataset.pairs]
    answers = list(caption_images(captioner, pictures))
    assert [answer.id for answer in answers] == [picture.id for picture in pictures]
    return {answer.id: answer.text or f"PROBLEM {answer.problem}" for answer in answers}


@pytest.mark.parametrize("kind", ["blip", "git"])
def test_batches_of_any_size_get_the_same_words(models, shapes, kind):
    assert check_model(models / kind).kind == kind
    whole = say(models / kind, shapes, batch_size=12)
    assert len(set(whole.values())) > 1, "the words depend on the picture"
    assert not any(text.startswith("PROBLEM") for text in whole.values())
    assert say(models / kind, shapes, batch_size=5) == whole
    assert say(models / kind, shapes, batch_size=1) == whole


florence2_here = hasattr(transformers, "Florence2ForConditionalGeneration")


@pytest.mark.skipif(not florence2_here, reason="this transformers has no Florence-2 of its own")
def test_florence2_answers_its_task_without_its_marks(shapes, tmp_path):
    folder = make_captioner(tmp_path / "florence2", "florence2")
    assert check_model(folder, "florence2").kind == "florence2"
    whole = say(folder, shapes, batch_size=12)
    assert len(set(whole.values())) > 1, "the words depend on the picture"
    for text in whole.values():
        assert text and not text.startswith("PROBLEM") and "<" not in text
    assert say(folder, shapes, batch_size=5) == whole
    assert say(folder, shapes, prompt="<CAPTION>") != whole


@pytest.mark.skipif(florence2_here, reason="this transformers has Florence-2")
def test_florence2_is_refused_where_transformers_does_not_have_it(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    write_config(
        tmp_path, model_type="florence2", architectures=["Florence2ForConditionalGeneration"]
    )
    words = f"transformers {transformers.__version__} does not know the architecture Florence2"
    with pytest.raises(TrainerError, match=words):
        check_model(tmp_path, "florence2")


def test_a_prompt_begins_the_caption(models, shapes):
    for text in say(models / "blip", shapes, prompt="the red").values():
        assert text.startswith("the red")


def test_drawn_words_hang_on_the_seed_and_the_picture_alone(models, shapes):
    drawn = {"temperature": 1.0, "seed": 4}
    whole = say(models / "blip", shapes, **drawn)
    few = replace(shapes, pairs=shapes.pairs[5:8])
    assert say(models / "blip", few, **drawn).items() <= whole.items()
    assert say(models / "blip", shapes, temperature=1.0, seed=5) != whole


def test_a_bad_picture_stays_alone_with_its_problem(models, shapes, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(shapes.root, folder)
    gone, broken, changed = shapes.pairs[1:4]
    (folder / gone.image).unlink()
    (folder / broken.image).write_bytes(b"no picture")
    shutil.copyfile(folder / shapes.pairs[5].image, folder / changed.image)
    whole = say(models / "blip", shapes)
    found = say(models / "blip", replace(shapes, root=str(folder)))
    assert found.pop(gone.id) == "PROBLEM the picture is no longer there"
    for pair in (broken, changed):
        assert found.pop(pair.id).startswith("PROBLEM the picture is not the one that the dataset")
    assert found.items() <= whole.items() and len(found) == 9


def broken_model(models: Path, tmp_path: Path, change) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(models / "blip", folder)
    change(folder)
    return folder


def write_config(folder: Path, **values) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(config | values))


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.post_layernorm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def name_shards(*names: str):
    index = json.dumps({"weight_map": {str(number): name for number, name in enumerate(names)}})
    return lambda folder: (folder / "model.safetensors.index.json").write_text(index)


BAD_MODELS = [
    (lambda f: (f / "config.json").unlink(), "There is no model in model: config.json is missing"),
    (lambda f: (f / "config.json").write_text("{"), "config.json in model is damaged"),
    (lambda f: (f / "config.json").write_text("{}"), "does not say its model_type"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    (pickled_only, "only pickled weights (pytorch_model.bin)"),
    (lambda f: write_config(f, auto_map={"AutoModel": "x.Y"}), "Python code of its own"),
    (lambda f: write_config(f, model_type="nonsense"), "does not know the architecture"),
    (
        lambda f: write_config(f, model_type="bert", architectures=["BertModel"]),
        "does not turn pictures into text",
    ),
    (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "does not load"),
    (name_shards("shard.bin"), "names 'shard.bin', which is not a .safetensors file in that"),
    (name_shards("../x.safetensors"), "names '../x.safetensors', which is not a .safetensors file"),
    (name_shards("a.safetensors", "b.safetensors"), "2 of 2 weight files are missing in model"),
    (lose_a_weight, "do not fit its config.json: 1 are missing"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), BAD_MODELS, ids=[words for _, words in BAD_MODELS])
def test_a_folder_that_is_no_safe_captioner_is_refused(models, tmp_path, change, words):
    folder = broken_model(models, tmp_path, change)
    with pytest.raises(TrainerError) as caught:
        load_captioner(settings(folder))
    assert words in str(caught.value)


def test_a_model_of_another_kind_is_refused(models):
    with pytest.raises(TrainerError, match="holds a model of type git, not blip"):
        check_model(models / "git", "blip")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_beams": 0}, "num_beams is 0; it must be between 1 and 16"),
        ({"temperature": "hot"}, "temperature is 'hot'; it must be a number"),
        ({"kind": "clip"}, "must be one of auto, blip"),
    ],
)
def test_settings_out_of_bounds_are_refused(values, words):
    with pytest.raises(TrainerError, match=words):
        CaptionSettings("model", **values)
    with pytest.raises(TrainerError, match="Did you mean num_beams"):
        CaptionSettings.from_json({"model": "x", "num_beam": 2})


def start(job: CaptionJob) -> subprocess.Popen:
    main = Path(trainer.__path__[0]) / "__main__.py"
    with (job.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, held.__file__, str(main), "caption", str(job.folder)],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "0"},
        )


def test_killed_and_started_again_it_captions_nothing_twice(models, shapes, tmp_path):
    words = settings(models / "blip", batch_size=1)
    whole = create_job(tmp_path / "jobs", "whole", shapes, words)
    assert start(whole).wait(600) == 0, (whole.folder / "log.txt").read_text()
    killed = create_job(tmp_path / "jobs", "killed", shapes, words)
    held.hold(killed.folder, 3)
    process = start(killed)
    lines = killed.folder / "captions.jsonl"
    deadline = time.monotonic() + 600
    while not (lines.exists() and lines.read_bytes().count(b"\n") == 3):
        assert process.poll() is None and time.monotonic() < deadline, killed.log_tail()
        time.sleep(0.01)
    assert killed.state().status == "running"
    process.kill()
    process.wait()
    held.let_go(killed.folder)
    assert killed.state().status == "interrupted"
    with lines.open("ab") as file:
        file.write(b'{"id": "cut off by the ki')
    before = Lines(lines).read().lines
    assert len(before) == 3
    assert start(killed).wait(600) == 0
    assert result(killed.folder) == result(whole.folder) and len(result(whole.folder)) == 12
    after = Lines(lines).read()
    assert after.lines[: len(before)] == before and (len(after.lines), after.damaged) == (12, 1)
    assert problems(killed.folder) == {}
    assert killed.state().status == "finished"


def test_a_captioning_takes_the_device_it_was_queued_for(models, shapes, tmp_path, monkeypatch):
    """`auto`, queued where there is no GPU and started by a ComfyUI that has one."""
    job = create_job(tmp_path, "queued", shapes, settings(models / "blip"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device, arguments = job.device(), job.arguments()
    taken = []

    def load(found: CaptionSettings) -> None:
        taken.append(pick_device(found.device))
        raise TrainerError("enough")

    monkeypatch.setattr(caption_job, "load_captioner", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert command_line.main(["caption", str(job.folder), *arguments]) == 1
    assert job.state().message == "enough" and taken == [device] == ["cpu"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"]
)
def test_the_fingerprint_of_a_model_covers_what_it_is_loaded_from(models, tmp_path, name):
    folder, cache = tmp_path / "model", tmp_path / "hashes.json"
    shutil.copytree(models / "blip", folder)
    before = model_fingerprint(folder, cache)
    assert model_fingerprint(folder) == before == model_fingerprint(models / "blip")
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    assert model_fingerprint(folder, cache) != before


def test_a_model_is_read_again_only_when_it_has_changed(models, tmp_path):
    folder, cache, read = tmp_path / "model", tmp_path / "hashes.json", []
    shutil.copytree(models / "blip", folder)

    def fingerprint() -> str:
        read.clear()
        return model_fingerprint(folder, cache, lambda done, total: read.append((done, total)))

    before = fingerprint()
    assert read[-1] == (read[-1][1], sum(file.stat().st_size for file in folder.iterdir()))
    assert fingerprint() == before and read == []
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert fingerprint() == before
    assert read[-1][1] == (folder / "model.safetensors").stat().st_size
    cache.write_text("{")
    assert fingerprint() == before and read


@pytest.mark.parametrize(
    "text", ["{", "[]", '"x"', "{}", '{"format": 1}', '{"format": 1, "id": "x", "settings": 3}']
)
def test_a_damaged_job_says_so(models, shapes, tmp_path, text):
    job = create_job(tmp_path, "job", shapes, settings(models / "git"))
    (job.folder / "job.json").write_text(text)
    with pytest.raises(TrainerError, match="job.json of job is damaged"):
        CaptionJob.open(job.folder)


@pytest.mark.parametrize("name", ["../dataset.parquet", "/dataset.parquet", "a/b.parquet"])
def test_a_job_reads_no_manifest_outside_of_its_folder(models, shapes, tmp_path, name):
    job = create_job(tmp_path, "job", shapes, settings(models / "git"))
    value = json.loads((job.folder / "job.json").read_text())
    value["dataset"]["manifest"] = name
    (job.folder / "job.json").write_text(json.dumps(value))
    with pytest.raises(TrainerError, match="job.json of job is damaged"):
        CaptionJob.open(job.folder)


def test_captions_go_to_their_pairs_by_id(shapes):
    texts = {pair.id: f"said of {pair.image}" for pair in shapes.pairs[:10]}
    dataset, report = apply_captions(
        replace(shapes, pairs=tuple(reversed(shapes.pairs))), "model", texts, "replace", "own"
    )
    for pair in dataset.pairs:
        own = next(p for p in shapes.pairs if p.id == pair.id or p.image == pair.image)
        if own.id in texts:
            assert pair.caption == texts[own.id] and pair.captions["own"] == own.caption
        else:
            assert pair.caption == own.caption
    assert "10" in str(report)


def test_an_answer_says_what_it_is_about():
    answer = Captioned("a", "b", problem="the picture cannot be read", of_picture=True)
    assert not answer.text and answer.of_picture
