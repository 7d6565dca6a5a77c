"""From hypotheses to what follows from them: confidence, uncertainty, consensus, and pictures of all of these."""

import numpy as np
import PIL.Image
import torch


def binary_entropy(confidence: torch.Tensor) -> torch.Tensor:
    """Entropy of a Bernoulli variable in bits, -p log2 p - (1 - p) log2 (1 - p), with 0 log 0 = 0."""
    other = 1 - confidence
    return -(torch.xlogy(confidence, confidence) + torch.xlogy(other, other)) / np.log(2)


def aggregate(
    labels: torch.Tensor, num_classes: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Confidence, uncertainty and consensus of one image's hypotheses: a pure function of the label maps.

    Args:
        labels (`torch.Tensor` of shape `(num_masks, H, W)`): 0 for background, then the classes.
        num_classes (`int`): foreground classes, K.
        threshold (`float`): least confidence of the consensus, in (0, 1]; among several classes the most confident
            wins.

    Returns:
        confidence and uncertainty, float32 `(K, H, W)`, and the consensus as labels, uint8 `(H, W)`.
    """
    classes = torch.arange(1, num_classes + 1, device=labels.device)[:, None, None, None]  # [K, 1, 1, 1]
    confidence = (labels == classes).float().mean(dim=1)  # [K, H, W]
    highest, winner = confidence.max(dim=0)  # [H, W], [H, W]
    consensus = torch.where(highest >= threshold, winner + 1, 0).to(torch.uint8)  # [H, W]
    return confidence, binary_entropy(confidence), consensus


def to_pil(array: np.ndarray) -> PIL.Image.Image | list[PIL.Image.Image]:
    """Mode "L": bool as 0/255, labels as they are, floats in [0, 1] as 0..255; a list where there are several."""
    if array.ndim == 3:
        return [to_pil(entry) for entry in array]
    if array.dtype == np.uint8:
        return PIL.Image.fromarray(array)
    return PIL.Image.fromarray((array.astype(np.float32) * 255).round().astype(np.uint8))
