"""Round trips of built data sets through a local Hub, in a process of its own: clients read the address at import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_fixtures import ROOT, slices, write_zip

SHARED = Path(os.environ.get("MEDSEGLATDIFF_DATA", ROOT.parent / "shared" / "data")).parent / "tools"
CLIENT = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import cvc_clinicdb, folder, isic2018, lidc_idri, phantom
from datasets import load_dataset
from huggingface_hub import DatasetCard

found = {}
for builder, arguments in json.loads(sys.argv[2]).items():
    repo, out = f"tester/{builder}", f"{sys.argv[3]}/{builder.replace('_', '-')}"
    globals()[builder].main([*arguments, "--out", out, "--push-to-hub", repo])
    here, there = load_dataset(out), load_dataset(repo)
    assert here.keys() == there.keys()
    for split in here:
        assert here[split].features == there[split].features
        for a, b in zip(here[split], there[split], strict=True):
            for x, y in zip([a["image"], *a["masks"]], [b["image"], *b["masks"]], strict=True):
                assert x.mode == y.mode and np.array_equal(np.asarray(x), np.asarray(y))
    card = DatasetCard.load(repo)
    assert card.text.strip() == DatasetCard.load(out + "/README.md").text.strip() and card.data.license
    found[builder] = {split: len(there[split]) for split in there}
print("FOUND", json.dumps(found))
"""


def test_every_set_survives_push_and_load_by_id(tmp_path):
    for place in (ROOT / "tests", SHARED):
        if (place / "local_hub.py").is_file():
            sys.path.append(str(place))
    local_hub = pytest.importorskip("local_hub", reason="the local Hub is not here")
    import numpy as np
    from dataset_fixtures import disc, png

    photo, mask = png(np.stack([disc(6)] * 3, -1)), png(disc(4))
    cvc = {
        f"CVC/PNG/{kind}/{n}.png": png(np.stack([disc(n % 7)] * 3, -1))
        for kind in ("Original", "Ground Truth")
        for n in (1, 30, 110)
    }
    isic = {}
    for n in range(6):
        isic[f"ISIC2018_Task1-2_Training_Input/ISIC_000000{n}.jpg"] = photo
        isic[f"ISIC2018_Task1_Training_GroundTruth/ISIC_000000{n}_segmentation.png"] = mask
    own = {f"{kind}/{n}.png": mask for kind in ("images", "masks-1", "masks-2") for n in range(5)}
    sources = {"lidc_idri": slices(4), "cvc_clinicdb": cvc, "isic2018": isic, "folder": own}
    arguments = {name: [str(write_zip(tmp_path / f"{name}.zip", files))] for name, files in sources.items()}
    arguments["phantom"] = ["--num-rows", "8", "--size", "32"]
    with local_hub.FakeHub() as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test"}
        env |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", CLIENT, str(ROOT / "dataset_scripts"), json.dumps(arguments), str(tmp_path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("FOUND ")[1])
    assert {name: sum(rows.values()) for name, rows in found.items()} == {
        "lidc_idri": 8,
        "cvc_clinicdb": 3,
        "isic2018": 6,
        "folder": 5,
        "phantom": 8,
    }
