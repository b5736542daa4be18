"""What a person asks of a run at work: a checkpoint or samples now, a pause, a stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .runs import Run
from .samples import draw_samples, samples_of
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
    wanted, control.save = training.workers.agree(control.save), False
    if wanted:
        save(training)
    while control.samples and not control.ends:
        _sample_now(training, prompts_of(training.run, control.samples.pop(0)))


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
    """Draw prompts. Those that are left when the run ends meanwhile stay wishes (see
    `Control.ending`).
    """
    if not prompts:
        return
    position, control = training.position, training.control
    epoch = position.epoch if position.batch == 0 else position.epoch + 1
    left = draw_samples(training, epoch, samples_of(training, epoch, prompts))
    if left:
        control.samples.insert(0, tuple(prompt.prompt for prompt in left))
    if left and training.workers.count == 1:
        save_and_stop(training)
