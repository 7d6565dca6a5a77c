"""What every model must do: shapes, gradients, save and load, determinism; and what is special to each."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import costs, table, tiny_unet, tiny_vae
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medseglatdiff import MedSegLatDiffUNet, MedSegLatDiffVAE


def run(model, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, MedSegLatDiffUNet):
        sample, condition = torch.randn(2, 4, 8, 8, generator=generator).split([1, 3], dim=1)
        return model(sample, torch.tensor([3, 900]), condition).sample
    return model(torch.randn(2, model.config.in_channels, 16, 24, generator=generator)).sample


MODELS = {
    "kl": lambda: tiny_vae(2, latent_channels=2),
    "kl with a small decoder": lambda: tiny_vae(2, decoder_block_out_channels=(12,), decoder_layers_per_block=0),
    "vq": lambda: tiny_vae(3, latent_channels=2, bottleneck="vq", num_codes=16),
    "unet": tiny_unet,
    "unet over patches": lambda: tiny_unet(patch_size=2),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_output_has_the_input_size_and_is_deterministic(model):
    output = run(model)
    assert output.shape == (
        (2, 1, 8, 8) if isinstance(model, MedSegLatDiffUNet) else (2, model.config.in_channels, 16, 24)
    )
    assert torch.equal(output, run(model))
    assert not torch.equal(output, run(model, seed=1))


def test_tuple_output(model):
    if isinstance(model, MedSegLatDiffUNet):
        arguments = (torch.zeros(1, 1, 8, 8), 5, torch.zeros(1, 3, 8, 8))
    else:
        arguments = (torch.zeros(1, model.config.in_channels, 8, 8),)
    assert torch.equal(model(*arguments, return_dict=False)[0], model(*arguments).sample)


def test_every_parameter_gets_a_gradient(model):
    output = run(model.train())
    output.square().mean().backward()
    without = [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
    ]
    # a shift of all keys changes no attention weight: its gradient is zero by symmetry, up to rounding
    assert [name for name in without if not name.endswith("to_k.bias")] == []


def test_gradient_checkpointing_changes_no_gradient(model):
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.enable_gradient_checkpointing()
            assert model.is_gradient_checkpointing
        run(model).square().mean().backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_save_and_load_round_trip_without_missing_keys(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == [] and info["unexpected_keys"] == []
    assert json.loads(loaded.to_json_string()) | {"_name_or_path": ""} == json.loads(model.to_json_string()) | {
        "_name_or_path": ""
    }
    assert torch.equal(run(loaded), run(model))


def test_truncated_weights_are_an_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises((OSError, SafetensorError), match="(?i)checkpoint|incomplete|header"):
        type(model).from_pretrained(tmp_path)


def test_vae_scales_latents_inside_encode_and_decode():
    vae = tiny_vae(2, latent_channels=2)
    masks = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    raw, reconstruction = vae.encode(masks), vae.decode(vae.encode(masks))
    mean, std = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
    vae.set_latent_statistics(mean.tolist(), std.tolist())
    scaled = vae.encode(masks)
    assert torch.allclose(scaled.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(scaled.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-5)
    assert torch.allclose(vae.decode(scaled), reconstruction, atol=1e-5)
    assert torch.allclose(vae(masks).latents, scaled)


def test_vae_keeps_its_statistics_when_saved(tmp_path):
    vae = tiny_vae()
    vae.set_latent_statistics([0.5], [2.0])
    vae.save_pretrained(tmp_path)
    assert MedSegLatDiffVAE.from_pretrained(tmp_path).config.latents_std == [2.0]


@pytest.mark.parametrize("mean, std", [([0.0, 0.0], [1.0]), ([0.0], [0.0])])
def test_vae_refuses_wrong_statistics(mean, std):
    with pytest.raises(ValueError, match="`mean` and `std`"):
        tiny_vae().set_latent_statistics(mean, std)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 2, 18, 16), (2, 16, 16)])
def test_vae_refuses_wrong_shapes(shape):
    with pytest.raises(ValueError, match="`sample` must have shape"):
        tiny_vae().encode(torch.zeros(shape))


def test_vae_refuses_an_unknown_bottleneck():
    with pytest.raises(ValueError, match="`bottleneck` must be"):
        MedSegLatDiffVAE(bottleneck="vae")


def test_quantizer_takes_the_nearest_code():
    vae = tiny_vae(bottleneck="vq", num_codes=16)
    latents = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    quantized, commitment = vae.quantizer(latents)
    nearest = (latents.flatten()[:, None] - vae.quantizer.codes[:, 0]).abs().argmin(dim=1)
    assert torch.allclose(quantized.flatten(), vae.quantizer.codes[nearest, 0])
    assert torch.isclose(commitment, (quantized - latents).square().mean())


def test_quantizer_of_half_precision_takes_the_nearest_code():
    quantizer = tiny_vae(bottleneck="vq", num_codes=64).quantizer.bfloat16()
    quantizer.codes.copy_(2 + torch.arange(64)[:, None] / 64)  # each exact in bfloat16
    latents = quantizer.codes.flatten().view(1, 1, 8, 8)
    assert torch.equal(quantizer(latents)[0], latents)


def test_quantizer_learns_the_same_codes_in_half_precision():
    one, other = (tiny_vae(bottleneck="vq", num_codes=8).quantizer.train() for _ in range(2))
    latents = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    one(latents.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other(latents)
    assert torch.equal(one.codes, other.codes)


def test_quantizer_revives_dead_codes_and_fits_the_data():
    quantizer = tiny_vae(bottleneck="vq", num_codes=8).quantizer.train()
    quantizer.codes.fill_(100.0).add_(torch.arange(8)[:, None])
    centres = torch.tensor([-3.0, -1.0, 2.0, 5.0]).repeat(16).view(1, 1, 8, 8)
    for _ in range(400):
        _, commitment = quantizer(centres)
    assert commitment < 1e-3


def test_unet_uses_condition_and_timestep():
    unet = tiny_unet()
    sample, condition = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8)
    base = unet(sample, 10, condition).sample
    assert not torch.allclose(base, unet(sample, 500, condition).sample)
    assert not torch.allclose(base, unet(sample, 10, condition + 1).sample)


def test_unet_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="`sample` and `condition`"):
        tiny_unet()(torch.zeros(1, 1, 8, 8), 0, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="multiples of 2"):
        tiny_unet()(torch.zeros(1, 1, 7, 7), 0, torch.zeros(1, 3, 7, 7))
    with pytest.raises(ValueError, match="`attention`"):
        MedSegLatDiffUNet(attention=(True,))


def test_missing_weight_is_reported(tmp_path):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_out.bias")
    save_file(weights, path)
    _, info = MedSegLatDiffUNet.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == ["conv_out.bias"]


@pytest.mark.parametrize("options", [{}, {"patch_size": 2}, {"patch_size": 2, "initial_noise": True}], ids=str)
def test_unet_trains_every_parameter(options):
    unet = tiny_unet(**options).train()
    noise, condition = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).split([1, 3], dim=1)
    unet(unet.initial_latents(noise, condition), 999, condition).sample.square().mean().backward()
    without = [name for name, value in unet.named_parameters() if value.grad is None or not value.grad.any()]
    assert [name for name in without if not name.endswith("to_k.bias")] == []


def test_unet_over_patches_is_the_unet_of_their_pixels():
    """An oracle: the same layers, given the patches' pixels as channels."""
    patched = tiny_unet(patch_size=2)
    plain = tiny_unet(latent_channels=4)
    weights = patched.state_dict()
    projection = [weights.pop(f"condition_proj.{name}") for name in ("weight", "bias")]
    plain.load_state_dict(weights)
    sample, condition = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(0)).split([1, 3], dim=1)
    projected = F.conv2d(F.pixel_unshuffle(condition, 2), *projection)
    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(sample, 2), 7, projected).sample, 2)
    torch.testing.assert_close(patched(sample, 7, condition).sample, expected)


