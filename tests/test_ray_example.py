"""The Ray example on a local cluster: every case once, and a killed worker costs nothing that was finished."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import tiny_pipeline
from test_segment_folder import contents, save

from medseglatdiff.cli import main

EXAMPLE = Path(__file__).parents[1] / "examples" / "segment_archive_ray.py"


@pytest.mark.slow
def test_an_archive_is_segmented_whole_although_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray", reason="needs the extra `cluster`")
    scans, model, out = tmp_path / "scans", tmp_path / "model", tmp_path / "out"
    tiny_pipeline().save_pretrained(model)
    for number in range(24):
        save(scans / f"{number:02}.png", number)
    (scans / "bad.png").write_text("no image")
    words = [str(scans), "--model", str(model), "--out"]
    assert main(["segment", *words, str(tmp_path / "one")]) == 1
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(EXAMPLE), *words, str(out), "--batch-size", "2"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    killed = []

    def kill():  # one actor, in the middle of the job
        while process.poll() is None and not killed:
            if 2 <= len(list(out.glob("*/done.json"))) < 20:
                workers = [
                    own
                    for own in psutil.Process(process.pid).children(recursive=True)
                    if "SegmentBatch" in " ".join(own.cmdline())
                ]
                for worker in workers[:1]:
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.append(worker.pid)
            time.sleep(0.01)

    threading.Thread(target=kill, daemon=True).start()
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and killed, told
    assert "24 of 25 cases are in" in told
    expected = contents(tmp_path / "one")
    expected.pop("failures.csv")
    left = {name: content for name, content in contents(out).items() if not name.startswith(".partial-")}
    assert left == expected
