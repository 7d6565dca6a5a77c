"""Measures a pipeline on a split; writes results.json, and beside it a table of all images, plots and pictures.

    accelerate launch -m medseglatdiff evaluate --pipeline DIR --dataset data/lidc-idri --split test --num-masks 16 \\
        --out results.json

The numbers depend only on the rows, --num-masks, --steps and --seed: each image's noise is seeded by its id, so the
number of processes does not matter. Finished images are kept in `results.parts/` until the results are written, so the
same command resumes after an interruption. Without --pipeline only predictors without a model are measured. With
several --steps, the last one gives the main results; all of them are in `by_steps`. With `accelerate launch
--mixed_precision bf16` sampling takes half the time on hardware with bf16.

contact_sheet.png shows images of the data set; `publish` does not upload it.
"""

import argparse
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import pandas
import torch
from accelerate import Accelerator

from ..data.files import replacing, write_json
from ..data.splits import open_split
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..training.commands import Parser, public_command, whole_number
from ..training.launcher import use_threads
from ..training.provenance import git_commit, hardware, public, versions
from .contact_sheet import choose_examples, draw_contact_sheet
from .measuring import IMAGES_PER_BATCH, measure, parts_folder, predict_rows, read_parts, save_table
from .printed import results_text
from .rows import Prediction
from .summary import summarize


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the options.

    Raises:
        ValueError: for an invalid value; names the option.
    """
    parser = Parser("evaluate", __doc__)
    add = parser.add_argument
    add("--pipeline", help="folder or Hub id of a pipeline; None: only predictors without a model")
    add("--dataset", required=True, default=argparse.SUPPRESS, help='folder or Hub id of the data set, or "phantom"')
    add("--split", default="test", help="split of the data set")
    add("--num-masks", type=whole_number(1), default=16, help="masks (hypotheses) per image")
    add(
        "--num-candidates", type=whole_number(1), help="candidates per image, to choose the masks from; None: as saved"
    )
    add("--steps", type=whole_number(1), nargs="+", help="one or more numbers of denoising steps; None: as saved")
    add("--limit", type=whole_number(1), help="images to measure, chosen at random; None: all")
    add("--seed", type=whole_number(0), default=0, help="seed of the noise and of the choice of images")
    add("--scheduler", help="scheduler of diffusers, such as DDIMScheduler; None: as saved")
    add("--noise", choices=("fresh", "same", "zero"), default="fresh", help="initial noise of each image")
    add(
        "--num-classes",
        type=whole_number(1),
        default=1,
        help="foreground classes, only without --pipeline",
    )
    add("--no-pictures", action="store_true", help="write no contact_sheet.png: it shows images of the data set")
    add(
        "--out", type=Path, default=Path("results.json"), help="file of the results; other files are written beside it"
    )
    options = parser.parse_args(arguments)
    if options.num_candidates is not None and options.num_candidates < options.num_masks:
        least = f"`--num-masks`, {options.num_masks}"
        raise ValueError(f"`--num-candidates` must be at least {least}, but was {options.num_candidates}.")
    if options.scheduler and not hasattr(diffusers, options.scheduler):
        raise ValueError(f"`--scheduler` must be a class of diffusers, but was {options.scheduler}.")
    return options


def load_pipeline(options: argparse.Namespace, accelerator: Accelerator) -> MedSegLatDiffPipeline | None:
    """The pipeline to measure, if any, with the requested scheduler."""
    if options.pipeline is None:
        return None
    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline).to(accelerator.device)
    if options.scheduler:
        pipeline.scheduler = getattr(diffusers, options.scheduler).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def circumstances(accelerator: Accelerator) -> dict:
    """Device, number of processes, peak memory (of the GPU or of this process), versions and git commit."""
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
    """Writes contact_sheet.png beside the results; its masks are sampled again from the same noise."""
    examples = choose_examples(measured)
    positions = {row["image_id"]: int(row["index"]) for chosen in examples.values() for row in chosen}
    shown = {image_id: rows[position] for image_id, position in positions.items()}
    predictions: dict[str, Prediction] = {}
    for first in range(0, len(shown), IMAGES_PER_BATCH):
        batch = list(shown)[first : first + IMAGES_PER_BATCH]
        drawn = predict_rows(pipeline, [shown[image_id] for image_id in batch], steps, options, accelerator)
        predictions |= zip(batch, drawn, strict=True)
    sheet = draw_contact_sheet(examples, shown, predictions, pipeline.num_classes)
    with replacing(options.out.parent / "contact_sheet.png") as partial:
        sheet.save(partial)


def measured_settings(pipeline: MedSegLatDiffPipeline | None, steps: int, options, arguments: Sequence[str]) -> dict:
    """The settings of the evaluation, without local paths."""
    settings = {
        "command": public_command("evaluate", arguments),
        "pipeline": public(options.pipeline),
        "dataset": public(options.dataset),
        "split": options.split,
        "limit": options.limit,
    }
    if pipeline is None:
        return settings
    default = pipeline.num_drawn(options.num_masks) if options.noise == "fresh" else options.num_masks
    return settings | {
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
    accelerator.end_training()  # otherwise threads of gloo may abort the process at exit
    if not accelerator.is_main_process:
        return
    # 3. write the table, the results, the plots, the pictures
    results = measured_settings(pipeline, steps_list[-1], options, sys.argv[1:] if arguments is None else arguments)
    results |= list(by_steps.values())[-1] | circumstances(accelerator)
    if len(by_steps) > 1:
        results["by_steps"] = by_steps
    save_table(options.out.with_suffix(".parquet"), pandas.concat(tables))
    write_json(options.out, results)
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
