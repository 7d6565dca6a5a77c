"""Files of a finished stage and of a finished run: true to what was done, whole, and without this machine's paths."""

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import ModelMixin

from ..data.files import replacing_folder, write_json
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.saved import forget_paths
from .config import Config
from .progress import Progress
from .provenance import git_commit, hardware, public, versions

SHARD = "15MB"


def settings_record(config: Config) -> dict:
    """All settings as they may be published."""
    return public(json.loads(json.dumps(dataclasses.asdict(config)))) | {"hub_model_id": config.hub_model_id}


def run_facts(rows: dict[str, int]) -> dict:
    """What a run depends on besides its settings; `rows`: how many there are in each split."""
    return {
        "rows": rows,
        "num_processes": PartialState().num_processes,
        "hardware": hardware(),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def write_stage(folder: Path, progress: Progress, config: Config, rows: dict[str, int]):
    """Writes summary.json, the stage's entry in the training.json of the pipeline that it becomes part of.

    A stage that was finished before keeps the entry that it got then: its versions and its commit are others.
    """
    path, done = folder / "summary.json", progress.state_dict()
    if path.is_file() and done.items() <= json.loads(path.read_text("utf-8")).items():
        return
    write_json(path, {**done, "settings": settings_record(config), **run_facts(rows)})


def read_stages(output_dir: Path, *names: str) -> dict[str, dict]:
    """What `write_stage` wrote of these stages; those that were not trained are left out."""
    paths = {name: output_dir / name / "summary.json" for name in names}
    return {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.is_file()}


def save_model(model: ModelMixin, folder: Path):
    """`save_pretrained`, by the main process alone; the folder is replaced whole."""
    state = PartialState()
    if state.is_main_process:
        with replacing_folder(folder) as partial:
            model.save_pretrained(partial, max_shard_size=SHARD)
            forget_paths(partial)
    state.wait_for_everyone()


def save_pipeline(
    pipeline: MedSegLatDiffPipeline, config: Config, folder: Path, rows: dict[str, int], stages: dict[str, dict]
):
    """Saves the pipeline in half precision, with training.json and the data set's card, by the main process alone.

    Args:
        rows: how many there were in each split.
        stages: the entry of every stage that made it, by name.
    """
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.half()  # as `to(torch.float16)`, which warns of modules to keep in float32 where there are none
    state = PartialState()
    if state.is_main_process:
        with replacing_folder(folder) as partial:
            pipeline.save_pretrained(partial, max_shard_size=SHARD)
            write_json(
                partial / "training.json", {"config": settings_record(config), "stages": stages, **run_facts(rows)}
            )
            card = Path(config.dataset) / "README.md"
            if card.is_file():
                shutil.copyfile(card, partial / "dataset.md")
    state.wait_for_everyone()
