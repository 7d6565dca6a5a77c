"""Measures the rows of a split, in several processes; finished images are stored until the results are written."""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
from accelerate.utils import gather_object

from .. import __version__
from ..data.files import replacing
from ..training.commands import progress_bar
from ..training.provenance import git_commit
from .rows import Prediction, measure_row, predict

IMAGES_PER_BATCH = 8
IMAGES_PER_PART = 64


def parts_folder(options: argparse.Namespace, steps: int, precision: str) -> Path:
    """The folder of finished images, specific to settings, weights, data and code, so that runs never mix."""
    apart = ("out", "steps", "no_pictures")  # no effect on an image, or added below
    settings: dict[str, object] = {name: str(value) for name, value in vars(options).items() if name not in apart}
    kinds = {"pipeline": ("model_index.json", "*/*.json", "*/*.safetensors"), "dataset": ("**/*.parquet",)}
    folders = {name: Path(value) for name in kinds if (value := getattr(options, name))}
    files = [path for name, folder in folders.items() for kind in kinds[name] for path in folder.glob(kind)]
    settings["files"] = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    settings["code"] = [__version__, git_commit()]
    digest = hashlib.sha256(json.dumps([settings, steps, precision], sort_keys=True).encode()).hexdigest()[:12]
    return options.out.with_suffix(".parts") / f"steps-{steps}-{digest}"


def read_parts(folder: Path) -> list[dict]:
    """All measured rows, in order, without the numbers that an image does not have (NaN)."""
    tables = [
        pandas.read_parquet(path) for path in sorted(folder.glob("[0-9]*.parquet"))
    ]  # not those left by a killed process
    records = pandas.concat(tables).sort_values("index").to_dict("records") if tables else []
    return [
        {name: value for name, value in row.items() if isinstance(value, np.ndarray) or value == value}
        for row in records
    ]


def measure(pipeline, rows, chosen: np.ndarray, steps: int, folder: Path, options, accelerator) -> dict:
    """Measures the chosen rows that are not yet in `folder`; returns what this run took, over all processes."""
    done = {row["index"] for row in read_parts(folder)}
    accelerator.wait_for_everyone()  # no process writes before all have read
    todo = [int(index) for index in chosen if index not in done]
    mine = todo[accelerator.process_index :: accelerator.num_processes]
    num_classes = pipeline.num_classes if pipeline else options.num_classes
    finished, started, sampling_seconds = [], time.perf_counter(), 0.0
    with progress_bar(len(chosen), len(chosen) - len(todo), accelerator.is_main_process) as bar:
        for first in range(0, len(mine), IMAGES_PER_BATCH):
            indices = mine[first : first + IMAGES_PER_BATCH]
            batch = [rows[index] for index in indices]
            before = time.perf_counter()
            predictions: list[Prediction | None] = [None] * len(batch)
            if pipeline is not None:
                predictions = [*predict_rows(pipeline, batch, steps, options, accelerator)]
            sampling_seconds += time.perf_counter() - before
            for index, row, prediction in zip(indices, batch, predictions, strict=True):
                measured = measure_row(row, options.num_masks, options.seed, prediction, num_classes)
                finished.append(measured | {"index": index})
                bar.update(min(accelerator.num_processes, len(chosen) - bar.n))
            if len(finished) >= IMAGES_PER_PART or indices[-1] == mine[-1]:
                part = folder / f"{finished[0]['index']:06d}-{finished[-1]['index']:06d}.parquet"
                save_table(part, pandas.DataFrame(finished))
                finished = []
    spent = {"images": len(mine), "sampling_seconds": sampling_seconds, "seconds": time.perf_counter() - started}
    spent = gather_object([spent])
    accelerator.wait_for_everyone()
    return {
        "wall_seconds": max(entry["seconds"] for entry in spent),
        "sampling_seconds": max(entry["sampling_seconds"] for entry in spent),
        "images_this_run": sum(entry["images"] for entry in spent),
    }


def save_table(path: Path, table: pandas.DataFrame):
    """Writes a table as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        table.to_parquet(partial)


def predict_rows(pipeline, batch: list[dict], steps: int, options, accelerator) -> Iterator[Prediction]:
    """`predict` for rows of the data set with the given options."""
    drawn = (options.seed, options.noise, options.num_candidates)
    with accelerator.autocast():
        return predict(pipeline, batch, options.num_masks, steps, *drawn)
