"""300 configs with a wrong type or value in place of a setting, which is refused by the setting's name."""

import json
import random
import shutil
from pathlib import Path

import pytest
from conftest import tiny_pipeline

from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE
from medseglatdiff.models.checks import AUTOENCODER, IMAGE_ENCODER, UNET
from medseglatdiff.pipeline.checks import SCHEDULER, SETTINGS

CONFIGS = 300
NAN, INFINITY = float("nan"), float("inf")
WRONG = {  # by the type of what stands there, whatever the setting means
    bool: [None, 0, 1, "true", [True], {}, NAN],
    int: [None, True, "3", 1.5, -1, NAN, INFINITY, 10**12, [3], {}],
    float: [None, True, "0.5", NAN, INFINITY, -INFINITY, -1.5, [0.5], {}],
    str: [None, 3, True, "nonsense", "", [], {}],
    list: [7, "text", [], [None], ["1"], [NAN], [{}], [[1]], [-1], True],
    type(None): [True, "text", [], [None], -1, NAN],
}
COMPONENTS = {
    "mask_vae/config.json": (AUTOENCODER, MedSegLatDiffVAE),
    "image_encoder/config.json": (IMAGE_ENCODER, MedSegLatDiffImageEncoder),
    "unet/config.json": (UNET, MedSegLatDiffUNet),
    "scheduler/scheduler_config.json": (SCHEDULER, MedSegLatDiffPipeline),
    "model_index.json": (SETTINGS, MedSegLatDiffPipeline),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pipeline of which every list is full, and beside it an image encoder."""
    folder = tmp_path_factory.mktemp("configs")
    pipeline = tiny_pipeline()
    pipeline.mask_vae.set_latent_statistics([0.25], [2.0])
    pipeline.image_encoder.set_latent_statistics([0.0] * 3, [1.0] * 3)
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "image_encoder")
    MedSegLatDiffImageEncoder().save_pretrained(folder / "image_encoder")
    pipeline.image_encoder.save_pretrained(folder / "image_vae")
    return folder


def cases(folder: Path) -> list[tuple[str, str, object]]:
    """File, setting and wrong value of each case: of all that there could be, as many as the campaign tries."""
    found = []
    for file, (rules, _) in COMPONENTS.items():
        config = json.loads((folder / file).read_text())
        for setting in rules.keys() & config.keys():
            found += [(file, setting, value) for value in WRONG[type(config[setting])]]
    allowed = [  # values of another type that mean something
        ("image_encoder/config.json", "backbone", "nonsense"),
        ("image_encoder/config.json", "num_classes", None),
    ]
    found = sorted((case for case in found if case not in allowed), key=repr)
    return random.Random(0).sample(found, CONFIGS)


def judge(folder: Path, file: str, setting: str, value: object):
    """Raises an `AssertionError` unless loading refuses this value by the name of its setting."""
    path, model_class = folder / file, COMPONENTS[file][1]
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {setting: value}))
    try:
        if model_class is MedSegLatDiffPipeline:
            loaded = model_class.from_pretrained(folder)
        else:
            loaded = model_class.from_pretrained(folder, subfolder=path.parent.name)
    except (ValueError, TypeError, OSError) as error:
        assert setting in str(error) and len(str(error)) < 600, f"not named: {error}"
    else:
        raise AssertionError(f"wrong in silence: {type(loaded).__name__} was loaded")
    finally:
        path.write_text(before)


def test_configs(folder, ledger):
    what = "config with a wrong type or value"
    for file, setting, value in cases(folder):
        with ledger.case(what, f"{file} {setting} = {value!r}"):
            judge(folder, file, setting, value)
    ledger.check(what, CONFIGS)


def test_the_judge_sees_a_config_that_is_taken(folder):
    with pytest.raises(AssertionError, match="wrong in silence: MedSegLatDiffUNet was loaded"):
        judge(folder, "unet/config.json", "dropout", 0.25)
