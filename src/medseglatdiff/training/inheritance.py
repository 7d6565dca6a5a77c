"""What a pipeline that is trained on hands down to the run: its networks, how it takes images, how it gives masks."""

import dataclasses
import inspect
import json
from collections.abc import Collection
from pathlib import Path

from diffusers import DDIMScheduler

from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .config import Config
from .history import stages_of, start_folder

# Arguments of networks that follow from other settings
OF_AUTOENCODER = {"in_channels", "out_channels", "latents_mean", "latents_std"}
OF_IMAGE_ENCODER = {"in_channels", "downsampling_factor", "num_classes"}
OF_UNET, OF_SCHEDULER = {"sample_size", "latent_channels", "condition_channels"}, {"trained_betas"}
# Settings that the weights were made for: they have no other value
FIXED = {"sample_size", "num_channels", "num_classes", "mask_vae", "image_vae", "image_encoder", "unet", "scheduler"}
FIXED |= {"scale_latents"}
# Settings of the pipeline that hold unless the run has its own
FREE = ("stretch", "symmetries", "antithetic", "default_num_masks", "default_num_inference_steps")
# What `medseglatdiff calibrate` chooses for certain weights; the last two are never chosen otherwise
CHOSEN = ("threshold", "default_num_candidates", "spread", "calibration")


def arguments(kind: type, config: dict, without: Collection[str] = ()) -> dict:
    """All arguments of a class that have defaults, by a saved configuration: what is younger has its default."""
    parameters = inspect.signature(kind).parameters.values()
    defaults = {own.name: own.default for own in parameters if own.default is not own.empty}
    known = {name: config.get(name, default) for name, default in defaults.items() if name not in without}
    return json.loads(json.dumps(known))


def parent_settings(folder: Path) -> dict:
    """The settings that a saved pipeline hands down, by name.

    Raises:
        ValueError: if its files are not those of a pipeline.
    """
    try:
        index, mask_vae, image_encoder, unet, scheduler = (
            json.loads((folder / name).read_text("utf-8"))
            for name in (
                "model_index.json",
                "mask_vae/config.json",
                "image_encoder/config.json",
                "unet/config.json",
                "scheduler/scheduler_config.json",
            )
        )
        settings = {
            "sample_size": index["sample_size"],
            "num_channels": image_encoder["in_channels"],
            "num_classes": mask_vae["out_channels"] - 1,
            "mask_vae": arguments(MedSegLatDiffVAE, mask_vae, OF_AUTOENCODER),
            "unet": arguments(MedSegLatDiffUNet, unet, OF_UNET),
            "scheduler": arguments(DDIMScheduler, scheduler, OF_SCHEDULER),
            "scale_latents": mask_vae.get("latents_std") is not None,
        }
        if index["image_encoder"][1] == MedSegLatDiffVAE.__name__:
            settings["image_vae"] = arguments(MedSegLatDiffVAE, image_encoder, OF_AUTOENCODER)
            settings["image_encoder"] = None
        else:
            settings["image_encoder"] = arguments(MedSegLatDiffImageEncoder, image_encoder, OF_IMAGE_ENCODER)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`start_from` must be a pipeline, but {folder} is not: {error!r}") from error
    pipeline = arguments(MedSegLatDiffPipeline, index)
    settings |= {name: pipeline[name] for name in FREE}
    if any(name.split("/")[-1] == "energy" for name in stages_of(folder)):
        settings["energy_inference_steps"] = pipeline["default_num_inference_steps"]
    return settings


def contradiction(name: str, value, parents) -> str | None:
    """What is wrong with a setting that was given, beside the parent's; `None` if nothing is."""
    value = json.loads(json.dumps(value))
    if not isinstance(value, dict) or not isinstance(parents, dict):
        return None if value == parents else f"`{name}` must be {parents!r}, but was {value!r}"
    others = {key: entry for key, entry in value.items() if parents[key] != entry}
    if not others:
        return None
    return f"`{name}` must have { ({key: parents[key] for key in others}) }, but had {others}"


def inherit(config: Config, given: Collection[str] | None = None) -> Config:
    """The settings of a run that trains a pipeline on: the pipeline's own, unless given.

    Args:
        given: names of the settings that somebody gave; by default those that differ from `Config`'s defaults.

    Raises:
        ValueError: if `start_from` is no pipeline, or a given setting is not what its weights were made for.
    """
    if not config.start_from:
        return config
    if given is None:
        default = vars(Config())
        given = {name for name, value in vars(config).items() if value != default[name]}
    parents = parent_settings(start_folder(config.start_from))
    checked = [name for name in parents if name in FIXED and name in given]
    problems = [contradiction(name, getattr(config, name), parents[name]) for name in checked]
    if any(problems):
        told = "; ".join(problem for problem in problems if problem)
        raise ValueError(f"{told}: these are of the weights in `start_from`, {config.start_from}.")
    inherited = {name: value for name, value in parents.items() if name in FIXED or name not in given}
    return dataclasses.replace(config, **inherited)


def drop_choices(pipeline: MedSegLatDiffPipeline, folder: Path) -> dict:
    """Sets back what `medseglatdiff calibrate` chose for weights that are about to change; returns what it was.

    A threshold or number of candidates without a trace of calibration is the author's choice, and stays.
    """
    defaults = {name: value for name, value in arguments(MedSegLatDiffPipeline, {}).items() if name in CHOSEN}
    changed = {name: pipeline.config[name] for name in CHOSEN if pipeline.config[name] != defaults[name]}
    if not (folder / "calibration.json").is_file() and not changed.keys() & {"spread", "calibration"}:
        return {}
    pipeline.register_to_config(**defaults)
    return changed


def pipeline_settings(config: Config) -> dict:
    """Arguments of the pipeline that are settings of the run."""
    return {name: getattr(config, name) for name in ("sample_size", *FREE)}
