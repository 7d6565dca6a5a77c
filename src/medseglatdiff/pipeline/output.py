"""What the pipeline returns."""

from dataclasses import dataclass

from diffusers.utils import BaseOutput


@dataclass
class MedSegLatDiffPipelineOutput(BaseOutput):
    """One entry per image, each at that image's own height and width. With `output_type="pt"` tensors, with `"pil"`
    images.

    Args:
        masks (`list[np.ndarray]`): hypotheses, bool `(num_masks, H, W)`; label maps, uint8, from a multi-class
            checkpoint.
        confidence (`list[np.ndarray]`): share of the hypotheses that hold each pixel, calibrated where the checkpoint
            carries a calibration, float32 in [0, 1], `(H, W)`; `(num_classes, H, W)` from a multi-class checkpoint.
        uncertainty (`list[np.ndarray]`): binary entropy of the confidence in bits, float32 in [0, 1]; same shape.
        consensus (`list[np.ndarray]`): confidence >= threshold, bool `(H, W)`; a label map, uint8, with several
            classes.
        offsets (`list[tuple[int, int]]`, *optional*): with `region_output="region"`, x and y of the left upper corner
            of each image's window in the image, which may be negative; (0, 0) without a region.
    """

    masks: list
    confidence: list
    uncertainty: list
    consensus: list
    offsets: list | None = None
