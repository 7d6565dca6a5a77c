"""Does the weighted cross entropy keep tiny nodules alive? Mask autoencoders that differ in their loss alone.

    python benchmarks/mask_autoencoder.py --dataset data/lidc-idri

Trains each variant for the same steps from the same seed with `training/train.py`, then reconstructs every non-empty
mask of the test split, and reports Dice, IoU and the share of missed objects by reference area. The table goes to
`benchmarks/mask_autoencoder.json`. Interrupted, it resumes.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from medseglatdiff import MedSegLatDiffVAE
from medseglatdiff.data import load_split, one_hot, open_split
from medseglatdiff.metrics import dice, iou

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {
    "cross entropy, weight 2": ["--foreground-weight", "2"],
    "mean squared error": ["--mask-loss", "mse"],
    "cross entropy, weight 50": ["--foreground-weight", "50"],
}
STRATA = {"all": np.inf, "<= 16 px": 16, "<= 64 px": 64, "<= 256 px": 256}


def train(name: str, options: argparse.Namespace) -> MedSegLatDiffVAE:
    """The variant's autoencoder, trained from the preset's settings where it is not finished yet."""
    folder = options.work / name.replace(" ", "-").replace(",", "")
    script = [sys.executable, str(ROOT / "training" / "train.py"), "--config", str(options.config)]
    settings = ["--stage", "mask_vae", "--resume", "--output-dir", str(folder), "--dataset", options.dataset]
    settings += ["--mask-vae-steps", str(options.steps), "--seed", str(options.seed), *VARIANTS[name]]
    subprocess.run([*script, *settings], check=True)
    return MedSegLatDiffVAE.from_pretrained(folder / "mask_vae" / "model").eval()


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
        values = dict(zip(("dice", "iou", "missed"), chosen.mean(axis=0).tolist(), strict=True))
        measures[stratum] = {"masks": len(chosen), **values}
    return measures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="data/lidc-idri")
    parser.add_argument("--config", type=Path, default=ROOT / "training" / "configs" / "lidc_idri.json")
    parser.add_argument("--split", default="test")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "mask-autoencoder")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    # 1. every rater's non-empty mask of the split
    labels = load_split(open_split(options.dataset, options.split), 1, 128).labels  # [sum of raters, S, S]
    masks = labels[labels.flatten(1).sum(dim=1) > 0]  # [N, S, S]
    # 2. train and measure each variant
    results = {name: str(getattr(options, name)) for name in ("dataset", "split", "steps", "seed")}
    results |= {"averaging": "mean over non-empty masks of all raters", "variants": {}}
    for name in VARIANTS:
        decoded = reconstruct(train(name, options), masks)
        results["variants"][name] = measure(decoded, masks.numpy() > 0)
        for stratum, row in results["variants"][name].items():
            print(
                f"{name:26} {stratum:10} {row['masks']:5} masks  Dice {row['dice']:.4f}  IoU {row['iou']:.4f}", end=""
            )
            print(f"  missed {row['missed']:.2%}")
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
