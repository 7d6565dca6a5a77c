"""The two halves of a call, hooks between steps, schedulers that work or are refused, and what is not finite."""

import threading
import warnings

import diffusers
import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from medseglatdiff.pipeline.sampling import SamplingInterrupted, denoise
from medseglatdiff.pipeline.schedulers import check_scheduler
from medseglatdiff.training.energy import FewStepSampler

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 45), dtype=np.uint8)


def test_a_call_is_its_two_halves():
    pipeline = tiny_pipeline(default_num_candidates=9, symmetries=4, antithetic=True)
    images = [IMAGE, IMAGE[:, ::-1].copy()]
    whole = pipeline(images, num_masks=3, seed=5)
    candidates = pipeline.sample(images, seed=5, num_candidates=9, batch_size=3)
    assert candidates.latents.shape == (2, 9, 1, 8, 8) and candidates.sizes == [(20, 45)] * 2
    halves = pipeline.select(candidates, 3)
    for name in ("masks", "confidence", "uncertainty", "consensus"):
        assert all(np.array_equal(a, b) for a, b in zip(whole[name], halves[name], strict=True)), name


def test_candidates_serve_any_number_of_selections_and_decode_once():
    pipeline = tiny_pipeline()
    candidates = pipeline.sample(IMAGE, seed=0, num_candidates=6)
    everything = pipeline.select(candidates, 6).masks[0]
    candidates.probabilities = [pipeline.decode(latents) for latents in candidates.latents]
    candidates.latents = torch.full_like(candidates.latents, torch.nan)  # from now on they are not needed
    assert np.array_equal(pipeline.select(candidates, 6).masks[0], everything)
    few = pipeline.select(candidates, 2).masks[0]
    assert all(any(np.array_equal(mask, one) for one in everything) for mask in few) and len(few) == 2
    with pytest.raises(ValueError, match="`num_masks` must be at most the number of candidates, 6, but was 7"):
        pipeline.select(candidates, 7)


@pytest.mark.parametrize("name", ["inside", "outside"])
def test_points_keep_the_candidates_that_hold_them_or_do_not(name):
    pipeline = tiny_pipeline()
    candidates = pipeline.sample(IMAGE, seed=1, num_candidates=16)
    masks = pipeline.select(candidates, 16).masks[0]  # [16, H, W], in the candidates' order
    share = masks.mean(axis=0)
    y, x = np.argwhere((share > 0.2) & (share < 0.8))[0]
    kept = pipeline.select(candidates, 16, **{name: [[(x, y)]]}).masks[0]
    expected = masks[masks[:, y, x] == (name == "inside")]
    assert 0 < len(kept) < 16 and np.array_equal(kept, expected)


def test_points_that_no_candidate_fits_are_refused():
    pipeline = tiny_pipeline()
    candidates = pipeline.sample(IMAGE, seed=1, num_candidates=4)
    with pytest.raises(ValueError, match="None of the 4 candidates of image 0 fits `inside` and `outside`"):
        pipeline.select(candidates, inside=[[(3, 4)]], outside=[[(3, 4)]])
    with pytest.raises(ValueError, match="must lie in the segmented part"):
        pipeline.select(candidates, inside=[[(45, 4)]])
    with pytest.raises(ValueError, match="`inside` must have one list of points"):
        pipeline.select(candidates, inside=[[(1, 1)], [(2, 2)]])