def test_unet_over_patches_sees_every_pixel_of_a_patch():
    unet = tiny_unet(patch_size=2)
    sample = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    condition = torch.zeros(1, 3, 8, 8, requires_grad=True)
    unet(sample, 10, condition).sample.square().sum().backward()
    assert (sample.grad != 0).all() and (condition.grad != 0).all()


def test_unet_over_patches_refuses_half_patches():
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny_unet(patch_size=2)(torch.zeros(1, 1, 6, 6), 0, torch.zeros(1, 3, 6, 6))
    with pytest.raises(ValueError, match="`patch_size` must be at least 1, but was 0"):
        tiny_unet(patch_size=0)


def test_initial_latents_are_noise_until_the_condition_says_otherwise():
    noise, condition = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).split([1, 3], dim=1)
    assert tiny_unet().initial_latents(noise, condition) is noise
    unet = tiny_unet(initial_noise=True)
    assert torch.equal(unet.initial_latents(noise, condition), noise)
    with torch.no_grad():
        unet.noise_mean.weight[0, 1] = 2.0
        unet.noise_log_std.bias.fill_(0.5)
    expected = 2.0 * condition[:, 1:2] + noise * torch.tensor(0.5).exp()
    torch.testing.assert_close(unet.initial_latents(noise, condition), expected)


