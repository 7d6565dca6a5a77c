"""Settings that cannot train are refused before anything is loaded: all models of all stages are built, and one image
goes through them. torch's fake tensors have shapes but no memory, so that this takes a fraction of a second."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from diffusers import DDIMScheduler
from torch._subclasses.fake_tensor import FakeTensorMode

from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.modeling import MedSegLatDiffModel
from ..models.unet import MedSegLatDiffUNet
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .config import Config
from .stages import check_start

Model = TypeVar("Model", bound=MedSegLatDiffModel)
MOST_PARAMETERS, MOST_TIMESTEPS = 10**9, 10_000
MOST_LEVELS, MOST_LAYERS, MOST_CHANNELS = 8, 16, 65_536


def attempt(setting: str, value: object, make: Callable[[], object]):
    """What `make` returns; whatever it raises becomes a `ValueError` that names the setting.

    Impossible sizes surface in torch and diffusers as errors of any kind, from ZeroDivisionError to IndexError.
    """
    try:
        return make()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"`{setting}` must describe a model that works, but was {value}: {reason}") from error


def check_scheduler(config: Config):
    """Raises a `ValueError` where the noise does not rise from image to noise, or has fewer levels than steps."""
    levels = config.scheduler.get("num_train_timesteps", 1000)
    if not 2 <= levels <= MOST_TIMESTEPS:
        raise ValueError(f"`scheduler.num_train_timesteps` must lie in [2, {MOST_TIMESTEPS}], but was {levels}.")
    for name in ("default_num_inference_steps", "energy_inference_steps"):
        if getattr(config, name) > levels:
            raise ValueError(f"`{name}` must be at most {levels}, the scheduler's, but was {getattr(config, name)}.")
    scheduler = attempt("scheduler", config.scheduler, lambda: DDIMScheduler(**config.scheduler))
    shares = scheduler.alphas_cumprod  # [levels], of the image
    falling = (shares[1:] <= shares[:-1]).all() and 0 <= shares[-1] < shares[0] <= 1
    if not falling:
        raise ValueError(
            f"`scheduler` must let the image's share fall from at most 1 to at least 0, but was {config.scheduler}, "
            f"by which it goes from {shares[0]:.4g} to {shares[-1]:.4g}."
        )


def check_sizes(
    config: Config,
    mask_vae: MedSegLatDiffVAE,
    image_encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder,
    unet: MedSegLatDiffUNet,
):
    """Raises a `ValueError` where models cannot halve an image so often, or do it differently."""
    factor, levels = mask_vae.downsampling_factor, len(unet.config.block_out_channels)
    multiple = factor * unet.config.patch_size * 2 ** (levels - 1)
    if isinstance(image_encoder, MedSegLatDiffVAE):
        name, found = "image_vae", image_encoder.downsampling_factor
    else:
        name, found = "image_encoder", image_encoder.config.downsampling_factor
        multiple = math.lcm(multiple, 32)
    if found != factor:
        raise ValueError(f"`{name}` must make images smaller by {factor}, as `mask_vae`, but does so by {found}.")
    if config.sample_size % multiple:
        raise ValueError(f"`sample_size` must be a multiple of {multiple} here, but was {config.sample_size}.")


def check_limits(setting: str, values: dict):
    """Raises a `ValueError` where a model would have a size of zero, or one that nobody trains."""
    for name, value in values.items():
        if isinstance(value, list) and not 1 <= len(value) <= MOST_LEVELS:
            raise ValueError(f"`{setting}.{name}` must have 1 to {MOST_LEVELS} entries, but was {value}.")
        most = MOST_LAYERS if name == "layers_per_block" else MOST_CHANNELS
        for number in value if isinstance(value, list) else [value]:
            if type(number) is int and not 1 <= number <= most:
                raise ValueError(f"`{setting}.{name}` must lie in [1, {most}], but was {value}.")


def build(setting: str, model_class: type[Model], arguments: dict, **more) -> Model:
    """A model without memory, of the setting's arguments and others."""
    check_limits(setting, arguments)
    model = attempt(setting, arguments, lambda: model_class(**{**more, **arguments}).eval())
    count = model.num_parameters()
    if count > MOST_PARAMETERS:
        raise ValueError(f"`{setting}` must have at most {MOST_PARAMETERS:,} parameters, but has {count:,}.")
    return model


def check_models(config: Config):
    """Raises a `ValueError` that names the setting with which the stages of a run could not be trained."""
    if config.start_from:
        try:
            pipeline = MedSegLatDiffPipeline.from_pretrained(config.start_from)
        except (OSError, ValueError) as error:
            what = f"a pipeline's folder or Hub id, but {config.start_from} is not"
            raise ValueError(f"`start_from` must be {what}: {error}") from error
        check_start(pipeline, config)
        return
    check_scheduler(config)
    channels, size = 1 + config.num_classes, config.sample_size
    with FakeTensorMode():
        # 1. build
        mask_vae = build("mask_vae", MedSegLatDiffVAE, config.mask_vae, in_channels=channels, out_channels=channels)
        factor = mask_vae.downsampling_factor
        shape: dict[str, int] = dict(in_channels=config.num_channels)
        encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder
        if config.image_encoder is None:
            shape["out_channels"] = config.num_channels
            encoder = build(name := "image_vae", MedSegLatDiffVAE, config.image_vae, **shape)
        else:
            shape["downsampling_factor"] = factor
            encoder = build(name := "image_encoder", MedSegLatDiffImageEncoder, config.image_encoder, **shape)
        condition, latent = encoder.condition_channels, mask_vae.config.latent_channels
        shape = dict(sample_size=size // factor, latent_channels=latent, condition_channels=condition)
        unet = build("unet", MedSegLatDiffUNet, config.unet, **shape)
        check_sizes(config, mask_vae, encoder, unet)
        # 2. one image, its mask and a noise level through all of them
        masks, images = torch.empty(1, channels, size, size), torch.empty(1, config.num_channels, size, size)
        latents, timesteps = torch.empty(1, latent, size // factor, size // factor), torch.zeros(1).long()
        attempt("mask_vae", config.mask_vae, lambda: mask_vae(masks))
        encoded = attempt(name, getattr(config, name), lambda: encoder.condition(images))  # [1, condition, h, w]
        attempt("unet", config.unet, lambda: unet(latents, timesteps, encoded))
