"""Settings of a training run: one frozen dataclass, from which the command line is generated."""

import argparse
import dataclasses
import functools
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from .precision import native_precision


@dataclass(frozen=True)
class Config:
    """One line per setting; the defaults train a tiny model on phantoms in one to four minutes on two cores."""

    # data
    dataset: str = "phantom"  # a folder, a Hub id, a builder of load_dataset such as "imagefolder", or "phantom"
    data_dir: str | None = None  # where a builder's files lie
    sample_size: int = 64  # side of the square, in pixels, to which images and masks are resized
    num_channels: int = 1  # 1 for grey, 3 for RGB
    num_classes: int = 1  # foreground classes
    target: str = "random_rater"  # or consensus, the raters' majority: what the U-Net learns to draw
    affine: float = 0.0  # strength of the random zoom, turn and shift of training samples; 0.3 is strong
    energy_affine: float = 0.1  # likewise, in the stage energy
    stretch: bool = False  # stretch each image to its full range of values, in training and in the pipeline alike
    # run
    output_dir: str = "outputs/phantom"  # checkpoints, logs and, at the end, the pipeline
    stage: str = "all"  # mask_vae, image_vae, unet, energy or all of these; or mask_decoder
    start_from: str | None = None  # folder or Hub id of a pipeline to train on, by unet, energy, all or mask_decoder
    resume: bool = False  # go on from the last checkpoint in output_dir
    seed: int = 0
    mixed_precision: str = field(default_factory=native_precision)  # no, bf16 or fp16; bf16 where the hardware has it
    tracker: str = "tensorboard"  # any of Accelerate's trackers
    # Hub
    hub_model_id: str | None = None  # ORG/NAME
    push_to_hub: bool = False  # publish the pipeline at the end
    push_best: bool = False  # and, in the background, whenever validation has become better
    # models: arguments of the constructors
    mask_vae: dict = field(default_factory=lambda: {"block_out_channels": [16, 32]})
    image_vae: dict = field(default_factory=lambda: {"block_out_channels": [16, 32], "latent_channels": 4})
    image_encoder: dict | None = None  # of MedSegLatDiffImageEncoder with ImageNet weights, in place of the image VAE
    unet: dict = field(
        default_factory=lambda: {"block_out_channels": [32, 64], "attention": [False, True], "layers_per_block": 1}
    )
    scheduler: dict = field(
        default_factory=lambda: {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        }
    )  # of diffusers.DDIMScheduler
    scale_latents: bool = True  # zero mean and unit variance on the training split
    # objectives
    mask_loss: str = "weighted_cross_entropy"  # or mse, or dice
    foreground_weight: float | None = 10.0  # of the cross entropy; none: from the training split's pixel frequencies
    bottleneck_weight: float = 0.00001  # of the KL divergence, or of the commitment loss
    train_image_encoder: bool = True  # go on training the image encoder with the U-Net
    auxiliary_weight: float = 0.5  # of the segmentation loss on the condition
    noise_levels: int = 1  # per image and step: the condition is computed once for all of them
    min_snr_gamma: float | None = None  # none: every noise level counts alike
    energy_masks: int = 4  # hypotheses per image in the stage energy, at least 2
    energy_inference_steps: int = 2  # of the sampler that it trains, and of the pipeline from then on
    # optimisation
    mask_vae_steps: int = 200  # optimiser steps, in the stage mask_decoder too
    image_vae_steps: int = 150
    unet_steps: int = 400
    energy_steps: int = 60  # 0: the pipeline stays as the denoising loss left it
    batch_size: int = 16  # images per process and micro-batch
    energy_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    vae_learning_rate: float = 0.002
    unet_learning_rate: float = 0.0005
    energy_learning_rate: float = 0.0002
    weight_decay: float = 0.01
    warmup_steps: int = 50
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995
    # validation and checkpoints
    validation_every: int = 200  # optimiser steps
    validation_images: int = 16
    validation_masks: int = 4
    checkpoint_every: int = 200  # optimiser steps
    # defaults of the pipeline
    default_num_masks: int = 8
    default_num_inference_steps: int = 10
    antithetic: bool = False  # half of the hypotheses start from the others' noise with the sign turned
    symmetries: int = 1  # of the square, under which the pipeline looks at an image in turn; 8: all

    def __post_init__(self):
        choices = {
            "stage": ("mask_vae", "image_vae", "unet", "energy", "all", "mask_decoder"),
            "target": ("random_rater", "consensus"),
            "mask_loss": ("weighted_cross_entropy", "mse", "dice"),
            "mixed_precision": ("no", "bf16", "fp16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, but was {getattr(self, name)!r}.")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError(f"`hub_model_id` must be ORG/NAME with `push_to_hub`, but was {self.hub_model_id!r}.")
        if self.push_best and not self.push_to_hub:
            raise ValueError("`push_to_hub` must be set with `push_best`, but was not.")
        if self.stage == "energy" and not self.energy_steps:
            raise ValueError("`energy_steps` must be at least 1 with the stage energy, but was 0.")
        if self.start_from and self.stage in ("mask_vae", "image_vae"):
            told = "unet, energy, all or mask_decoder"
            raise ValueError(f"`stage` must be {told} with `start_from`, but was {self.stage!r}.")
        if self.stage == "mask_decoder" and not self.start_from:
            raise ValueError("`start_from` must be a pipeline with the stage mask_decoder, but was None.")
        if self.energy_masks < 2:
            raise ValueError(f"`energy_masks` must be at least 2, but was {self.energy_masks}.")
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.type is int and entry.name not in ("seed", "warmup_steps", "energy_steps") and value < 1:
                raise ValueError(f"`{entry.name}` must be at least 1, but was {value}.")


def parse_value(kind: type, text: str):
    """Text from the command line as a setting of this type; "none" where `None` is allowed, JSON for dictionaries."""
    if isinstance(kind, types.UnionType):
        inner, _ = typing.get_args(kind)
        return None if text.lower() == "none" else parse_value(inner, text)
    if kind is dict:
        return json.loads(text)
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    return kind(text)


def given_settings(arguments: list[str] | None = None) -> dict:
    """What `--config FILE.json` and the command line, which has the last word, say: no defaults.

    Raises:
        ValueError: if the file holds a setting that does not exist.
    """
    parser = argparse.ArgumentParser(description="Trains the stages of MedSegLatDiff and saves a pipeline.")
    parser.add_argument("--config", type=Path, help="JSON file of settings, such as training/configs/lidc_idri.json")
    for entry in dataclasses.fields(Config):
        optional = {"nargs": "?", "const": True} if entry.type is bool else {}
        convert = functools.partial(parse_value, entry.type)
        parser.add_argument(f"--{entry.name.replace('_', '-')}", type=convert, default=argparse.SUPPRESS, **optional)
    given = vars(parser.parse_args(arguments))
    path = given.pop("config", None)
    settings = json.loads(path.read_text()) if path else {}
    unknown = set(settings) - {entry.name for entry in dataclasses.fields(Config)}
    if unknown:
        raise ValueError(f"`config` must hold known settings only, but {path} holds {sorted(unknown)}.")
    return {**settings, **given}


def parse_config(arguments: list[str] | None = None) -> Config:
    """All settings, by `given_settings` and the defaults."""
    return Config(**given_settings(arguments))
