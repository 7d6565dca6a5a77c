"""One-to-many medical image segmentation: an image in; several plausible masks, a confidence map, a consensus out."""

import diffusers
from diffusers.pipelines.pipeline_loading_utils import ALL_IMPORTABLE_CLASSES, LOADABLE_CLASSES

from .models.autoencoder import MedSegLatDiffVAE
from .models.image_encoder import MedSegLatDiffImageEncoder
from .models.unet import MedSegLatDiffUNet
from .pipeline.output import MedSegLatDiffPipelineOutput
from .pipeline.pipeline import MedSegLatDiffPipeline

__version__ = "0.1.0"

__all__ = [
    "MedSegLatDiffImageEncoder",
    "MedSegLatDiffPipeline",
    "MedSegLatDiffPipelineOutput",
    "MedSegLatDiffUNet",
    "MedSegLatDiffVAE",
]

# Registered with diffusers, model_index.json records ["medseglatdiff", "MedSegLatDiffUNet"] and not a module's path:
# a checkpoint outlives the renaming of a file and loads by Hub id without `trust_remote_code`.
LOADABLE_CLASSES["medseglatdiff"] = {
    name: ["save_pretrained", "from_pretrained"]
    for name in ("MedSegLatDiffImageEncoder", "MedSegLatDiffUNet", "MedSegLatDiffVAE")
}
ALL_IMPORTABLE_CLASSES.update(LOADABLE_CLASSES["medseglatdiff"])
# `DiffusionPipeline.from_pretrained` looks up the class that model_index.json names among diffusers' own.
diffusers.MedSegLatDiffPipeline = MedSegLatDiffPipeline
