"""Measures a pipeline over a split and writes results.json, a table of all images and plots beside it.

    accelerate launch -m medseglatdiff evaluate --pipeline DIR --dataset data/lidc-idri --split test --num-masks 16 \\
        --out results.json

The numbers depend on the rows, `--num-masks`, `--steps` and `--seed` alone: each image's noise is seeded by its id, so
several processes, which share the processor's cores, give what one gives. Finished images are kept in `results.parts/`
until the results are written, so the same command carries on after an interruption. Without `--pipeline` only the
degenerate predictors are measured. Of several `--steps` the last is the headline; all of them stand in `by_steps`.
With `accelerate launch --mixed_precision bf16` sampling takes half the time where the hardware has bf16. The form of
results.json is described in medseglatdiff/summary.py.
"""

import argparse
import hashlib
import json
import os
import resource
import shlex
import shutil
import sys
import time
from pathlib import Path

import diffusers
import numpy as np
import pandas
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from ..data.splits import open_split
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..training.launcher import use_threads
from ..training.provenance import git_commit, hardware, versions
from .rows import measure_row, predict
from .summary import summarize

IMAGES_PER_BATCH = 8
IMAGES_PER_PART = 64


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", help="folder or Hub id; without it only degenerate predictors are measured")
    parser.add_argument("--dataset", required=True, help='folder, Hub id, or "phantom"')
    parser.add_argument("--split", default="test")
    parser.add_argument("--num-masks", type=int, default=16, help="hypotheses per image")
    parser.add_argument("--num-candidates", type=int, help="drawn, to choose these from (the checkpoint's own)")
    parser.add_argument("--steps", type=int, nargs="+", help="denoising steps, one or several (the checkpoint's own)")
    parser.add_argument("--limit", type=int, help="measure a random choice of so many images")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the choice of images")
    parser.add_argument("--scheduler", help="class of diffusers, such as DDIMScheduler, in place of the checkpoint's")
    parser.add_argument("--noise", choices=("fresh", "same", "zero"), default="fresh", help="initial noise per image")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    options = parser.parse_args(arguments)
    for name, counts in {"num-masks": [options.num_masks], "limit": [options.limit], "steps": options.steps}.items():
        for count in counts or []:
            if count is not None and count < 1:
                parser.error(f"`--{name}` must be at least 1, but was {count}.")
    if options.num_candidates is not None and options.num_candidates < options.num_masks:
        parser.error(f"`--num-candidates` must be at least `--num-masks`, but was {options.num_candidates}.")
    if options.scheduler and not hasattr(diffusers, options.scheduler):
        parser.error(f"`--scheduler` must be a class of diffusers, but was {options.scheduler}.")
    return options


def load_pipeline(options: argparse.Namespace, accelerator: Accelerator) -> MedSegLatDiffPipeline | None:
    if options.pipeline is None:
        return None
    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline).to(accelerator.device)
    if pipeline.num_classes > 1:
        raise ValueError(f"`--pipeline` must have one class, but {options.pipeline} has {pipeline.num_classes}.")
    if options.scheduler:
        pipeline.scheduler = getattr(diffusers, options.scheduler).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_atomically(path: Path, write):
    """Calls `write(partial)` and gives the file its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_parts(folder: Path) -> list[dict]:
    """All measured rows, in order; a number that an image does not have (NaN) is left out of its row."""
    tables = [pandas.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    records = pandas.concat(tables).sort_values("index").to_dict("records") if tables else []
    return [
        {name: value for name, value in row.items() if isinstance(value, np.ndarray) or value == value}
        for row in records
    ]


def measure(pipeline, rows, chosen: np.ndarray, steps: int, folder: Path, options, accelerator) -> dict:
    """Measures the chosen rows that `folder` does not hold yet; returns what this run spent, over processes."""
    done = {row["index"] for row in read_parts(folder)}
    accelerator.wait_for_everyone()  # nobody writes before all have read
    todo = [int(index) for index in chosen if index not in done]
    mine = todo[accelerator.process_index :: accelerator.num_processes]
    finished, started, sampling_seconds = [], time.perf_counter(), 0.0
    for first in tqdm(
        range(0, len(mine), IMAGES_PER_BATCH), disable=not accelerator.is_main_process, desc=folder.name
    ):
        indices = mine[first : first + IMAGES_PER_BATCH]
        batch = [rows[index] for index in indices]
        before = time.perf_counter()
        predictions = [None] * len(batch)
        if pipeline is not None:
            with accelerator.autocast():
                drawn = (options.seed, options.noise, options.num_candidates)
                predictions = list(predict(pipeline, batch, options.num_masks, steps, *drawn))
        sampling_seconds += time.perf_counter() - before
        for index, row, prediction in zip(indices, batch, predictions, strict=True):
            finished.append(measure_row(row, options.num_masks, options.seed, prediction) | {"index": index})
        if len(finished) >= IMAGES_PER_PART or indices[-1] == mine[-1]:
            part = folder / f"{finished[0]['index']:06d}-{finished[-1]['index']:06d}.parquet"
            write_atomically(part, pandas.DataFrame(finished).to_parquet)
            finished = []
    spent = {"images": len(mine), "sampling_seconds": sampling_seconds, "seconds": time.perf_counter() - started}
    spent = gather_object([spent])
    accelerator.wait_for_everyone()
    return {
        "wall_seconds": max(entry["seconds"] for entry in spent),
        "sampling_seconds": max(entry["sampling_seconds"] for entry in spent),
        "images_this_run": sum(entry["images"] for entry in spent),
    }


def parts_folder(options: argparse.Namespace, steps: int, precision: str) -> Path:
    """Where finished images wait: another one for other settings or other weights, so that runs never mix."""
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("out", "steps")}
    if options.pipeline and Path(options.pipeline).is_dir():
        kinds = ("model_index.json", "*/*.json", "*/*.safetensors")
        files = [path for kind in kinds for path in Path(options.pipeline).glob(kind)]
        settings["files"] = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    digest = hashlib.sha256(json.dumps([settings, steps, precision], sort_keys=True).encode()).hexdigest()[:12]
    return options.out.with_suffix(".parts") / f"steps-{steps}-{digest}"


def circumstances(accelerator: Accelerator) -> dict:
    """Device, processes, peak memory (of the GPU, or of this process), versions and git commit."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "device": hardware(),
        "num_processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak,
        "versions": versions(),
        "git_commit": git_commit(),
    }


