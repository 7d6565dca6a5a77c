"""Lets plain diffusers load this repository's pipeline; needs `pip install medseglatdiff`.

DiffusionPipeline.from_pretrained(repo_id, custom_pipeline=repo_id, trust_remote_code=True)
"""

from medseglatdiff import MedSegLatDiffPipeline

__all__ = ["MedSegLatDiffPipeline"]
