"""The training of a run, from its folder to its checkpoints."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checkpoints import save_checkpoint
from .data.buckets import Showing, batches
from .data.captions import texts, vary
from .data.manifest import Pair
from .disk import check_disk
from .errors import TrainerError
from .journal import Journal
from .latents import Latents, Picture
from .loss import noise_losses
from .model import Model, load_model
from .noise import TIMESTEPS, alphas_cumprod, keyed_generator
from .optimizers import make_optimizer
from .process import record
from .resume import Position, drop_points, load_point, save_point
from .runs import Run
from .text import Text, load_tokenizer
from .validation import Validation


class Stopped(Exception):
    """Somebody asked the run to stop; its resume point is saved."""


def train(folder: Path) -> int:
    """Train a run from where it stands to its last epoch; returns the process' exit status.

    Whatever happens is in the run's state afterwards: finished, stopped, or failed with the reason.
    """
    run = Run.open(folder)
    with _exclusive(run):
        journal = Journal(run)
        try:
            check_disk(run)
            training = _prepare(run, journal)
            _train_epochs(training)
            drop_points(run.folder / "resume", keep=1)
            journal.update(status="finished", message=f"Finished {run.settings.epochs} epochs")
            return 0
        except Stopped:
            journal.update(status="stopped", message="Stopped on request; queue it again to go on")
            return 0
        except TrainerError as error:
            print(f"error: {error}", file=sys.stderr)
            journal.update(status="failed", message=str(error))
            return 1
        except Exception as error:
            traceback.print_exc()
            journal.update(status="failed", message=f"{type(error).__name__}: {error}")
            return 1
        finally:
            journal.close()


@dataclass
class Training:
    """A run at work: everything the loop reads and changes."""

    run: Run
    journal: Journal
    accelerator: Any
    model: Model
    parts: dict[str, Any]
    optimizer: Any
    text: Text
    latents: Latents
    validation: Validation
    alphas: Any
    position: Position
    caption_mix: tuple[tuple[str, float], ...] = ()
    stop: bool = False
    save: bool = False
    pairs: dict[str, Pair] = field(default_factory=dict)


def _train_epochs(training: Training) -> None:
    """The loop: validate, then epoch after epoch of batches, each epoch closed by validation and saving."""
    run, journal = training.run, training.journal
    settings = run.settings
    buckets = {pair.id: training.latents.buckets[pair.id] for pair in training.pairs.values()}
    weights = {pair.id: pair.weight for pair in training.pairs.values()}
    if journal.state.first_validation is None:
        _validate(training, epoch=0)
    position = training.position
    for epoch in range(position.epoch, settings.epochs):
        plan = batches(buckets, settings.batch_size, settings.seed, epoch, weights)
        steps = position.step - position.batch + len(plan) * (settings.epochs - epoch)
        journal.update(status="running", message="", epoch=epoch, steps=steps)
        for index in range(position.batch, len(plan)):
            started = time.monotonic()
            loss = _step(training, plan[index], position.step)
            position = Position(epoch, index + 1, position.step + 1)
            training.position = position
            _note_step(training, loss, len(plan[index]), time.monotonic() - started)
            _obey(training)
        position = Position(epoch + 1, 0, position.step)
        training.position = position
        _close_epoch(training)


def _step(training: Training, showings: Sequence[Showing], step: int) -> float:
    """One optimizer step on one batch; returns its loss. Raises TrainerError before a loss that is not finite does harm."""
    import torch

    settings, device = training.run.settings, training.accelerator.device
    pairs = [training.pairs[showing.pair] for showing in showings]
    choices = [_choices(training, showing, step) for showing in showings]
    latents = training.latents.load(
        [Picture(pair, choice.mirrored) for pair, choice in zip(pairs, choices, strict=True)]
    )
    draws = [_draw(settings.seed, step, showing, latents.shape[1:]) for showing in showings]
    losses = noise_losses(
        training.parts["unet"],
        latents.to(device),
        torch.stack([draw.noise for draw in draws]).to(device),
        torch.tensor([draw.timestep for draw in draws], device=device),
        training.text.embed([choice.caption for choice in choices], device),
        training.alphas,
    )
    loss = losses.mean()
    value = loss.item()
    if value != value or value in (float("inf"), float("-inf")):
        names = ", ".join(pair.image for pair in pairs)
        raise TrainerError(
            f"The loss of step {step + 1} is {value}; the weights are as they were before it. "
            f"Lower the learning rate, or look at these pictures: {names}."
        )
    training.accelerator.backward(loss)
    if settings.gradient_clip:
        for module in training.parts.values():
            training.accelerator.clip_grad_norm_(module.parameters(), settings.gradient_clip)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    return value


@dataclass(frozen=True)
class Choices:
    """How one showing looks: what is drawn before the picture is known."""

    caption: str
    mirrored: bool


def _choices(training: Training, showing: Showing, step: int) -> Choices:
    """Dropout, caption and mirroring as a function of (seed, step, showing)."""
    settings, pair = training.run.settings, training.pairs[showing.pair]
    key = f"{settings.seed}/{step}/{showing.key}"
    draw = random.Random(f"{key}/choices")
    dropout = pair.conditional_dropout
    dropped = draw.random() < (settings.conditional_dropout if dropout is None else dropout)
    mirrored = draw.random() < pair.flip
    caption = "" if dropped else vary(pair, training.caption_mix, f"{key}/caption")
    return Choices(caption, mirrored)


@dataclass(frozen=True)
class Draw:
    """The noise level of one showing and its noise."""

    timestep: int
    noise: Any


def _draw(seed: int, step: int, showing: Showing, shape: Sequence[int]) -> Draw:
    """Noise level and noise as a function of (seed, step, showing)."""
    import torch

    generator = keyed_generator(seed, "step", step, showing.key)
    timestep = int(torch.randint(0, TIMESTEPS, (1,), generator=generator))
    return Draw(timestep, torch.randn(tuple(shape), generator=generator))


def _note_step(training: Training, loss: float, pairs: int, seconds: float) -> None:
    position, journal = training.position, training.journal
    journal.record(
        "step",
        position.epoch + 1,
        position.step,
        loss=loss,
        learning_rate=training.run.settings.learning_rate,
        pairs_per_second=pairs / seconds,
    )
    previous = journal.state.steps_per_second
    speed = 1 / seconds if previous is None else 0.9 * previous + 0.1 / seconds
    journal.progress(step=position.step, loss=loss, steps_per_second=speed)


def _obey(training: Training) -> None:
    """Do what control.json or a signal asks for, between two steps."""
    command = training.run.take_request()
    if command == "save":
        _save(training)
    if command == "stop" or training.stop:
        training.journal.update(status="stopping", message="Saves its resume point")
        _save_point(training)
        raise Stopped


def _close_epoch(training: Training) -> None:
    """Validate, save what is due and what is best, and make the epoch safe against any kill."""
    epoch = training.position.epoch
    settings, journal = training.run.settings, training.journal
    journal.update(epoch=epoch)
    loss = _validate(training, epoch)
    best = journal.state.best
    improved = best is None or loss < best["loss"]
    due = epoch % settings.save_every_epochs == 0 or epoch == settings.epochs
    if improved or due:
        file = _save(training)
        if improved:
            step = training.position.step
            journal.update(
                best={"epoch": epoch, "step": step, "loss": loss, "checkpoint": file.name}
            )
            _drop_former_best(training, best)
    _save_point(training)


def _validate(training: Training, epoch: int) -> float:
    """Mean validation loss over all pairs, recorded."""
    journal, step = training.journal, training.position.step
    journal.update(message="Validates")
    losses = training.validation.losses(
        training.parts["unet"],
        training.alphas,
        training.accelerator.device,
        training.run.settings.batch_size,
        lambda done, total: journal.progress(message=f"Validates ({done} of {total})"),
    )
    loss = sum(losses.values()) / len(losses)
    journal.record("validation", epoch, step, loss=loss)
    journal.record_pairs(epoch, step, losses)
    first = journal.state.first_validation
    journal.update(
        message="", first_validation=loss if first is None else first, last_validation=loss
    )
    return loss


def _save(training: Training) -> Path:
    """Save a checkpoint of this step and record it."""
    position = training.position
    training.journal.update(message="Saves a checkpoint")
    epoch = position.epoch if position.batch == 0 else position.epoch + 1
    parts = {
        name: training.accelerator.unwrap_model(module) for name, module in training.parts.items()
    }
    file = save_checkpoint(training.run, parts, training.model.levels, epoch, position.step)
    training.journal.record("checkpoint", epoch, position.step, file=file.name)
    training.journal.update(message="")
    return file


def _drop_former_best(training: Training, best: dict[str, Any] | None) -> None:
    """Delete the former best unless it was due to be saved anyway."""
    if best and best["epoch"] % training.run.settings.save_every_epochs:
        with contextlib.suppress(OSError):
            (Path(training.run.paths.checkpoints) / best["checkpoint"]).unlink()


def _save_point(training: Training) -> None:
    parts = {
        name: training.accelerator.unwrap_model(module) for name, module in training.parts.items()
    }
    save_point(training.run.folder / "resume", training.position, parts, training.optimizer)


def _prepare(run: Run, journal: Journal) -> Training:
    """Load the base, encode pictures and captions, and go back to the newest resume point."""
    from accelerate import Accelerator

    settings = run.settings
    journal.update(status="preparing", message="Loads the base", epochs=settings.epochs)
    accelerator = Accelerator(mixed_precision={"bf16": "bf16", "fp32": "no"}[settings.precision])
    device = accelerator.device
    model = load_model(Path(run.base.path))
    dataset = run.dataset()
    cache = Path(run.paths.cache)

    latents = Latents(
        dataset,
        settings.resolution,
        settings.bucket_step,
        cache,
        model.vae,
        settings.bucket_table,
    )
    skipped = latents.prepare(
        model.vae.to(device),
        device,
        settings.batch_size,
        lambda done, total: journal.progress(message=f"Encodes pictures ({done} of {total})"),
    )
    model.vae.to("cpu")
    train, validate = _without(skipped, dataset.train), _without(skipped, dataset.validation)

    text = Text(
        load_tokenizer(Path(run.paths.tokenizer)),
        model.text_encoder.to(device),
        settings.clip_skip,
        settings.train_text_encoder,
        cache,
    )
    text.prepare(
        [text for pair in dataset.pairs for text in texts(pair, dataset.caption_mix)],
        device,
        lambda done, total: journal.progress(message=f"Encodes captions ({done} of {total})"),
    )

    parts = {"unet": model.unet.requires_grad_(True).train()}
    if settings.train_text_encoder:
        parts["text_encoder"] = model.text_encoder.requires_grad_(True).train()
    else:
        model.text_encoder.to("cpu")
    optimizer = make_optimizer(parts, settings)
    position = load_point(run.folder / "resume", parts, optimizer)
    *modules, optimizer = accelerator.prepare(*parts.values(), optimizer)
    parts = dict(zip(parts, modules, strict=True))
    if settings.train_text_encoder:
        text.text_encoder = parts["text_encoder"]

    validation = Validation(validate, latents, text, settings.validation_timesteps, settings.seed)
    training = Training(
        run,
        journal,
        accelerator,
        model,
        parts,
        optimizer,
        text,
        latents,
        validation,
        alphas_cumprod().to(device),
        position,
        dataset.caption_mix,
        pairs={pair.id: pair for pair in train},
    )
    _stop_on_signals(training)
    return training


def _without(skipped: Mapping[str, str], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose pictures could be encoded; the log says which could not. Raises TrainerError when none is left."""
    kept = [pair for pair in pairs if pair.id not in skipped]
    for pair in pairs:
        if pair.id in skipped:
            print(f"skipped: {skipped[pair.id]}", file=sys.stderr)
    if pairs and not kept:
        reason = skipped[pairs[0].id]
        raise TrainerError(f"None of {len(pairs)} pictures can be encoded. The first: {reason}")
    return kept


def _stop_on_signals(training: Training) -> None:
    """SIGTERM and Ctrl-C (Ctrl-Break on Windows) stop the run after the step it is in, saved."""

    def stop(*_: Any) -> None:
        training.stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, stop)


@contextlib.contextmanager
def _exclusive(run: Run) -> Iterator[None]:
    """Work on a run alone; the lock goes with the process that holds it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(run.folder / "process.lock", timeout=0):
            record(run, os.getpid())
            yield
    except Timeout as error:
        raise TrainerError(f"Another process trains {run.name} already.") from error
