"""Measures a pipeline over a split; writes results.json, and beside it a table of all images, plots and pictures.

    accelerate launch -m medseglatdiff evaluate --pipeline DIR --dataset data/lidc-idri --split test --num-masks 16 \\
        --out results.json

The numbers depend on the rows, --num-masks, --steps and --seed alone: each image's noise is seeded by its id, so
several processes, which share the processor's cores, give what one gives. Finished images are kept in `results.parts/`
until the results are written, so the same command carries on after an interruption. Without --pipeline only the
degenerate predictors are measured. Of several --steps the last is the headline; all of them stand in `by_steps`.
With `accelerate launch --mixed_precision bf16` sampling takes half the time where the hardware has bf16.

contact_sheet.png shows images of the data set: it is for your eyes, and `publish` leaves it out.
"""

import argparse
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import diffusers
import numpy as np
import pandas
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.splits import open_split
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..training.commands import Parser, progress_bar, public_command, public_name, whole_number, write_atomically
from ..training.launcher import use_threads
from ..training.provenance import git_commit, hardware, versions
from .contact_sheet import choose_examples, draw_contact_sheet
from .printed import results_text
from .rows import measure_row, predict
from .summary import summarize

IMAGES_PER_BATCH = 8
IMAGES_PER_PART = 64


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options.

    Raises:
        ValueError: that names the option, for values that cannot be used.
    """
    parser = Parser("evaluate", __doc__)
    add = parser.add_argument
    add("--pipeline", help="folder or Hub id of a pipeline; None: degenerate predictors only")
    add("--dataset", required=True, default=argparse.SUPPRESS, help='folder or Hub id of the data set, or "phantom"')
    add("--split", default="test", help="of the data set")
    add("--num-masks", type=whole_number(1), default=16, help="masks (hypotheses) per image")
    add("--num-candidates", type=whole_number(1), help="masks drawn per image, to choose these from; None: as saved")
    add("--steps", type=whole_number(1), nargs="+", help="denoising steps, one or several numbers; None: as saved")
    add("--limit", type=whole_number(1), help="images to measure, chosen at random; None: all")
    add("--seed", type=whole_number(0), default=0, help="of the noise and of the choice of images")
    add("--scheduler", help="class of diffusers, such as DDIMScheduler; None: as saved")
    add("--noise", choices=("fresh", "same", "zero"), default="fresh", help="each image's first noise")
    add("--num-classes", type=whole_number(1), default=1, help="classes of the masks, only without --pipeline")
    add("--no-pictures", action="store_true", help="write no contact_sheet.png: it shows images of the data set")
    add("--out", type=Path, default=Path("results.json"), help="file of the results; the others go beside it")
    options = parser.parse_args(arguments)
    if options.num_candidates is not None and options.num_candidates < options.num_masks:
        least = f"`--num-masks`, {options.num_masks}"
        raise ValueError(f"`--num-candidates` must be at least {least}, but was {options.num_candidates}.")
    if options.scheduler and not hasattr(diffusers, options.scheduler):
        raise ValueError(f"`--scheduler` must be a class of diffusers, but was {options.scheduler}.")
    return options


def load_pipeline(options: argparse.Namespace, accelerator: Accelerator) -> MedSegLatDiffPipeline | None:
    """The pipeline to measure, if there is one, with the scheduler that was asked for."""
    if options.pipeline is None:
        return None
    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline).to(accelerator.device)
    if options.scheduler:
        pipeline.scheduler = getattr(diffusers, options.scheduler).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


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
    num_classes = pipeline.num_classes if pipeline else options.num_classes
    finished, started, sampling_seconds = [], time.perf_counter(), 0.0
    with progress_bar(len(chosen), len(chosen) - len(todo), accelerator.is_main_process) as bar:
        for first in range(0, len(mine), IMAGES_PER_BATCH):
            indices = mine[first : first + IMAGES_PER_BATCH]
            batch = [rows[index] for index in indices]
            before = time.perf_counter()
            predictions = [None] * len(batch)
            if pipeline is not None:
                predictions = list(predict_rows(pipeline, batch, steps, options, accelerator))
            sampling_seconds += time.perf_counter() - before
            for index, row, prediction in zip(indices, batch, predictions, strict=True):
                measured = measure_row(row, options.num_masks, options.seed, prediction, num_classes)
                finished.append(measured | {"index": index})
                bar.update(min(accelerator.num_processes, len(chosen) - bar.n))
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


def predict_rows(pipeline, batch: list[dict], steps: int, options, accelerator) -> Iterator[tuple]:
    """`predict` of rows of the data set as the options say."""
    drawn = (options.seed, options.noise, options.num_candidates)
    with accelerator.autocast():
        return predict(pipeline, batch, options.num_masks, steps, *drawn)


def parts_folder(options: argparse.Namespace, steps: int, precision: str) -> Path:
    """Where finished images wait: another one for other settings or other weights, so that runs never mix."""
    apart = ("out", "steps", "no_pictures")  # no number of an image depends on them, or they are named beside
    settings = {name: str(value) for name, value in vars(options).items() if name not in apart}
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


def save_pictures(pipeline, rows, measured: list[dict], steps: int, options, accelerator):
    """Writes contact_sheet.png beside the results; its images are drawn once more, from the same noise."""
    examples = choose_examples(measured)
    positions = {row["image_id"]: int(row["index"]) for chosen in examples.values() for row in chosen}
    shown = {image_id: rows[position] for image_id, position in positions.items()}
    predictions = {}
    for first in range(0, len(shown), IMAGES_PER_BATCH):
        batch = list(shown)[first : first + IMAGES_PER_BATCH]
        drawn = predict_rows(pipeline, [shown[image_id] for image_id in batch], steps, options, accelerator)
        predictions |= zip(batch, drawn, strict=True)
    sheet = draw_contact_sheet(examples, shown, predictions, pipeline.num_classes)
    path = options.out.parent / "contact_sheet.png"
    write_atomically(path, lambda partial: sheet.save(partial, "PNG"))


def settings(pipeline: MedSegLatDiffPipeline | None, steps: int, options, arguments: Sequence[str]) -> dict:
    """What was measured on what, without anybody's paths."""
    told = {"command": public_command("evaluate", arguments)}
    told |= {name: public_name(getattr(options, name)) for name in ("pipeline", "dataset")}
    told |= {"split": options.split, "limit": options.limit}
    if pipeline is None:
        return told
    default = pipeline.num_drawn(options.num_masks) if options.noise == "fresh" else options.num_masks
    return told | {
        "num_inference_steps": steps,
        "scheduler": type(pipeline.scheduler).__name__,
        "antithetic": pipeline.config.antithetic,
        "num_candidates": options.num_candidates or default,
        "spread": pipeline.config.spread,
    }


