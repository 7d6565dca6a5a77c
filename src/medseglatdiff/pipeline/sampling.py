"""The denoising loop that pipeline and training share, and the candidates that sampling returns."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import SchedulerMixin
from diffusers.utils import BaseOutput

from ..models.unet import MedSegLatDiffUNetOutput
from .regions import Window


class SamplingInterrupted(RuntimeError):
    """Sampling was interrupted between two steps; the samples so far are dropped."""


@dataclass
class MedSegLatDiffCandidates(BaseOutput):
    """What `pipe.sample` returns and `pipe.select` takes: everything needed to decode candidates.

    Args:
        latents (`torch.Tensor` of shape `(B, N, C, h, w)`): clean latents, N candidates for each of B images.
        sizes (`list[tuple[int, int]]`): height and width of each image.
        windows (`list[Window | None]`): the part of each image that was segmented; `None` for the whole image.
        batch_size (`int`): most latents that are decoded at once.
        probabilities (`list[torch.Tensor]`, *optional*): what `pipe.decode` gives for these latents, `(N, 1 + K, S,
            S)` for each image; set it where the same candidates are selected from several times.
        members (`list[int]`, *optional*): which of all candidates these are; the first N if `None`.
    """

    latents: torch.Tensor
    sizes: list[tuple[int, int]]
    windows: list[Window | None]
    batch_size: int
    probabilities: list[torch.Tensor] | None = None
    members: list[int] | None = None


class Denoiser(Protocol):
    """What `denoise` calls: `MedSegLatDiffUNet`, or anything that predicts like it."""

    def __call__(
        self, sample: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor
    ) -> MedSegLatDiffUNetOutput: ...


def denoise(
    unet: Denoiser,
    scheduler: SchedulerMixin,
    noise: torch.Tensor,
    condition: torch.Tensor,
    num_inference_steps: int,
    generators: list[torch.Generator] | None = None,
    end_step: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Clean latents `(n, C, h, w)` from standard normal noise of that shape: diffusers' sampling loop.

    Gradients pass through it, so training with the energy score trains exactly what users run.

    Args:
        unet (`Denoiser`): predicts what the scheduler's `prediction_type` names.
        scheduler (`SchedulerMixin`): not shared with other calls, because its timesteps are set here.
        noise (`torch.Tensor` of shape `(n, C, h, w)`): standard normal.
        condition (`torch.Tensor` of shape `(n, condition_channels, h, w)`): from the image encoder.
        num_inference_steps (`int`): steps of the scheduler.
        generators (`list[torch.Generator]`, *optional*): one per latent, for schedulers that add noise at each step.
        end_step (`Callable`, *optional*): called after each step with its timestep, the latents and the condition;
            returns the latents to continue with.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)  # also resets multistep solvers
    options = {} if generators is None else {"generator": generators}
    latents = noise * scheduler.init_noise_sigma  # [n, C, h, w]
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, timestep)  # [n, C, h, w]
        prediction = unet(model_input, timestep, condition).sample.to(latents.dtype)  # [n, C, h, w]
        latents = scheduler.step(prediction, timestep, latents, **options).prev_sample  # [n, C, h, w]
        if end_step is not None:
            latents = end_step(timestep, latents, condition)  # [n, C, h, w]
    return latents


def takes_generators(scheduler: SchedulerMixin) -> bool:
    """Whether the scheduler may add noise at each step."""
    return "generator" in inspect.signature(scheduler.step).parameters


def check_finite(values: torch.Tensor, what: str):
    """Raises a `ValueError` if `values` contain NaN or infinity: masks from them would look like any others."""
    if not torch.isfinite(values).all():
        raise ValueError(
            f"`{what}` must be finite, but contain NaN or infinity: the weights or the noise are damaged, or this "
            "checkpoint does not work with `scheduler` or in half precision."
        )
