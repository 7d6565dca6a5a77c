"""Settings of a training run: one frozen dataclass, a line per setting, whose comment is its help on the command line.

What a value must be stands beside it, as its type and range. `Config` is the sum of eight groups, which the help
shows one by one, and holds what settings ask of each other.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval
from diffusers import DDIMScheduler

from ..data.augmentation import Augmentation
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from .schema import check_arguments, check_settings

Count = Annotated[int, Interval(ge=1, le=10**9)]
CountOrZero = Annotated[int, Interval(ge=0, le=10**9)]
Batch = Annotated[int, Interval(ge=1, le=65_536)]
Masks = Annotated[int, Interval(ge=1, le=1024)]
DenoisingSteps = Annotated[int, Interval(ge=1, le=1000)]
Share = Annotated[float, Interval(ge=0, le=1)]
LearningRate = Annotated[float, Interval(gt=0, le=1)]
Weight = Annotated[float, Interval(ge=0, le=10**6)]
PositiveWeight = Annotated[float, Interval(gt=0, le=10**6)]

MASK_VAE = {"block_out_channels": [16, 32]}
IMAGE_VAE = {"block_out_channels": [16, 32], "latent_channels": 4}
UNET = {"block_out_channels": [32, 64], "attention": [False, True], "layers_per_block": 1}
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


@dataclass(frozen=True)
class Data:
    """Images and masks, and how training varies them."""

    dataset: str = "phantom"  # a folder, a Hub id, a builder of load_dataset such as "imagefolder", or "phantom"
    data_dir: str | None = None  # folder of a builder's files
    sample_size: Annotated[int, Interval(ge=8, le=4096)] = 64  # side of the square that every image becomes, in pixels
    num_channels: Literal[1, 3] = 1  # channels of an image: 1 for grey, 3 for RGB
    num_classes: Annotated[int, Interval(ge=1, le=254)] = 1  # number of foreground classes
    target: Literal["random_rater", "consensus"] = "random_rater"  # what the U-Net learns; consensus: the majority
    affine: Share = 0.0  # strength of the random zoom, turn and shift of training samples, a share; 0.3 is strong
    energy_affine: Share = 0.1  # the same in the stage energy, a share
    augmentation: dict = field(default_factory=dict)  # of data.augmentation.Augmentation: further random changes
    shift: Annotated[int, Interval(ge=0, le=4096)] = 0  # most pixels that a training window lies beside the centre
    empty_windows: Share = 0.0  # share of training samples that show a part of their image that no rater marked
    stretch: bool = False  # stretch each image to its full range of values, in training and in the pipeline alike


@dataclass(frozen=True)
class Run:
    """What is trained, and where it is kept."""

    output_dir: str = "outputs/phantom"  # folder of checkpoints, logs and, at the end, the pipeline
    stage: Literal["mask_vae", "image_vae", "unet", "energy", "all", "mask_decoder"] = "all"  # what is trained
    start_from: str | None = None  # folder or Hub id of a pipeline to train on in unet, energy, all or mask_decoder
    resume: bool = False  # go on from the last checkpoint in output_dir
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0  # of all random numbers
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None  # none: the launcher's, or bf16 on hardware for it
    tracker: str = "tensorboard"  # one of Accelerate's trackers


@dataclass(frozen=True)
class Hub:
    """What is published on the Hub."""

    hub_model_id: str | None = None  # repository of the model, ORG/NAME
    push_to_hub: bool = False  # publish the pipeline at the end
    push_best: bool = False  # publish it in the background, too, whenever validation has become better


@dataclass(frozen=True)
class Models:
    """Arguments of the models, as JSON."""

    mask_vae: dict = field(default_factory=MASK_VAE.copy)  # of MedSegLatDiffVAE
    image_vae: dict = field(default_factory=IMAGE_VAE.copy)  # of MedSegLatDiffVAE
    image_encoder: dict | None = None  # of MedSegLatDiffImageEncoder, in place of the image VAE
    mask_decoder: dict | None = None  # of a new decoder in the stage mask_decoder; none: train the old one on
    unet: dict = field(default_factory=UNET.copy)  # of MedSegLatDiffUNet
    scheduler: dict = field(default_factory=SCHEDULER.copy)  # of diffusers.DDIMScheduler
    scale_latents: bool = True  # zero mean and unit variance of the latents, measured on the training split


@dataclass(frozen=True)
class Objectives:
    """Losses and their weights."""

    mask_loss: Literal["weighted_cross_entropy", "mse", "dice"] = "weighted_cross_entropy"  # of masks' reconstruction
    foreground_weight: PositiveWeight | None = 10.0  # factor in the cross entropy; none: from the pixels' frequencies
    bottleneck_weight: Weight = 0.00001  # factor of the KL divergence, or of the commitment loss
    train_image_encoder: bool = True  # go on training the image encoder with the U-Net
    auxiliary_weight: Weight = 0.5  # factor of the segmentation loss on the condition
    energy_auxiliary_weight: Weight = 0.2  # factor of the segmentation loss of a head in the stage energy
    noise_levels: Masks = 1  # number per image and step: the condition is computed once for all of them
    energy_masks: Annotated[int, Interval(ge=2, le=64)] = 4  # masks per image in the stage energy
    energy_inference_steps: DenoisingSteps = 2  # denoising steps in the stage energy, and of the pipeline after it


@dataclass(frozen=True)
class Optimisation:
    """Steps, batches and learning rates."""

    mask_vae_steps: Count = 200  # optimiser steps, in the stage mask_decoder too
    image_vae_steps: Count = 150  # optimiser steps
    unet_steps: Count = 400  # optimiser steps
    energy_steps: CountOrZero = 60  # optimiser steps; 0: the pipeline stays as the stage unet left it
    minutes: Annotated[float, Interval(gt=0, le=10**5)] | None = None  # minutes of a stage at most; none: no limit
    batch_size: Batch = 16  # images per process and micro-batch
    energy_batch_size: Batch = 8  # images per process and micro-batch in the stage energy
    gradient_accumulation_steps: Batch = 1  # micro-batches per optimiser step
    vae_learning_rate: LearningRate = 0.002  # of both autoencoders, per optimiser step
    unet_learning_rate: LearningRate = 0.0005  # per optimiser step
    energy_learning_rate: LearningRate = 0.0002  # per optimiser step
    weight_decay: Share = 0.01  # of AdamW, a share of the learning rate
    warmup_steps: CountOrZero = 50  # optimiser steps in which the learning rate rises
    max_grad_norm: PositiveWeight = 1.0  # norm to which gradients are clipped
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.995  # share of the moving average kept at every step


@dataclass(frozen=True)
class Validation:
    """Validation and checkpoints."""

    validation_every: Count = 200  # optimiser steps between validations
    validation_images: Count = 16  # images per validation
    validation_masks: Masks = 4  # masks per validation image
    checkpoint_every: Count = 200  # optimiser steps between checkpoints


@dataclass(frozen=True)
class Pipeline:
    """Defaults of the pipeline."""

    default_num_masks: Masks = 8  # masks per image
    default_num_inference_steps: DenoisingSteps = 10  # denoising steps, unless the stage energy sets its own
    antithetic: bool = False  # start half of the masks from the others' noise with the sign turned
    symmetries: Literal[1, 2, 4, 8] = 1  # of the square, under which the pipeline looks at an image in turn; 8: all


@dataclass(frozen=True)
class Config(Pipeline, Validation, Optimisation, Objectives, Models, Hub, Run, Data):
    """All settings; the defaults train a tiny model on phantoms in one to four minutes on two cores.

    Raises:
        ValueError: where a setting is not what it must be.
    """

    def __post_init__(self):
        # 1. each by itself
        check_settings(vars(self), Config)
        shape = ("in_channels", "out_channels", "latents_mean", "latents_std")
        check_arguments("mask_vae", self.mask_vae, MedSegLatDiffVAE, shape)
        check_arguments("image_vae", self.image_vae, MedSegLatDiffVAE, shape)
        check_arguments("image_encoder", self.image_encoder or {}, MedSegLatDiffImageEncoder, ("in_channels",))
        check_arguments("unet", self.unet, MedSegLatDiffUNet, ("sample_size", "latent_channels", "condition_channels"))
        taken = ("affine", "shift", "empty_windows")
        check_arguments("augmentation", self.augmentation, Augmentation, taken)
        check_arguments("scheduler", self.scheduler, DDIMScheduler, ("trained_betas",))
        # 2. what they ask of each other
        rules = {
            "`hub_model_id` must be ORG/NAME with `push_to_hub`": self.hub_model_id or not self.push_to_hub,
            "`push_to_hub` must be set with `push_best`": self.push_to_hub or not self.push_best,
            "`energy_steps` must be at least 1 with the stage energy": self.energy_steps or self.stage != "energy",
            "`stage` must be unet, energy, all or mask_decoder with `start_from`": (
                not self.start_from or self.stage not in ("mask_vae", "image_vae")
            ),
            "`start_from` must be a pipeline with the stage mask_decoder": (
                self.start_from or self.stage != "mask_decoder"
            ),
        }
        for rule, kept in rules.items():
            if not kept:
                value = getattr(self, rule.split("`")[1])
                raise ValueError(f"{rule}, but was {value!r}.")


GROUPS = Config.__bases__[::-1]  # in the order of the fields: dataclasses take the last base first
