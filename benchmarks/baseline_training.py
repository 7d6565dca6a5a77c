"""Trains one baseline for a given core time or number of steps, on the batches that a pipeline of the preset sees.

Of ten looks at the validation split the averaged weights with the best score are kept: Dice of a network of one mask,
generalised energy distance of one that draws, as the pipeline's own stages are judged. Each look leaves a checkpoint,
and so does every fifth minute: an interrupted training goes on from it, and a finished one is not trained again.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
from baseline_networks import Baseline
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm

from medseglatdiff.data.augmentation import dihedral, undo_dihedral
from medseglatdiff.data.batches import draw_batch
from medseglatdiff.data.files import replacing
from medseglatdiff.data.splits import SegmentationSplit, rows_at, seeded_generator
from medseglatdiff.metrics import dice, generalized_energy_distance
from medseglatdiff.training.config import Config
from medseglatdiff.training.precision import cpu_autocast
from medseglatdiff.training.stages import augmentation_of

LEARNING_RATE, LOOKS, SYMMETRIES = 1e-3, 10, 8
SAVE_SECONDS = 300  # of core time
CHECKPOINTS = Path(__file__).resolve().parent.parent / "outputs" / "baselines"


@torch.no_grad()
def draw_views(networks: list[Baseline], pixels: torch.Tensor, count: int, config: Config) -> torch.Tensor:
    """Probabilities of the foreground, `(count, S, S)`, of one image `(1, C, S, S)`: members, symmetries in turn."""
    draws = []
    for index in range(count):
        network, view = networks[index % len(networks)], index % SYMMETRIES
        with cpu_autocast(config.mixed_precision):
            drawn = network.draw(dihedral(pixels, view))  # [1, S, S]
        draws.append(undo_dihedral(drawn, view))
    return torch.cat(draws)


def validate(network: Baseline, split: SegmentationSplit, config: Config) -> float:
    """Mean score, higher is better, over the first `validation_images` rows in a fixed random order.

    Of one mask, of a single view: Dice against the raters' majority. Of a network that draws: minus the generalised
    energy distance of `SYMMETRIES` draws from the raters.
    """
    rows = torch.randperm(len(split), generator=seeded_generator(0))[: config.validation_images].tolist()
    scores = []
    for row in rows:
        raters = split.raters(row).numpy() > 0  # [R, S, S]
        masks = draw_views([network], split.pixels([row]), SYMMETRIES if network.random else 1, config).numpy() >= 0.5
        if network.random:
            scores.append(-generalized_energy_distance(masks, raters))
        else:
            scores.append(dice(masks[0], raters.mean(axis=0) >= 0.5))
    return float(np.mean(scores))


def look(network: Baseline, ema: EMAModel, progress: dict, validation: SegmentationSplit, config: Config) -> float:
    """Validates the averaged weights, which `progress` keeps if none before had a better score."""
    network.eval()
    ema.store(network.parameters())
    ema.copy_to(network.parameters())
    score = validate(network, validation, config)
    if score > progress["validation_score"]:
        progress |= {"validation_score": score, "best_step": progress["steps"]}
        progress["weights"] = {name: value.clone() for name, value in network.state_dict().items()}
    ema.restore(network.parameters())
    network.train()
    return score


def save(checkpoint: Path, progress: dict, **parts: nn.Module):
    """Writes everything that the rest of the training depends on, or nothing."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"progress": progress, "random": torch.get_rng_state()}
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with replacing(checkpoint) as partial:
        torch.save(state, partial)


def load(checkpoint: Path, **parts: nn.Module) -> dict:
    """Puts the parts back as they were saved; returns the progress, a new one where there is no checkpoint yet."""
    if not checkpoint.exists():
        return {"steps": 0, "core_seconds": 0.0, "looks": 0, "validation_score": -math.inf, "best_step": 0}
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    return state["progress"]


def fit(
    network: Baseline,
    config: Config,
    train: SegmentationSplit,
    validation: SegmentationSplit,
    budget: float,
    unit: str,
    seed: int,
    checkpoint: Path,
) -> dict:
    """Trains for so many `steps` or `core_seconds`, leaving the best averaged weights in `network`.

    Validation is free.
    """
    # 1. set up, or resume
    changes = augmentation_of(config, config.affine)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=config.weight_decay)
    ema = EMAModel(network.parameters(), decay=config.ema_decay, use_ema_warmup=True)
    parts = {"network": network, "optimizer": optimizer, "ema": ema}
    progress = load(checkpoint, **parts)
    bar = tqdm(total=round(budget), initial=round(progress[unit]), unit=unit, desc="train")
    network.train()
    while progress[unit] < budget:
        started, spent, done = time.process_time(), progress["core_seconds"], progress[unit] / budget
        # 2. a batch, which depends on seed and step alone
        positions = range(progress["steps"] * config.batch_size, (progress["steps"] + 1) * config.batch_size)
        rows = rows_at(positions, len(train), seed)
        generators = [seeded_generator(seed, position) for position in positions]
        images, labels = draw_batch(train, rows, generators, changes)  # [B, C, S, S], [B, S, S]
        # 3. a step: linear warm-up, then half a cosine over what is given
        for group in optimizer.param_groups:
            warmed = min(1, (progress["steps"] + 1) / 50)
            group["lr"] = LEARNING_RATE * warmed * (1 + math.cos(math.pi * done)) / 2
        with cpu_autocast(config.mixed_precision):
            loss = network.loss(images, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())
        progress["steps"] += 1
        progress["core_seconds"] = spent + time.process_time() - started
        # 4. validate, save
        due = min(int(LOOKS * progress[unit] / budget), LOOKS)
        if due > progress["looks"]:
            progress["looks"] = due
            score = look(network, ema, progress, validation, config)
            bar.set_postfix(loss=loss.item(), score=score)
            save(checkpoint, progress, **parts)
        elif progress["core_seconds"] // SAVE_SECONDS > spent // SAVE_SECONDS:
            save(checkpoint, progress, **parts)
        bar.n = min(round(progress[unit]), bar.total)
        bar.refresh()
    # 5. the best weights
    bar.close()
    network.load_state_dict(progress["weights"])
    network.eval()
    return {name: value for name, value in progress.items() if name not in ("weights", "looks")}
