"""Pictures drawn during a run to show what it learns. They never change a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_bytes
from .giving_way import Left, leave_to_prompts
from .model.networks import LATENT_SCALE, load_vae
from .settings.groups import LossSettings, SamplePrompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from .training import Training


def draw_samples(training: Training, epoch: int) -> list[Path]:
    """Draw every sample prompt into the run's samples folder; returns the files.

    A file is named by epoch, step and prompt number and holds its prompt and settings as text.
    """
    prompts = training.run.settings.samples.prompts
    files = [sample_file(training, epoch, number) for number in range(1, len(prompts) + 1)]
    return draw(training, prompts, files)


def sample_file(training: Training, epoch: int, number: int, suffix: str = "") -> Path:
    """The file of a prompt at the step where a training stands."""
    name = f"e{epoch:03d}-s{training.position.step:06d}{suffix}-{number:02d}.png"
    return training.run.folder / "samples" / name


def draw(training: Training, prompts: Sequence[SamplePrompt], files: Sequence[Path]) -> list[Path]:
    """Draw each prompt into its file; returns those drawn before the run was asked to end. Raises
    Left when that was while it had left the device to a prompt.
    """
    from io import BytesIO

    from PIL.PngImagePlugin import PngInfo

    drawn = []
    vae = load_vae(Path(training.run.base.path)).to(training.workers.device)
    alone = training.workers.count == 1
    for number, (prompt, file) in enumerate(zip(prompts, files, strict=True), start=1):
        if alone and not leave_to_prompts(training, vae):
            raise Left
        training.journal.progress(message=f"Drawing samples ({number} of {len(prompts)})")
        picture = _draw(training, vae, prompt)
        if picture is None:
            break
        info = PngInfo()
        info.add_itxt("parameters", _described(prompt))
        data = BytesIO()
        picture.save(data, "PNG", pnginfo=info)
        write_bytes(file, data.getvalue())
        drawn.append(file)
    return drawn


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
