"""What a person asks of a run at work: a checkpoint or samples now, a pause, a stop."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .giving_way import Left
from .model.networks import load_model
from .runs import Run
from .samples import draw, sample_file
from .saving import save, save_and_stop
from .settings.groups import SamplePrompt
from .training import Training


def obey(training: Training) -> None:
    """Do what the run has been asked for since the last step. Raises Stopped or Paused once its
    resume point is saved.
    """
    control = training.control
    control.listen()
    control.stop, control.pause = training.workers.agree((control.stop, control.pause))
    grant_wishes(training)
    if control.ends:
        save_and_stop(training)


def grant_wishes(training: Training) -> None:
    """Save and draw samples if the run was asked to, as of the last look."""
    control = training.control
    wanted, samples = training.workers.agree((control.save, control.samples))
    control.save, control.samples = False, []
    if wanted:
        save(training)
    for texts in samples:
        _sample_now(training, prompts_of(training.run, texts))


def prompts_of(run: Run, texts: Sequence[str]) -> tuple[SamplePrompt, ...]:
    """The prompts to draw when somebody asks for these texts, or for none in particular: the run's
    own. A text gets size, seed, steps and guidance of the run's first prompt, or the defaults at
    the run's resolution.
    """
    own = run.settings.samples.prompts
    if not texts:
        return own
    side = run.settings.resolution // 8 * 8
    like = own[0] if own else SamplePrompt(width=side, height=side)
    return tuple(replace(like, prompt=text) for text in texts)


def _sample_now(training: Training, prompts: Sequence[SamplePrompt]) -> None:
    """Draw prompts. If that fails, the reason is recorded and the run goes on."""
    if not training.workers.main or not prompts:
        return
    position, journal, own = training.position, training.journal, training.run.settings.samples
    epoch = position.epoch if position.batch == 0 else position.epoch + 1
    try:
        _embed(training, prompts)
        with training.evaluation():
            if prompts == own.prompts:
                files = [sample_file(training, epoch, n) for n in range(1, len(prompts) + 1)]
            else:
                files = _free_files(training, epoch, len(prompts))
            drawn = draw(training, prompts, files)
        journal.record("samples", epoch, position.step, files=[file.name for file in drawn])
    except Left:
        save_and_stop(training)
    except Exception as error:
        traceback.print_exc()
        journal.record("warning", epoch, position.step, text=f"No samples: {error}")
    journal.update(message="")


def _free_files(training: Training, epoch: int, count: int) -> list[Path]:
    """Files for that many pictures of prompts that are not the run's own; none is overwritten."""
    number, found = 1, []
    while len(found) < count:
        file = sample_file(training, epoch, number, "-own")
        if not file.exists():
            found.append(file)
        number += 1
    return found


def _embed(training: Training, prompts: Sequence[SamplePrompt]) -> None:
    """See to it that prompts which the run did not know can be drawn. A frozen text encoder has
    left the memory once all captions were embedded, and is loaded for them again.
    """
    text = training.text
    words = [words for prompt in prompts for words in (prompt.prompt, prompt.negative)]
    if text.text_encoder is not None or set(text.known(words)) >= set(words):
        return
    device = training.workers.device
    text.text_encoder = load_model(Path(training.run.base.path)).text_encoder.to(device)
    try:
        text.prepare(words, device, lambda done, total: None)
    finally:
        text.text_encoder = None
