"""Time and peak memory of building LIDC-IDRI from its slices archive: `python benchmarks/build_lidc.py`."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MEDSEGLATDIFF_DATA", ROOT.parent / "shared" / "data"))
TARGET = {"seconds": 240, "peak_gb": 2}


def measure(num_workers: int) -> dict:
    """Build once in a fresh process; the peak is that of the largest process, times the number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "dataset_scripts" / "lidc_idri.py"), str(DATA / "LIDC-IDRI-slices.zip")]
        start = time.perf_counter()
        options = ["--out", f"{folder}/lidc-idri", "--num-workers", str(num_workers)]
        subprocess.run(command + options, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        report = json.loads(Path(folder, "lidc-idri", "report.json").read_text())
    processes = 1 if num_workers == 1 else num_workers + 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    rows = {split: facts["rows"] for split, facts in report["splits"].items()}
    measured = {
        "num_workers": num_workers,
        "seconds": round(seconds, 1),
        "peak_gb_at_most": round(peak * processes, 2),
    }
    return {**measured, "rows": rows, "dropped": len(report["dropped"])}


if __name__ == "__main__":
    results = {"target": TARGET, "cpu_cores": os.cpu_count(), "runs": [measure(workers) for workers in (1, 2)]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
