"""What each choice is worth: pipelines that differ in one setting alone, trained for the same steps from equal seeds.

    python benchmarks/ablations.py --ablation target --runs 3

Each variant is the preset with the changes below and `--steps` steps of the U-Net, over the same autoencoders, which
are trained once (`space` compares with none at all). It is measured on the validation split, which choices are made
on. Finished runs are kept in outputs/ablations/, an interrupted one resumes. Results:
`benchmarks/ablations/ABLATION-DATASET.json`, rewritten after each run.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pixel_space import UNET, PixelCondition, PixelMasks
from torch import nn
from tqdm import tqdm

from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffVAE
from medseglatdiff.data.files import write_json
from medseglatdiff.data.splits import load_split, open_split
from medseglatdiff.evaluation.rows import measure_row, predict
from medseglatdiff.evaluation.summary import summarize
from medseglatdiff.training.autoencoders import ImageAutoencoderStage, MaskAutoencoderStage
from medseglatdiff.training.config import Config
from medseglatdiff.training.denoiser import DenoiserStage, untrained_pipeline
from medseglatdiff.training.fitting import fit
from medseglatdiff.training.launcher import use_threads
from medseglatdiff.training.parsing import parse_config
from medseglatdiff.training.precision import cpu_autocast, native_precision
from medseglatdiff.training.provenance import git_commit, hardware, versions
from medseglatdiff.training.train import load_image_encoder, train_autoencoder

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
    "space": {"latents": {}, "pixels": {"unet": UNET}},
    "augmentation": {"symmetries": {"affine": 0.0}, "and affine": {"affine": 0.3}},
}
COSTS = ("training_core_seconds", "sampling_core_seconds")
MEASURES = ("dice", "ged", "ged_unbiased", "hm_iou", "diversity", "ece_band")
IMAGES_PER_BATCH = 8


def latent_space(config: Config, splits: tuple) -> tuple[nn.Module, nn.Module]:
    """The mask and the image autoencoder that all variants share, trained where they are not yet."""
    folder = Path(config.output_dir)
    stages = [(MaskAutoencoderStage, config.mask_vae_steps), (ImageAutoencoderStage, config.image_vae_steps)]
    for kind, steps in stages[: 1 if config.image_encoder else 2]:
        if not (folder / kind.name / "model").exists():
            torch.manual_seed(config.seed)
            train_autoencoder(kind(config, *splits), config, steps)
    mask_vae = MedSegLatDiffVAE.from_pretrained(folder / "mask_vae" / "model")
    if not config.scale_latents:
        mask_vae.register_to_config(latents_mean=None, latents_std=None)
    torch.manual_seed(config.seed)
    return mask_vae, load_image_encoder(config, mask_vae.downsampling_factor)


def pixel_space(config: Config, splits: tuple) -> tuple[nn.Module, nn.Module]:
    """What stands in for both where the U-Net denoises the mask's own pixels."""
    torch.manual_seed(config.seed)
    return PixelMasks(splits[0].labels.mean(dtype=torch.float32).item()), PixelCondition(config.num_channels)


def train(config: Config, splits: tuple, space, folder: Path) -> MedSegLatDiffPipeline:
    """The pipeline of these settings, whose U-Net is trained in `folder`."""
    stage = DenoiserStage(config, *splits, untrained_pipeline(config, *space(config, splits)))
    own = Config(**{**vars(config), "output_dir": str(folder)})
    fit(stage, own, config.unet_steps, config.unet_learning_rate, config.batch_size)
    return stage.pipeline()


