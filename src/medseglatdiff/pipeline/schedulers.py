"""Checks before sampling that a scheduler can sample from a checkpoint."""

import copy

import torch
from diffusers import SchedulerMixin

from ..models.unet import MedSegLatDiffUNetOutput
from .sampling import denoise, takes_generators

TOLERANCE = 0.25  # of the standard deviation of latents, 1


def check_scheduler(scheduler: SchedulerMixin, num_inference_steps: int):
    """Raises a `ValueError` unless the scheduler leads from noise to clean latents when every prediction is exact.

    From noisy latents x = sqrt(a) x0 + sqrt(1 - a) noise, an oracle predicts the exact noise (or velocity, or x0). A
    sampler for such a diffusion must then end at x0, for any number of steps. One for another process (flow
    matching), with another parametrisation, or with too few steps does not.
    """
    name = type(scheduler).__name__
    if not hasattr(scheduler, "alphas_cumprod") or "prediction_type" not in scheduler.config:
        raise ValueError(
            f"`scheduler` must be a diffusion scheduler with a `prediction_type` and the betas of the checkpoint, but "
            f"{name} is not: build it by `from_config(pipe.scheduler.config)` from, say, DDIMScheduler or "
            "DPMSolverMultistepScheduler."
        )
    oracle = _Oracle(scheduler)
    noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))  # [n, C, h, w]
    generators = [torch.Generator().manual_seed(1)] * 2 if takes_generators(scheduler) else None
    try:
        latents = denoise(oracle, copy.deepcopy(scheduler), noise, noise, num_inference_steps, generators)
    except (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"`scheduler` must work with {num_inference_steps} steps, but {name} does not: {error}"
        ) from error
    if not (latents - oracle.clean).abs().max() <= TOLERANCE:  # false for NaN too
        raise ValueError(
            f"`scheduler` must lead from noise to clean latents in {num_inference_steps} steps, but {name} does not: "
            "it ignores the checkpoint's betas or prediction type, or needs more steps."
        )


class _Oracle:
    """Replaces the U-Net: predicts exactly, for clean latents that are 1 everywhere."""

    clean = 1.0

    def __init__(self, scheduler: SchedulerMixin):
        self.alphas, self.prediction_type = scheduler.alphas_cumprod.cpu(), scheduler.config.prediction_type

    def __call__(
        self, sample: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor
    ) -> MedSegLatDiffUNetOutput:
        position = torch.as_tensor(timestep, dtype=torch.float32).clamp(0, len(self.alphas) - 1)
        alpha = torch.lerp(self.alphas[int(position.floor())], self.alphas[int(position.ceil())], position.frac())
        noise = (sample - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()  # [n, C, h, w]
        predictions = {
            "epsilon": noise,
            "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean,
            "sample": torch.full_like(sample, self.clean),
        }  # [n, C, h, w] each
        return MedSegLatDiffUNetOutput(predictions[self.prediction_type])
