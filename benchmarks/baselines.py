"""Trains a baseline on a preset's data for a given time or number of steps, measures it as the pipeline is measured.

    python benchmarks/baselines.py --network pretrained_unet --config training/configs/cvc_clinicdb.json \\
        --core-minutes 91

The same batches, augmentation, validation rows, test images, metrics and symmetries of the square as the pipeline's.
Time is that of this process on its cores, as the `cpu_hours` of a pipeline's training.json. Threads that wait for one
another count too: beside other work, train with `OMP_NUM_THREADS=1`. Minutes compare on one machine only: on another
`--steps` tells how many steps the first makes in them, and ends the training there. `--members 4` shares minutes and
steps among four networks from different seeds: an ensemble. `--monte-carlo` measures the same trained network with its
dropout left on. The consensus of a network that draws takes what mean probability the validation split chose, by
calibrate.py's rule. Interrupted, training goes on from its last checkpoint in outputs/baselines/. Results:
`benchmarks/baselines/DATASET-NETWORK.json`; where that file exists nothing is done.
"""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from baseline_networks import NETWORKS, Baseline
from baseline_training import CHECKPOINTS, SYMMETRIES, draw_views, fit
from tqdm import tqdm

from medseglatdiff.data.files import write_json
from medseglatdiff.data.images import preprocess, resize_bilinear
from medseglatdiff.data.splits import load_split, noise_seed, open_split, read_raters
from medseglatdiff.evaluation.rows import measure_row
from medseglatdiff.evaluation.summary import summarize
from medseglatdiff.metrics import dice
from medseglatdiff.pipeline.aggregation import binary_entropy
from medseglatdiff.training.calibration import choose_level
from medseglatdiff.training.config import Config
from medseglatdiff.training.launcher import use_threads
from medseglatdiff.training.parsing import parse_config
from medseglatdiff.training.precision import resolve_precision
from medseglatdiff.training.provenance import git_commit, hardware, versions

ROOT = Path(__file__).resolve().parent.parent
CALIBRATED_ON, CALIBRATION_SEED = 300, 1  # rows of the validation split, and the seed that chooses them


def draws(networks: list[Baseline]) -> bool:
    """Whether their masks of an image differ."""
    return networks[0].random or len(networks) > 1


def predict(networks: list[Baseline], row: dict, config: Config, num_masks: int, threshold: float, seed: int) -> tuple:
    """(masks, confidence, uncertainty, consensus) of a row, as the pipeline returns them.

    The confidence is the mean probability. A network that draws nothing gives its one mask `num_masks` times. What is
    drawn depends on the row and the seed alone.
    """
    torch.manual_seed(noise_seed(row["image_id"], seed))  # dropout and `Normal.sample` take no generator
    random = draws(networks)
    pixels, (size,) = preprocess([row["image"]], config.num_channels, config.sample_size, config.stretch)
    drawn = draw_views(networks, pixels, num_masks if random else max(SYMMETRIES, len(networks)), config)  # [n, S, S]
    drawn = resize_bilinear(drawn[:, None], size)[:, 0]  # [n, H, W]
    confidence = drawn.mean(dim=0).clamp(0, 1)  # [H, W]
    consensus = confidence >= threshold  # [H, W]
    masks = drawn >= 0.5 if random else consensus[None].expand(num_masks, -1, -1)  # [M, H, W]
    return tuple(value.numpy() for value in (masks, confidence, binary_entropy(confidence), consensus))


