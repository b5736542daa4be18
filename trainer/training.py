"""A run at work: everything the loop reads and changes, and how it is put together."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data.buckets import Showing, batches, steps_of_epoch
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
from .optim.optimizers import evaluation_weights, flatten_state, make_part_optimizer, restore_state
from .resume import Point, PointWriter, Position, load_point
from .runs import Run
from .settings.groups import OptimizerSettings
from .validation import Validation, measured_training_pairs
from .workers import Workers

if TYPE_CHECKING:
    import torch


@dataclass
class Training:
    """`parts` are the modules that learn, as accelerate has prepared them, and `trained` their
    parameters that do.

    The model has no text encoder when all captions are embedded already.
    """

    run: Run
    journal: Journal
    workers: Workers
    model: Model
    unet: Any
    parts: dict[str, Any]
    trained: dict[str, dict[str, torch.nn.Parameter]]
    optimizers: dict[str, Any]
    ema: Ema | None
    text: Text
    latents: Latents
    validation: Validation
    measured: Validation | None
    schedule: Schedule
    pairs: dict[str, Pair]
    caption_mix: tuple[tuple[str, float], ...]
    sets: dict[str, tuple[str, ...]]
    skipped: dict[str, str]
    writer: PointWriter
    position: Position = Position()
    total_steps: int = 0
    recorded: set[tuple[str, str]] = field(default_factory=set)
    waited_s: float = 0.0
    stop: bool = False
    save: bool = False
    safe_at: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)

    def plan(self, epoch: int) -> list[list[list[Showing]]]:
        """The optimizer steps of an epoch, each a list of batches of one bucket."""
        settings = self.run.settings
        plan = batches(self._buckets(), settings.batch_size, settings.seed, epoch, self._weights())
        size = settings.data.accumulate
        return [plan[start : start + size] for start in range(0, len(plan), size)]

    def steps(self, first: int, last: int) -> int:
        """How many optimizer steps the epochs from `first` up to but not including `last` have."""
        settings = self.run.settings
        return sum(
            steps_of_epoch(
                self._buckets(),
                settings.batch_size,
                settings.seed,
                epoch,
                self._weights(),
                settings.data.accumulate,
            )
            for epoch in range(first, last)
        )

    def _buckets(self) -> dict[str, tuple[int, int]]:
        return {pair.id: self.latents.buckets[pair.id] for pair in self.pairs.values()}

    def _weights(self) -> dict[str, float]:
        return {pair.id: pair.weight for pair in self.pairs.values()}

    def optimizer_settings(self, part: str) -> OptimizerSettings:
        settings = self.run.settings
        return settings.unet_optimizer if part == "unet" else settings.text_encoder_optimizer

    def base_rate(self, part: str) -> float:
        """The learning rate of a part before its schedule."""
        settings = self.run.settings
        if part == "unet":
            return settings.learning_rate
        return settings.text_encoder_learning_rate * settings.layers.text_encoder_rate_scale

    def modules(self) -> dict[str, Any]:
        """The parts that learn, as plain modules."""
        return {name: self.workers.unwrap(module) for name, module in self.parts.items()}

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """The weights that are measured, shown and saved: with schedule-free optimizers the mean of
        those on the way.
        """
        with contextlib.ExitStack() as stack:
            for optimizer in self.optimizers.values():
                stack.enter_context(evaluation_weights(optimizer))
            yield

    def point(self) -> Point:
        """Everything that goes into a resume point, as it is now; the tensors are those that
        training changes.
        """
        tensors: dict[str, Mapping[str, torch.Tensor]] = {}
        values: dict[str, Any] = {}
        for name, parameters in self.trained.items():
            tensors[name] = {key: value.detach() for key, value in parameters.items()}
            flat, rest = flatten_state(self.optimizers[name].state_dict())
            tensors[f"{name}-optimizer"] = flat
            values[f"{name}-optimizer"] = rest
        if self.ema is not None:
            flat, rest = flatten_state(self.ema.state_dict())
            tensors["ema"], values["ema"] = flat, rest
        if self.workers.accelerator.scaler is not None:
            values["scaler"] = self.workers.accelerator.scaler.state_dict()
        return Point(self.position, tensors, values)

    def restore(self, point: Point) -> None:
        """Bring everything to a resume point."""
        import torch

        with torch.no_grad():
            for name, parameters in self.trained.items():
                saved = point.tensors[name]
                if saved.keys() != parameters.keys():
                    raise TrainerError(
                        f"The resume point of step {point.position.step} has other trained layers than this run. "
                        "Train under another name."
                    )
                for key, parameter in parameters.items():
                    parameter.copy_(saved[key])
                self.optimizers[name].load_state_dict(
                    restore_state(
                        dict(point.tensors[f"{name}-optimizer"]), point.values[f"{name}-optimizer"]
                    )
                )
        if self.ema is not None:
            self.ema.load_state_dict(restore_state(dict(point.tensors["ema"]), point.values["ema"]))
        if self.workers.accelerator.scaler is not None and "scaler" in point.values:
            self.workers.accelerator.scaler.load_state_dict(point.values["scaler"])
        self.position = point.position


def prepare(run: Run, journal: Journal, workers: Workers) -> Training:
    """Load the base, encode pictures and captions, and go back to the newest resume point."""
    settings = run.settings
    journal.update(status="preparing", message="Loads the base", epochs=settings.epochs)
    for stale in (run.folder / "resume").glob(".*.part"):
        if workers.main:
            shutil.rmtree(stale, ignore_errors=True)
    device = workers.device
    if settings.compute.compile:
        _check_compiler(device)
    dataset = _with_flips(run.dataset(), settings.data.flip)
    cache = Path(run.paths.cache)
    latents, unreadable = _encoded(run, journal, workers, dataset, cache)
    skipped = _note_skipped(run, journal, unreadable)
    shown, held_back = (_without(skipped, pairs) for pairs in (dataset.train, dataset.validation))

    model = load_model(Path(run.base.path))
    text = Text(
        load_tokenizer(Path(run.paths.tokenizer)),
        model.text_encoder.to(device),
        settings.clip_skip,
        settings.train_text_encoder,
        cache,
        settings.data.text_chunks,
    )
    workers.first(
        lambda: text.prepare(
            [text for pair in dataset.pairs for text in texts(pair, dataset.caption_mix)]
            + [text for p in settings.samples.prompts for text in (p.prompt, p.negative)],
            device,
            lambda done, total: journal.progress(message=f"Encodes captions ({done} of {total})"),
        )
    )

    trained = trained_parameters(model.unet, model.text_encoder, settings)
    set_attention(model.unet, settings.compute.attention)
    modules = {"unet": model.unet, "text_encoder": model.text_encoder}
    parts = {name: modules[name].train() for name in trained}
    if settings.compute.gradient_checkpointing:
        model.unet.train().enable_gradient_checkpointing()
        if "text_encoder" in parts:
            model.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})
    if not settings.train_text_encoder and not any(
        p.shuffle_tags or p.tag_dropout for p in dataset.train
    ):
        model.text_encoder = text.text_encoder = None
    model.unet.to(device)
    schedule = Schedule(settings.loss, device)
    followed = measured_training_pairs(shown, settings.validation.train_share, settings.seed)

    def measure(pairs: Sequence[Pair]) -> Validation:
        timesteps = settings.validation_timesteps
        return Validation(pairs, latents, text, timesteps, settings.seed, settings.loss, schedule)

    training = Training(
        run,
        journal,
        workers,
        model,
        model.unet,
        parts,
        trained,
        {},
        None,
        text,
        latents,
        measure(held_back),
        measure(followed) if followed else None,
        schedule,
        {pair.id: pair for pair in shown},
        dataset.caption_mix,
        {
            name: tuple(pair.id for pair in pairs if pair.id not in skipped)
            for name, pairs in dataset.validation_sets.items()
        },
        skipped,
        PointWriter(run.folder / "resume"),
    )
    for module in parts.values():
        module.to(device)
    for name, parameters in trained.items():
        own = training.optimizer_settings(name)
        decay = settings.weight_decay if own.weight_decay < 0 else own.weight_decay
        training.optimizers[name] = make_part_optimizer(
            list(parameters.values()), own, training.base_rate(name), decay
        )
    if settings.ema.decay:
        training.ema = Ema(trained, settings.ema)
    if point := load_point(run.folder / "resume"):
        training.restore(point)
    _hand_to_accelerate(training)
    training.total_steps = training.steps(0, settings.epochs)
    return training


def _encoded(
    run: Run, journal: Journal, workers: Workers, dataset: Dataset, cache: Path
) -> tuple[Latents, dict[str, str]]:
    """The latents of a run, and which pairs have none; the VAE leaves the memory again."""
    settings = run.settings
    vae = load_vae(Path(run.base.path))
    latents = Latents(
        dataset,
        settings.resolution,
        settings.bucket_step,
        cache,
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
            lambda done, total: journal.progress(message=f"Encodes pictures ({done} of {total})"),
        )
    )
    return latents, unreadable


def _check_compiler(device: torch.device) -> None:
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


def _note_skipped(run: Run, journal: Journal, unreadable: Mapping[str, str]) -> dict[str, str]:
    """All pairs that the run leaves out, and why, by their ids.

    What was left out once stays out, so that a resumed run shows what it showed before.
    """
    file = run.folder / "skipped.jsonl"
    skipped = {line["pair"]: line["reason"] for line in Lines(file).read().lines}
    for pair, reason in unreadable.items():
        if pair not in skipped:
            skipped[pair] = reason
            journal.note_skipped(pair, reason)
    journal.update(skipped=len(skipped))
    return skipped


def _without(skipped: Mapping[str, str], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that can be shown. Raises TrainerError when none is left."""
    kept = [pair for pair in pairs if pair.id not in skipped]
    if pairs and not kept:
        reason = skipped[pairs[0].id]
        raise TrainerError(f"None of {len(pairs)} pictures can be encoded. The first: {reason}")
    return kept


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