def print_results(results: dict):
    """The headline metrics with their intervals, and a line for each degenerate predictor and number of steps."""
    for name, entry in results["metrics"].items():
        if entry["value"] is not None:
            print(f"{name:24} {entry['value']:8.4f}  [{entry['low']:.4f}, {entry['high']:.4f}]")
    lines = dict(results["degenerate"])
    lines |= {f"{steps} steps": block["metrics"] for steps, block in results.get("by_steps", {}).items()}
    for label, metrics in lines.items():
        values = [f"{name} {metrics[name]['value']:.4f}" for name in ("dice", "ged", "hm_iou") if name in metrics]
        print(f"{label:24} {'  '.join(values)}")


def main(arguments: list[str] | None = None):
    options = parse_arguments(arguments)
    accelerator = Accelerator()
    use_threads(accelerator.num_processes)
    # 1. rows and model
    pipeline = load_pipeline(options, accelerator)
    steps_list = (options.steps or [pipeline.config.default_num_inference_steps]) if pipeline else [0]
    rows = open_split(options.dataset, options.split)
    chosen = np.random.default_rng(options.seed).permutation(len(rows))[: options.limit]
    # 2. measure each number of steps
    by_steps, tables = {}, []
    for steps in steps_list:
        folder = parts_folder(options, steps, accelerator.mixed_precision)
        spent = measure(pipeline, rows, np.sort(chosen), steps, folder, options, accelerator)
        if not accelerator.is_main_process:
            continue
        measured = read_parts(folder)
        speed = {}
        if pipeline and spent["images_this_run"]:
            speed["masks_per_second"] = spent["images_this_run"] * options.num_masks / spent["sampling_seconds"]
        by_steps[str(steps)] = summarize(measured, options.num_masks, options.seed, options.noise) | spent | speed
        tables.append(pandas.DataFrame(measured).assign(steps=steps))
    accelerator.end_training()  # a process that leaves with gloo's threads still at work may abort
    if not accelerator.is_main_process:
        return
    # 3. write the table, the results, the plots
    words = sys.argv[1:] if arguments is None else arguments
    results = {"command": f"accelerate launch -m medseglatdiff evaluate {shlex.join(words)}"}
    results |= {name: getattr(options, name) for name in ("pipeline", "dataset", "split", "limit")}
    if pipeline:
        results["num_inference_steps"] = steps_list[-1]
        results["scheduler"] = type(pipeline.scheduler).__name__
        results["antithetic"] = pipeline.config.antithetic
        default = pipeline.num_drawn(options.num_masks) if options.noise == "fresh" else options.num_masks
        results["num_candidates"] = options.num_candidates or default
        results["spread"] = pipeline.config.spread
    results |= list(by_steps.values())[-1] | circumstances(accelerator)
    if len(by_steps) > 1:
        results["by_steps"] = by_steps
    write_atomically(options.out.with_suffix(".parquet"), pandas.concat(tables).to_parquet)
    write_atomically(options.out, lambda path: path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n"))
    if pipeline:
        from .plots import save_plots

        save_plots(results, pandas.concat(tables), options.out.parent)
    shutil.rmtree(options.out.with_suffix(".parts"))
    print_results(results)