def choose_threshold(networks: list[Baseline], config: Config, num_masks: int) -> float:
    """Least mean probability of the consensus, chosen on the validation split as calibrate.py chooses the pipeline's
    among 1, 2, ... of `num_masks`; one half for a network that draws nothing."""
    if not draws(networks):
        return 0.5
    rows = open_split(config.dataset, "validation")
    thresholds = np.arange(1, num_masks + 1) / num_masks  # [M]
    chosen = np.random.default_rng(CALIBRATION_SEED).permutation(len(rows))[:CALIBRATED_ON]
    scores, groups = [], []
    for index in tqdm(chosen.tolist(), desc="threshold"):
        reference = read_raters(rows[index]).mean(axis=0) >= 0.5  # [H, W]
        _, confidence, *_ = predict(networks, rows[index], config, num_masks, 0.5, CALIBRATION_SEED)  # [H, W]
        scores.append([dice(confidence >= threshold, reference) for threshold in thresholds])
        groups.append(rows[index]["group_id"])
    return float(thresholds[choose_level(np.array(scores), groups) - 1])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--config", type=Path, required=True, help="the pipeline's preset")
    parser.add_argument("--core-minutes", type=float, required=True, help="of training, all members together")
    parser.add_argument("--steps", type=int, help="end after so many instead, all members together")
    parser.add_argument("--members", type=int, default=1, help="networks of an ensemble")
    parser.add_argument("--monte-carlo", action="store_true", help="leave dropout on when it is measured")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="measure a random choice of so many images, as evaluate.py chooses")
    parser.add_argument("--num-masks", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.steps is not None and options.steps < options.members:
        parser.error(f"`--steps` must be at least one for each member, but was {options.steps}")
    return options


def main():
    options = parse_arguments()
    use_threads()
    config = parse_config(["--config", str(options.config)])
    config = dataclasses.replace(config, mixed_precision=resolve_precision(config.mixed_precision))
    dataset = Path(config.dataset).name
    name = options.network + (f"-ensemble-{options.members}" if options.members > 1 else "")
    name += "-monte-carlo" if options.monte_carlo else ""
    out = ROOT / "benchmarks" / "baselines" / f"{dataset}-{name}.json"
    if out.exists():
        print(f"{out} exists: nothing to do.")
        return
    # 1. train
    shape = (config.num_channels, config.sample_size, config.num_classes, config.stretch)
    splits = [load_split(open_split(config.dataset, split), *shape) for split in ("train", "validation")]
    unit, total = ("steps", options.steps) if options.steps else ("core_seconds", 60 * options.core_minutes)
    budget = total / options.members
    networks, training = [], []
    for seed in range(options.seed, options.seed + options.members):
        torch.manual_seed(seed)
        networks.append(NETWORKS[options.network](config.num_channels))
        checkpoint = CHECKPOINTS / f"{dataset}-{options.network}-{budget:g}-{unit}-{seed}.pt"
        training.append(fit(networks[-1], config, *splits, budget, unit, seed, checkpoint))
        if options.monte_carlo:
            networks[-1].leave_dropout_on()
    # 2. measure
    threshold = choose_threshold(networks, config, options.num_masks)
    rows = open_split(config.dataset, options.split)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(rows))[: options.limit])
    measured = []
    for index in tqdm(chosen.tolist(), desc="measure"):
        prediction = predict(networks, rows[index], config, options.num_masks, threshold, options.seed)
        measured.append(measure_row(rows[index], options.num_masks, options.seed, prediction))
    # 3. write
    results = {"command": f"python benchmarks/baselines.py {shlex.join(sys.argv[1:])}", "network": name}
    results |= {"dataset": config.dataset, "split": options.split, "limit": options.limit, "training": training}
    results |= {
        "core_minutes": options.core_minutes,
        "steps": options.steps,
        "mixed_precision": config.mixed_precision,
    }
    results["threshold"] = threshold
    results["parameters"] = sum(p.numel() for network in networks for p in network.parameters())
    results |= summarize(measured, options.num_masks, options.seed)
    results |= {"device": hardware(), "versions": versions(), "git_commit": git_commit()}
    out.parent.mkdir(exist_ok=True)
    write_json(out, results)
    for metric in ("dice", "iou", "ged", "hm_iou", "aurc"):
        if metric in results["metrics"]:
            print(f"{metric:8} {results['metrics'][metric]['value']:.4f}")


if __name__ == "__main__":
    main()
