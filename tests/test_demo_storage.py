"""What the page promises about uploads: they go by age, at the end, after a kill, and nobody can fill the disk."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest
from conftest import tiny_pipeline
from demo_fixtures import phantom_png, serve
from gradio.route_utils import delete_files_created_by_app

from medseglatdiff.demo import client_limits, texts
from medseglatdiff.demo.client_limits import MAX_UPLOADS, UploadLimit
from medseglatdiff.demo.storage import LOCK, PARENT, FilesIn, claim_folder, new_folder

CLAIM = """
import sys, time
from medseglatdiff.demo.storage import claim_folder
(claim_folder() / "Mustermann.dcm").write_text("patient")
print("ready", flush=True)
time.sleep(60)
"""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


def test_folders_of_dead_processes_are_swept_and_those_of_living_ones_are_left(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "other-app").mkdir()
    (tmp_path / "other-app" / "keep.txt").write_text("not ours")
    process = subprocess.Popen([sys.executable, "-c", CLAIM], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    mine = claim_folder()
    assert mine.parent == tmp_path / PARENT and os.environ["GRADIO_TEMP_DIR"] == str(mine)
    assert files(tmp_path) == ["Mustermann.dcm", "keep.txt"]
    process.kill()  # nothing can be cleaned up
    process.wait()
    assert files(tmp_path) == ["Mustermann.dcm", "keep.txt"]
    second = claim_folder()
    assert second.parent == mine.parent and mine.exists() and files(tmp_path) == ["keep.txt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_leaves_nothing(number, tmp_path):
    code = "from medseglatdiff.cli import main; main(['demo'])"
    settings = {"GRADIO_TEMP_DIR": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "False", "MEDSEGLATDIFF_MODELS": ""}
    command = [sys.executable, "-u", "-c", code]
    server = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True)
    url = next(line.split()[-1] for line in server.stdout if "http://" in line)
    httpx.post(f"{url}/gradio_api/upload", files={"files": ("Mustermann.png", phantom_png())}).raise_for_status()
    assert "Mustermann.png" in files(tmp_path)
    server.send_signal(number)
    server.wait(30)
    assert files(tmp_path) == [] and not (tmp_path / PARENT).exists()


def test_files_go_by_age_whoever_wrote_them(tmp_path):
    demo = gr.Blocks()
    demo.temp_file_sets.append(FilesIn(tmp_path))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in (LOCK, "upload.png", "deep/tile.webp", "deep/er/map.png"):
        (tmp_path / name).write_text("x")
    delete_files_created_by_app(demo, age=60)
    assert len(files(tmp_path)) == 3
    delete_files_created_by_app(demo, age=-1)
    assert files(tmp_path) == [] and (tmp_path / LOCK).exists()
    results = new_folder(tmp_path, keep_seconds=-1)
    assert results.is_dir() and not (tmp_path / "deep").exists()


def scope(length: int | None, client: str = "1.2.3.4", proxied: str = "") -> dict:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    headers += [(b"x-forwarded-for", proxied.encode())] if proxied else []
    return {"headers": headers, "client": (client, 1), "type": "http", "method": "POST", "path": "/gradio_api/upload"}


def ask(limit: UploadLimit, **options) -> tuple[int, str] | None:
    request = scope(**options)
    return limit.refuse(client_limits.client_of(request), client_limits.length_of(request))


def test_uploads_are_limited_for_each_client_and_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    clock = [0.0]
    limit = UploadLimit(None, now=lambda: clock[0])
    assert [ask(limit, length=5) for _ in range(MAX_UPLOADS)] == [None] * MAX_UPLOADS
    assert ask(limit, length=5) == (429, client_limits.TOO_MANY)
    assert ask(limit, length=5, client="5.6.7.8") is None  # another client
    assert ask(limit, length=5, proxied="1.2.3.4, 9.9.9.9") is None  # the proxy saw 9.9.9.9; the rest is hearsay
    assert ask(limit, length=5, client="9.9.9.9", proxied="9.9.9.9, 1.2.3.4") == (429, client_limits.TOO_MANY)
    clock[0] = 60 * texts.KEEP_MINUTES + 1
    assert ask(limit, length=5) is None and list(limit.uploads) == ["1.2.3.4"]
    size = client_limits.MAX_FILE_MB * 10**6
    answers = [
        ask(limit, length=size, client="large")
        for _ in range(client_limits.MAX_UPLOADED_MB // client_limits.MAX_FILE_MB + 1)
    ]
    assert answers == [None] * (len(answers) - 1) + [(429, client_limits.TOO_MANY)]
    assert ask(limit, length=size + 20_000, client="new") == (413, client_limits.TOO_BIG)
    assert ask(limit, length=None, client="new") == (411, client_limits.NO_LENGTH)
    monkeypatch.setattr(client_limits, "MAX_STORED_MB", 0)
    assert ask(limit, length=1, client="new") == (503, client_limits.FULL)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server, its folder, and the steps that its model has taken."""
    steps, pipeline = [], tiny_pipeline()
    pipeline.unet.register_forward_hook(lambda *_: steps.append(time.sleep(0.02)))
    folder = tmp_path_factory.mktemp("cache")
    with serve({"tiny": pipeline}, folder) as (_, url):
        yield url.rstrip("/"), folder, steps


