"""Checks of a saved pipeline: its settings, its scheduler's, its classes; and it must contain no code."""

import json
from collections.abc import Mapping
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import ModelMixin, SchedulerMixin

from ..data.limits import MAX_CANDIDATES, MAX_MASKS, MAX_STEPS
from ..models.checks import (
    Rule,
    check_class,
    check_known,
    check_lost,
    check_values,
    flag,
    integer,
    later,
    number,
    one_of,
    optional,
    refuse,
    several,
    shown,
)
from ..models.modeling import check_channels
from .aggregation import check_calibration
from .finding_codes import FINDINGS

INDEX = "model_index.json"
SETTINGS = {
    "sample_size": integer(8, 4096),
    "default_num_masks": integer(1, MAX_MASKS),
    "default_num_inference_steps": integer(1, MAX_STEPS),
    "threshold": number(0, 1, above=True),
    "stretch": flag(),
    "symmetries": one_of(1, 2, 4, 8),
    "antithetic": flag(),
    "default_num_candidates": later(integer(1, MAX_CANDIDATES)),
    "spread": later(number(0)),
    "region_size": later(optional(integer(8, 65536))),
    "pixel_size": later(optional(number(0, above=True))),
    "finding": later(one_of(*FINDINGS)),
    "calibration": Rule("null or points", lambda value: value is None or isinstance(value, Mapping)),
}
SCHEDULER = {
    "num_train_timesteps": integer(1, 100_000),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "trained_betas": optional(several(number(0, 1), 1, 100_000)),
    "prediction_type": one_of("epsilon", "sample", "v_prediction"),
    "timestep_spacing": one_of("leading", "linspace", "trailing"),
    "rescale_betas_zero_snr": flag(),
    "steps_offset": integer(0, 100_000),
    "clip_sample": flag(),
    "clip_sample_range": number(0, above=True),
    "set_alpha_to_one": flag(),
    "thresholding": flag(),
    "dynamic_thresholding_ratio": number(0, 1),
    "sample_max_value": number(0, above=True),
}
COMPONENTS = {
    "image_encoder": ("MedSegLatDiffVAE", "MedSegLatDiffImageEncoder"),
    "mask_vae": ("MedSegLatDiffVAE",),
    "unet": ("MedSegLatDiffUNet",),
}


def check_settings(settings: Mapping):
    """Raises a `ValueError` that names the first pipeline setting of a wrong type or out of range."""
    check_calibration(settings.get("calibration"))
    check_values(settings, SETTINGS)


def check_components(
    image_encoder: ModelMixin, mask_vae: ModelMixin, unet: ModelMixin, scheduler: SchedulerMixin, settings: Mapping
):
    """Raises a `ValueError` that names the first component that does not fit the others or the settings."""
    check_scheduler(scheduler.config)
    check_channels(unet, mask_vae, image_encoder)
    classes, factor, side = mask_vae.config.out_channels, mask_vae.downsampling_factor, settings["sample_size"]
    if classes < 2 or mask_vae.config.in_channels != classes:
        raise ValueError(
            "`mask_vae` must take and return background and at least one class, but takes "
            f"{mask_vae.config.in_channels} channels and returns {classes}."
        )
    if image_encoder.config.in_channels not in (1, 3):
        raise ValueError(f"`image_encoder` must take 1 or 3 channels, but takes {image_encoder.config.in_channels}.")
    encoder_factor = image_encoder.config.get("downsampling_factor") or image_encoder.downsampling_factor
    if encoder_factor != factor:
        raise ValueError(
            f"`image_encoder` must downsample by {factor}, as `mask_vae` does, but downsamples by {encoder_factor}."
        )
    multiple = factor * unet.config.get("patch_size", 1) * 2 ** (len(unet.config.block_out_channels) - 1)
    if side % multiple:
        refuse("sample_size", f"a multiple of {multiple}, as `mask_vae` and `unet` halve it", side)
    steps = scheduler.config.get("num_train_timesteps", settings["default_num_inference_steps"])
    if settings["default_num_inference_steps"] > steps:
        refuse("default_num_inference_steps", f"at most {steps}", settings["default_num_inference_steps"])


