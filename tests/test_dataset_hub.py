"""Round trips of built data sets through a local Hub, in a process of its own: clients read the address at import."""

import json
import os
import subprocess
import sys

from dataset_fixtures import one_of_each
from local_hub import FakeHub

CLIENT = """
import json, sys
import numpy as np
from medseglatdiff.builders import cvc_clinicdb, folder, isic2018, lidc_idri, phantom
from datasets import load_dataset
from huggingface_hub import DatasetCard
from medseglatdiff.data.splits import open_split

found = {}
for builder, arguments in json.loads(sys.argv[1]).items():
    repo, out = f"tester/{builder}", f"{sys.argv[2]}/{builder.replace('_', '-')}"
    globals()[builder].main([*arguments, "--out", out, "--push-to-hub", repo])
    here, there = load_dataset(out), load_dataset(repo)
    assert here.keys() == there.keys()
    for split in here:
        assert here[split].features == there[split].features
        for a, b in zip(here[split], open_split(repo, split), strict=True):
            assert (a["image_id"], a["group_id"]) == (b["image_id"], b["group_id"])
            for x, y in zip([a["image"], *a["masks"]], [b["image"], *b["masks"]], strict=True):
                assert x.mode == y.mode and np.array_equal(np.asarray(x), np.asarray(y))
    card = DatasetCard.load(repo)
    assert card.content.strip() == open(out + "/README.md").read().strip() and card.data.license
    scope = {}
    exec(card.content.split("```python\\n")[1].split("```")[0], scope)
    assert repo in card.text and scope["rows"].num_rows == here["train"].num_rows
    found[builder] = {split: len(there[split]) for split in there}
print("FOUND", json.dumps(found))
"""


def test_every_set_survives_push_and_load_by_id(tmp_path):
    with FakeHub() as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test"}
        env |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        arguments = json.dumps(one_of_each(tmp_path))
        command = [sys.executable, "-c", CLIENT, arguments, str(tmp_path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        pushed = {name: [title for _, title, _ in repo.commits] for (_, name), repo in hub.repos.items()}
        held = {name: set(repo.commits[-1][2]) for (_, name), repo in hub.repos.items()}
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("FOUND ")[1])
    totals = {"lidc_idri": 8, "cvc_clinicdb": 4, "isic2018": 6, "folder": 5, "phantom": 8}
    assert {name: sum(rows.values()) for name, rows in found.items()} == totals
    for name, titles in pushed.items():
        assert titles == ["initial commit", "Build with medseglatdiff"]  # card and data at once
        assert {"README.md", "report.json"} <= held[name] and "contact_sheet.png" not in held[name]
