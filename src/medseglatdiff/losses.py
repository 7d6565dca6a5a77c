"""The objectives, as pure functions: reconstruction of images and masks, bottleneck terms, denoising."""

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin


def weighted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Mean over pixels of `class_weights[label] * -log softmax(logits)[label]` (MedSegLatDiff, arXiv 2512.01292).

    The mean is over pixels, not over weights: a batch without foreground then costs as much per pixel as any other.

    Args:
        logits (`torch.Tensor` of shape `(batch, 1 + num_classes, height, width)`): background first.
        labels (`torch.Tensor` of shape `(batch, height, width)`, int64): 0 for background, then the classes.
        class_weights (`torch.Tensor` of shape `(1 + num_classes,)`): positive weights; `(1, 50)` in the paper for
            LIDC.
    """
    return F.cross_entropy(logits.float(), labels, weight=class_weights, reduction="none").mean()


def class_weights_from_frequencies(pixel_counts: torch.Tensor) -> torch.Tensor:
    """Inverse square root of each class's share of the pixels, with background at 1.

    The plain inverse would weight LIDC's foreground by several hundred, which swells every border; its square root
    keeps the order of the classes. `pixel_counts`: `(1 + num_classes,)`, from the training split, all > 0.
    """
    if (pixel_counts <= 0).any():
        raise ValueError(f"`pixel_counts` must be positive for every class, but was {pixel_counts.tolist()}.")
    return (pixel_counts[0] / pixel_counts.float()).sqrt()  # [1 + num_classes]


def mask_mse(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared error between softmax and one-hot labels: a baseline for the weighted cross entropy."""
    one_hot = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)  # [B, K, H, W]
    return F.mse_loss(logits.float().softmax(dim=1), one_hot.float())


def mask_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice of the foreground classes, per mask and class, then the mean: the other common loss for masks.

    Sums over pixels are smoothed by one pixel, so that an empty mask that is reconstructed empty costs nothing.
    """
    one_hot = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].float()  # [B, K, H, W]
    shares = logits.float().softmax(dim=1)[:, 1:]  # [B, K, H, W]
    both, either = (shares * one_hot).sum(dim=(2, 3)), (shares + one_hot).sum(dim=(2, 3))  # [B, K] each
    return 1 - ((2 * both + 1) / (either + 1)).mean()


def image_mse(reconstruction: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared error of images in [-1, 1], both `(batch, channels, height, width)`."""
    return F.mse_loss(reconstruction.float(), images.float())


def kl_divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, the mean over latent values (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()


def prediction_target(
    scheduler: SchedulerMixin, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the U-Net must predict under the scheduler's `prediction_type`: the noise, the velocity or the clean
    latents.

    The velocity is v = sqrt(a) * noise - sqrt(1 - a) * latents (Salimans & Ho 2022, arXiv 2202.00512, section 4).
    All tensors are `(batch, channels, h, w)`; `timesteps` is `(batch,)`.
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if prediction_type == "sample":
        return latents
    raise ValueError(
        f"`prediction_type` must be 'epsilon', 'v_prediction' or 'sample', but the scheduler has {prediction_type!r}."
    )


def diffusion_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the denoiser, both of any same shape, computed in float32."""
    return (prediction.float() - target.float()).square().mean()


def straight_through(shares: torch.Tensor) -> torch.Tensor:
    """Hard masks, as users see them, with the gradients of the soft ones (Bengio et al. 2013, arXiv 1308.3432).

    Args:
        shares (`torch.Tensor` of shape `(batch, 1 + num_classes, height, width)`): softmax over the classes.

    Returns:
        one-hot masks of the foreground classes, `(batch, num_classes, height, width)`.
    """
    hard = F.one_hot(shares.max(dim=1).indices, shares.shape[1]).movedim(-1, 1)  # [B, 1 + K, H, W]
    return (hard + shares - shares.detach())[:, 1:]  # [B, K, H, W]


def jaccard_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Pairwise 1 - IoU, `(..., M, N)`, of binary masks `(..., M, K, H, W)` and `(..., N, K, H, W)`, linear in each
    pixel's probability.

    IoU = sum(ab) / sum(a + b - ab), with one pixel added to both sums, so that two empty masks are equal; averaged
    over classes. Products, not minima: at binary masks a minimum has no useful gradient.
    """
    # [..., K, M, HW], [..., K, N, HW]
    first, second = (masks.float().flatten(-2).transpose(-3, -2) for masks in (first, second))
    with torch.autocast(first.device.type, enabled=False):  # half precision cannot count pixels
        both = first @ second.mT  # [..., K, M, N]
    either = first.sum(dim=-1)[..., :, None] + second.sum(dim=-1)[..., None, :] - both  # [..., K, M, N]
    return (1 - (both + 1) / (either + 1)).mean(dim=-3)  # [..., M, N]


def energy_score(samples: torch.Tensor, raters: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """2 E[d(S, Y)] - E[d(S, S')] over distinct samples, `(...)`: a proper score of their distribution.

    It is the generalised energy distance without the term between raters, which no model changes, and unbiased in
    the number of samples (Gneiting & Raftery 2007, eq. 22, with d of `jaccard_distances`).

    Args:
        samples (`torch.Tensor` of shape `(..., M, K, H, W)`): masks of the foreground classes, M at least 2.
        raters (`torch.Tensor` of shape `(..., R, K, H, W)`): the raters' masks, one-hot.
        weights (`torch.Tensor` of shape `(..., R)`, *optional*): of the raters, with sum 1; equal if `None`.
    """
    among, count = jaccard_distances(samples, samples), samples.shape[-4]  # [..., M, M]
    distinct = (among.sum(dim=(-2, -1)) - among.diagonal(dim1=-2, dim2=-1).sum(dim=-1)) / (count * (count - 1))
    to_raters = jaccard_distances(samples, raters).mean(dim=-2)  # [..., R]
    to_truth = to_raters.mean(dim=-1) if weights is None else (weights * to_raters).sum(dim=-1)
    return 2 * to_truth - distinct
