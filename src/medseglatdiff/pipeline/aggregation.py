"""Confidence, uncertainty and consensus of hypotheses, and their conversion to arrays and pictures."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch

from ..models.checks import number, several

POINTS = several(number(0, 1), 2, 10_000)  # shares or confidences of a calibration


def binary_entropy(confidence: torch.Tensor) -> torch.Tensor:
    """Entropy of a Bernoulli variable in bits, -p log2 p - (1 - p) log2 (1 - p), with 0 log 0 = 0."""
    other = 1 - confidence
    return -(torch.xlogy(confidence, confidence) + torch.xlogy(other, other)) / np.log(2)


def check_calibration(calibration: dict | None):
    """Raises a `ValueError` unless `calibration` is `None` or valid for `calibrate`."""
    if calibration is None:
        return
    try:
        points = [calibration[name] for name in ("shares", "confidences")]
        shares, confidences = (np.asarray(values, float) for values in points)
        fits = all(map(POINTS.holds, points)) and shares.shape == confidences.shape
        fits = fits and bool(shares[0] == 0 and shares[-1] == 1 and (np.diff(shares) > 0).all())
        fits = fits and bool(confidences[0] >= 0 and confidences[-1] <= 1 and (np.diff(confidences) >= 0).all())
    except (TypeError, ValueError, KeyError, IndexError):
        fits = False
    if not fits:
        raise ValueError(
            "`calibration` must have `shares` that rise from 0 to 1 and equally many `confidences` in [0, 1] that do "
            f"not fall, but was {calibration!r}."
        )


def calibrate(shares: torch.Tensor, calibration: dict) -> torch.Tensor:
    """Confidences from shares of hypotheses, by linear interpolation between the points of `calibration`.

    Args:
        shares (`torch.Tensor`): in [0, 1], of any shape.
        calibration (`dict`): lists `shares` and `confidences`, as `medseglatdiff calibrate` fits them.
    """
    points = (calibration[name] for name in ("shares", "confidences"))
    known, confidences = (torch.tensor(values, dtype=torch.float32, device=shares.device) for values in points)
    upper = torch.bucketize(shares, known).clamp(1, len(known) - 1)
    weight = (shares - known[upper - 1]) / (known[upper] - known[upper - 1])
    return torch.lerp(confidences[upper - 1], confidences[upper], weight)


def aggregate(
    labels: torch.Tensor, num_classes: int, threshold: float, calibration: dict | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Confidence, uncertainty and consensus of one image's hypotheses: a pure function of the label maps.

    Args:
        labels (`torch.Tensor` of shape `(num_masks, H, W)`): 0 for background, then the classes.
        num_classes (`int`): foreground classes, K.
        threshold (`float`): least confidence of the consensus, in (0, 1]; with several classes the most confident
            one wins.
        calibration (`dict`, *optional*): for `calibrate`; if `None`, the confidence is the share of hypotheses.

    Returns:
        confidence and uncertainty, float32 `(K, H, W)`, and the consensus as labels, uint8 `(H, W)`.
    """
    classes = torch.arange(1, num_classes + 1, device=labels.device)[:, None, None, None]  # [K, 1, 1, 1]
    confidence = (labels == classes).float().mean(dim=1)  # [K, H, W]
    if calibration is not None:
        confidence = calibrate(confidence, calibration)  # [K, H, W]
    highest, winner = confidence.max(dim=0)  # [H, W], [H, W]
    consensus = torch.where(highest >= threshold, winner + 1, 0).to(torch.uint8)  # [H, W]
    return confidence, binary_entropy(confidence), consensus


def to_pil(array: np.ndarray) -> PIL.Image.Image | list[PIL.Image.Image]:
    """Mode "L": bool as 0/255, labels unchanged, floats in [0, 1] as 0..255; a list for three dimensions."""
    return [_picture(entry) for entry in array] if array.ndim == 3 else _picture(array)


def _picture(array: np.ndarray) -> PIL.Image.Image:
    if array.dtype == np.uint8:
        return PIL.Image.fromarray(array)
    return PIL.Image.fromarray((array.astype(np.float32) * 255).round().astype(np.uint8))


def convert(results: Sequence[torch.Tensor], num_classes: int, output_type: str) -> tuple:
    """One image's results in the pipeline's `output_type`; binary results have no class dimension.

    Args:
        results: labels, confidence, uncertainty and consensus.
    """
    labels, confidence, uncertainty, consensus = results
    if num_classes == 1:
        labels, consensus = labels.bool(), consensus.bool()  # [M, H, W], [H, W]
        confidence, uncertainty = confidence[0], uncertainty[0]  # [H, W], [H, W]
    if output_type == "pt":
        return labels, confidence, uncertainty, consensus
    arrays = tuple(value.cpu().numpy() for value in (labels, confidence, uncertainty, consensus))
    return arrays if output_type == "np" else tuple(to_pil(array) for array in arrays)
