"""Which share of an evaluation do the metrics take? On LIDC-IDRI slices with 16 masks; writes a JSON beside it.

    python benchmarks/metrics_profile.py --pipeline pipelines/medseglatdiff-lidc-idri --dataset data/lidc-idri

The metrics are timed on every image, with the masks of random raters in place of a model's; sampling, with the
checkpoint's own number of steps, on a few images. Single metrics are timed on 16 samples and 4 raters of 128 x 128
pixels, and memory on 100 samples.
"""

import argparse
import cProfile
import json
import platform
import pstats
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff import metrics as functions
from medseglatdiff.data.files import write_json
from medseglatdiff.data.splits import open_split, read_raters
from medseglatdiff.evaluation.rows import degenerate_samples, measure_row, predict
from medseglatdiff.evaluation.summary import summarize
from medseglatdiff.pipeline.aggregation import binary_entropy

NUM_MASKS = 16


def random_rater_prediction(raters: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """Masks, confidence, uncertainty and consensus as a perfect model would give them."""
    samples = degenerate_samples("random_rater", raters, NUM_MASKS, seed)  # [M, H, W]
    confidence = samples.mean(axis=0, dtype=np.float32)  # [H, W]
    return samples, confidence, binary_entropy(torch.from_numpy(confidence)).numpy(), confidence >= 0.5


def sampling_seconds(pipeline: MedSegLatDiffPipeline, rows: list[dict]) -> float:
    """Seconds per image for its masks."""
    pipeline.set_progress_bar_config(disable=True)
    steps = pipeline.config.default_num_inference_steps
    list(predict(pipeline, rows[:1], NUM_MASKS, steps, seed=0))  # warm up
    started = time.perf_counter()
    list(predict(pipeline, rows, NUM_MASKS, steps, seed=0))
    return (time.perf_counter() - started) / len(rows)


def milliseconds(function, *arguments, repeats: int = 50) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function(*arguments)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times))


def single_metrics() -> dict:
    """Milliseconds of each metric of 16 samples and 4 raters, and the peak memory of GED for 100 samples."""
    rng = np.random.default_rng(0)
    samples, raters = rng.random((100, 128, 128)) < 0.1, rng.random((4, 128, 128)) < 0.1
    names = ("pairwise_iou", "generalized_energy_distance", "hm_iou", "d_max", "dice_match", "soft_dice")
    times = {name: round(milliseconds(getattr(functions, name), samples[:NUM_MASKS], raters), 2) for name in names}
    tracemalloc.start()
    functions.generalized_energy_distance(samples, raters)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"milliseconds_of_16_samples_4_raters": times, "ged_of_100_samples_peak_megabytes": round(peak / 1e6, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="pipelines/medseglatdiff-lidc-idri", help="folder or Hub id")
    parser.add_argument("--dataset", default="data/lidc-idri")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows = open_split(options.dataset, "test")
    rows = [rows[index] for index in range(min(options.limit, len(rows)))]
    predictions = [random_rater_prediction(read_raters(row), seed) for seed, row in enumerate(rows)]
    profile = cProfile.Profile()
    started = time.perf_counter()
    measured = [measure_row(row, NUM_MASKS, 0, prediction) for row, prediction in zip(rows, predictions, strict=True)]
    per_image = (time.perf_counter() - started) / len(rows)
    started = time.perf_counter()
    summarize(measured, NUM_MASKS)
    summary = time.perf_counter() - started
    for row, prediction in zip(rows[:50], predictions[:50], strict=True):
        profile.runcall(measure_row, row, NUM_MASKS, 0, prediction)
    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline)
    sampling = sampling_seconds(pipeline, rows[:8])
    metric_seconds = per_image * len(rows) + summary
    statistics = pstats.Stats(profile).stats.items()
    own = {name: cumulative for (file, _, name), (*_, cumulative, _) in statistics if "medseglatdiff" in file}
    results = {
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "num_images": len(rows),
        "num_masks": NUM_MASKS,
        "num_inference_steps": pipeline.config.default_num_inference_steps,
        "metric_milliseconds_per_image": 1000 * per_image,
        "summary_seconds": summary,
        "sampling_seconds_per_image": sampling,
        **single_metrics(),
        "share_of_metrics": metric_seconds / (metric_seconds + sampling * len(rows)),
        "profiled_milliseconds_per_image": {
            name: round(1000 * seconds / 50, 2)
            for name, seconds in sorted(own.items(), key=lambda item: -item[1])[:12]
        },
    }
    write_json(options.out, results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
