"""The pipeline: an image goes in; several plausible masks, their confidence, uncertainty and consensus come out."""

from collections.abc import Callable, Sequence

import torch
from diffusers import SchedulerMixin

from ..data.augmentation import undo_dihedral
from ..data.images import resize_bilinear
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from .aggregation import aggregate, convert
from .checks import check_components, check_settings
from .inputs import check_choice, check_counts
from .output import MedSegLatDiffPipelineOutput
from .regions import paste
from .sampler import SamplerMixin
from .sampling import MedSegLatDiffCandidates, check_finite
from .saved import CheckedPipeline
from .selection import as_point_lists, keep_candidates, representatives


class MedSegLatDiffPipeline(SamplerMixin, CheckedPipeline):
    """One-to-many segmentation by diffusion in the latent space of a mask autoencoder (arXiv 2512.01292).

    Args:
        image_encoder (`MedSegLatDiffVAE` or `MedSegLatDiffImageEncoder`): encodes images as conditions of the U-Net.
        mask_vae (`MedSegLatDiffVAE`): the autoencoder of masks; its `out_channels` are 1 + the number of classes.
        unet (`MedSegLatDiffUNet`): denoises mask latents given the condition.
        scheduler (`SchedulerMixin`): a scheduler of diffusers with the checkpoint's training settings.
        sample_size (`int`, *optional*, defaults to 128): side of the square to which every image is resized.
        default_num_masks (`int`, *optional*, defaults to 16): masks per image where `num_masks` is `None`.
        default_num_inference_steps (`int`, *optional*, defaults to 10): steps where `num_inference_steps` is `None`.
        threshold (`float`, *optional*, defaults to 0.5): least confidence of the consensus, in (0, 1].
        stretch (`bool`, *optional*, defaults to `False`): whether each image's values are stretched to the full
            range first, for checkpoints that were trained on such images.
        symmetries (`int`, *optional*, defaults to 1): how many of the square's eight symmetries are used. The
            candidates take turns: each sees the image under one symmetry and is turned back.
        antithetic (`bool`, *optional*, defaults to `False`): whether the second half of an image's candidates starts
            from the negated noise of the first half. Each candidate keeps its distribution; the variance of their mean
            falls (antithetic variates, Hammersley & Morton 1956).
        default_num_candidates (`int`, *optional*, defaults to 1): least number of candidates to draw per image; the
            representative ones among them are returned (see `selection.representatives`).
        spread (`float`, *optional*, defaults to 1.0): how far apart these may lie; 1: as far as the candidates.
        calibration (`dict`, *optional*): for `aggregation.calibrate`; if `None`, the confidence is the share of masks.
        region_size (`int`, *optional*): side in pixels of the crops that the checkpoint was trained on, if any. It
            is the field of view around a point in `regions` (`sample_size` pixels if `None`), and much larger
            images without a region get a warning.
        pixel_size (`float`, *optional*): side of a pixel of these crops in mm, if they all had the same. The field of
            view around a point then has the same size in mm in images whose spacing is known.
        finding (`str`, *optional*): what the masks outline, for the codes of DICOM Segmentation: `"nodule"`,
            `"polyp"` or `"skin lesion"`; a lesion of any kind if `None`.
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
        region_size: int | None = None,
        pixel_size: float | None = None,
        finding: str | None = None,
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
            region_size=region_size,
            pixel_size=pixel_size,
            finding=finding,
        )
        check_settings(settings)
        check_components(image_encoder, mask_vae, unet, scheduler, settings)
        self.register_modules(image_encoder=image_encoder, mask_vae=mask_vae, unet=unet, scheduler=scheduler)
        self.register_to_config(**settings)

    @property
    def num_classes(self) -> int:
        """Foreground classes: 1 for a binary checkpoint."""
        return self.mask_vae.config.out_channels - 1

    def decode(
        self, latents: torch.Tensor, batch_size: int | None = None, members: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Probabilities, float32 `(N, 1 + K, S, S)`, of the candidates of one image, `(N, C, h, w)`, turned back.

        `members` says which of all candidates these are; the first N if `None`.
        """
        parts = latents.to(self.mask_vae.dtype).split(batch_size or self.config.default_num_masks)
        logits = torch.cat([self.mask_vae.decode(part).float() for part in parts])  # [N, 1+K, S, S]
        check_finite(logits, "logits")
        probabilities, symmetries = logits.softmax(dim=1), self.config.symmetries  # [N, 1+K, S, S]
        indices = range(len(latents)) if members is None else members
        turned = zip(indices, probabilities, strict=True)
        return torch.stack([undo_dihedral(own, index % symmetries) for index, own in turned])

    @torch.no_grad()
    def select(
        self,
        candidates: MedSegLatDiffCandidates,
        num_masks: int | None = None,
        inside: list | None = None,
        outside: list | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        region_output: str = "full",
    ) -> MedSegLatDiffPipelineOutput | tuple[list, list, list, list]:
        """The second half of a call: decodes candidates, chooses representative masks and aggregates them.

        Args:
            candidates (`MedSegLatDiffCandidates`): from `sample`.
            num_masks (`int`, *optional*): masks per image, at most the number of candidates; `None`: the default.
            inside, outside (`list`, *optional*): for each image a list of points `(x, y)` in its pixels, or `None`:
                only candidates that contain all points of `inside` and none of `outside` are kept: samples of the
                model's distribution under that condition (rejection sampling).
            output_type, return_dict, region_output: as in `__call__`.

        Raises:
            TypeError, ValueError: for an argument that cannot be used, and if no candidate is left.
        """
        # 1. resolve defaults and check
        num_images, count = candidates.latents.shape[:2]
        num_masks = min(self.config.default_num_masks, count) if num_masks is None else num_masks
        check_counts(num_masks=num_masks)
        if num_masks > count:
            raise ValueError(f"`num_masks` must be at most the number of candidates, {count}, but was {num_masks}.")
        check_choice("output_type", output_type, ("np", "pt", "pil"))
        check_choice("region_output", region_output, ("full", "region"))
        inside, outside = (
            as_point_lists(name, points, num_images) for name, points in (("inside", inside), ("outside", outside))
        )
        # 2. decode, choose, aggregate, one image after the other
        outputs, offsets = [], []
        for index, (latents, size, window) in enumerate(
            zip(candidates.latents, candidates.sizes, candidates.windows, strict=True)
        ):
            known = candidates.probabilities
            if not known:
                probabilities = self.decode(latents, candidates.batch_size, candidates.members)  # [N, 1+K, S, S]
            else:
                probabilities = known[index]  # [N, 1+K, S, S]
            extent = window.size if window else size
            kept = keep_candidates(
                probabilities, extent, window, inside[index], outside[index], index
            )  # [n, 1+K, S, S]
            labels = self.representative_labels(kept, min(num_masks, len(kept)), extent)  # [M, h, w]
            maps = aggregate(labels, self.num_classes, self.config.threshold, self.config.calibration)
            whole = [paste(part, window, size) if region_output == "full" else part for part in (labels, *maps)]
            outputs.append(convert(whole, self.num_classes, output_type))
            offsets.append((window.left, window.top) if window else (0, 0))
        # 3. output
        masks, confidence, uncertainty, consensus = (list(column) for column in zip(*outputs, strict=True))
        if not return_dict:
            return masks, confidence, uncertainty, consensus
        shown = offsets if region_output == "region" else None
        return MedSegLatDiffPipelineOutput(masks, confidence, uncertainty, consensus, shown)

    def representative_labels(
        self, probabilities: torch.Tensor, num_masks: int, size: tuple[int, int]
    ) -> torch.Tensor:
        """Representative label maps, uint8 `(num_masks, H, W)`, from candidates' probabilities `(N, 1 + K, S, S)`."""
        # `max`, because `argmax` over a strided dimension is 15 times slower on a CPU
        labels = probabilities.max(dim=1).indices  # [N, S, S]
        chosen = representatives(labels, num_masks, self.num_classes, self.config.spread)  # [M]
        resized = (resize_bilinear(entry[None], size) for entry in probabilities[chosen])  # [1, 1+K, H, W] each
        return torch.cat([entry.max(dim=1).indices.to(torch.uint8) for entry in resized])  # [M, H, W]

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
        regions: list | None = None,
        seed: int | None = None,
        region_output: str = "full",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> MedSegLatDiffPipelineOutput | tuple[list, list, list, list]:
        """Segments one image or a list of images of any sizes: `sample`, then `select`.

        Args:
            images: a PIL image, path, array `(H, W)` or `(H, W, C)` (uint8, uint16, float in [0, 1]), tensor `(C,
                H, W)` or `(B, C, H, W)`, or a list of these; grey and RGB images are converted as needed.
            num_masks (`int`, *optional*): masks per image; the checkpoint's default if `None`.
            num_inference_steps (`int`, *optional*): denoising steps; the checkpoint's default if `None`.
            generator (`torch.Generator` or a list with one per image, *optional*): source of the noise. With one per
                image, an image's masks do not depend on other images or on `batch_size`, except for rounding.
            batch_size (`int`, *optional*): most latents in one pass of the U-Net; `num_masks` if `None`.
            latents (`torch.Tensor` of shape `(B * num_candidates, C, h, w)`, *optional*): initial noise, instead of
                `generator`.
            output_type (`str`, *optional*, defaults to `"np"`): `"np"`, `"pt"` or `"pil"`.
            return_dict (`bool`, *optional*, defaults to `True`): if `False`, a tuple of masks, confidence,
                uncertainty and consensus.
            num_candidates (`int`, *optional*): candidates to draw per image, of which `num_masks` representative
                ones are returned; if both are equal, masks are returned as drawn. If `None`: the checkpoint's default,
                or `num_masks` with `latents`.
            regions (`list`, *optional*): one entry per image, each `None`, a point `(x, y)` or a box `(left, top,
                right, bottom)` in that image's pixels, half-open. A point means the checkpoint's field of view
                around it. Parts outside the image are filled by reflection.
            seed (`int`, *optional*): shorthand for one generator per image, each with this seed.
            region_output (`str`, *optional*, defaults to `"full"`): masks and maps at each image's full size, or
                `"region"`: at the size of the region's window, with its upper left corner in the output's `offsets`.
            callback_on_step_end, callback_on_step_end_tensor_inputs: as in `sample`.

        Raises:
            TypeError, ValueError: for an argument that cannot be used, before anything is sampled.
            SamplingInterrupted: if a callback set `pipe._interrupt`.
        """
        num_masks = self.config.default_num_masks if num_masks is None else num_masks
        check_counts(num_masks=num_masks)
        check_choice("output_type", output_type, ("np", "pt", "pil"))
        check_choice("region_output", region_output, ("full", "region"))
        if num_candidates is None:
            num_candidates = self.num_drawn(num_masks) if latents is None else num_masks
        check_counts(num_candidates=num_candidates)
        if num_candidates < num_masks:
            raise ValueError(f"`num_candidates` must be at least {num_masks}, but was {num_candidates}.")
        candidates = self.sample(
            images,
            num_inference_steps=num_inference_steps,
            generator=generator,
            batch_size=num_masks if batch_size is None else batch_size,
            latents=latents,
            num_candidates=num_candidates,
            regions=regions,
            seed=seed,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        output = self.select(
            candidates, num_masks, output_type=output_type, return_dict=return_dict, region_output=region_output
        )
        self.maybe_free_model_hooks()
        return output
