"""Files of a run: all are written under a temporary name and then renamed, so that a kill leaves nothing broken."""

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from diffusers import DiffusionPipeline, ModelMixin

from .config import Config
from .provenance import git_commit, hardware, versions

KEPT_CHECKPOINTS = 2
MODEL_SETTINGS = ("mask_vae", "image_vae", "image_encoder", "unet", "scheduler", "scale_latents")


def replace_folder(partial: Path, final: Path):
    """Puts a finished folder in its place: whoever looks sees the old one or the new one, never half of one."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: dict):
    """Writes under a temporary name, then renames: a reader never finds half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.rename(path)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a stage, oldest first."""
    complete = (path for path in folder.glob("checkpoint-*") if not path.suffix)  # neither .partial nor .old
    return sorted(complete, key=lambda path: int(path.name.split("-")[1]))


def latest_checkpoint(folder: Path, resume: bool) -> Path | None:
    """Where the stage goes on, if it has been trained before.

    Raises:
        ValueError: if it has, but is not to be resumed: new checkpoints would mix with those of the other run.
    """
    found = checkpoints(folder)
    if found and not resume:
        raise ValueError(
            f"`--resume` must be given to go on from the checkpoints in {folder}; to start afresh, name another "
            "`--output-dir` or delete that folder."
        )
    return found[-1] if found else None


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int):
    """Saves everything that resuming needs under a temporary name, renames it, and drops the oldest checkpoints."""
    partial = folder / f"checkpoint-{step}.partial"
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        replace_folder(partial, folder / f"checkpoint-{step}")
        for path in checkpoints(folder)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(path)


def save_atomically(model: ModelMixin | DiffusionPipeline, folder: Path):
    """`save_pretrained`, by the main process alone, under a temporary name that is then renamed."""
    state = PartialState()
    if state.is_main_process:
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial, max_shard_size="15MB")
        replace_folder(partial, folder)
    state.wait_for_everyone()


def with_models_of_start(config: Config) -> Config:
    """The settings with those of the models of `start_from`, which are its own whatever the preset says.

    They are known where the pipeline has a training.json.
    """
    record = Path(config.start_from or "", "training.json")
    if not config.start_from or not record.is_file():
        return config
    earlier = json.loads(record.read_text())["config"]
    return dataclasses.replace(config, **{name: earlier[name] for name in MODEL_SETTINGS})


def earlier_stages(pipeline: Path | str, config: Config) -> dict[str, dict]:
    """Summaries of the stages that made a pipeline, from its training.json; none where it has no such file.

    Beside them stand the commit and the number of processes that they ran with, and as `other_settings` the settings
    that were others than those of `config`.
    """
    record = Path(pipeline) / "training.json"
    if not record.is_file():
        return {}
    earlier = json.loads(record.read_text())
    run_facts = {name: earlier[name] for name in ("git_commit", "num_processes")}
    stages = {}
    for name, run in earlier["stages"].items():
        settings = earlier["config"] | run.pop("other_settings", {})
        stages[name] = run_facts | run | other_settings(settings, config)
    return stages


def other_settings(earlier: dict, config: Config) -> dict[str, dict]:
    """As `other_settings`, those of a stage's own settings that are others than `config`'s, if there are any."""
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    others = {name: value for name, value in earlier.items() if now.get(name) != value}
    return {"other_settings": others} if others else {}


def summaries(config: Config, *stages: str) -> dict[str, dict]:
    """What `fit` wrote of these stages, without those that the run has not trained; with their `other_settings`."""
    folders = {stage: Path(config.output_dir) / stage for stage in stages}
    runs = {}
    for stage, folder in folders.items():
        if (folder / "summary.json").exists():
            own = json.loads((folder / "config.json").read_text())
            runs[stage] = json.loads((folder / "summary.json").read_text()) | other_settings(own, config)
    return runs


def with_stage(earlier: dict[str, dict], config: Config, stage: str) -> dict[str, dict]:
    """The stages that made a pipeline and one more; where it had been one of them before, that is `start/STAGE`.

    Trained on once more, that becomes `start/start/STAGE`: no run is lost.
    """
    renamed = {f"start/{name}" if name.split("/")[-1] == stage else name: run for name, run in earlier.items()}
    return renamed | summaries(config, stage)


def save_pipeline(pipeline: DiffusionPipeline, config: Config, folder: Path, rows: dict[str, int], stages: dict):
    """Saves the pipeline in half precision to `folder`, and how it was trained as `training.json`.

    Args:
        rows: how many there were in each split.
        stages: summaries of the stages that made it, by name.
    """
    save_atomically(pipeline.to(torch.float16), folder)
    if not PartialState().is_main_process:
        return
    training = {
        "config": dataclasses.asdict(config),
        "stages": stages,
        "rows": rows,
        "num_processes": PartialState().num_processes,
        "hardware": hardware(),
        "versions": versions(),
        "git_commit": git_commit(),
    }
    write_json(folder / "training.json", training)
    if (Path(config.dataset) / "README.md").is_file():
        shutil.copyfile(Path(config.dataset) / "README.md", folder / "dataset.md")
