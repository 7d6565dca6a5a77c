"""What the pipeline returns."""

from dataclasses import dataclass

from diffusers.utils import BaseOutput


@dataclass
class MedSegLatDiffPipelineOutput(BaseOutput):
    """One entry per image, at that image's height and width: tensors with `output_type="pt"`, PIL images with
    `"pil"`.

    Args:
        masks (`list[np.ndarray]`): hypotheses, bool `(num_masks, H, W)`; label maps, uint8, from a multi-class
            checkpoint.
        confidence (`list[np.ndarray]`): share of the hypotheses that contain each pixel, calibrated if the checkpoint
            has a calibration, float32 in [0, 1], `(H, W)`; `(num_classes, H, W)` from a multi-class checkpoint.
        uncertainty (`list[np.ndarray]`): binary entropy of the confidence in bits, float32 in [0, 1]; same shape.
        consensus (`list[np.ndarray]`): confidence >= threshold, bool `(H, W)`; a label map, uint8, with several
            classes.
        offsets (`list[tuple[int, int]]`, *optional*): with `region_output="region"`, x and y of the upper left corner
            of each image's window in the image, which may be negative; (0, 0) without a region.
    """

    masks: list
    confidence: list
    uncertainty: list
    consensus: list
    offsets: list | None = None
