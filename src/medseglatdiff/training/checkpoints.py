"""Checkpoints of a stage: tensors as safetensors, the rest as JSON, checksums of all. Nothing is ever unpickled.

checkpoint-N/weights.safetensors    of the module
             average.safetensors    the moving average of its parameters, by their order
             optimizer.safetensors  Adam's moments, by the parameters' order
             random.safetensors     states of torch's global generators, by process and device
             best.safetensors       the module's best weights so far, if it was validated before
             state.json             progress, gradient scaler, settings, number of processes, fingerprints of the data
                                    and of the networks that the stage does not train
             manifest.json          SHA-256 of the others
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..data.files import file_sha256, replacing, replacing_folder, write_json
from .config import Config
from .progress import Progress
from .records import settings_record

KEPT = 2
MANIFEST, STATE, BEST = "manifest.json", "state.json", "best.safetensors"
TENSORS = ("weights", "average", "optimizer", "random")
REQUIRED = {STATE, *(f"{name}.safetensors" for name in TENSORS)}


def number_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a stage, oldest first; other folders of similar names are none."""
    named = (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-[0-9]+", path.name))
    return sorted((path for path in named if path.is_dir()), key=number_of)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; `None` if it is as it was written."""
    try:
        expected = json.loads((checkpoint / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except ValueError:
        return f"{MANIFEST} is damaged"
    if not isinstance(expected, dict) or not expected.keys() >= REQUIRED:
        return f"{MANIFEST} is damaged"
    for name, digest in expected.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if file_sha256(checkpoint / name) != digest:
            return f"{name} is damaged"
    return None


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, `None` if there is none at all; and what is wrong with newer ones.

    Raises:
        ValueError: if there are checkpoints, but none is whole.
    """
    skipped: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint, skipped
        skipped.append(f"{problem} in {checkpoint.name}")
    if skipped:
        raise ValueError(
            f"No checkpoint in {folder} is whole: {', '.join(skipped)}. To start afresh, delete that folder or name "
            "another `--output-dir`."
        )
    return None, []


@dataclass
class Training:
    """The parts of a stage in training whose state a checkpoint holds, and fingerprints of what it builds on."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: EMAModel
    progress: Progress
    data: str
    frozen: str


def save_checkpoint(accelerator: Accelerator, training: Training, config: Config, folder: Path):
    """Saves everything that resuming needs, by the main process alone, and deletes the oldest checkpoints."""
    everyones = gather_object([generator_states()])
    if accelerator.is_main_process:
        moments = training.optimizer.state_dict()["state"]
        tensors = {
            "weights": training.module.state_dict(),
            "average": {str(index): value for index, value in enumerate(training.average.shadow_params)},
            "optimizer": {f"{index}.{name}": value for index, own in moments.items() for name, value in own.items()},
            "random": {f"{index}.{kind}": value for index, own in enumerate(everyones) for kind, value in own.items()},
        }
        state: dict = {"progress": training.progress.state_dict(), "settings": settings_record(config)}
        state |= {"num_processes": accelerator.num_processes, "data": training.data, "frozen": training.frozen}
        state["scaler"] = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
        write_checkpoint(folder, training.progress.step, tensors, state)
    accelerator.wait_for_everyone()


def write_checkpoint(folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict):
    """Writes `checkpoint-STEP` whole, with the best weights beside it, then deletes what is older or of no use."""
    with replacing_folder(folder / f"checkpoint-{step}") as partial:
        for name, values in tensors.items():
            save_tensors(values, partial / f"{name}.safetensors")
        if (folder / BEST).is_file():
            shutil.copyfile(folder / BEST, partial / BEST)
        write_json(partial / STATE, state)
        write_json(partial / MANIFEST, {path.name: file_sha256(path) for path in sorted(partial.iterdir())})
    found = checkpoints(folder)
    newer = [path for path in found if number_of(path) > step]  # of no use: damaged, or they would have been resumed
    for path in newer + [path for path in found if path not in newer][:-KEPT]:
        shutil.rmtree(path)


def save_tensors(values: dict[str, torch.Tensor], path: Path):
    save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, path)


def read_state(checkpoint: Path) -> dict:
    """The JSON of a checkpoint.

    Raises:
        ValueError: if it is not what training writes.
    """
    with naming(checkpoint):
        state = json.loads((checkpoint / STATE).read_text("utf-8"))
        return {name: state[name] for name in ("progress", "settings", "num_processes", "data", "frozen", "scaler")}


@contextmanager
def naming(checkpoint: Path) -> Iterator[None]:
    """Turns whatever a checkpoint of another making causes into one `ValueError` that names it."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ValueError(f"{checkpoint} is no checkpoint of this training: {reason}") from error


def restore(accelerator: Accelerator, training: Training, checkpoint: Path):
    """Puts everything back as `save_checkpoint` found it, the best weights beside the checkpoint too.

    Raises:
        ValueError: if the checkpoint is not one of this training, as it may be where a stranger made it, or `dataset`
            holds other images or masks than it did, or the networks that are not trained have other weights.
    """
    state, groups = read_state(checkpoint), training.optimizer.state_dict()["param_groups"]
    if state["data"] != training.data:
        raise ValueError(f"`dataset` must be what {checkpoint} was trained on, but holds other images or masks.")
    if state["frozen"] != training.frozen:
        raise ValueError(
            f"`start_from` must be the pipeline that {checkpoint} was trained from, but has other weights. To train "
            "afresh, name another `--output-dir`."
        )
    with naming(checkpoint):
        tensors = {name: load_file(checkpoint / f"{name}.safetensors") for name in TENSORS}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors["optimizer"].items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
        shadows = [tensors["average"][str(index)] for index in range(len(tensors["average"]))]
        training.module.load_state_dict(tensors["weights"])
        training.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        training.progress.load_state_dict(state["progress"])
        training.average.load_state_dict({"shadow_params": shadows, "optimization_step": training.progress.step})
        training.average.to(accelerator.device)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        set_generator_states(tensors["random"], accelerator.process_index)
        if (checkpoint / BEST).is_file():
            safe_open(checkpoint / BEST, "pt")
    if accelerator.is_main_process and (checkpoint / BEST).is_file():
        with replacing(checkpoint.parent / BEST) as partial:
            shutil.copyfile(checkpoint / BEST, partial)
    accelerator.wait_for_everyone()


def generator_states() -> dict[str, torch.Tensor]:
    """Of torch's global generators, from which dropout draws."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_generator_states(states: dict[str, torch.Tensor], process_index: int):
    """Puts the generators of one process back as `generator_states` of all processes found them."""
    torch.set_rng_state(states[f"{process_index}.cpu"])
    if f"{process_index}.cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"{process_index}.cuda"])
