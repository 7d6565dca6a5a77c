"""Time and peak memory of building LIDC-IDRI from its slices archive, whose masks are then compared bit for bit.

    python benchmarks/build_lidc.py

Peaks are of the builder and of all its processes together, sampled 20 times a second (proportional set size, in which
shared pages count once).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from datasets import Image, List, load_dataset

from medseglatdiff.builders.archives import Source
from medseglatdiff.data.files import write_json

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = Path(os.environ.get("MEDSEGLATDIFF_DATA", ROOT.parent / "shared" / "data")) / "LIDC-IDRI-slices.zip"
TARGET = {"seconds": 240, "peak_gb": 2}


def memory(process: psutil.Process) -> int:
    """Bytes that a process and its children hold now."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


def build(out: Path, num_workers: int) -> dict:
    """Build once in a fresh process."""
    command = [sys.executable, str(ROOT / "dataset_scripts" / "lidc_idri.py"), str(ARCHIVE), "--out", str(out)]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen([*command, "--num-workers", str(num_workers)], stderr=subprocess.DEVNULL) as building:
        while building.poll() is None:
            peak = max(peak, memory(psutil.Process(building.pid)))
            time.sleep(0.05)
    if building.returncode:
        raise RuntimeError(f"the build failed with exit code {building.returncode}")
    return {
        "num_workers": num_workers,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gb": round(peak / 1e9, 2),
    }


def compare(out: Path, cache: str) -> dict:
    """Rows per split, and how many masks and images of the loaded data set equal the archive's files bit for bit."""
    source, loaded = Source([ARCHIVE]), load_dataset(str(out), cache_dir=cache)
    loaded = loaded.cast_column("masks", List(Image(decode=False))).cast_column("image", Image(decode=False))
    equal = {"images": 0, "masks": 0}
    for row in (row for split in loaded.values() for row in split):
        patient, nodule, name = row["image_id"].split("/")
        stem = f"LIDC-IDRI-slices/{patient}/{nodule}"
        equal["images"] += row["image"]["bytes"] == source.read(f"{stem}/images/{name}.png")
        for index, mask in enumerate(row["masks"]):
            equal["masks"] += mask["bytes"] == source.read(f"{stem}/mask-{index}/{name}.png")
    dropped = len(json.loads((out / "report.json").read_text())["dropped"])
    return {"rows": {split: len(rows) for split, rows in loaded.items()}, "dropped": dropped, "equal_files": equal}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        runs = [build(Path(folder, f"{workers}"), workers) for workers in (1, 2)]
        found = compare(Path(folder, "1"), f"{folder}/cache")
    results = {"target": TARGET, "cpu_cores": os.cpu_count(), "runs": runs, **found}
    write_json(Path(__file__).with_suffix(".json"), results)
    print(json.dumps(results, indent=2))
