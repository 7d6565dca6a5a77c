"""The baselines that the pipelines are compared with: their networks, losses and predictions."""

import itertools
import math

import baseline_training
import baselines
import numpy as np
import PIL.Image
import pytest
import torch
from baseline_networks import NETWORKS, Baseline

from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.data.splits import SegmentationSplit, load_split


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param](1).eval()


def test_draws_are_probabilities_that_differ_where_the_network_is_random(network):
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        first, second = network.draw(images), network.draw(images)
    assert first.shape == (2, 64, 64) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, second) != network.random


def test_draws_differ_once_dropout_is_left_on():
    torch.manual_seed(0)
    network, images = NETWORKS["dynunet"](1).eval(), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.draw(images), network.draw(images))
        network.leave_dropout_on()
        assert network.random and not torch.equal(network.draw(images), network.draw(images))
        assert network(images).count_nonzero() == 2 * 64 * 64  # no logit is dropped itself


def test_loss_falls_on_one_batch(network):
    images = torch.full((2, 1, 64, 64), -0.5)
    images[:, :, 16:48, 16:48] = 0.5
    labels = (images[:, 0] > 0).long()
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=1e-3), []
    for _ in range(5):
        losses.append(network.loss(images, labels))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


class Threshold(Baseline):
    """Sure of the foreground where the image is bright."""

    def draw(self, images):
        return (images[:, 0] > 0).float()


def test_prediction_turns_every_view_back():
    pixels = np.zeros((64, 64), np.uint8)
    pixels[8:16, 40:60] = 255
    row = {"image": PIL.Image.fromarray(pixels), "image_id": "bright"}
    config = baselines.Config(sample_size=64)
    masks, confidence, uncertainty, consensus = baselines.predict([Threshold()], row, config, 5, 0.5, seed=0)
    assert masks.shape == (5, 64, 64) and confidence.dtype == np.float32
    assert (consensus == (pixels > 0)).all() and (masks == consensus).all() and (confidence == consensus).all()
    assert not uncertainty.any()


def test_draws_depend_on_the_row_and_the_seed_alone():
    torch.manual_seed(0)
    network, config = NETWORKS["conditional_vae"](1).eval(), baselines.Config(sample_size=64)
    rows = [{"image": PIL.Image.new("L", (64, 64), 90), "image_id": name} for name in "ab"]
    with torch.no_grad():
        network.combine[-1].weight *= 100  # untrained, its draws hardly differ
        first, other, again = (baselines.predict([network], rows[n], config, 8, 0.5, seed=0)[1] for n in (0, 1, 0))
        reseeded = baselines.predict([network], rows[0], config, 8, 0.5, seed=1)[1]
    assert (first == again).all() and (first != other).any() and (first != reseeded).any()


class Hesitant(Threshold):
    """Sees in every third draw only what is there."""

    random = True

    def __init__(self):
        super().__init__()
        self.calls = itertools.count()

    def draw(self, images):
        return super().draw(images) * (next(self.calls) % 3 == 0)


def test_the_consensus_of_networks_that_draw_takes_the_threshold_of_the_validation_split(monkeypatch):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[8:16, 40:60] = 255
    picture = PIL.Image.fromarray(pixels)
    rows = [{"image": picture, "masks": [picture], "image_id": str(n), "group_id": str(n)} for n in range(12)]
    monkeypatch.setattr(baselines, "open_split", lambda dataset, split: rows if split == "validation" else [])
    config = baselines.Config(sample_size=64)
    assert baselines.choose_threshold([Threshold()], config, 6) == 0.5
    threshold = baselines.choose_threshold([Hesitant()], config, 6)
    assert 0 < threshold <= 2 / 6  # two of six draws hold the lesion
    *_, consensus = baselines.predict([Hesitant()], rows[0], config, 6, threshold, seed=0)
    assert (consensus == (pixels > 0)).all()


@pytest.fixture
def split():
    return load_split(list(phantom_rows(8, size=64, seed=0)), 1, 64)


CONFIG = baselines.Config(batch_size=2, validation_images=4)


def test_training_keeps_the_best_weights_of_its_looks(split, tmp_path):
    torch.manual_seed(0)
    network = NETWORKS["dynunet"](1)
    training = baseline_training.fit(network, CONFIG, split, split, 2.0, "core_seconds", 0, tmp_path / "checkpoint.pt")
    assert training["steps"] >= training["best_step"] >= 1
    assert baseline_training.validate(network, split, CONFIG) == training["validation_score"]


