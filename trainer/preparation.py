"""From a run folder to a training that stands at its next step: the base is loaded, pictures and
captions are encoded, and the newest resume point is restored.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .cache import check_room
from .data.buckets import no_steps
from .data.captions import texts
from .data.manifest import TRAIN, Dataset, Pair
from .disk import check_disk
from .errors import TrainerError
from .giving_way import step_aside
from .jobs.control import Control
from .jobs.lines import Lines
from .journal import Journal
from .latents import Latents
from .loss import Schedule
from .masks import Masks
from .model.attention import set_attention
from .model.ema import Ema
from .model.layers import Parameters, trained_parameters
from .model.networks import Model, load_model, load_vae
from .model.text import Text, load_tokenizer
from .optim.optimizers import make_optimizer
from .resume import PointWriter, Position, drop_torn_points, load_point, restore, set_aside
from .runs import Run
from .saving import when_there_is_room
from .settings.groups import LossSettings
from .settings.run_settings import RunSettings
from .training import Training
from .validation import Validation, measured_training_pairs
from .workers import Workers

if TYPE_CHECKING:
    import torch

    from .sharing import Sharing

T = TypeVar("T")


@dataclass(frozen=True)
class Filling:
    """How a run fills its cache: what is asked of it meanwhile ends that, by Stopped or Paused, and
    while the disk is full it waits.
    """

    run: Run
    journal: Journal
    workers: Workers
    control: Control
    sharing: Sharing | None = None

    def progress(self, message: str, module: torch.nn.Module | None = None) -> None:
        """Say how far it is, and leave the device to prompts if there are some; `module` is what
        the work has on it.
        """
        self.journal.progress(message=message)
        self.control.heed()
        stop = self.control.asked_to_stop
        if self.sharing is not None and not step_aside(self.sharing, stop, module):
            raise self.control.ending()

    def first(self, work: Callable[[], T], missing_bytes: int) -> T:
        """Do what adds so many bytes to the cache, in the first process before the others. Raises
        TrainerError when there is no room for that and for all that the run writes later.
        """
        if self.workers.main:
            check_disk(self.run, missing_bytes)
        return self.workers.first(lambda: self._with_room(work))

    def _with_room(self, work: Callable[[], T]) -> T:
        """The work, begun again where it stands once a full disk has room."""
        cache, journal = Path(self.run.paths.cache), self.journal

        def attempt() -> T:
            if journal.state.status == "paused":
                check_room(cache)
                journal.update(status="preparing", message="")
            return work()

        return when_there_is_room(cache, journal, self.control, attempt)


def prepare(
    run: Run,
    journal: Journal,
    workers: Workers,
    control: Control | None = None,
    sharing: Sharing | None = None,
) -> Training:
    """Everything that a run trains with, brought to its newest resume point. What is asked of it by
    `control` ends the preparation, which keeps what it has encoded: Stopped or Paused is raised.
    While the disk of the cache is full the run waits, as it does later. With `sharing` it gives way
    to prompts between two pictures.
    """
    resume = run.folder / "resume"
    journal.update(status="preparing", message="Loading the base", epochs=run.settings.epochs)
    if workers.main:
        drop_torn_points(resume)
    if run.settings.compute.compile:
        check_compiler(workers.device)
    if not any(resume.glob("step-*")):
        check_prediction(Path(run.base.path), run.settings.loss)
    filling = Filling(run, journal, workers, control or Control(), sharing)
    data = _encode(filling)
    training = _assembled(filling, data, *_models(filling, data), PointWriter(resume))
    _take_up(training, resume)
    _hand_to_accelerate(training)
    epochs = run.settings.epochs
    training.total_steps = run.settings.range_test.steps or training.steps(0, epochs)
    if not training.total_steps:
        raise TrainerError(no_steps([pair.weight for pair in data.shown], epochs))
    return training


@dataclass(frozen=True)
class _Data:
    """A dataset in the cache: what is encoded of it, and why some pairs are left out."""

    dataset: Dataset
    latents: Latents
    masks: Masks | None
    skipped: dict[str, str]
    shown: list[Pair]
    held_back: list[Pair]


def _encode(filling: Filling) -> _Data:
    """The pictures and masks of a run; TrainerError when none of them can be encoded."""
    run = filling.run
    dataset = _with_flips(run.dataset(), run.settings.data.flip)
    latents, unreadable = _encode_pictures(filling, dataset)
    masks, without_mask = _encode_masks(filling, dataset, latents)
    skipped = _note_skipped(run, filling.journal, unreadable | without_mask)
    shown, held_back = (_without(skipped, pairs) for pairs in (dataset.train, dataset.validation))
    return _Data(dataset, latents, masks, skipped, shown, held_back)


def _models(
    filling: Filling, data: _Data
) -> tuple[Model, Text, dict[str, Parameters], dict[str, Any]]:
    """The base on its device, the captions, which parameters are trained, and the modules that
    learn. A text encoder that is not needed any more is left out.
    """
    run, settings = filling.run, filling.run.settings
    model = load_model(Path(run.base.path))
    filling.control.heed()
    text = _encode_captions(filling, data.dataset, model)
    trained = trained_parameters(model.unet, model.text_encoder, settings)
    parts = _learning_parts(model, list(trained), settings)
    if _captions_are_encoded(data.dataset, settings):
        model.text_encoder = text.text_encoder = None
    for module in (model.unet, *parts.values()):
        module.to(filling.workers.device)
    return model, text, trained, parts


def _assembled(
    filling: Filling,
    data: _Data,
    model: Model,
    text: Text,
    trained: dict[str, Parameters],
    parts: dict[str, Any],
    writer: PointWriter,
) -> Training:
    """A training at its beginning."""
    run, settings = filling.run, filling.run.settings
    schedule = Schedule(settings.loss, filling.workers.device)
    followed = measured_training_pairs(data.shown, settings.validation.train_share, settings.seed)

    def measure(pairs: Sequence[Pair]) -> Validation:
        timesteps, seed = settings.validation_timesteps, settings.seed
        return Validation(pairs, data.latents, text, timesteps, seed, settings.loss, schedule)

    return Training(
        run=run,
        journal=filling.journal,
        workers=filling.workers,
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
        latents=data.latents,
        validation=measure(data.held_back),
        measured=measure(followed) if followed else None,
        schedule=schedule,
        pairs={pair.id: pair for pair in data.shown},
        caption_mix=data.dataset.caption_mix,
        sets=_validation_sets(data.dataset, data.skipped),
        skipped=data.skipped,
        writer=writer,
        masks=data.masks,
    )


def _take_up(training: Training, resume: Path) -> None:
    """Bring a training to its newest resume point that is whole, if there is one."""
    point, passed_over = load_point(resume)
    if point:
        restore(point, training.components())
        training.position = point.position
    if passed_over and training.workers.main:
        set_aside(resume, passed_over)
        _tell_of_damaged_points(training.journal, training.position, passed_over)


def _tell_of_damaged_points(
    journal: Journal, position: Position, passed_over: Sequence[str]
) -> None:
    """Say that resume points were cut off or damaged, and from where the run goes on instead."""
    where = f"from that of step {position.step}" if position.step else "from the beginning"
    text = f"Damaged resume points are passed over ({', '.join(passed_over)}): it goes on {where}."
    print(text, file=sys.stderr)
    epoch = position.epoch if position.batch == 0 else position.epoch + 1
    journal.record("warning", epoch, position.step, text=text)


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


def check_prediction(base: Path, loss: LossSettings) -> None:
    """Raise TrainerError when a base says that it predicts v, by its metadata or ComfyUI's marker,
    and the run would train it to predict epsilon. The other way round, a run may make a model of v
    from one of epsilon.
    """
    from safetensors import safe_open

    with safe_open(base, framework="pt") as file:
        says, marked = file.metadata() or {}, "v_pred" in file.keys()  # noqa: SIM118
    told = says.get("modelspec.prediction_type", "").strip().lower()
    trained = says.get("ss_v_parameterization", "").strip().lower() == "true"
    predicts_v = marked or trained or told in ("v", "v-prediction", "v_prediction")
    if predicts_v and loss.prediction == "epsilon":
        raise TrainerError(
            f"{base.name} says that it predicts v, but loss.prediction is epsilon: the run would "
            "train it towards something else. Set loss.prediction to v-prediction."
        )


def _with_flips(dataset: Dataset, flip: float) -> Dataset:
    """The dataset with the run's own chance of mirroring for the training pairs that have none."""
    if not flip:
        return dataset
    pairs = tuple(
        replace(pair, flip=flip) if pair.split == TRAIN and not pair.flip else pair
        for pair in dataset.pairs
    )
    return replace(dataset, pairs=pairs)


