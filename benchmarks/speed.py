"""Time and memory of sampling, and training throughput of each stage.

    python benchmarks/speed.py --pipeline pipelines/medseglatdiff-lidc-idri

Each measurement runs in a fresh process, so that peak memory is its own. Results: `benchmarks/speed.json`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from medseglatdiff.data.files import write_json

ROOT = Path(__file__).resolve().parent.parent
MEASURED_STEPS = 12
MEASUREMENTS = ("sampling", "mask_vae", "image_vae", "unet", "energy")


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_sampling(options: argparse.Namespace) -> dict:
    """Seconds for the default number of masks of one image with the checkpoint's default steps: the median of five."""
    from medseglatdiff import MedSegLatDiffPipeline

    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.config.sample_size
    image = torch.rand(1, side, side, generator=torch.Generator().manual_seed(0))  # [1, S, S]
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        pipeline(image, num_masks=16)
        seconds.append(time.perf_counter() - start)
    return {
        "num_masks": 16,
        "num_candidates": pipeline.num_drawn(16),
        "num_inference_steps": pipeline.config.default_num_inference_steps,
        "image": f"{side} x {side}",
        "seconds": sorted(seconds[1:])[2],
        "first_call_seconds": seconds[0],
        "peak_memory_gb": peak_bytes() / 1e9,
    }


def measure_training(options: argparse.Namespace) -> dict:
    """Images per second of one stage's forward pass, backward pass and optimiser step, batches included."""
    from medseglatdiff import MedSegLatDiffPipeline
    from medseglatdiff.data.splits import load_split, open_split
    from medseglatdiff.training.autoencoders import ImageAutoencoderStage, MaskAutoencoderStage
    from medseglatdiff.training.denoiser import DenoiserStage
    from medseglatdiff.training.energy import EnergyStage
    from medseglatdiff.training.parsing import parse_config
    from medseglatdiff.training.precision import cpu_autocast, resolve_precision

    config = parse_config(["--config", str(options.config)])
    split = load_split(open_split("phantom", "train", config.sample_size), config.num_channels, config.sample_size)
    if options.measure in ("mask_vae", "image_vae"):
        stage_class = MaskAutoencoderStage if options.measure == "mask_vae" else ImageAutoencoderStage
        stage = stage_class(config, split, split)
    else:
        stage_class = DenoiserStage if options.measure == "unet" else EnergyStage
        stage = stage_class(config, split, split, MedSegLatDiffPipeline.from_pretrained(options.pipeline))
    parameters = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    stage.module.train()
    batch_size = config.energy_batch_size if options.measure == "energy" else config.batch_size
    for step in range(MEASURED_STEPS + 2):
        if step == 2:
            start = time.perf_counter()
        with cpu_autocast(resolve_precision(config.mixed_precision)):
            loss = stage.loss(stage.module, range(step * batch_size, (step + 1) * batch_size), torch.device("cpu"))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return {
        "images_per_second": MEASURED_STEPS * batch_size / seconds,
        "batch_size": batch_size,
        "trained_parameters": sum(parameter.numel() for parameter in parameters),
        "peak_memory_gb": peak_bytes() / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pipeline", type=Path, default=ROOT / "pipelines" / "medseglatdiff-lidc-idri")
    parser.add_argument("--config", type=Path, default=ROOT / "training" / "configs" / "lidc_idri.json")
    parser.add_argument("--measure", choices=MEASUREMENTS, help="in this process")
    options = parser.parse_args()
    if options.measure:
        measure = measure_sampling if options.measure == "sampling" else measure_training
        print(json.dumps(measure(options)))
        return
    results = {"cpu_cores": os.cpu_count(), "torch_threads": torch.get_num_threads(), "torch": torch.__version__}
    for name in MEASUREMENTS:
        command = [sys.executable, __file__, "--measure", name, "--pipeline", str(options.pipeline)]
        output = subprocess.run([*command, "--config", str(options.config)], check=True, stdout=subprocess.PIPE).stdout
        results[name] = json.loads(output.splitlines()[-1])
        print(name, json.dumps(results[name], indent=2))
    write_json(Path(__file__).with_suffix(".json"), results)


if __name__ == "__main__":
    main()
