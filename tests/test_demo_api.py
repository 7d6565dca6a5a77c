"""The demo's endpoint `/segment`, called by `gradio_client` as users call it."""

import os
import re
import runpy
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import tiny_pipeline
from demo_fixtures import EXAMPLES, FOLDER, ROOT, SECRET, dicom, phantom_png, png_bomb, serve
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from medseglatdiff.data.images import load_image
from medseglatdiff.demo import limits, texts
from medseglatdiff.demo.app import find_models, load_pipelines
from medseglatdiff.demo.sampling import CHUNK
from medseglatdiff.demo.storage import LOCK

MODEL = "medseglatdiff-lidc-idri"  # the name in the README's snippet


class Failing(torch.nn.Module):
    """A U-Net that fails, with a patient's name in its message."""

    def forward(self, *inputs):
        raise RuntimeError(SECRET)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    failing = tiny_pipeline()
    failing.unet.forward = Failing().forward
    with serve({MODEL: tiny_pipeline(), "failing": failing}, tmp_path_factory.mktemp("cache")) as (demo, url):
        yield demo, url


@pytest.fixture
def client(served, tmp_path):
    return Client(served[1], download_files=tmp_path, verbose=False)


@pytest.fixture
def upload(tmp_path):
    def save(data: bytes, name: str = "image.png"):
        (tmp_path / name).write_bytes(data)
        return handle_file(tmp_path / name)

    return save


def segment(client: Client, image, model: str = MODEL, num_masks=CHUNK + 1, num_inference_steps=2, seed=0):
    return client.predict(image, model, num_masks, num_inference_steps, seed, api_name="/segment")


def expected(image: Path, num_masks: int, steps: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return tiny_pipeline()(load_image(image), num_masks, steps, generator, batch_size=CHUNK).masks[0]


def test_the_snippet_of_the_readme_runs(served, monkeypatch, capsys):
    snippet = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S).group(1)
    monkeypatch.chdir(EXAMPLES)
    names = {}
    exec(snippet.replace("ORG/medseglatdiff-demo", served[1]), names)
    with np.load(names["arrays"]) as arrays:
        masks = arrays["masks"]
    np.testing.assert_array_equal(masks, expected(EXAMPLES / "nodule-solid.png", 8, 10, 0))
    assert str([int(mask.sum()) for mask in masks]) in capsys.readouterr().out
    assert len(zipfile.ZipFile(names["masks"]).namelist()) == 8 + 4 and names["dicom"] is None


def test_segment_is_the_only_public_endpoint(client):
    endpoints = client.view_api(return_format="dict")
    assert list(endpoints["named_endpoints"]) == ["/segment"] and not endpoints["unnamed_endpoints"]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"num_masks": 0}, "whole number from 1 to 32 for hypotheses; you gave 0"),
        ({"num_masks": 10_000}, "you gave 10000"),
        ({"num_inference_steps": 51}, "from 1 to 50 for steps"),
        ({"seed": -1}, "for the seed"),
        ({"model": "failing"}, texts.FAILED),
    ],
    ids=str,
)
def test_bad_settings_are_told_and_the_next_job_runs(client, upload, capfd, settings, sentence):
    image = upload(phantom_png())
    with pytest.raises(AppError, match=re.escape(sentence)):
        segment(client, image, **settings)
    assert len(segment(client, image)[0]["areas_px"]) == CHUNK + 1
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "data, sentence",
    [(b"text", limits.NO_IMAGE), (png_bomb(60_000, 60_000), limits.TOO_MANY_PIXELS), (b"", limits.EMPTY)],
    ids=["text", "bomb", "empty"],
)
def test_bad_files_are_told(client, upload, data, sentence):
    with pytest.raises(AppError, match=re.escape(sentence)):
        segment(client, upload(data))


def test_files_of_the_server_cannot_be_named(client):
    payload = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError):
        segment(client, payload)


def test_dicom_in_dicom_out_and_no_patient_data_elsewhere(client, upload, capfd):
    numbers, masks, arrays, segmentation = segment(client, upload(dicom(), "Mustermann.dcm"))
    assert numbers["areas_mm2"] == pytest.approx([area * 0.661468**2 for area in numbers["areas_px"]])
    assert SECRET not in str(numbers) + masks + arrays + segmentation + "".join(capfd.readouterr())
    assert SECRET.encode() in Path(segmentation).read_bytes()
    assert SECRET.encode() not in Path(masks).read_bytes() + Path(arrays).read_bytes()


def test_clients_at_once_get_their_own_masks(served, tmp_path):
    demo_load = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "demo_load.py"), run_name="demo_load"))
    (tmp_path / "image.png").write_bytes(phantom_png())
    calls = demo_load.run_clients(served[1], tmp_path / "image.png", MODEL, 8, 2, num_masks=CHUNK + 1, steps=2)
    answers = demo_load.expected(tiny_pipeline(), tmp_path / "image.png", num_masks=CHUNK + 1, steps=2)
    assert len(calls) == 16 and len(set(answers.values())) == demo_load.SEEDS
    assert [call["masks"] for call in calls] == [answers[call["seed"]] for call in calls]


def test_every_file_is_deleted_and_none_stays_open(served, client, upload):
    segment(client, upload(dicom(), "image.dcm"))
    demo, _ = served
    folder = Path(demo.GRADIO_CACHE)
    delete_files_created_by_app(demo, age=0)  # what the server does each minute, with an age of half an hour
    assert demo.delete_cache == (60, 1800)
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in kept} <= {"image.webp", "finished.png", LOCK}  # the page's own
    stale = folder / "results" / "abandoned"
    stale.mkdir()
    os.utime(stale, (0, 0))
    segment(client, upload(phantom_png()))
    assert not stale.exists() and len(list(stale.parent.iterdir())) >= 1
    opened = [file.path for file in psutil.Process(os.getpid()).open_files() if file.path.startswith(str(folder))]
    assert opened == [str(folder / LOCK)]


def test_missing_models_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pipelines, problems = load_pipelines([str(tmp_path / "no-model")])
    assert not pipelines and problems[0].startswith("The model no-model could not be loaded. Please check")
    assert load_pipelines([]) == ({}, [texts.NO_MODEL])


def test_models_come_from_the_environment(tmp_path, monkeypatch):
    tiny_pipeline().save_pretrained(tmp_path / "mine")
    monkeypatch.setenv("MEDSEGLATDIFF_MODELS", f"{tmp_path / 'mine'}, ORG/other")
    assert find_models() == [str(tmp_path / "mine"), "ORG/other"]
    assert list(load_pipelines(find_models()[:1])[0]) == ["mine"]