def _encode_pictures(filling: Filling, dataset: Dataset) -> tuple[Latents, dict[str, str]]:
    """The latents of a run, and why some pairs have none; the VAE leaves the memory again."""
    run, workers = filling.run, filling.workers
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
    unreadable = filling.first(
        lambda: latents.prepare(
            vae.to(workers.device),
            workers.device,
            settings.batch_size,
            lambda done, total: filling.progress(f"Encoding pictures ({done} of {total})", vae),
        ),
        latents.missing_bytes(),
    )
    return latents, unreadable


def _encode_masks(
    filling: Filling, dataset: Dataset, latents: Latents
) -> tuple[Masks | None, dict[str, str]]:
    """The masks of a run, and why some pairs have none; None when they make no difference."""
    run = filling.run
    outside = run.settings.loss.mask_outside
    if outside == 1:
        return None, {}
    masks = Masks(dataset, latents, outside, Path(run.paths.cache))
    unreadable = filling.first(
        lambda: masks.prepare(
            lambda done, total: filling.progress(f"Encoding masks ({done} of {total})")
        ),
        masks.missing_bytes(),
    )
    return masks, unreadable


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


def _encode_captions(filling: Filling, dataset: Dataset, model: Model) -> Text:
    """The captions and sample prompts of a run, embedded unless the text encoder learns."""
    run, workers = filling.run, filling.workers
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
    captions += [text for p in settings.samples.prompts for text in (p.prompt, p.negative)]
    filling.first(
        lambda: text.prepare(
            captions,
            device,
            lambda done, total: filling.progress(
                f"Encoding captions ({done} of {total})", text.text_encoder
            ),
        ),
        text.missing_bytes(captions),
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
    varied = any(pair.shuffle_tags or pair.tag_dropout or pair.choices for pair in dataset.train)
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
