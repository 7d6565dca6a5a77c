"""Lets DiffusionPipeline load this folder or repository; it needs the package medseglatdiff.

DiffusionPipeline.from_pretrained(folder_or_id, custom_pipeline=folder_or_id, trust_remote_code=True)
"""

from medseglatdiff import MedSegLatDiffPipeline

__all__ = ["MedSegLatDiffPipeline"]
