"""Processes of a training: one at a time in a folder, and none that outlives its launcher."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from medseglatdiff.training import watchdog
from medseglatdiff.training.lock import check_free, holding

HOLD = """
import sys, time
from pathlib import Path
from medseglatdiff.training.lock import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
LAUNCH = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""
WORK = f"""
import runpy, time
runpy.run_path({watchdog.__file__!r})["end_with_launcher"]()
print("at work", flush=True)
time.sleep(60)
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_the_folder_and_a_dead_process_holds_none(tmp_path):
    first = hold(tmp_path / "run", 60)
    named = rf"`output_dir` must .* in use by process {first.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    for attempt in (lambda: check_free(tmp_path / "run"), lambda: holding(tmp_path / "run").__enter__()):
        with pytest.raises(ValueError, match=named) as caught:
            attempt()
        assert os.environ.get("USER", "no user") not in str(caught.value)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    check_free(tmp_path / "run")
    with holding(tmp_path / "run"):
        holder = json.loads((tmp_path / "run" / ".training.json").read_text())
        assert holder.keys() == {"host", "pid", "since"} and holder["pid"] == os.getpid()
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"):
            check_free(tmp_path / "run")
    check_free(tmp_path / "run")


def test_looking_writes_nothing_and_what_was_refused_leaves_no_folder(tmp_path):
    check_free(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OSError, match="mine"), holding(tmp_path / "new"):
        raise OSError("mine")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OSError, match="mine"), holding(tmp_path / "new"):
        (tmp_path / "new" / "work").write_text("kept")
        raise OSError("mine")
    assert (tmp_path / "new" / "work").exists()
    check_free(tmp_path / "new")


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes by Linux's /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    ("variable", "ends"), [("ACCELERATE_DYNAMO_BACKEND", True), ("TORCHELASTIC_RUN_ID", True), ("NONE", False)]
)
def test_a_training_ends_with_its_launcher_and_with_no_other_parent(variable, ends, sent):
    environment = {name: value for name, value in os.environ.items() if name not in ("ACCELERATE_DYNAMO_BACKEND",)}
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**environment, variable: "no"})
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, WORK], **options)
    child = int(launcher.stdout.readline())
    try:
        assert launcher.stdout.readline() == "at work\n"
        launcher.send_signal(sent)
        launcher.wait()
        deadline = time.monotonic() + (10 if ends else 1.5)
        while running(child) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running(child) != ends
    finally:
        if running(child):
            os.kill(child, signal.SIGKILL)
