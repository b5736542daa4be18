"""From a run folder to a training that stands at its next step: the base is loaded, pictures and
captions are encoded, and the newest resume point is restored.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data.captions import texts
from .data.manifest import TRAIN, Dataset, Pair
from .errors import TrainerError
from .jobs.lines import Lines
from .journal import Journal
from .latents import Latents
from .loss import Schedule
from .model.attention import set_attention
from .model.ema import Ema
from .model.layers import trained_parameters
from .model.networks import Model, load_model, load_vae
from .model.text import Text, load_tokenizer
from .optim.optimizers import make_optimizer
from .resume import PointWriter, drop_torn_points, load_point, restore
from .runs import Run
from .settings.run_settings import RunSettings
from .training import Training
from .validation import Validation, measured_training_pairs
from .workers import Workers

if TYPE_CHECKING:
    import torch


def prepare(run: Run, journal: Journal, workers: Workers) -> Training:
    """Everything that a run trains with, brought to its newest resume point."""
    settings, device, resume = run.settings, workers.device, run.folder / "resume"
    journal.update(status="preparing", message="Loading the base", epochs=settings.epochs)
    if workers.main:
        drop_torn_points(resume)
    if settings.compute.compile:
        check_compiler(device)
    dataset = _with_flips(run.dataset(), settings.data.flip)
    latents, unreadable = _encode_pictures(run, journal, workers, dataset)
    skipped = _note_skipped(run, journal, unreadable)
    shown, held_back = (_without(skipped, pairs) for pairs in (dataset.train, dataset.validation))

    model = load_model(Path(run.base.path))
    text = _encode_captions(run, journal, workers, dataset, model)
    trained = trained_parameters(model.unet, model.text_encoder, settings)
    parts = _learning_parts(model, list(trained), settings)
    if _captions_are_encoded(dataset, settings):
        model.text_encoder = text.text_encoder = None
    for module in (model.unet, *parts.values()):
        module.to(device)

    schedule = Schedule(settings.loss, device)
    followed = measured_training_pairs(shown, settings.validation.train_share, settings.seed)

    def measure(pairs: Sequence[Pair]) -> Validation:
        timesteps = settings.validation_timesteps
        return Validation(pairs, latents, text, timesteps, settings.seed, settings.loss, schedule)

    training = Training(
        run=run,
        journal=journal,
        workers=workers,
        model=model,
        unet=model.unet,
        parts=parts,
        trained=trained,
        optimizers={
            part: make_optimizer(part, list(parameters.values()), settings)
            for part, parameters in trained.items()
        },
        ema=Ema(trained, settings.ema) if settings.ema.decay else None,
        text=text,
        latents=latents,
        validation=measure(held_back),
        measured=measure(followed) if followed else None,
        schedule=schedule,
        pairs={pair.id: pair for pair in shown},
        caption_mix=dataset.caption_mix,
        sets=_validation_sets(dataset, skipped),
        skipped=skipped,
        writer=PointWriter(resume),
    )
    if point := load_point(resume):
        restore(point, training.components())
        training.position = point.position
    _hand_to_accelerate(training)
    training.total_steps = training.steps(0, settings.epochs)
    return training


def check_compiler(device: torch.device) -> None:
    """Raise TrainerError when torch.compile lacks what it needs: on a CPU a C++ compiler, on an
    NVIDIA card Triton.
    """
    if device.type == "cuda":
        missing = "" if importlib.util.find_spec("triton") else "the package triton"
    else:
        known = (os.environ.get("CXX") or "g++", "g++", "clang++", "cl")
        missing = "" if any(map(shutil.which, known)) else "a C++ compiler (g++, clang++ or cl)"
    if missing:
        raise TrainerError(f"compute.compile needs {missing}. Install it, or switch it off.")


def _with_flips(dataset: Dataset, flip: float) -> Dataset:
    """The dataset with the run's own chance of mirroring for the training pairs that have none."""
    if not flip:
        return dataset
    pairs = tuple(
        replace(pair, flip=flip) if pair.split == TRAIN and not pair.flip else pair
        for pair in dataset.pairs
    )
    return replace(dataset, pairs=pairs)


