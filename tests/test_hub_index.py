"""model_index.json names nothing but this package and diffusers' schedulers: no code of a checkpoint runs."""

import json
import sys
from pathlib import Path

import pytest
from conftest import tiny_pipeline
from diffusers import DiffusionPipeline
from hub_fixtures import Hub, hub  # noqa: F401

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.cli import main
from medseglatdiff.hub.publish import PIPELINE_SHIM
from medseglatdiff.pipeline.saved import MANIFEST

EVIL = "import builtins\nbuiltins.RAN = True\n" + "".join(
    f"class {name}: pass\n" for name in ("Evil", "MedSegLatDiffPipeline", "MedSegLatDiffUNet", "DDIMScheduler")
)
FOREIGN = {
    "a file of the component": {"unet": ["evil", "Evil"]},
    "a module on the path": {"unet": ["antigravity", "fly"]},
    "a dotted module": {"unet": ["os.path", "join"]},
    "another library": {"unet": ["transformers", "BertModel"]},
    "diffusers' own model": {"unet": ["diffusers", "UNet2DModel"]},
    "a class of the package that is no model": {"unet": ["medseglatdiff", "MedSegLatDiffPipeline"]},
    "another component's class": {"mask_vae": ["medseglatdiff", "MedSegLatDiffUNet"]},
    "a module of the package": {"mask_vae": ["medseglatdiff.models.autoencoder", "MedSegLatDiffVAE"]},
    "nothing": {"unet": [None, None]},
    "a name alone": {"unet": "MedSegLatDiffUNet"},
    "a scheduler of the package": {"scheduler": ["medseglatdiff", "MedSegLatDiffUNet"]},
    "a model as scheduler": {"scheduler": ["diffusers", "UNet2DModel"]},
    "the base of schedulers": {"scheduler": ["diffusers", "SchedulerMixin"]},
    "a module as scheduler": {"scheduler": ["diffusers", "scheduling_ddim"]},
    "a scheduler that is not": {"scheduler": ["diffusers", "NoScheduler"]},
    "a list as scheduler": {"scheduler": ["diffusers", ["DDIMScheduler"]]},
    "one component more": {"feature_extractor": ["evil", "Evil"]},
    "another pipeline": {"_class_name": "StableDiffusionPipeline"},
    "a pipeline in a file": {"_class_name": ["pipeline", "MedSegLatDiffPipeline"]},
}
CODE = ["unet/medseglatdiff.py", "mask_vae/medseglatdiff.py", "scheduler/diffusers.py", "None.py"]
LOAD = """
import json, sys
from medseglatdiff import MedSegLatDiffPipeline
found = {}
for name in json.loads(sys.argv[1]):
    try:
        MedSegLatDiffPipeline.from_pretrained(name, trust_remote_code=True)
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
import builtins
print("FOUND", json.dumps(found | {"ran": hasattr(builtins, "RAN")}))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def spoil(folder: Path, change: dict = (), code: str = "unet/evil.py") -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | dict(change)))
    (folder / code).write_text(EVIL)
    return folder


@pytest.fixture(autouse=True)
def nothing_ran():
    import builtins

    modules = set(sys.modules)
    yield
    assert not hasattr(builtins, "RAN") and "antigravity" not in set(sys.modules) - modules


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_class_is_refused_before_anything_is_built(folder, kind):
    name = next(iter(FOREIGN[kind]))
    with pytest.raises(ValueError, match="feature_extractor|_class_name|config" if name[0] in "_f" else f"`{name}`"):
        MedSegLatDiffPipeline.from_pretrained(spoil(folder, FOREIGN[kind]), trust_remote_code=True)


@pytest.mark.parametrize("code", CODE)
def test_code_that_stands_in_for_a_component_is_refused(folder, code):
    with pytest.raises(ValueError, match=f"must contain no code of a component, but contains {code}"):
        MedSegLatDiffPipeline.from_pretrained(spoil(folder, code=code), trust_remote_code=True)


@pytest.mark.parametrize("code", ["pipeline.py", "evil.py", "unet/evil.py", "conftest.py"])
def test_other_python_files_are_left_alone(folder, code):
    assert MedSegLatDiffPipeline.from_pretrained(spoil(folder, code=code)).config.sample_size == 32


def test_a_custom_pipeline_is_refused(folder):
    with pytest.raises(ValueError, match="`custom_pipeline` must not be given"):
        MedSegLatDiffPipeline.from_pretrained(spoil(folder, code="pipeline.py"), custom_pipeline=str(folder))


def test_a_repository_is_looked_at_before_it_is_loaded(hub: Hub, folder, tmp_path):  # noqa: F811
    hub.put("tester/good", folder)
    files = hub.files("model", "tester/good")
    index = json.loads(files["model_index.json"])
    foreign = json.dumps(index | FOREIGN["a file of the component"]).encode()
    hub.put("tester/evil", files | {"unet/evil.py": EVIL.encode(), "model_index.json": foreign})
    hub.put("tester/code", files | {"unet/medseglatdiff.py": EVIL.encode()})
    hub.put("tester/no-index", {"README.md": b"x"})
    requests = len(hub.log)
    names = [
        "tester/good",
        "tester/evil",
        "tester/code",
        "tester/no-index",
        "tester/none",
        "no/such/folder",
        str(tmp_path / "x"),
    ]
    done = hub.python(LOAD, tmp_path / "home", json.dumps(names))
    found = json.loads(done.stdout.split("FOUND ")[1])
    assert not found.pop("ran") and list(found) == names[1:]
    assert found["tester/evil"].startswith("ValueError: `unet` of model_index.json must be of medseglatdiff's")
    assert found["tester/code"].startswith("ValueError") and "unet/medseglatdiff.py" in found["tester/code"]
    assert (
        found["tester/no-index"]
        == "OSError: The Hub repository tester/no-index must hold a pipeline, but has no file model_index.json."
    )
    assert found["tester/none"].startswith(
        "OSError: There is no folder tester/none, and no Hub repository of that name"
    )
    assert found["no/such/folder"] == "OSError: There is no folder no/such/folder, and no Hub repository of that name."
    assert "There is no folder /" in found[str(tmp_path / "x")]
    log = [(method, path) for method, _, path in hub.log[requests:]]
    assert sum("good/resolve" in path and "model_index.json" in path and method == "GET" for method, path in log) == 1
    assert not any("tester/evil" in path and "safetensors" in path for _, path in log)


def test_a_missing_folder_is_called_that(capsys):
    assert main(["info", "no/such/folder"]) == 2
    assert "There is no folder no/such/folder, and no Hub repository of that name." in capsys.readouterr().err


def test_a_file_is_called_that(folder):
    with pytest.raises(OSError, match="must be the folder of a pipeline, but is a file"):
        MedSegLatDiffPipeline.from_pretrained(folder / "model_index.json")


def test_plain_diffusers_loads_it(folder):
    (folder / "pipeline.py").write_text(PIPELINE_SHIM)
    assert type(DiffusionPipeline.from_pretrained(folder)) is MedSegLatDiffPipeline
    loaded = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    assert type(loaded) is MedSegLatDiffPipeline


def test_files_of_two_savings_do_not_mix(folder, tmp_path):
    weights = "diffusion_pytorch_model.safetensors"
    other = tiny_pipeline()
    for parameter in other.unet.parameters():
        parameter.data += 1
    other.save_pretrained(tmp_path / "other")
    (folder / "unet" / weights).write_bytes((tmp_path / "other" / "unet" / weights).read_bytes())
    with pytest.raises(ValueError, match=rf"unet/{weights} in .* must be the file that was saved with the others"):
        MedSegLatDiffPipeline.from_pretrained(folder)
    (folder / MANIFEST).unlink()  # as in the folders that were published first
    assert MedSegLatDiffPipeline.from_pretrained(folder)
    other.save_pretrained(folder)
    assert set(json.loads((folder / MANIFEST).read_text())) == {
        *(f"{name}/config.json" for name in ("image_encoder", "mask_vae", "unet")),
        *(f"{name}/{weights}" for name in ("image_encoder", "mask_vae", "unet")),
        "scheduler/scheduler_config.json",
    }
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"threshold": 0.25}))  # as calibration does
    assert MedSegLatDiffPipeline.from_pretrained(folder).config.threshold == 0.25


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(folder, tmp_path, monkeypatch):
    tiny_pipeline(threshold=0.25).save_pretrained(tmp_path / "new")
    original, calls = DiffusionPipeline.from_pretrained.__func__, []

    def replaced_midway(cls, path, **options):
        pipeline = original(cls, path, **options)
        if not calls:
            folder.rename(tmp_path / "old")
            (tmp_path / "new").rename(folder)
        calls.append(path)
        return pipeline

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(replaced_midway))
    assert MedSegLatDiffPipeline.from_pretrained(folder).config.threshold == 0.25 and len(calls) == 2
