"""What goes wrong on the way to the Hub and back: nothing half-published, nothing half-loaded, no token in any log."""

import json

import pytest
from conftest import PAPER_PRESET, tiny_pipeline
from hub_fixtures import TOKEN, folder, hub  # noqa: F401

START = """
import json, logging, sys, urllib.request
import huggingface_hub.constants as constants
from huggingface_hub.utils import _http
_http.time.sleep = lambda seconds: None
logging.basicConfig(level=logging.DEBUG)

def fault(*faults):
    urllib.request.urlopen(constants.ENDPOINT + "/faults", data=json.dumps(faults).encode())

def error_of(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"

found = {}
"""
UPLOADS = """
from huggingface_hub import HfApi
from medseglatdiff.hub.publish import publish
api, folder, other = HfApi(), *sys.argv[1:]  # the Hub keeps weights that it was once sent: a cut needs new ones
# 1. one cut: the retry finishes
fault(["PUT", "/lfs/", "cut upload"])
publish(folder, "tester/one-cut")
# 2. a Hub that always cuts: nothing is published; once it is back, the same command finishes
fault(["PUT", "/lfs/", "cut upload", 1000])
found["always cut"] = error_of(publish, other, "tester/cut")
found["files after the cut"] = api.list_repo_files("tester/cut")
fault()
publish(other, "tester/cut")
# 3. the commit itself is answered 500
publish(folder, "tester/second")
fault(["POST", "/commit/", "500", 1000])
found["500"] = error_of(publish, folder, "tester/second", commit_message="Second")
# 4. rights and kinds
fault(["POST", "/repos/create", "403"])
found["403"] = error_of(publish, folder, "other/nodules")
fault(["POST", "/commit/", "401"])
found["401"] = error_of(publish, folder, "tester/second")
fault()
api.create_repo("tester/images", repo_type="dataset")
found["kind"] = error_of(publish, folder, "tester/images")
found["id"] = error_of(publish, folder, "one/two/three")
print("FOUND", json.dumps(found))
"""
DOWNLOADS = """
import resource, shutil
from pathlib import Path
from medseglatdiff import MedSegLatDiffPipeline
load = MedSegLatDiffPipeline.from_pretrained
cache = Path(constants.HF_HUB_CACHE)
# 1. cuts and 503 on the way down
fault(["GET", "unet/diffusion_pytorch_model.safetensors", "cut answer"], ["GET", "/mask_vae/", "503"])
found["cut"] = error_of(load, "tester/good")
fault()
found["after the cut"] = error_of(load, "tester/good")
shutil.rmtree(cache)
# 2. a disk that takes no file above 8 KiB
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
found["full"] = error_of(load, "tester/good")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
found["whole files of a full disk"] = [
    str(path) for path in cache.rglob("snapshots/*/*/*.safetensors") if path.stat().st_size <= 8192
]
found["after the full disk"] = error_of(load, "tester/good")
# 3. repositories that somebody spoiled
for name in json.loads(sys.argv[1]):
    found[name] = error_of(load, f"tester/{name}")
print("FOUND", json.dumps(found))
"""
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def found_by(done) -> dict:
    return json.loads(done.stdout.split("FOUND ")[1])


@pytest.fixture(scope="module")
def uploads(hub, folder, tmp_path_factory) -> dict:  # noqa: F811
    other = folder.parent / "other"
    tiny_pipeline(scheduler=PAPER_PRESET).save_pretrained(other)
    return found_by(hub.python(START + UPLOADS, tmp_path_factory.mktemp("home"), folder, other))


def test_upload_goes_on_after_a_cut(hub, folder, uploads):  # noqa: F811
    files = hub.files("model", "tester/one-cut")
    assert files[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert len(hub.repos["model", "tester/one-cut"].commits) == 2


def test_a_failed_upload_publishes_nothing(hub, folder, uploads):  # noqa: F811
    assert uploads["always cut"] != "none" and uploads["files after the cut"] == []
    assert len(hub.repos["model", "tester/cut"].commits) == 2
    path = "mask_vae/diffusion_pytorch_model.safetensors"
    assert hub.files("model", "tester/cut")[path] == (folder.parent / "other" / path).read_bytes()
    assert uploads["always cut"].startswith("ConnectionError: The Hub could not be reached for tester/cut: ")
    assert uploads["500"].startswith("ConnectionError: The Hub answered 500 for tester/second: ")
    assert all("\n" not in error for error in uploads.values() if isinstance(error, str))
    assert [title for _, title, _ in hub.repos["model", "tester/second"].commits][-1] != "Second"


def test_missing_rights_and_other_kinds_are_named(uploads):
    assert uploads["403"].startswith("PermissionError: The token may not write to other/nodules")
    assert uploads["401"].startswith("PermissionError: The token may not write to tester/second")
    assert uploads["kind"] == "none"  # the Hub keeps models and data sets apart
    assert uploads["id"] == "ValueError: `repo_id` must be ORG/NAME, but was 'one/two/three'."


@pytest.fixture(scope="module")
def downloads(hub, folder, tmp_path_factory) -> dict:  # noqa: F811
    good = folder.parent / "good"
    tiny_pipeline().save_pretrained(good)
    hub.put("tester/good", good)
    files = hub.files("model", "tester/good")
    weights, others = files[WEIGHTS], {path: data for path, data in files.items() if path != WEIGHTS}
    hub.put("tester/tampered", {**files, WEIGHTS: weights.replace(b"conv_in.bias", b"conv_in.bios")})
    hub.put("tester/garbage", {**files, WEIGHTS: weights[64::-1] + weights[64:]})
    hub.put("tester/other", {**files, WEIGHTS: files["mask_vae/diffusion_pytorch_model.safetensors"]})
    hub.put("tester/no-component", {path: data for path, data in files.items() if not path.startswith("unet/")})
    hub.put("tester/pickle", {**others, WEIGHTS.replace(".safetensors", ".bin"): weights})
    names = ["tampered", "garbage", "other", "no-component", "pickle", "nothing"]
    return found_by(hub.python(START + DOWNLOADS, tmp_path_factory.mktemp("home"), json.dumps(names)))


def test_download_recovers_from_cuts_and_a_full_disk(downloads):
    assert downloads["after the cut"] == "none"
    assert downloads["full"] != "none" and downloads["whole files of a full disk"] == []
    assert downloads["after the full disk"] == "none"


def test_spoiled_repositories_are_refused(downloads):
    assert "ValueError: The weights in" in downloads["tampered"] and "conv_in.bias" in downloads["tampered"]
    assert "OSError: MedSegLatDiffUNet cannot be loaded: Unable to load weights" in downloads["garbage"]
    assert "ValueError: The weights in" in downloads["other"]
    assert "MedSegLatDiffUNet" in downloads["no-component"]
    assert "diffusion_pytorch_model.safetensors" in downloads["pickle"]
    assert "tester/nothing" in downloads["nothing"]


def test_the_token_was_sent_and_not_told(hub, uploads, downloads):  # noqa: F811
    """`Hub.run` has asserted that it is in no line of the clients' logs, which were at their most talkative."""
    assert f"Bearer {TOKEN}" in hub.tokens
    assert not any(
        TOKEN in message for message in [*uploads.values(), *downloads.values()] if isinstance(message, str)
    )