@pytest.mark.parametrize("row", table(MedSegLatDiffUNet), ids=str)
def test_unet_costs_what_its_docstring_says(row):
    names = ("patch_size", "condition_channels", "layers_per_block")
    options = {name: int(row[name]) for name in names}
    widths = [int(width) for width in row["block_out_channels"].split(", ")]
    attention = [False] * (len(widths) - 1) + [True]
    unet = MedSegLatDiffUNet(latent_channels=2, block_out_channels=widths, attention=attention, **options).eval()
    sample, condition = torch.zeros(1, 2, 32, 32), torch.zeros(1, options["condition_channels"], 32, 32)
    assert costs(unet, lambda: unet(sample, 5, condition)) == (row["parameters"], row["GFLOP"])


@pytest.mark.parametrize("row", table(MedSegLatDiffVAE), ids=str)
def test_decoder_costs_what_its_docstring_says(row):
    widths = [int(width) for width in row["decoder_block_out_channels"].split(", ")]
    options = dict(decoder_block_out_channels=widths, decoder_layers_per_block=int(row["decoder_layers_per_block"]))
    vae = MedSegLatDiffVAE(block_out_channels=(32, 32), latent_channels=2, **options).eval()
    assert costs(vae.decoder, lambda: vae.decode(torch.zeros(1, 2, 32, 32))) == (row["parameters"], row["GFLOP"])


@pytest.mark.parametrize("bottleneck", ["kl", "vq"])
def test_a_new_decoder_reads_the_same_latents(bottleneck):
    vae = tiny_vae(2, latent_channels=2, bottleneck=bottleneck, num_codes=16)
    vae.set_latent_statistics([0.5, -1.0], [2.0, 0.5])
    other = vae.with_new_decoder(decoder_block_out_channels=[12])
    masks = torch.rand(1, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.encode(masks), vae.encode(masks))
    assert other.decode(vae.encode(masks)).shape == (1, 2, 16, 24)
    assert all(value.shape[0] in (12, 32) for name, value in other.decoder.named_parameters())


@pytest.mark.parametrize("widths", [(), (8, 8, 8)])
def test_vae_refuses_decoders_of_other_depths(widths):
    with pytest.raises(ValueError, match="`decoder_block_out_channels` must have 1 to 2 entries"):
        tiny_vae(decoder_block_out_channels=widths)