def test_callbacks_see_each_step_of_each_batch_and_may_change_latents():
    pipeline, seen = tiny_pipeline(), []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), tuple(tensors["latents"].shape), tuple(tensors["condition"].shape)))
        assert pipe.num_timesteps == 6
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "condition"]
    options = dict(callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    masks = pipeline(IMAGE, 5, 3, seed=0, batch_size=3, **options).masks[0]
    assert [entry[0] for entry in seen] == list(range(6)) and [entry[2][0] for entry in seen] == [3, 3, 3, 2, 2, 2]
    assert seen[0][1] > seen[1][1] > seen[2][1] and seen[0][3][0] == 3
    assert (masks == masks[0]).all()  # the last step's latents were all set to zero
    with pytest.raises(ValueError, match="`callback_on_step_end_tensor_inputs` must be one of"):
        pipeline(IMAGE, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_interrupt_stops_between_two_steps_and_only_that_call():
    pipeline, steps = tiny_pipeline(), []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        assert pipe.interrupt == (step == 1)

    with pytest.raises(SamplingInterrupted, match="Interrupted after step 2 of 4"):
        pipeline(IMAGE, 2, 4, seed=0, callback_on_step_end=callback)
    assert steps == [0, 1] and not pipeline.interrupt
    assert np.array_equal(pipeline(IMAGE, 2, 4, seed=0).masks[0], tiny_pipeline()(IMAGE, 2, 4, seed=0).masks[0])


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_threads_share_a_pipeline(scheduler):
    pipeline = tiny_pipeline()
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    alone = {steps: pipeline(IMAGE, 2, steps, seed=0).masks[0] for steps in (2, 3, 5, 7)}
    got, errors = {}, []

    def work(steps):
        try:
            got[steps] = [pipeline(IMAGE, 2, steps, seed=0).masks[0] for _ in range(3)]
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(steps,)) for steps in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(got) == 4
    assert all(np.array_equal(mask, alone[steps]) for steps, masks in got.items() for mask in masks)


WORKING = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", WORKING)
def test_schedulers_for_diffusion_pass_the_check(name, prediction_type):
    config = DDIMScheduler(prediction_type=prediction_type, clip_sample=False, timestep_spacing="trailing").config
    check_scheduler(getattr(diffusers, name).from_config(config), 10)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_a_prediction_type_that_a_scheduler_lacks_is_refused(name):
    check_scheduler(getattr(diffusers, name)(prediction_type="v_prediction"), 10)
    with pytest.raises(ValueError, match=f"`scheduler` must work with 10 steps, but {name} does not.*sample"):
        check_scheduler(getattr(diffusers, name)(prediction_type="sample"), 10)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("FlowMatchEulerDiscreteScheduler", 4),
        ("FlowMatchHeunDiscreteScheduler", 4),
        ("IPNDMScheduler", 10),
        ("PNDMScheduler", 2),
        ("VQDiffusionScheduler", 4),
        ("EDMEulerScheduler", 4),
    ],
)
def test_schedulers_that_cannot_work_are_refused_by_name(name, steps):
    pipeline = tiny_pipeline()
    kind = getattr(diffusers, name)
    scheduler = kind(num_vec_classes=4) if name.startswith("VQ") else kind.from_config(pipeline.scheduler.config)
    pipeline.register_modules(scheduler=scheduler)
    with pytest.raises(ValueError, match=f"`scheduler` must .*{name}"):
        pipeline(IMAGE, num_inference_steps=steps)


def test_another_prediction_type_than_the_config_names_would_be_seen():
    scheduler = DDIMScheduler(prediction_type="epsilon", clip_sample=False)
    check_scheduler(scheduler, 4)
    scheduler.betas, scheduler.alphas_cumprod = scheduler.betas, scheduler.alphas_cumprod.flip(0)
    with pytest.raises(ValueError, match="`scheduler` must lead from noise to clean latents in 4 steps"):
        check_scheduler(scheduler, 4)


def test_training_by_the_energy_score_samples_as_the_pipeline_does():
    pipeline = tiny_pipeline()
    pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)  # scales its input
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))  # [M, C, h, w]
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))  # [1, 1, S, S]
    expected = pipeline.sample(image, 3, latents=noise, num_candidates=4).latents[0]  # [M, C, h, w]
    trained = FewStepSampler(pipeline.unet, pipeline.image_encoder, pipeline.scheduler, 3)
    latents, logits = trained(2 * image - 1, noise)
    assert torch.allclose(latents, expected, atol=1e-5) and logits is None
    assert latents.requires_grad and not expected.requires_grad


def test_the_loop_feeds_the_network_what_the_scheduler_scales():
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    noise, fed = torch.ones(1, 1, 1, 1), []

    class Network:
        def __call__(self, sample, timestep, condition):
            fed.append(float(sample))
            self.sample = torch.zeros_like(sample)
            return self

    denoise(Network(), scheduler, noise, noise, 2)
    sigmas = scheduler.sigmas.tolist()
    start = float(noise * scheduler.init_noise_sigma)
    assert fed == pytest.approx([start / (sigma**2 + 1) ** 0.5 for sigma in sigmas[:2]])


@pytest.mark.parametrize("part", ["unet", "mask_vae", "image_encoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error(part, value):
    pipeline = tiny_pipeline()
    with torch.no_grad():
        for parameter in getattr(pipeline, part).parameters():
            parameter.view(-1)[0] = value
    with pytest.raises(ValueError, match="`(latents|logits)` must be finite"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline(IMAGE, seed=0)


def test_noise_that_is_not_finite_is_an_error():
    latents = torch.zeros(3, 1, 8, 8)
    latents[1, 0, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="`latents` must be finite"):
        tiny_pipeline()(IMAGE, 3, latents=latents)


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.5, "1"])
def test_seeds_are_checked(seed):
    with pytest.raises(ValueError, match=r"`seed` must be an integer in \[0, 2\*\*63\)"):
        tiny_pipeline()(IMAGE, seed=seed)


def test_a_seed_is_short_for_a_generator_per_image():
    pipeline = tiny_pipeline()
    by_seed = pipeline([IMAGE, IMAGE], seed=3).masks
    by_generator = pipeline([IMAGE, IMAGE], generator=[torch.Generator().manual_seed(3) for _ in range(2)]).masks
    assert np.array_equal(by_seed[0], by_seed[1])
    assert all(np.array_equal(a, b) for a, b in zip(by_seed, by_generator, strict=True))
    with pytest.raises(ValueError, match="`seed` and `generator` must not be given together"):
        pipeline(IMAGE, seed=3, generator=torch.Generator())
