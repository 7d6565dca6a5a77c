"""Trains a baseline on a preset's data for a given time and measures it as the pipeline is measured.

    python benchmarks/baselines.py --network pretrained_unet --config training/configs/cvc_clinicdb.json \\
        --core-minutes 76

The same batches, augmentation, validation rows, test images, metrics and symmetries of the square as the pipeline's.
Of ten looks at the validation split the weights with the best Dice are kept. `--members 4` shares the minutes among
four networks from different seeds: an ensemble. Time is that of this process on its cores, as the `cpu_hours` of a
pipeline's training.json: what else the machine does costs nobody anything. Results:
`benchmarks/baselines/DATASET-NETWORK.json`; where that file exists nothing is done.
"""

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
import training_path
from baseline_networks import NETWORKS, RANDOM, Baseline
from config import Config, parse_config
from diffusers.training_utils import EMAModel
from provenance import git_commit, hardware, versions
from tqdm import tqdm

from medseglatdiff.aggregation import binary_entropy
from medseglatdiff.augmentation import dihedral, undo_dihedral
from medseglatdiff.data import SegmentationSplit, load_split, open_split, rows_at, seeded_generator
from medseglatdiff.evaluation import measure_row
from medseglatdiff.images import preprocess, resize_probabilities
from medseglatdiff.metrics import dice
from medseglatdiff.summary import summarize

ROOT = training_path.ROOT


LEARNING_RATE, LOOKS, SYMMETRIES = 1e-3, 10, 8


@torch.no_grad()
def draw_views(networks: list[Baseline], pixels: torch.Tensor, count: int) -> torch.Tensor:
    """Probabilities of the foreground, `(count, S, S)`, of one image `(1, C, S, S)`: members, symmetries in turn."""
    draws = []
    for index in range(count):
        network, view = networks[index % len(networks)], index % SYMMETRIES
        with torch.autocast("cpu", dtype=torch.bfloat16):
            drawn = network.draw(dihedral(pixels, view))  # [1, S, S]
        draws.append(undo_dihedral(drawn, view))
    return torch.cat(draws)


def validate(network: Baseline, split: SegmentationSplit, count: int) -> float:
    """Mean Dice against the raters' majority of the first `count` rows in a fixed random order, one view each."""
    rows = torch.randperm(len(split), generator=seeded_generator(0))[:count].tolist()
    scores = []
    for row in rows:
        majority = (split.raters(row) > 0).float().mean(dim=0) >= 0.5  # [S, S]
        scores.append(dice((draw_views([network], split.pixels([row]), 1)[0] >= 0.5).numpy(), majority.numpy()))
    return float(np.mean(scores))


def fit(network: Baseline, config: Config, train, validation, seconds: float, seed: int) -> dict:
    """Trains for so many seconds of core time, leaving the best averaged weights in `network`; validation is free."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=config.weight_decay)
    ema, best = EMAModel(network.parameters(), decay=config.ema_decay, use_ema_warmup=True), {"dice": -1.0}
    spent, step, looks = 0.0, 0, 0
    bar = tqdm(total=round(seconds), unit="s")
    while spent < seconds:
        started = time.process_time()
        network.train()
        positions = range(step * config.batch_size, (step + 1) * config.batch_size)
        rows = rows_at(positions, len(train), seed)
        generators = [seeded_generator(seed, position) for position in positions]
        images, labels = train.batch(rows, generators, config.affine)  # [B, C, S, S], [B, S, S]
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * spent / seconds)) / 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = network.loss(images, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())
        step, spent = step + 1, spent + time.process_time() - started
        if spent >= seconds * (looks + 1) / LOOKS:
            looks += 1
            network.eval()
            ema.store(network.parameters())
            ema.copy_to(network.parameters())
            score = validate(network, validation, config.validation_images)
            if score > best["dice"]:
                best = {
                    "dice": score,
                    "step": step,
                    "weights": {n: v.clone() for n, v in network.state_dict().items()},
                }
            ema.restore(network.parameters())
            bar.set_postfix(loss=loss.item(), dice=score)
        bar.n = min(round(spent), bar.total)
        bar.refresh()
    network.load_state_dict(best.pop("weights"))
    network.eval()
    return {"steps": step, "best_step": best["step"], "validation_dice": best["dice"], "core_seconds": spent}


def predict(networks: list[Baseline], row: dict, config: Config, num_masks: int, random: bool) -> tuple:
    """(masks, confidence, uncertainty, consensus) of a row, as the pipeline returns them.

    The confidence is the mean probability. A network that draws nothing gives its one mask `num_masks` times.
    """
    pixels, (size,) = preprocess([row["image"]], config.num_channels, config.sample_size, config.stretch)
    drawn = draw_views(networks, pixels, num_masks if random else max(SYMMETRIES, len(networks)))  # [n, S, S]
    drawn = resize_probabilities(drawn[:, None], size)[:, 0]  # [n, H, W]
    confidence = drawn.mean(dim=0).clamp(0, 1)  # [H, W]
    consensus = confidence >= 0.5  # [H, W]
    masks = drawn >= 0.5 if random else consensus[None].expand(num_masks, -1, -1)  # [M, H, W]
    return tuple(value.numpy() for value in (masks, confidence, binary_entropy(confidence), consensus))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--config", type=Path, required=True, help="the pipeline's preset")
    parser.add_argument("--core-minutes", type=float, required=True, help="of training, all members together")
    parser.add_argument("--members", type=int, default=1, help="networks of an ensemble")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="measure a random choice of so many images, as evaluate.py chooses")
    parser.add_argument("--num-masks", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    options = parse_arguments()
    config = parse_config(["--config", str(options.config)])
    name = options.network + (f"-ensemble-{options.members}" if options.members > 1 else "")
    out = ROOT / "benchmarks" / "baselines" / f"{Path(config.dataset).name}-{name}.json"
    if out.exists():
        print(f"{out} exists: nothing to do.")
        return
    # 1. train
    shape = (config.num_channels, config.sample_size, config.num_classes, config.stretch)
    train, validation = (load_split(open_split(config.dataset, split), *shape) for split in ("train", "validation"))
    networks, training = [], []
    for member in range(options.members):
        torch.manual_seed(options.seed + member)
        networks.append(NETWORKS[options.network](config.num_channels))
        seconds = 60 * options.core_minutes / options.members
        training.append(fit(networks[-1], config, train, validation, seconds, options.seed + member))
    # 2. measure
    rows = open_split(config.dataset, options.split)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(rows))[: options.limit])
    random = options.network in RANDOM or options.members > 1
    measured = []
    for index in tqdm(chosen.tolist(), desc="measure"):
        prediction = predict(networks, rows[index], config, options.num_masks, random)
        measured.append(measure_row(rows[index], options.num_masks, options.seed, prediction))
    # 3. write
    results = {"command": f"python benchmarks/baselines.py {shlex.join(sys.argv[1:])}", "network": name}
    results |= {"dataset": config.dataset, "split": options.split, "limit": options.limit, "training": training}
    results["parameters"] = sum(p.numel() for network in networks for p in network.parameters())
    results |= summarize(measured, options.num_masks, options.seed)
    results |= {"device": hardware(), "versions": versions(), "git_commit": git_commit()}
    out.parent.mkdir(exist_ok=True)
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    partial.rename(out)
    for metric in ("dice", "iou", "ged", "hm_iou", "aurc"):
        if metric in results["metrics"]:
            print(f"{metric:8} {results['metrics'][metric]['value']:.4f}")


if __name__ == "__main__":
    main()
