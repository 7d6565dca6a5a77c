"""The public contract of the pipeline, on tiny real components."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import DEFAULT_PRESET, PAPER_PRESET, tiny_pipeline, tiny_unet, tiny_vae
from diffusers import DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, HeunDiscreteScheduler

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.pipeline.aggregation import aggregate, binary_entropy, calibrate


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, size, dtype=np.uint8) for size in ((32, 32), (20, 45), (64, 40))]


def test_output_types_shapes_and_ranges(pipeline):
    output = pipeline(pictures(), generator=seeded(3))
    for image, masks, confidence, uncertainty, consensus in zip(
        pictures(), output.masks, output.confidence, output.uncertainty, output.consensus, strict=True
    ):
        assert masks.shape == (3, *image.shape) and masks.dtype == bool
        assert confidence.shape == image.shape and confidence.dtype == np.float32
        assert np.allclose(confidence, masks.mean(axis=0))
        assert uncertainty.dtype == np.float32 and uncertainty.min() >= 0 and uncertainty.max() <= 1
        assert np.array_equal(consensus, confidence >= 0.5) and consensus.dtype == bool


def test_multi_class_output():
    pipeline = tiny_pipeline(num_classes=3, image_channels=3)
    output = pipeline(pictures()[1], generator=seeded(1))
    assert output.masks[0].dtype == np.uint8 and output.masks[0].max() <= 3
    assert output.confidence[0].shape == (3, 20, 45)
    for label in (1, 2, 3):
        assert np.allclose(output.confidence[0][label - 1], (output.masks[0] == label).mean(axis=0))
    assert output.consensus[0].dtype == np.uint8 and output.consensus[0].shape == (20, 45)


def test_output_type_pt_and_pil_and_tuple(pipeline):
    arrays = pipeline(pictures()[:1], generator=seeded(1))
    tensors = pipeline(pictures()[:1], generator=seeded(1), output_type="pt")
    images = pipeline(pictures()[:1], generator=seeded(1), output_type="pil", return_dict=False)
    assert tensors.masks[0].dtype == torch.bool
    assert np.array_equal(tensors.masks[0].numpy(), arrays.masks[0])
    assert np.array_equal(np.stack([np.asarray(image) for image in images[0][0]]) > 0, arrays.masks[0])
    assert np.array_equal(np.asarray(images[1][0]), (arrays.confidence[0] * 255).round().astype(np.uint8))


def test_same_seed_same_masks_other_seed_other_masks(pipeline):
    first, second = (pipeline(pictures()[0], generator=seeded(1)).masks[0] for _ in range(2))
    assert np.array_equal(first, second)
    other = pipeline(pictures()[0], generator=torch.Generator().manual_seed(99)).masks[0]
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


SCHEDULERS = [None, DPMSolverMultistepScheduler, HeunDiscreteScheduler, DDPMScheduler]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_masks_do_not_depend_on_neighbours_or_batch_size(scheduler, batch_size):
    pipeline = tiny_pipeline()
    if scheduler is not None:
        options = {} if scheduler is not HeunDiscreteScheduler else {"rescale_betas_zero_snr": False}
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **options)
    together = pipeline(pictures(), num_inference_steps=3, generator=seeded(3), batch_size=batch_size)
    for index, image in enumerate(pictures()):
        alone = pipeline(image, num_inference_steps=3, generator=[seeded(3)[index]])
        assert (alone.masks[0] != together.masks[index]).mean() <= 0.001


def test_one_generator_draws_image_by_image(pipeline):
    shared = torch.Generator().manual_seed(0)
    noise = [torch.randn(3, 1, 8, 8, generator=shared) for _ in range(2)]
    drawn = pipeline(pictures()[:2], generator=torch.Generator().manual_seed(0))
    given = pipeline(pictures()[:2], latents=torch.cat(noise))
    assert all(np.array_equal(a, b) for a, b in zip(drawn.masks, given.masks, strict=True))


def test_each_image_is_encoded_once_and_conditions_its_own_masks(pipeline):
    swapped = pipeline(pictures()[::-1], generator=seeded(3)[::-1])
    straight = pipeline(pictures(), generator=seeded(3))
    assert all((a != b).mean() <= 0.001 for a, b in zip(straight.masks, swapped.masks[::-1], strict=True))


@pytest.mark.parametrize("options", [{}, {"scheduler": PAPER_PRESET}, {"num_classes": 2, "image_channels": 3}])
def test_save_load_round_trip(options, tmp_path):
    pipeline = tiny_pipeline(**options, threshold=0.3, stretch=True)
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["medseglatdiff", "MedSegLatDiffUNet"]
    assert index["mask_vae"] == index["image_encoder"] == ["medseglatdiff", "MedSegLatDiffVAE"]
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.threshold == 0.3 and loaded.config.stretch is True
    assert loaded.scheduler.config.items() >= options.get("scheduler", DEFAULT_PRESET).items()
    expected, actual = (pipe(pictures()[0], generator=seeded(1)).masks[0] for pipe in (pipeline, loaded))
    assert np.array_equal(expected, actual)


def test_half_precision_weights_load_as_single_precision(pipeline, tmp_path):
    pipeline.to(torch.float16).save_pretrained(tmp_path)
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path)
    assert loaded.unet.dtype == loaded.mask_vae.dtype == torch.float32
    assert loaded(pictures()[0], generator=seeded(1)).masks[0].shape == (3, 32, 32)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(images=[]), "`images`"),
        (dict(images=np.zeros((4, 4, 7), np.uint8)), "`images`"),
        (dict(images=np.full((4, 4), np.nan, np.float32)), "`images`"),
        (dict(images=np.full((4, 4), np.inf, np.float32)), "`images`"),
        (dict(images=np.zeros((0, 4), np.uint8)), "`images`"),
        (dict(num_masks=0), "`num_masks` must be at least 1"),
        (dict(num_masks=200_000), "`num_masks` must be at most 1,024, but was 200,000"),
        (dict(num_candidates=5000), "`num_candidates` must be at most 4,096, but was 5,000"),
        (dict(num_inference_steps=1001), "`num_inference_steps` must be at most 1,000, but was 1,001"),
        (dict(num_masks=2.0), "`num_masks` must be an integer"),
        (dict(num_inference_steps=0), "`num_inference_steps` must be at least 1"),
        (dict(batch_size=-1), "`batch_size` must be at least 1"),
        (dict(generator=[torch.Generator()] * 2), "`generator` must be one generator or a list with one per image"),
        (dict(generator=[0]), "`generator` must be"),
        (dict(latents=torch.zeros(1, 1, 8, 8)), "`latents` must have shape"),
        (dict(output_type="jpg"), "`output_type` must be"),
    ],
)
def test_bad_arguments_are_named(pipeline, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pipeline(**{"images": pictures()[0], **arguments})


def test_components_that_do_not_fit_are_refused(pipeline):
    parts = dict(pipeline.components)
    with pytest.raises(ValueError, match="`unet` must have"):
        MedSegLatDiffPipeline(**{**parts, "mask_vae": tiny_vae(2, latent_channels=2)})
    with pytest.raises(ValueError, match="`unet` must take"):
        MedSegLatDiffPipeline(**{**parts, "unet": tiny_unet(condition_channels=5)})


def test_a_missing_or_foreign_part_is_an_error(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    config = tmp_path / "unet" / "config.json"
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        MedSegLatDiffPipeline.from_pretrained(tmp_path)
    weights.write_bytes(content)
    config.write_text((tmp_path / "mask_vae" / "config.json").read_text())
    with pytest.raises((ValueError, RuntimeError, KeyError)):
        MedSegLatDiffPipeline.from_pretrained(tmp_path)


def test_loads_through_the_generic_class(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    shim = Path(__file__).parents[1] / "pipelines" / "medseglatdiff-lidc-idri" / "pipeline.py"
    loaded = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(shim), trust_remote_code=True)
    assert type(loaded).__name__ == "MedSegLatDiffPipeline"


def test_entropy_and_aggregate_against_closed_forms():
    assert torch.allclose(binary_entropy(torch.tensor([0.0, 0.5, 1.0, 0.25])), torch.tensor([0, 1, 0, 0.8112781]))
    labels = torch.tensor([[0, 1, 2, 2], [0, 1, 1, 2], [0, 0, 1, 2], [0, 2, 2, 2]])[:, None]  # [4, 1, 4]
    confidence, _, consensus = aggregate(labels, num_classes=2, threshold=0.5)
    assert confidence[:, 0].tolist() == [[0, 0.5, 0.5, 0], [0, 0.25, 0.5, 1]]
    assert consensus[0].tolist() == [0, 1, 1, 2]


def test_stretch_makes_masks_independent_of_contrast():
    pipeline = tiny_pipeline(stretch=True)
    image = pictures()[0].astype(np.float32) / 255
    image = (image - image.min()) / (image.max() - image.min())
    plain, dim = pipeline(image, generator=seeded(1)), pipeline(image * 0.3 + 0.1, generator=seeded(1))
    assert (plain.masks[0] != dim.masks[0]).mean() <= 0.001


def test_pil_path_and_tensor_agree(pipeline, tmp_path):
    array = pictures()[0]
    PIL.Image.fromarray(array).save(tmp_path / "image.png")
    inputs = [array, PIL.Image.fromarray(array), tmp_path / "image.png", torch.from_numpy(array)[None]]
    results = [pipeline(entry, generator=seeded(1)).masks[0] for entry in inputs]
    assert all(np.array_equal(results[0], result) for result in results[1:])


CALIBRATION = {"shares": [0.0, 0.25, 1.0], "confidences": [0.0, 0.5, 0.8]}


def test_calibration_follows_straight_lines_between_its_points():
    shares = torch.tensor([0.0, 0.125, 0.25, 0.5, 0.625, 1.0])
    assert torch.allclose(calibrate(shares, CALIBRATION), torch.tensor([0.0, 0.25, 0.5, 0.6, 0.65, 0.8]))
    assert np.allclose(calibrate(shares, CALIBRATION), np.interp(shares, *CALIBRATION.values()))


def test_calibrated_pipeline_survives_saving(tmp_path):
    plain, calibrated = tiny_pipeline(), tiny_pipeline(calibration=CALIBRATION, threshold=0.55)
    calibrated.save_pretrained(tmp_path)
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path)
    before, after = (pipeline(pictures()[0], generator=seeded(1)) for pipeline in (plain, loaded))
    assert np.array_equal(before.masks[0], after.masks[0])
    assert np.allclose(after.confidence[0], np.interp(before.confidence[0], *CALIBRATION.values()))
    assert np.array_equal(after.consensus[0], after.confidence[0] >= 0.55)


@pytest.mark.parametrize(
    "calibration",
    [
        {"shares": [0, 1]},
        {"shares": [0, 1], "confidences": [0.5, 0.4]},
        {"shares": [0.1, 1], "confidences": [0, 1]},
        {"shares": [0, 0.5, 0.5, 1], "confidences": [0, 0.1, 0.2, 1]},
        {"shares": [0, 1], "confidences": [0, 1.1]},
        [0, 1],
    ],
)
def test_calibrations_that_are_none_are_refused(calibration):
    with pytest.raises(ValueError, match="`calibration` must have `shares`"):
        tiny_pipeline(calibration=calibration)
