"""What each choice is worth: pipelines that differ in one setting alone, trained for the same steps from equal seeds.

    python benchmarks/ablations.py --ablation target --runs 3

Each variant is the preset with the changes below and `--steps` steps of the U-Net; it is measured on the validation
split, which choices are made on. Finished runs are kept in outputs/ablations/, an interrupted one resumes. Results:
`benchmarks/ablations/ABLATION-DATASET.json`, rewritten after each run.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
EPSILON = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "epsilon",
    "timestep_spacing": "trailing", "clip_sample": False,
}  # fmt: skip
ABLATIONS = {
    "target": {"random rater": {}, "consensus": {"target": "consensus"}},
    "encoder-training": {"trained on": {}, "frozen": {"train_image_encoder": False}},
    "condition": {"autoencoder": {}, "ImageNet features": {"image_encoder": {"downsampling_factor": 4}}},
    "prediction": {"v, zero SNR": {}, "epsilon": {"scheduler": EPSILON}},
    "latents": {"scaled": {}, "unscaled": {"scale_latents": False}},
    "augmentation": {"symmetries": {"affine": 0.0}, "and affine": {"affine": 0.3}},
}
MEASURES = ("dice", "ged", "hm_iou", "diversity", "ece_band")


def launch(script: str, *arguments: str):
    """Runs one of the training scripts."""
    environment = os.environ | {"ACCELERATE_MIXED_PRECISION": "bf16"}
    command = [sys.executable, str(ROOT / "training" / script), *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


def run(changes: dict, name: str, seed: int, options: argparse.Namespace) -> dict:
    """Trains a variant from a seed and measures it, where that is not done yet; returns its results."""
    folder = ROOT / "outputs" / "ablations" / f"{options.config.stem}-{name.replace(' ', '-')}-{options.steps}-{seed}"
    results = folder / "results.json"
    if not results.exists():
        preset = json.loads(options.config.read_text()) | changes
        preset |= {"output_dir": str(folder), "unet_steps": options.steps, "seed": seed}
        preset |= {"mask_vae_steps": 400, "validation_every": options.steps, "symmetries": 1}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preset.json").write_text(json.dumps(preset, indent=2))
        launch("train.py", "--config", str(folder / "preset.json"), "--resume")
        evaluated = ["--pipeline", str(folder / "pipeline"), "--dataset", preset["dataset"], "--split", "validation"]
        launch("evaluate.py", *evaluated, "--limit", str(options.limit), "--out", str(results))
    return json.loads(results.read_text())


def summary(runs: list[dict]) -> dict:
    """Mean and standard deviation over runs of what the runs measured."""
    entries = {name: [run["metrics"][name]["value"] for run in runs if name in run["metrics"]] for name in MEASURES}
    return {"runs": len(runs)} | {
        name: {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}
        for name, values in entries.items()
        if values
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablation", choices=ABLATIONS, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "training" / "configs" / "lidc_idri.json")
    parser.add_argument("--steps", type=int, default=600, help="of the U-Net")
    parser.add_argument("--runs", type=int, default=3, help="from the seeds 0, 1, ...")
    parser.add_argument("--limit", type=int, default=200, help="validation images")
    options = parser.parse_args()
    dataset = Path(json.loads(options.config.read_text())["dataset"]).name
    out = ROOT / "benchmarks" / "ablations" / f"{options.ablation}-{dataset}.json"
    out.parent.mkdir(exist_ok=True)
    results = {"command": f"python benchmarks/ablations.py {' '.join(sys.argv[1:])}", "split": "validation"}
    results |= {"preset": options.config.name, "steps": options.steps, "num_images": options.limit, "variants": {}}
    finished = {name: [] for name in ABLATIONS[options.ablation]}
    for seed in range(options.runs):
        for name, changes in ABLATIONS[options.ablation].items():
            finished[name].append(run(changes, f"{options.ablation}-{name}" if changes else "base", seed, options))
            results["variants"][name] = summary(finished[name])
            out.write_text(json.dumps(results, indent=2) + "\n")
            print(json.dumps({name: results["variants"][name]}, indent=2))


if __name__ == "__main__":
    main()