def measure(
    pipeline: MedSegLatDiffPipeline,
    rows,
    limit: int,
    num_masks: int,
    steps: int,
    noise: str = "fresh",
    num_candidates: int | None = None,
) -> dict:
    """Results of a random choice of the rows, the same for every pipeline, and what a mask costs.

    The masks are those that are drawn, unless `num_candidates` says of how many they are chosen.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:limit]).tolist()
    measured, spent = [], 0.0
    for first in tqdm(range(0, len(chosen), IMAGES_PER_BATCH), desc=f"{steps} steps, {noise} noise"):
        batch = [rows[index] for index in chosen[first : first + IMAGES_PER_BATCH]]
        started = time.process_time()
        with cpu_autocast(native_precision()):
            predictions = list(predict(pipeline, batch, num_masks, steps, 0, noise, num_candidates or num_masks))
        spent += time.process_time() - started
        measured += [measure_row(row, num_masks, 0, own) for row, own in zip(batch, predictions, strict=True)]
    return summarize(measured, num_masks) | {"sampling_core_seconds": spent / len(chosen) / num_masks}


def run(changes: dict, name: str, seed: int, data: tuple, options: argparse.Namespace) -> dict:
    """Trains a variant from a seed and measures it, where that is not done yet; returns its results."""
    *splits, rows = data
    work = ROOT / "outputs" / "ablations" / options.config.stem
    folder = work / f"{name.replace(' ', '-')}-{options.steps}-{options.batch_size}-{seed}"
    results = folder / f"results-{options.limit}-{options.num_masks}-{options.sampling_steps}.json"
    if not results.exists():
        preset = vars(parse_config(["--config", str(options.config)])) | changes
        preset |= {"output_dir": str(work), "seed": seed}
        preset |= {"unet_steps": options.steps, "batch_size": options.batch_size}
        preset |= {"mask_vae_steps": 400, "validation_every": options.steps, "symmetries": 1, "resume": True}
        space = pixel_space if preset["unet"] == UNET else latent_space
        pipeline = train(Config(**preset), splits, space, folder)
        measured = measure(pipeline, rows, options.limit, options.num_masks, options.sampling_steps)
        hours = json.loads((folder / "unet" / "summary.json").read_text())["cpu_hours"]
        measured["training_core_seconds"] = 3600 * hours
        write_json(results, measured)
    return json.loads(results.read_text())


def summary(runs: list[dict]) -> dict:
    """Mean and standard deviation over runs of what the runs measured."""
    entries = {name: [run["metrics"][name]["value"] for run in runs if name in run["metrics"]] for name in MEASURES}
    entries |= {name: [run[name] for run in runs if name in run] for name in COSTS}
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
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3, help="from the seeds 0, 1, ...")
    parser.add_argument("--limit", type=int, default=200, help="validation images")
    parser.add_argument("--num-masks", type=int, default=16)
    parser.add_argument("--sampling-steps", type=int, default=10)
    options = parser.parse_args()
    use_threads()
    # 1. data
    config = parse_config(["--config", str(options.config)])
    shape = (config.num_channels, config.sample_size, config.num_classes, config.stretch)
    splits = [load_split(open_split(config.dataset, split), *shape) for split in ("train", "validation")]
    data = (*splits, open_split(config.dataset, "validation"))
    # 2. every variant from every seed
    out = ROOT / "benchmarks" / "ablations" / f"{options.ablation}-{Path(config.dataset).name}.json"
    out.parent.mkdir(exist_ok=True)
    results = {"command": f"python benchmarks/ablations.py {shlex.join(sys.argv[1:])}", "split": "validation"}
    results |= {"preset": options.config.name, "steps": options.steps, "batch_size": options.batch_size}
    results |= {"num_images": options.limit, "num_masks": options.num_masks, "sampling_steps": options.sampling_steps}
    results |= {"device": hardware(), "versions": versions(), "git_commit": git_commit(), "variants": {}}
    finished = {name: [] for name in ABLATIONS[options.ablation]}
    for seed in range(options.runs):
        for name, changes in ABLATIONS[options.ablation].items():
            own_name = f"{options.ablation}-{name}" if changes else "base"
            finished[name].append(run(changes, own_name, seed, data, options))
            results["variants"][name] = summary(finished[name])
            write_json(out, results)
            print(json.dumps({name: results["variants"][name]}, indent=2))


if __name__ == "__main__":
    main()