def _encode_pictures(
    run: Run, journal: Journal, workers: Workers, dataset: Dataset
) -> tuple[Latents, dict[str, str]]:
    """The latents of a run, and why some pairs have none; the VAE leaves the memory again."""
    settings = run.settings
    vae = load_vae(Path(run.base.path))
    latents = Latents(
        dataset,
        settings.resolution,
        settings.bucket_step,
        Path(run.paths.cache),
        vae,
        settings.bucket_table,
        settings.data.crop_variants,
        settings.data.crop_jitter,
    )
    unreadable = workers.first(
        lambda: latents.prepare(
            vae.to(workers.device),
            workers.device,
            settings.batch_size,
            lambda done, total: journal.progress(message=f"Encoding pictures ({done} of {total})"),
        )
    )
    return latents, unreadable


def _note_skipped(run: Run, journal: Journal, unreadable: Mapping[str, str]) -> dict[str, str]:
    """All pairs that the run leaves out, and why, by their ids.

    A pair that was left out once stays out: a resumed run shows what it showed before.
    """
    file = run.folder / "skipped.jsonl"
    skipped = {
        line["pair"]: line["reason"]
        for line in Lines(file).read().lines
        if isinstance(line.get("pair"), str) and isinstance(line.get("reason"), str)
    }
    for pair, reason in unreadable.items():
        if pair not in skipped:
            skipped[pair] = reason
            journal.note_skipped(pair, reason)
    journal.update(skipped=len(skipped))
    return skipped


def _without(skipped: Mapping[str, str], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that can be shown. Raises TrainerError when there are none."""
    kept = [pair for pair in pairs if pair.id not in skipped]
    if pairs and not kept:
        reason = skipped[pairs[0].id]
        raise TrainerError(f"None of {len(pairs)} pictures can be encoded. The first: {reason}")
    return kept


def _validation_sets(dataset: Dataset, skipped: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The ids of the pairs of every validation set that can be shown."""
    return {
        name: tuple(pair.id for pair in pairs if pair.id not in skipped)
        for name, pairs in dataset.validation_sets.items()
    }


def _encode_captions(
    run: Run, journal: Journal, workers: Workers, dataset: Dataset, model: Model
) -> Text:
    """The captions and sample prompts of a run, embedded unless the text encoder learns."""
    settings, device = run.settings, workers.device
    text = Text(
        load_tokenizer(Path(run.paths.tokenizer)),
        model.text_encoder.to(device),
        settings.clip_skip,
        settings.train_text_encoder,
        Path(run.paths.cache),
        settings.data.text_chunks,
    )
    captions = [text for pair in dataset.pairs for text in texts(pair, dataset.caption_mix)]
    prompts = [text for p in settings.samples.prompts for text in (p.prompt, p.negative)]
    workers.first(
        lambda: text.prepare(
            captions + prompts,
            device,
            lambda done, total: journal.progress(message=f"Encoding captions ({done} of {total})"),
        )
    )
    return text


def _learning_parts(model: Model, names: Sequence[str], settings: RunSettings) -> dict[str, Any]:
    """The modules that learn, by name, in training mode and computed as the settings say."""
    set_attention(model.unet, settings.compute.attention)
    modules = {"unet": model.unet, "text_encoder": model.text_encoder}
    parts = {name: modules[name].train() for name in names}
    if settings.compute.gradient_checkpointing:
        model.unet.train().enable_gradient_checkpointing()
        if "text_encoder" in parts:
            model.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
    return parts


def _captions_are_encoded(dataset: Dataset, settings: RunSettings) -> bool:
    """Whether no caption will be asked for that is not in the cache, so that the text encoder can
    leave the memory.
    """
    varied = any(pair.shuffle_tags or pair.tag_dropout for pair in dataset.train)
    return not settings.train_text_encoder and not varied


def _hand_to_accelerate(training: Training) -> None:
    """Let accelerate take care of precision and several processes.

    It does not wrap the optimizers: its wrapper updates the scale of fp16 after each of them, but
    one step has two.
    """
    accelerator = training.workers.accelerator
    training.parts = {name: accelerator.prepare(part) for name, part in training.parts.items()}
    if "unet" in training.parts:
        training.unet = training.parts["unet"]
    else:
        training.unet = accelerator.prepare_model(training.model.unet, evaluation_mode=True)
    if "text_encoder" in training.parts:
        training.text.text_encoder = training.parts["text_encoder"]
    if training.run.settings.compute.compile:
        training.workers.unwrap(training.unet).compile()
