"""Pictures drawn during a run to show what it learns. They never change a run."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_bytes
from .giving_way import leave_to_prompts
from .model.networks import LATENT_SCALE, load_model, load_vae
from .settings.groups import LossSettings, SamplePrompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from .training import Training


def draw_samples(
    training: Training, epoch: int, wanted: Mapping[Path, SamplePrompt]
) -> list[SamplePrompt]:
    """Draw prompts into their files and record them; returns those that are left, because the run
    is to end. If drawing fails, the reason is recorded and the run goes on.

    The first of several processes goes on with them until their next step; one that is alone is to
    end at once: it may have left its device.
    """
    journal, step, left = training.journal, training.position.step, dict(wanted)
    try:
        _embed(training, list(wanted.values()))
        with training.evaluation():
            for file in _drawn(training, wanted):
                del left[file]
    except Exception as error:
        traceback.print_exc()
        journal.warn(epoch, step, f"No samples: {error}")
        left = {}
    else:
        files = [file.name for file in wanted if file not in left]
        journal.record("samples", epoch, step, files=files)
    journal.update(message="")
    return list(left.values())


def own_samples(training: Training, epoch: int) -> dict[Path, SamplePrompt]:
    """The run's sample prompts by the files of their pictures at the step where it stands."""
    prompts = training.run.settings.samples.prompts
    return {_file(training, epoch, n): prompt for n, prompt in enumerate(prompts, start=1)}


def samples_of(
    training: Training, epoch: int, prompts: Sequence[SamplePrompt]
) -> dict[Path, SamplePrompt]:
    """Any prompts by the files of their pictures. Only pictures of the run's own prompts are
    overwritten.
    """
    if tuple(prompts) == training.run.settings.samples.prompts:
        return own_samples(training, epoch)
    files = (_file(training, epoch, number, "-own") for number in itertools.count(1))
    return dict(zip((file for file in files if not file.exists()), prompts, strict=False))


def _file(training: Training, epoch: int, number: int, suffix: str = "") -> Path:
    """The file of a prompt at the step where a training stands. It will hold the prompt and its
    settings as text.
    """
    name = f"e{epoch:03d}-s{training.position.step:06d}{suffix}-{number:02d}.png"
    return training.run.folder / "samples" / name


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


def _drawn(training: Training, wanted: Mapping[Path, SamplePrompt]) -> Iterator[Path]:
    """The file of each prompt once its picture is in it, until the run is to end."""
    from io import BytesIO

    from PIL.PngImagePlugin import PngInfo

    vae = load_vae(Path(training.run.base.path)).to(training.workers.device)
    alone = training.workers.count == 1
    for number, (file, prompt) in enumerate(wanted.items(), start=1):
        if alone and not leave_to_prompts(training, vae):
            return
        training.journal.progress(message=f"Drawing samples ({number} of {len(wanted)})")
        picture = _draw(training, vae, prompt)
        if picture is None:
            return
        info = PngInfo()
        info.add_itxt("parameters", _described(prompt))
        data = BytesIO()
        picture.save(data, "PNG", pnginfo=info)
        write_bytes(file, data.getvalue())
        yield file


def _described(prompt: SamplePrompt) -> str:
    """A sample's settings as A1111 writes them into pictures."""
    negative = f"\nNegative prompt: {prompt.negative}" if prompt.negative else ""
    return (
        f"{prompt.prompt}{negative}\nSteps: {prompt.steps}, Sampler: DDIM, "
        f"CFG scale: {prompt.cfg}, Seed: {prompt.seed}, Size: {prompt.width}x{prompt.height}"
    )


def _draw(training: Training, vae: Any, prompt: SamplePrompt) -> Image | None:
    """One picture, or None when the run is asked to end meanwhile.

    DDIM (Song et al. 2021) with classifier-free guidance (Ho & Salimans 2021), noise from the CPU.
    """
    import torch
    from PIL import Image

    device, unet = training.workers.device, training.workers.unwrap(training.unet)
    scheduler = _scheduler(training.run.settings.loss)
    scheduler.set_timesteps(prompt.steps)
    shape = (1, 4, prompt.height // 8, prompt.width // 8)
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(prompt.seed))
    latents = noise.to(device) * scheduler.init_noise_sigma
    with torch.no_grad():
        text, mask = training.text.embed([prompt.prompt, prompt.negative], device)
        for timestep in scheduler.timesteps:
            if training.control.ends:
                return None
            asked, avoided = unet(
                torch.cat([latents, latents]),
                timestep,
                encoder_hidden_states=text,
                encoder_attention_mask=mask,
            ).sample.float()
            guided = avoided + prompt.cfg * (asked - avoided)
            latents = scheduler.step(guided[None], timestep, latents).prev_sample
        pixels = vae.decode(latents.float() / LATENT_SCALE).sample[0].float().cpu()
    values = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def _scheduler(loss: LossSettings) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon" if loss.prediction == "epsilon" else "v_prediction",
        rescale_betas_zero_snr=loss.zero_terminal_snr,
        timestep_spacing="trailing" if loss.zero_terminal_snr else "leading",
    )