def check_scheduler(config: Mapping):
    """Raises a `ValueError` that names the first scheduler setting of a wrong type or out of range."""
    config = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in config.items()}
    check_values(config, SCHEDULER, "the scheduler")
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps")
    if betas is not None and len(betas) != steps:
        refuse("trained_betas", f"{steps} values, one per training step", betas, "the scheduler")
    if config.get("beta_start", 0) > config.get("beta_end", 1):
        refuse("beta_start", f"at most `beta_end`, {config['beta_end']}", config["beta_start"], "the scheduler")


def check_stored_scheduler(config: object, scheduler_class: type[SchedulerMixin]):
    """Raises a `ValueError` unless a scheduler of this class can be built from a complete stored config.

    Unknown names are allowed: a scheduler made from another one keeps the other's settings.
    """
    config = check_class(config, scheduler_class)
    check_lost(config, scheduler_class, SCHEDULER)
    check_scheduler(config)
    try:
        scheduler = scheduler_class.from_config(config)
    except Exception as error:  # whatever diffusers raises for settings without a rule here
        raise ValueError(f"`scheduler` must be a {scheduler_class.__name__} that can be built: {error}") from error
    for name, value in vars(scheduler).items():
        if isinstance(value, torch.Tensor) and value.isnan().any():
            raise ValueError(f"`scheduler` must have finite settings, but its {name} hold NaN.")


def check_index(index: object, pipeline_class: type) -> Mapping:
    """What a model_index.json holds; a `ValueError` unless `pipeline_class` saved it.

    It may name only this package's classes and diffusers' schedulers: diffusers before 0.42.1 imports anything else
    that it names, or runs a file of the folder.
    """
    index = check_class(index, pipeline_class)
    if "_class_name" not in index:
        raise ValueError(f"{INDEX} must name its class as `_class_name`, but does not.")
    if lacking := [name for name in (*COMPONENTS, "scheduler") if name not in index]:
        raise ValueError(f"{INDEX} must name every component, but lacks {lacking[0]!r}.")
    for name, allowed in COMPONENTS.items():
        if index.get(name) not in [["medseglatdiff", class_name] for class_name in allowed]:
            refuse(name, f"of medseglatdiff's {' or '.join(allowed)}", index.get(name), INDEX)
    scheduler_of(index)
    check_known(index, pipeline_class)
    check_lost(index, pipeline_class, SETTINGS)
    check_settings(index)
    return index


def scheduler_of(index: Mapping) -> type[SchedulerMixin]:
    """The scheduler class of diffusers that a model_index.json names; a `ValueError` for any other class."""
    match index.get("scheduler"):
        case ["diffusers", str(name)]:
            found = getattr(diffusers.schedulers, name, None)
            if isinstance(found, type) and issubclass(found, SchedulerMixin) and found is not SchedulerMixin:
                return found
    refuse("scheduler", "one of diffusers' schedulers", index.get("scheduler"), INDEX)


def check_folder(folder: str | Path, pipeline_class: type):
    """Raises a `ValueError` or `OSError` unless diffusers may load a folder; nothing is built yet.

    Python files that diffusers would run as a component's code are refused; others, such as the pipeline.py of
    published folders, are ignored.
    """
    folder = Path(folder)
    index = check_index(read_json(folder / INDEX), pipeline_class)
    code = [folder / "None.py"]  # diffusers takes it for the code of a pipeline without `custom_pipeline`
    code += [folder / name / f"{index[name][0]}.py" for name in (*COMPONENTS, "scheduler")]
    for path in filter(Path.exists, code):
        raise ValueError(f"{folder} must contain no code of a component, but contains {path.relative_to(folder)}.")
    check_stored_scheduler(read_json(folder / "scheduler" / "scheduler_config.json"), scheduler_of(index))


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise OSError(f"There is no file named {path.name} in {path.parent}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, but is not: {shown(str(error))}") from error
