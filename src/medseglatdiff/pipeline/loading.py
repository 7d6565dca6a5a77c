"""Loading a pipeline from a folder or Hub id, on the GPU if there is one; and the command `info`."""

import argparse

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError

from .pipeline import MedSegLatDiffPipeline


def load_pipeline(model: str) -> MedSegLatDiffPipeline:
    """The pipeline of a folder or Hub id, on the GPU if there is one.

    Raises:
        ValueError: if it cannot be loaded.
    """
    try:
        pipeline = MedSegLatDiffPipeline.from_pretrained(model)
    except (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"`--model` must be a pipeline's folder or Hub id, but {model} is not: {reason}") from error
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def main(arguments: list[str] | None = None):
    """`medseglatdiff info`: prints a checkpoint's components and defaults."""
    parser = argparse.ArgumentParser(prog="medseglatdiff info", description="Describes a checkpoint.")
    parser.add_argument("model", metavar="PATH_OR_ID", help="folder of a pipeline, or its id on the Hub (required)")
    pipeline = load_pipeline(parser.parse_args(arguments).model)
    for name, component in pipeline.components.items():
        size = f"{component.num_parameters():>14,} parameters" if isinstance(component, ModelMixin) else ""
        print(f"{name:<22}{type(component).__name__:<28}{size}".rstrip())
    rows = {
        "sample size": f"{pipeline.config.sample_size} x {pipeline.config.sample_size} pixels",
        "image channels": pipeline.image_encoder.config.in_channels,
        "foreground classes": pipeline.num_classes,
        "stretches images": "yes" if pipeline.config.stretch else "no",
        "default masks": pipeline.config.default_num_masks,
        "of candidates": pipeline.num_drawn(pipeline.config.default_num_masks),
        "default steps": pipeline.config.default_num_inference_steps,
        "consensus threshold": pipeline.config.threshold,
        "calibrated": "yes" if pipeline.config.calibration else "no",
    }
    for name, value in rows.items():
        print(f"{name:<22}{value}")
