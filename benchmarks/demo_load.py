"""The demo under load: `python benchmarks/demo_load.py [MODEL]`.

The Space runs as users run it, in a process of its own. Measured: seconds from start to page, seconds from the click
on an example to its results in a browser, and 8 clients with 25 calls each: answers (every mask compared with the
pipeline's own), waiting times, and the server's memory.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from gradio_client import Client, handle_file

from medseglatdiff.data.files import write_json

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "examples" / "nodule-solid.png"
TARGET = {"start_seconds": 20, "first_result_seconds": 5, "clients": 8, "calls_each": 25, "wrong": 0}
CHUNK = 4  # of spaces/demo/sampling.py: the pipeline's batch size
SEEDS = 5  # different answers that the clients ask for
ROUNDS = 5  # of fresh clients, with the memory read after each
LOAD = {"num_masks": 4, "steps": 5}  # light jobs: the server's own work counts as much as the model's


def start_space(model: str, folder: str) -> tuple[subprocess.Popen, str, float]:
    """The running Space, its address, and the seconds until it served its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MEDSEGLATDIFF_MODELS": model, "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": folder}
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(ROOT / "spaces" / "demo" / "app.py")], env=os.environ | settings)
    url = f"http://127.0.0.1:{port}/"
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return process, url, time.perf_counter() - start
        except urllib.error.URLError:
            time.sleep(0.1)
    raise RuntimeError(f"the Space ended with status {process.returncode}")


def first_result(url: str) -> float:
    """Seconds from the click on an example to its hypotheses on the page, with the default settings."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#examples img")
        start = time.perf_counter()
        page.locator("#examples button").first.click()
        page.wait_for_selector("#gallery img", timeout=120_000)
        seconds = time.perf_counter() - start
        browser.close()
    return seconds


def digest(masks: np.ndarray) -> str:
    """Of masks, so that answers can be compared without keeping them."""
    return hashlib.sha256(np.packbits(masks).tobytes()).hexdigest()


def expected(pipeline, image: Path, num_masks: int, steps: int) -> dict[int, str]:
    """The pipeline's own masks for each seed."""
    from medseglatdiff.data.images import load_image

    pixels, answers = load_image(image, pipeline.config.stretch), {}
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        answers[seed] = digest(pipeline(pixels, num_masks, steps, generator, batch_size=CHUNK).masks[0])
    return answers


def run_clients(url: str, image: Path, model: str, clients: int, calls: int, num_masks: int, steps: int) -> list[dict]:
    """Each client's calls one after the other, all clients at once: seed, digest of the masks, seconds of each."""

    def run_client(number: int) -> list[dict]:
        answers = []
        with tempfile.TemporaryDirectory() as folder:
            client = Client(url, download_files=folder, verbose=False)
            for call in range(calls):
                seed, start = (number + call) % SEEDS, time.perf_counter()
                outputs = client.predict(handle_file(image), model, num_masks, steps, seed, api_name="/segment")
                seconds = time.perf_counter() - start
                with np.load(outputs[2]) as arrays:
                    answers.append({"seed": seed, "masks": digest(arrays["masks"]), "seconds": seconds})
            client.close()
        return answers

    with ThreadPoolExecutor(clients) as pool:
        return [answer for answers in pool.map(run_client, range(clients)) for answer in answers]


def main(model: str):
    """Measures everything and writes demo_load.json; the first result has the checkpoint's default settings."""
    from medseglatdiff import MedSegLatDiffPipeline

    pipeline = MedSegLatDiffPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    settings = dict(num_masks=pipeline.config.default_num_masks, steps=pipeline.config.default_num_inference_steps)
    answers = expected(pipeline, IMAGE, **LOAD)
    name = Path(model).name
    with tempfile.TemporaryDirectory() as folder:
        process, url, started = start_space(model, folder)
        try:
            shown = first_result(url)
            server, calls, memory, start = psutil.Process(process.pid), [], [], time.perf_counter()
            for _ in range(ROUNDS):
                calls += run_clients(url, IMAGE, name, TARGET["clients"], TARGET["calls_each"] // ROUNDS, **LOAD)
                memory.append(server.memory_info().rss)
            seconds = time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()
    waits = sorted(call["seconds"] for call in calls)
    results = {
        "target": TARGET,
        "cpu_cores": os.cpu_count(),
        "model": name,
        "start_seconds": round(started, 1),
        "first_result_seconds": round(shown, 2),
        "first_result_settings": settings,
        "load_settings": LOAD,
        "calls": len(calls),
        "wrong": sum(call["masks"] != answers[call["seed"]] for call in calls),
        "seconds": round(seconds, 1),
        "median_wait_seconds": round(waits[len(waits) // 2], 2),
        "longest_wait_seconds": round(waits[-1], 2),
        "memory_mb_after_each_round": [round(value / 1e6) for value in memory],
    }
    write_json(Path(__file__).with_suffix(".json"), results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "pipelines" / "medseglatdiff-lidc-idri"))
