"""The objectives against closed forms."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from medseglatdiff.losses import (
    class_weights_from_frequencies,
    diffusion_loss,
    energy_score,
    image_mse,
    jaccard_distances,
    kl_divergence,
    mask_dice,
    mask_mse,
    prediction_target,
    straight_through,
    weighted_cross_entropy,
)
from medseglatdiff.metrics import generalized_energy_distance, iou


def scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(prediction_type=prediction_type, beta_schedule="scaled_linear", rescale_betas_zero_snr=True)


def test_weighted_cross_entropy_of_even_logits():
    labels = torch.tensor([[[0, 0, 0, 1]]])
    loss = weighted_cross_entropy(torch.zeros(1, 2, 1, 4), labels, torch.tensor([1.0, 50.0]))
    assert loss.item() == pytest.approx(math.log(2) * (3 + 50) / 4)


def test_weighted_cross_entropy_of_known_probabilities():
    logits = torch.tensor([0.2, 0.8]).log().view(1, 2, 1, 1)
    weights = torch.tensor([1.0, 3.0])
    assert weighted_cross_entropy(logits, torch.ones(1, 1, 1, dtype=torch.long), weights).item() == pytest.approx(
        -3 * math.log(0.8), rel=1e-5
    )


def test_class_weights_are_square_roots_of_inverse_frequencies():
    assert class_weights_from_frequencies(torch.tensor([900, 100, 9])).tolist() == pytest.approx([1, 3, 10])
    with pytest.raises(ValueError, match="`pixel_counts`"):
        class_weights_from_frequencies(torch.tensor([10, 0]))


def test_mean_squared_errors():
    assert mask_mse(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)).item() == pytest.approx(0.25)


def test_dice_loss_in_closed_form():
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, :2, :2] = 1  # 4 pixels; the second mask is empty
    perfect = torch.stack([1.0 - labels, labels.float()], dim=1) * 200 - 100
    assert mask_dice(perfect, labels).item() == pytest.approx(0, abs=1e-6)
    half = torch.zeros(2, 2, 4, 4)  # every pixel is foreground by half: (2 * 2 + 1) / (8 + 4 + 1), and 1 / (8 + 1)
    assert mask_dice(half, labels).item() == pytest.approx(1 - (5 / 13 + 1 / 9) / 2)
    assert image_mse(torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), -0.5)).item() == pytest.approx(1.0)


def test_kl_divergence_against_torch():
    mean, logvar = torch.tensor([0.3, -1.0]), torch.tensor([-0.5, 1.0])
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    assert kl_divergence(mean, logvar).item() == pytest.approx(expected.item(), rel=1e-5)


def test_targets_recover_the_latents():
    """For each prediction type, scheduler.step from the exact target gives back the clean latents."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1, 1, 4, 4, generator=generator)
    timesteps = torch.tensor([400])
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        process = scheduler(prediction_type)
        process.set_timesteps(10)
        noisy = process.add_noise(latents, noise, timesteps)
        target = prediction_target(process, latents, noise, timesteps)
        clean = process.step(target, 400, noisy).pred_original_sample
        assert torch.allclose(clean, latents.clamp(-1, 1), atol=1e-4)  # the scheduler's default clips


def test_diffusion_loss_is_the_mean_squared_error():
    prediction, target = torch.zeros(2, 1, 2, 2), torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert diffusion_loss(prediction, target).item() == pytest.approx(5.0)
    assert diffusion_loss(prediction.half(), target.half() * 200).dtype == torch.float32  # 600**2 is no half number
    assert diffusion_loss(prediction.half(), target.half() * 200).item() == pytest.approx(200_000)


def test_unknown_prediction_type_is_an_error():
    process = scheduler("sample")
    process.register_to_config(prediction_type="score")
    with pytest.raises(ValueError, match="`prediction_type`"):
        prediction_target(process, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([0]))


def random_masks(count: int, seed: int) -> torch.Tensor:
    """Binary masks of one class, float32 `(count, 1, 64, 64)`, a few hundred pixels each."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 1, 64, 64)
    for mask in masks:
        top, left = torch.randint(8, 24, (2,), generator=generator).tolist()
        mask[0, top : top + 24, left : left + 20] = 1
    return masks


def test_soft_jaccard_distance_of_binary_masks_is_one_minus_iou():
    first, second = random_masks(3, 0), random_masks(4, 1)
    distances = jaccard_distances(first, second)
    expected = [[1 - iou(a[0].numpy() > 0, b[0].numpy() > 0) for b in second] for a in first]
    assert distances.shape == (3, 4)
    torch.testing.assert_close(distances, torch.tensor(expected, dtype=torch.float32), atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_jaccard_distance_counts_every_pixel_in_half_precision(dtype):
    square = torch.zeros(2, 1, 64, 64, dtype=dtype)
    square[0, :, :43, :23] = square[1, :, :43, :24] = 1  # 989 and 1,032 pixels: neither fits bfloat16's eight bits
    with torch.autocast("cpu", torch.bfloat16):
        distances = jaccard_distances(square, square)
    torch.testing.assert_close(distances, torch.tensor([[0, 1 - 990 / 1033], [1 - 990 / 1033, 0]]), atol=1e-6, rtol=0)


def test_jaccard_distance_of_empty_masks_and_of_several_classes():
    square, empty = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    assert jaccard_distances(square, square).item() == jaccard_distances(empty, empty).item() == 0
    assert jaccard_distances(square, empty).item() == pytest.approx(1 - 1 / (16 + 1))
    two_classes = torch.cat([square, empty], dim=1)  # [1, 2, 4, 4]: distances 16/17 and 0
    assert jaccard_distances(two_classes, torch.zeros(1, 2, 4, 4)).item() == pytest.approx(8 / 17)


def test_straight_through_shows_hard_masks_and_passes_soft_gradients():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    masks = straight_through(logits.softmax(dim=1))
    torch.testing.assert_close(masks, torch.stack([logits.argmax(dim=1) == k for k in (1, 2)], dim=1).float())
    (actual,) = torch.autograd.grad((masks * weights).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(dim=1)[:, 1:] * weights).sum(), logits)
    torch.testing.assert_close(actual, expected)


def test_energy_score_pulls_a_missing_pixel_in_and_a_wrong_one_out():
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 1, 1] = 1
    truth = torch.zeros(1, 1, 4, 4)
    truth[:, :, 1, 2] = 1
    mask.requires_grad_()
    (gradient,) = torch.autograd.grad(energy_score(mask, truth), mask)
    assert (gradient[:, :, 1, 2] < 0).all() and (gradient[:, :, 1, 1] > gradient[:, :, 0, 0]).all()


def test_energy_score_is_the_unbiased_energy_distance_without_the_raters_own_term():
    samples, raters = random_masks(5, 2), random_masks(4, 3)
    own = jaccard_distances(raters, raters).mean().item()  # with the diagonal, as GED takes it
    distance = generalized_energy_distance(samples[:, 0].numpy() > 0, raters[:, 0].numpy() > 0, unbiased=True)
    assert energy_score(samples, raters).item() - own == pytest.approx(distance, abs=5e-3)


def test_energy_score_prefers_the_raters_distribution():
    """Two equally frequent answers: drawing both scores better than repeating either, their union or nothing."""
    answers = random_masks(2, 4)
    both = energy_score(answers, answers)
    for single in (answers[:1], answers.amax(dim=0, keepdim=True), torch.zeros(1, 1, 64, 64)):
        assert both < energy_score(single.repeat(2, 1, 1, 1), answers)