def test_training_by_steps_ends_with_the_last_of_them(split, tmp_path):
    torch.manual_seed(0)
    network, checkpoint = NETWORKS["dynunet"](1), tmp_path / "checkpoint.pt"
    assert baseline_training.fit(network, CONFIG, split, split, 5, "steps", 0, checkpoint)["steps"] == 5
    (group,) = torch.load(checkpoint, weights_only=True)["optimizer"]["param_groups"]
    warmed, cosine = 5 / 50, (1 + math.cos(math.pi * 4 / 5)) / 2  # of the last step, with four of five done
    assert group["lr"] == pytest.approx(baseline_training.LEARNING_RATE * warmed * cosine)


class Probed(Baseline):
    """Tells in what precision it multiplies: 1 in float32, 0 in bfloat16."""

    def draw(self, images):
        product = images[:, 0] @ images[:, 0]
        return torch.full_like(images[:, 0], product.dtype == torch.float32)


@pytest.mark.parametrize(("precision", "expected"), [("no", 1), ("bf16", 0)])
def test_views_are_drawn_in_the_precision_of_the_preset(precision, expected):
    config = baselines.Config(mixed_precision=precision)
    assert (baseline_training.draw_views([Probed()], torch.ones(1, 1, 8, 8), 2, config) == expected).all()


class Recited(Baseline):
    """Draws the raters' masks in turn, whatever the image: one look each."""

    random = True

    def __init__(self, raters: torch.Tensor):
        super().__init__()
        self.raters = itertools.cycle(raters.float())

    def draw(self, images):
        return next(self.raters)[None]


def test_networks_that_draw_are_judged_by_their_distance_from_the_raters(split):
    one = SegmentationSplit(split.images[:1], torch.ones(4, 64, 64, dtype=torch.uint8), torch.tensor([0, 4]), 1)
    one.labels[0] = one.labels[1] = 0  # two of four raters marked nothing: no view can change either mask
    assert baseline_training.validate(Recited(one.raters(0)), one, CONFIG) == pytest.approx(0)
    distance = 2 * 1 / 2 - 0 - 1 / 2  # of two equal masks from raters of whom half agree with them
    assert baseline_training.validate(Recited(one.raters(0)[2:]), one, CONFIG) == pytest.approx(-distance)


class Interrupted:
    """A split that is interrupted as soon as there is a checkpoint."""

    def __init__(self, split, checkpoint):
        self.split, self.checkpoint = split, checkpoint

    def __len__(self):
        return len(self.split)

    def __getattr__(self, name):
        return getattr(self.split, name)

    def raters(self, row):
        if self.checkpoint.exists():
            raise KeyboardInterrupt
        return self.split.raters(row)


@pytest.fixture
def clock(monkeypatch):
    """Every step takes an eighth of a second, whatever else the machine does."""
    ticks = itertools.count()
    monkeypatch.setattr(baseline_training.time, "process_time", lambda: next(ticks) / 8)


@pytest.mark.parametrize(("save_seconds", "saved_steps"), [(300, 2), (0.125, 1)], ids=["at looks", "between looks"])
def test_training_goes_on_from_its_checkpoint_and_ends_once(
    split, tmp_path, clock, monkeypatch, save_seconds, saved_steps
):
    monkeypatch.setattr(baseline_training, "SAVE_SECONDS", save_seconds)

    def train(data, name: str, network):
        torch.manual_seed(0)
        return baseline_training.fit(network, CONFIG, data, split, 2.0, "core_seconds", 0, tmp_path / name)

    torch.manual_seed(0)
    whole, resumed, again = (NETWORKS["dynunet"](1) for _ in range(3))
    resumed.load_state_dict(whole.state_dict())
    uninterrupted = train(split, "whole.pt", whole)
    assert uninterrupted["steps"] == 16 and uninterrupted["core_seconds"] == 2
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(split, tmp_path / "resumed.pt"), "resumed.pt", resumed)
    assert baseline_training.load(tmp_path / "resumed.pt", network=again)["steps"] == saved_steps
    assert train(split, "resumed.pt", resumed) == uninterrupted
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert train(split, "resumed.pt", again) == uninterrupted  # which trains nothing
    assert baseline_training.validate(again, split, CONFIG) == uninterrupted["validation_score"]
