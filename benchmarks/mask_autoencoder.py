"""Does the weighted cross entropy keep tiny nodules alive? Mask autoencoders that differ in their loss alone.

    python benchmarks/mask_autoencoder.py
    python benchmarks/mask_autoencoder.py --variants weight-1 weight-2 weight-10 mse dice --runs 3 --steps 400 \\
        --out benchmarks/ablations/mask-autoencoder-lidc-idri.json
    python benchmarks/mask_autoencoder.py --pipeline pipelines/medseglatdiff-lidc-idri \\
        --out benchmarks/mask_autoencoder_published.json

Trains each variant for the same steps from the same seeds with `training/train.py`, then reconstructs every non-empty
mask of the test split, and reports Dice, IoU and the share of missed objects by reference area. Each variant is in the
results file as soon as it is measured. Interrupted, it resumes. With `--pipeline` that pipeline's own autoencoder is
measured instead.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffVAE
from medseglatdiff.data.files import write_json
from medseglatdiff.data.splits import SegmentationSplit, load_split, one_hot, open_split, seeded_generator
from medseglatdiff.metrics import dice, iou
from medseglatdiff.training.autoencoders import MaskAutoencoderStage
from medseglatdiff.training.parsing import parse_config
from medseglatdiff.training.provenance import git_commit
from medseglatdiff.training.train import train_autoencoder

ROOT = Path(__file__).resolve().parent.parent


VARIANTS = {
    "weight-1": ("cross entropy, weight 1", ["--foreground-weight", "1"]),
    "weight-2": ("cross entropy, weight 2", ["--foreground-weight", "2"]),
    "weight-5": ("cross entropy, weight 5", ["--foreground-weight", "5"]),
    "weight-10": ("cross entropy, weight 10", ["--foreground-weight", "10"]),
    "weight-50": ("cross entropy, weight 50", ["--foreground-weight", "50"]),
    "frequency": ("cross entropy, weight by pixel frequency", ["--foreground-weight", "none"]),
    "mse": ("mean squared error", ["--mask-loss", "mse"]),
    "dice": ("Dice loss", ["--mask-loss", "dice"]),
    "vq": ("weight 2, vector quantisation", {"bottleneck": "vq"}),
    "channels-1": ("weight 2, one latent channel", {"latent_channels": 1}),
    "channels-4": ("weight 2, four latent channels", {"latent_channels": 4}),
    "factor-2": ("weight 2, factor 2", {"block_out_channels": [32]}),
    "factor-8": ("weight 2, factor 8", {"block_out_channels": [32, 32, 32]}),
}
DEFAULT_VARIANTS = ("weight-2", "weight-5", "mse", "weight-50")
TRAINED_ON = ("train", "validation")
STRATA = {"all": np.inf, "<= 16 px": 16, "<= 64 px": 64, "<= 256 px": 256}


def train(variant: str, seed: int, splits: tuple, options: argparse.Namespace) -> MedSegLatDiffVAE:
    """The variant's autoencoder, trained from the preset's settings where it is not finished yet."""
    _, changes = VARIANTS[variant]
    if isinstance(changes, dict):
        shape = parse_config(["--config", str(options.config)]).mask_vae | changes
        changes = ["--foreground-weight", "2", "--mask-vae", json.dumps(shape)]
    folder = options.work / f"{Path(options.dataset).name}-{variant}-{options.steps}-{seed}"
    settings = ["--config", str(options.config), "--resume", "--output-dir", str(folder), "--seed", str(seed)]
    settings += ["--batch-size", str(options.batch_size), "--validation-every", str(options.steps), *changes]
    config = parse_config(settings)
    torch.manual_seed(seed)
    return train_autoencoder(MaskAutoencoderStage(config, *splits), config, options.steps).eval()


def load(options: argparse.Namespace, split: str) -> SegmentationSplit:
    """The split as the preset's networks see it."""
    config = parse_config(["--config", str(options.config)])
    return load_split(open_split(options.dataset, split), config.num_channels, config.sample_size)