def test_the_server_refuses_uploads_over_the_limit(served, monkeypatch):
    url = served[0]
    monkeypatch.setattr(client_limits, "MAX_UPLOADS", 0)
    for path in ("/gradio_api/upload", "/gradio_api/upload/"):
        answer = httpx.post(url + path, files={"files": ("a.png", phantom_png())})
        assert (answer.status_code, answer.text) == (429, client_limits.TOO_MANY)


IMAGE = {"path": "a.png", "meta": {"_type": "gradio.FileData"}}
MALFORMED = {
    "nothing": [],
    "too few": [None, "tiny"],
    "too many": [None, "tiny", 1, 1, 0, 5, 6],
    "a number as image": [7, "tiny", 1, 1, 0, None],
    "a list as image": [[1, [2]], "tiny", 1, 1, 0, None],
    "an image without path": [{"meta": {"_type": "gradio.FileData"}}, "tiny", 1, 1, 0, None],
    "a path as text": ["/etc/passwd", "tiny", 1, 1, 0, None],
    "a file that is not there": [IMAGE, "tiny", 1, 1, 0, None],
    "a file of the server": [IMAGE | {"path": "/etc/passwd"}, "tiny", 1, 1, 0, None],
    "a dict as number": [None, "tiny", {"a": 1}, 1, 0, None],
    "a text as number": [None, "tiny", "three", 1, 0, None],
    "a list as model": [None, ["tiny"], 1, 1, 0, None],
    "an unknown model": [None, "huge", 1, 1, 0, None],
    "a number as model": [None, 1e400, 1, 1, 0, None],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_calls_get_a_sentence(served, name, capfd):
    url = f"{served[0]}/gradio_api/call/segment"
    body = json.dumps({"data": MALFORMED[name]})
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=30)
    answer.raise_for_status()
    text = httpx.get(f"{url}/{answer.json()['event_id']}", timeout=30).text
    assert text.startswith("event: error")
    error = json.loads(text.split("data:", 1)[1])["error"]
    assert error.endswith(".") and "Please" in error and "/etc" not in error
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_client_that_is_gone_stops_its_run(served):
    url, _, steps = served
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", phantom_png())}).json()[0]
    call = {"data": [IMAGE | {"path": path}, "tiny", 32, 50, 0, None]}  # 200 steps
    steps.clear()
    number = httpx.post(f"{url}/gradio_api/call/segment", json=call).json()["event_id"]
    deadline = time.monotonic() + 30
    with httpx.stream("GET", f"{url}/gradio_api/call/segment/{number}", timeout=30):
        while len(steps) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    while any(thread.name == "sampling" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert 3 <= len(steps) < 150


def test_nothing_is_left_in_a_folder_that_a_server_has_used(served):
    url, folder, _ = served
    httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", phantom_png())}).raise_for_status()
    assert "a.png" in files(folder) and [path.name for path in folder.iterdir()] == [PARENT]
