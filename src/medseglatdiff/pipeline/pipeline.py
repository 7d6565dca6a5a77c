"""The pipeline: an image goes in; several plausible masks, their confidence, uncertainty and consensus come out."""

import inspect

import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ..data.augmentation import dihedral, undo_dihedral
from ..data.images import as_image_list, preprocess, resize_probabilities
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from .aggregation import aggregate, convert
from .checks import check_components, check_settings
from .output import MedSegLatDiffPipelineOutput
from .saved import CheckedPipeline
from .selection import representatives


class MedSegLatDiffPipeline(CheckedPipeline):
    """One-to-many segmentation by diffusion in the latent space of a mask autoencoder (arXiv 2512.01292).

    Args:
        image_encoder (`MedSegLatDiffVAE` or `MedSegLatDiffImageEncoder`): gives the condition of an image.
        mask_vae (`MedSegLatDiffVAE`): the autoencoder of masks; its `out_channels` are 1 + the number of classes.
        unet (`MedSegLatDiffUNet`): denoises mask latents given the condition.
        scheduler (`SchedulerMixin`): any of diffusers' schedulers with the checkpoint's training settings.
        sample_size (`int`, *optional*, defaults to 128): side of the square to which every image is resized.
        default_num_masks (`int`, *optional*, defaults to 16): hypotheses where `num_masks` is `None`.
        default_num_inference_steps (`int`, *optional*, defaults to 10): steps where `num_inference_steps` is `None`.
        threshold (`float`, *optional*, defaults to 0.5): least confidence of the consensus, in (0, 1].
        stretch (`bool`, *optional*, defaults to `False`): whether each image is stretched to its full range of values
            first, for checkpoints that were trained on such images.
        symmetries (`int`, *optional*, defaults to 1): under how many of the square's eight symmetries an image is
            looked at, in turn, one per hypothesis; each hypothesis is turned back. 1 leaves every image as it is.
        antithetic (`bool`, *optional*, defaults to `False`): whether the second half of an image's hypotheses starts
            from the first half's noise with the sign turned. Each is as likely as before; their mean varies less
            (Hammersley & Morton 1956).
        default_num_candidates (`int`, *optional*, defaults to 1): how many hypotheses are drawn at least, of which
            those that stand for all of them are returned (see `selection.representatives`).
        spread (`float`, *optional*, defaults to 1.0): how far apart these may lie; 1: as far as the candidates.
        calibration (`dict`, *optional*): for `aggregation.calibrate`; `None`: the share is the confidence.
    """

    model_cpu_offload_seq = "image_encoder->unet->mask_vae"

    def __init__(
        self,
        image_encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder,
        mask_vae: MedSegLatDiffVAE,
        unet: MedSegLatDiffUNet,
        scheduler: SchedulerMixin,
        sample_size: int = 128,
        default_num_masks: int = 16,
        default_num_inference_steps: int = 10,
        threshold: float = 0.5,
        stretch: bool = False,
        symmetries: int = 1,
        antithetic: bool = False,
        default_num_candidates: int = 1,
        spread: float = 1.0,
        calibration: dict | None = None,
    ):
        super().__init__()
        settings = dict(
            sample_size=sample_size,
            default_num_masks=default_num_masks,
            default_num_inference_steps=default_num_inference_steps,
            threshold=threshold,
            stretch=stretch,
            symmetries=symmetries,
            antithetic=antithetic,
            default_num_candidates=default_num_candidates,
            spread=spread,
            calibration=calibration,
        )
        check_settings(settings)
        check_components(image_encoder, mask_vae, unet, scheduler, settings)
        self.register_modules(image_encoder=image_encoder, mask_vae=mask_vae, unet=unet, scheduler=scheduler)
        self.register_to_config(**settings)

    @property
    def num_classes(self) -> int:
        """Foreground classes: 1 for a binary checkpoint."""
        return self.mask_vae.config.out_channels - 1

    def check_inputs(self, counts: dict, num_images, generator, latents, output_type):
        """Raises a `ValueError` or `TypeError` that names the argument for whatever `__call__` cannot work with."""
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"`{name}` must be an integer, but was {value!r}.")
            least = counts["num_masks"] if name == "num_candidates" else 1
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, but was {value}.")
        if isinstance(generator, list) and len(generator) != num_images:
            raise ValueError(
                f"`generator` must be one generator or a list with one per image, {num_images}, "
                f"but was a list of {len(generator)}."
            )
        for entry in generator if isinstance(generator, list) else [generator]:
            if entry is not None and not isinstance(entry, torch.Generator):
                raise TypeError(f"`generator` must hold torch.Generator objects, but held {type(entry).__name__}.")
        shape = (num_images * counts["num_candidates"], *self._latent_shape())
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"`latents` must have shape {shape}, but was {tuple(latents.shape)}.")
        if output_type not in ("np", "pt", "pil"):
            raise ValueError(f"`output_type` must be 'np', 'pt' or 'pil', but was {output_type!r}.")

    def _latent_shape(self) -> tuple[int, int, int]:
        side = self.config.sample_size // self.mask_vae.downsampling_factor
        return (self.mask_vae.config.latent_channels, side, side)

    def num_drawn(self, num_masks: int) -> int:
        """How many hypotheses of an image are drawn by default, to return `num_masks`."""
        return max(num_masks, self.config.default_num_candidates)

    def preprocess(self, images: list) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """What the image encoder takes, `(B, channels, S, S)` in [-1, 1], and each image's own height and width."""
        return preprocess(images, self.image_encoder.config.in_channels, self.config.sample_size, self.config.stretch)

    def encode_image(self, pixels: torch.Tensor, count: int, batch_size: int) -> torch.Tensor:
        """Conditions for `count` hypotheses, `(B, s, condition_channels, h, w)`, one per symmetry that has any."""
        pixels = pixels.to(self._execution_device, self.image_encoder.dtype)  # [B, C, S, S]
        turns = range(min(self.config.symmetries, count))
        views = torch.stack([dihedral(pixels, index) for index in turns], dim=1)  # [B, s, C, S, S]
        chunks = [self.image_encoder.condition(chunk) for chunk in views.flatten(0, 1).split(batch_size)]
        return torch.cat(chunks).unflatten(0, (-1, len(turns)))  # [B, s, condition_channels, h, w]

    def prepare_latents(self, num_images: int, num_masks: int, generator) -> torch.Tensor:
        """Standard normal latents, `(B*M, C, h, w)`, drawn image by image from its generator."""
        generators = generator if isinstance(generator, list) else [generator] * num_images
        count = (num_masks + 1) // 2 if self.config.antithetic else num_masks
        options = dict(device=self._execution_device, dtype=self.unet.dtype)
        draws = [randn_tensor((count, *self._latent_shape()), generator=entry, **options) for entry in generators]
        return torch.cat([torch.cat([draw, -draw])[:num_masks] for draw in draws])  # [B*M, C, h, w]

    def step_generators(self, num_images: int, num_masks: int, generator) -> list[torch.Generator] | None:
        """One generator per hypothesis for schedulers that add noise at each step: batching then changes nothing."""
        if "generator" not in inspect.signature(self.scheduler.step).parameters:
            return None
        generators = generator if isinstance(generator, list) else [generator] * num_images
        seeds = [torch.randint(2**62, (num_masks,), generator=g, device=g.device if g else None) for g in generators]
        return [torch.Generator(self._execution_device).manual_seed(seed) for seed in torch.cat(seeds).tolist()]

    def denoise(self, latents, condition, num_inference_steps, generators, progress_bar) -> torch.Tensor:
        """Runs the scheduler over `latents`, `(n, C, h, w)`, under `condition`, `(n, condition_channels, h, w)`."""
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)  # multistep solvers start afresh
        options = {} if generators is None else {"generator": generators}
        latents = latents * self.scheduler.init_noise_sigma  # [n, C, h, w]
        for timestep in self.scheduler.timesteps:
            model_input = self.scheduler.scale_model_input(latents, timestep)  # [n, C, h, w]
            prediction = self.unet(model_input, timestep, condition).sample  # [n, C, h, w]
            latents = self.scheduler.step(prediction, timestep, latents, **options).prev_sample  # [n, C, h, w]
            progress_bar.update()
        return latents

    def draw_latents(self, condition, noise, num_inference_steps: int, batch_size: int, generators) -> torch.Tensor:
        """Denoised latents, `(B, N, C, h, w)`, from `noise`, `(B*N, C, h, w)`, `batch_size` at a time, under what
        `encode_image` gives; `generators` are those of `step_generators`."""
        num_images, symmetries = condition.shape[:2]
        count = len(noise) // num_images
        noise = noise.to(self._execution_device, self.unet.dtype)  # [B*N, C, h, w]
        self.scheduler.set_timesteps(num_inference_steps, device=noise.device)
        owners = torch.arange(num_images, device=noise.device).repeat_interleave(count)  # [B*N]
        views = torch.arange(count, device=noise.device).repeat(num_images) % symmetries  # [B*N]
        chunks = torch.arange(len(noise), device=noise.device).split(batch_size)
        denoised = []
        with self.progress_bar(total=len(chunks) * len(self.scheduler.timesteps)) as progress_bar:
            for chunk in chunks:
                own = None if generators is None else [generators[index] for index in chunk.tolist()]
                given = condition[owners[chunk], views[chunk]]  # [n, condition_channels, h, w]
                denoised.append(self.denoise(noise[chunk], given, num_inference_steps, own, progress_bar))
        return torch.cat(denoised).unflatten(0, (num_images, count))  # [B, N, C, h, w]

    def decode(self, latents: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Probabilities, float32 `(N, 1 + K, S, S)`, of one image's latents `(N, C, h, w)`, its symmetries undone."""
        parts = latents.to(self.mask_vae.dtype).split(batch_size)
        shares = torch.cat([self.mask_vae.decode(part).float().softmax(dim=1) for part in parts])  # [N, 1+K, S, S]
        return torch.stack([undo_dihedral(own, index % self.config.symmetries) for index, own in enumerate(shares)])

    def conclude(self, shares: torch.Tensor, num_masks: int, size: tuple[int, int]) -> tuple:
        """Label maps `(num_masks, H, W)`, confidence, uncertainty and consensus of an image from its `decode`."""
        # `max`: over a strided dimension `argmax` takes a CPU 15 times as long
        chosen = representatives(shares.max(dim=1).indices, num_masks, self.num_classes, self.config.spread)  # [M]
        resized = (resize_probabilities(share[None], size) for share in shares[chosen])  # [1, 1+K, H, W] each
        labels = torch.cat([share.max(dim=1).indices.to(torch.uint8) for share in resized])  # [M, H, W]
        return labels, *aggregate(labels, self.num_classes, self.config.threshold, self.config.calibration)

    @torch.no_grad()
    def __call__(
        self,
        images,
        num_masks: int | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        num_candidates: int | None = None,
    ) -> MedSegLatDiffPipelineOutput | tuple[list, list, list, list]:
        """Segments one image or a list of images of any sizes.

        Args:
            images: a PIL image, path, array `(H, W)` or `(H, W, C)` (uint8, uint16, float in [0, 1]), tensor `(C,
            H, W)` or `(B, C, H, W)`, or a list of these; grey and RGB convert to what the checkpoint takes.
            num_masks (`int`, *optional*): hypotheses per image; the checkpoint's own default if `None`.
            num_inference_steps (`int`, *optional*): denoising steps; the checkpoint's own default if `None`.
            generator (`torch.Generator` or a list with one per image, *optional*): where the noise comes from. With
                one per image, an image's masks do not depend on its neighbours or on `batch_size`, rounding aside.
            batch_size (`int`, *optional*): most hypotheses that pass the U-Net at once; `num_masks` if `None`.
            latents (`torch.Tensor` of shape `(B * num_candidates, C, h, w)`, *optional*): initial noise, in place of
                `generator`.
            output_type (`str`, *optional*, defaults to `"np"`): `"np"`, `"pt"` or `"pil"`.
            return_dict (`bool`, *optional*, defaults to `True`): a tuple in the output's order is returned if `False`.
            num_candidates (`int`, *optional*): hypotheses that are drawn per image, of which the `num_masks` that
                stand for all are returned; `num_masks` returns them as drawn. If `None`: the checkpoint's default, or
                `num_masks` with `latents`.

        Raises:
            ValueError, TypeError: for every argument that cannot be used, before anything is sampled.
        """
        # 1. resolve defaults and check
        num_masks = self.config.default_num_masks if num_masks is None else num_masks
        steps = self.config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        batch_size = num_masks if batch_size is None else batch_size
        images = as_image_list(images)
        drawn = num_masks if num_candidates is None else num_candidates
        counts = dict(num_masks=num_masks, num_inference_steps=steps, batch_size=batch_size, num_candidates=drawn)
        self.check_inputs(counts, len(images), generator, latents, output_type)
        # 2. preprocess
        pixels, sizes = self.preprocess(images)  # [B, channels, S, S]
        # 3. draw
        if latents is None:
            drawn = self.num_drawn(num_masks) if num_candidates is None else num_candidates
            latents = self.prepare_latents(len(images), drawn, generator)  # [B*N, C, h, w]
        generators = self.step_generators(len(images), drawn, generator)
        condition = self.encode_image(pixels, drawn, batch_size)  # [B, s, condition_channels, h, w]
        denoised = self.draw_latents(condition, latents, steps, batch_size, generators)  # [B, N, C, h, w]
        # 4. decode, choose, aggregate at each image's own size
        pairs = zip(denoised, sizes, strict=True)
        results = [self.conclude(self.decode(own, batch_size), num_masks, size) for own, size in pairs]
        # 5. output
        self.maybe_free_model_hooks()
        outputs = [convert(*result, self.num_classes, output_type) for result in results]
        columns = [list(column) for column in zip(*outputs, strict=True)]
        return MedSegLatDiffPipelineOutput(*columns) if return_dict else tuple(columns)