def autoencoders(options: argparse.Namespace) -> Iterator[tuple[str, Iterator[MedSegLatDiffVAE]]]:
    """What is to be measured: labels and the autoencoders of each, trained as they are asked for."""
    if options.pipeline:
        yield options.pipeline.name, iter([MedSegLatDiffPipeline.from_pretrained(options.pipeline).mask_vae])
        return
    splits = tuple(load(options, split) for split in TRAINED_ON)
    for variant in options.variants:
        seeds = range(options.seed, options.seed + options.runs)
        yield VARIANTS[variant][0], (train(variant, seed, splits, options) for seed in seeds)


@torch.no_grad()
def reconstruct(vae: MedSegLatDiffVAE, masks: torch.Tensor) -> np.ndarray:
    """Masks, uint8 `(N, S, S)`, encoded, decoded, and decided by the larger class: bool `(N, S, S)`."""
    parts = []
    for part in tqdm(masks.split(64), desc="reconstruct"):
        logits = vae.decode(vae.encode(one_hot(part.long(), 1)))  # [n, 2, S, S]
        parts.append(logits.argmax(dim=1).bool())  # [n, S, S]
    return torch.cat(parts).numpy()


def measure(decoded: np.ndarray, masks: np.ndarray) -> dict[str, dict]:
    """Mean Dice and IoU over masks and the share of masks of which no pixel was met, for each stratum of area."""
    areas = masks.sum(axis=(1, 2))
    pairs = [(dice(a, b), iou(a, b), not (a & b).any()) for a, b in zip(decoded, masks, strict=True)]
    table = np.array(pairs, dtype=float)  # [N, 3]
    measures = {}
    for stratum, limit in STRATA.items():
        chosen = table[areas <= limit]
        means = chosen.mean(axis=0).tolist() if len(chosen) else [None] * 3
        measures[stratum] = {"masks": len(chosen), **dict(zip(("dice", "iou", "missed"), means, strict=True))}
    return measures


def over_runs(tables: list[dict[str, dict]]) -> dict[str, dict]:
    """Means of all measures over runs from different seeds, and the standard deviation of Dice where there are
    several; strata without masks are left out."""
    means = {}
    for stratum, first in tables[0].items():
        if not first["masks"]:
            continue
        means[stratum] = {name: float(np.mean([table[stratum][name] for table in tables])) for name in first}
        means[stratum]["masks"] = first["masks"]
        if len(tables) > 1:
            means[stratum]["dice_std"] = float(np.std([table[stratum]["dice"] for table in tables], ddof=1))
    return means


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=DEFAULT_VARIANTS)
    parser.add_argument("--pipeline", type=Path, help="measure its autoencoder and train nothing")
    parser.add_argument("--dataset", default="data/lidc-idri")
    parser.add_argument("--config", type=Path, default=ROOT / "training" / "configs" / "lidc_idri.json")
    parser.add_argument("--split", default="test")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--runs", type=int, default=1, help="from different seeds")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--limit", type=int, help="measure a random choice of so many masks")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "mask-autoencoder")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    # 1. every rater's non-empty mask of the split, or a random choice of them
    labels = load(options, options.split).labels
    masks = labels[labels.flatten(1).sum(dim=1) > 0]  # [N, S, S]
    masks = masks[torch.randperm(len(masks), generator=seeded_generator(0))[: options.limit]]  # [n, S, S]
    # 2. train and measure each variant
    results = {"command": f"python benchmarks/mask_autoencoder.py {shlex.join(sys.argv[1:])}"}
    results |= {"dataset": options.dataset, "split": options.split, "git_commit": git_commit()}
    results |= {"averaging": "mean over non-empty masks of all raters", "variants": {}}
    if not options.pipeline:
        results |= {name: getattr(options, name) for name in ("steps", "batch_size", "seed", "runs")}
    for label, models in autoencoders(options):
        tables = [measure(reconstruct(vae, masks), masks.numpy() > 0) for vae in models]
        results["variants"][label] = over_runs(tables)
        for stratum, row in results["variants"][label].items():
            print(f"{label:40} {stratum:10} Dice {row['dice']:.4f}  IoU {row['iou']:.4f}  missed {row['missed']:.2%}")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, results)


if __name__ == "__main__":
    main()