def main(arguments: list[str] | None = None):
    """`medseglatdiff evaluate`."""
    options = parse_arguments(arguments)
    accelerator = Accelerator()
    use_threads(accelerator.num_processes)
    # 1. rows and model
    pipeline = load_pipeline(options, accelerator)
    steps_list = (options.steps or [pipeline.config.default_num_inference_steps]) if pipeline else [0]
    num_classes = pipeline.num_classes if pipeline else options.num_classes
    rows = open_split(options.dataset, options.split, num_classes=num_classes)
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
        summary = summarize(measured, options.num_masks, options.seed, options.noise, num_classes)
        by_steps[str(steps)] = summary | spent | speed
        tables.append(pandas.DataFrame(measured).assign(steps=steps))
    accelerator.end_training()  # a process that leaves with gloo's threads still at work may abort
    if not accelerator.is_main_process:
        return
    # 3. write the table, the results, the plots, the pictures
    results = settings(pipeline, steps_list[-1], options, sys.argv[1:] if arguments is None else arguments)
    results |= list(by_steps.values())[-1] | circumstances(accelerator)
    if len(by_steps) > 1:
        results["by_steps"] = by_steps
    write_atomically(options.out.with_suffix(".parquet"), pandas.concat(tables).to_parquet)
    write_atomically(options.out, lambda path: path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n"))
    if pipeline:
        from .plots import save_plots

        save_plots(results, pandas.concat(tables), options.out.parent)
        if not options.no_pictures:
            save_pictures(pipeline, rows, measured, steps_list[-1], options, accelerator)
    shutil.rmtree(options.out.with_suffix(".parts"))
    print(results_text(results))
    print(f"\nwritten: {options.out}, and beside it a table of all images{' and pictures' if pipeline else ''}")
    if pipeline and Path(options.pipeline).is_dir():
        print(f"next: medseglatdiff publish {options.pipeline} --card-only")
