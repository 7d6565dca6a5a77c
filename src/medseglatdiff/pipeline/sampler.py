"""The first half of the pipeline: from images to latents of candidates."""

import copy
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import FrozenDict
from diffusers.utils.torch_utils import randn_tensor

from ..data.augmentation import dihedral
from ..data.images import as_image_list
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from .inputs import as_generators, check_choice, check_counts, check_latents, check_members, preprocess
from .sampling import MedSegLatDiffCandidates, SamplingInterrupted, check_finite, denoise, takes_generators
from .schedulers import check_scheduler


@dataclass
class _Call:
    """The progress of one call, so that threads that share a pipeline do not interrupt each other."""

    num_timesteps: int = 0
    step: int = 0
    interrupt: bool = False


_CALL: ContextVar[_Call] = ContextVar("call")


class SamplerMixin:
    """`sample` and its parts, for `MedSegLatDiffPipeline`."""

    # what the pipeline provides
    config: FrozenDict
    image_encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder
    mask_vae: MedSegLatDiffVAE
    unet: MedSegLatDiffUNet
    scheduler: SchedulerMixin
    progress_bar: Callable
    _execution_device: torch.device

    _callback_tensor_inputs = ("latents", "condition")

    @property
    def interrupt(self) -> bool:
        """Whether this thread's call stops after the current step; a callback sets `pipe._interrupt = True`."""
        return _CALL.get(_Call()).interrupt

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool):
        _CALL.get(_Call()).interrupt = value

    @property
    def num_timesteps(self) -> int:
        """Calls of `callback_on_step_end` in this thread's call: steps times batches of candidates."""
        return _CALL.get(_Call()).num_timesteps

    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a mask's latent."""
        side = self.config.sample_size // self.mask_vae.downsampling_factor
        return (self.mask_vae.config.latent_channels, side, side)

    def num_drawn(self, num_masks: int) -> int:
        """Candidates drawn per image by default, of which `num_masks` are returned."""
        return max(num_masks, self.config.default_num_candidates)

    def encode_image(self, pixels: torch.Tensor, count: int, batch_size: int) -> torch.Tensor:
        """Conditions for `count` candidates, `(B, s, condition_channels, h, w)`, one for each symmetry in use."""
        pixels = pixels.to(self._execution_device, self.image_encoder.dtype)  # [B, C, S, S]
        turns = range(min(self.config.symmetries, count))
        views = torch.stack([dihedral(pixels, index) for index in turns], dim=1)  # [B, s, C, S, S]
        chunks = [self.image_encoder.condition(chunk) for chunk in views.flatten(0, 1).split(batch_size)]
        return torch.cat(chunks).unflatten(0, (-1, len(turns)))  # [B, s, condition_channels, h, w]

    def prepare_latents(self, count: int, generators: list) -> torch.Tensor:
        """Standard normal latents, `(B*N, C, h, w)`, for `count` candidates of each image, drawn image by image."""
        half = (count + 1) // 2 if self.config.antithetic else count
        options = dict(device=self._execution_device, dtype=self.unet.dtype)
        draws = [randn_tensor((half, *self.latent_shape()), generator=entry, **options) for entry in generators]
        return torch.cat([torch.cat([draw, -draw])[:count] for draw in draws])  # [B*N, C, h, w]

    def step_generators(self, count: int, generators: list) -> list[torch.Generator] | None:
        """One generator per candidate for schedulers that add noise at each step, so that batching changes nothing."""
        if not takes_generators(self.scheduler):
            return None
        seeds = [torch.randint(2**62, (count,), generator=g, device=g.device if g else None) for g in generators]
        return [torch.Generator(self._execution_device).manual_seed(seed) for seed in torch.cat(seeds).tolist()]

    @torch.no_grad()
    def sample(
        self,
        images,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int | None = None,
        latents: torch.Tensor | None = None,
        num_candidates: int | None = None,
        regions: list | None = None,
        seed: int | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        members: Sequence[int] | None = None,
    ) -> MedSegLatDiffCandidates:
        """The first half of a call: draws candidates, from which `select` makes masks any number of times.

        Args:
            images, num_inference_steps, generator, latents, regions, seed: as in `__call__`.
            batch_size (`int`, *optional*): most latents in one pass of the U-Net; `default_num_masks` if `None`.
            num_candidates (`int`, *optional*): candidates per image; by default as many as `__call__` draws for the
                checkpoint's number of masks.
            callback_on_step_end (`Callable`, *optional*): `callback(pipe, step, timestep, callback_kwargs)`, called
                after each step of each batch of candidates, with `step` from 0 to `pipe.num_timesteps - 1`; may
                return a dict with other tensors to go on with, and set `pipe._interrupt = True`.
            callback_on_step_end_tensor_inputs (`Sequence[str]`, *optional*): of `"latents"`, `(n, C, h, w)`, and
                `"condition"`, `(n, condition_channels, h, w)`: what `callback_kwargs` holds.
            members (`Sequence[int]`, *optional*): which of the `num_candidates` to draw, for each image; all if
                `None`. Each starts from the noise, and has the symmetry, that it has among all.

        Raises:
            TypeError, ValueError: for an argument that cannot be used, before anything is sampled.
            SamplingInterrupted: if a callback set `pipe._interrupt`.
        """
        # 1. resolve defaults and check
        images, config = as_image_list(images), self.config
        steps = config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        batch_size = config.default_num_masks if batch_size is None else batch_size
        count = self.num_drawn(config.default_num_masks) if num_candidates is None else num_candidates
        check_counts(num_inference_steps=steps, batch_size=batch_size, num_candidates=count)
        members = check_members(members, count)
        generators = as_generators(generator, seed, len(images))
        check_latents(latents, (len(images) * count, *self.latent_shape()))
        for name in callback_on_step_end_tensor_inputs:
            check_choice("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)
        check_scheduler(self.scheduler, steps)
        # 2. images, noise, conditions
        views = preprocess(images, regions, self.image_encoder.config.in_channels, config)
        noise = self.prepare_latents(count, generators) if latents is None else latents  # [B*N, C, h, w]
        noise = noise.to(self._execution_device, self.unet.dtype)  # [B*N, C, h, w]
        rows = (torch.tensor(members) + count * torch.arange(len(images))[:, None]).flatten()  # [B*n]
        noise = noise[rows.to(noise.device)]  # [B*n, C, h, w]
        step_generators = self.step_generators(count, generators)
        step_generators = step_generators and [step_generators[index] for index in rows.tolist()]
        conditions = self.encode_image(views.pixels, count, batch_size)  # [B, s, condition_channels, h, w]
        # 3. denoise, `batch_size` at a time, each with a scheduler that no other call uses
        owners = torch.arange(len(images), device=noise.device).repeat_interleave(len(members))  # [B*n]
        turns = torch.tensor(members, device=noise.device).repeat(len(images)) % conditions.shape[1]  # [B*n]
        batches, scheduler = (
            torch.arange(len(noise), device=noise.device).split(batch_size),
            copy.deepcopy(self.scheduler),
        )
        scheduler.set_timesteps(steps)
        call = _Call(num_timesteps=len(batches) * len(scheduler.timesteps))
        denoised, token = [], _CALL.set(call)
        try:
            with self.progress_bar(total=call.num_timesteps) as progress_bar:

                def end_step(timestep, latents, condition):
                    progress_bar.update()
                    if callback_on_step_end is not None:
                        tensors = {"latents": latents, "condition": condition}
                        tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                        latents = (callback_on_step_end(self, call.step, timestep, tensors) or {}).get(
                            "latents", latents
                        )
                    call.step += 1
                    if call.interrupt:
                        raise SamplingInterrupted(f"Interrupted after step {call.step} of {call.num_timesteps}.")
                    return latents  # [n, C, h, w]

                for batch in batches:
                    condition = conditions[owners[batch], turns[batch]]  # [n, condition_channels, h, w]
                    own = None if step_generators is None else [step_generators[index] for index in batch.tolist()]
                    start = self.unet.initial_latents(noise[batch], condition)  # [n, C, h, w]
                    drawn = denoise(self.unet, scheduler, start, condition, steps, own, end_step)
                    denoised.append(drawn)  # [n, C, h, w]
        finally:
            _CALL.reset(token)
        drawn = torch.cat(denoised).unflatten(0, (len(images), len(members)))  # [B, n, C, h, w]
        check_finite(drawn, "latents")
        return MedSegLatDiffCandidates(drawn, views.sizes, views.windows, batch_size, members=members)
