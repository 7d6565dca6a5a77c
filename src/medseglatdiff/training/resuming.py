"""Where a stage goes on, if it may: with the settings that it was started with."""

from pathlib import Path

from .checkpoints import checkpoints, newest_whole, read_state
from .config import Config
from .records import settings_record

# Settings that leave every result as it is
OUTSIDE = {"output_dir", "stage", "resume", "checkpoint_every", "tracker", "hub_model_id", "push_to_hub", "push_best"}
# Settings that the autoencoders know nothing of
LATER = {"target", "image_encoder", "unet", "scheduler", "train_image_encoder", "auxiliary_weight", "noise_levels"}
LATER |= {"unet_steps", "unet_learning_rate", "validation_masks", "default_num_masks"}
LATER |= {"default_num_inference_steps", "antithetic", "symmetries"}
AUTOENCODERS = ("mask_vae", "image_vae", "mask_decoder")


def shapes(setting: str, stage: str) -> bool:
    """Whether a setting has a part in what a stage becomes; one that is not known here is taken to."""
    if setting in OUTSIDE:
        return False
    return not (setting.startswith("energy_") and stage != "energy" or setting in LATER and stage in AUTOENCODERS)


def checkpoint_to_resume(folder: Path, config: Config, num_processes: int) -> tuple[Path | None, str]:
    """The checkpoint from which the stage of this folder goes on, `None` where it has none; and a sentence about newer
    ones that are damaged, empty where none is.

    Raises:
        ValueError: if there are checkpoints and the run is not to resume, or has other settings, or none is whole.
    """
    if not config.resume:
        if checkpoints(folder):
            raise ValueError(
                f"`--resume` must be given to go on from the checkpoints in {folder}; to start afresh, name another "
                "`--output-dir` or delete that folder."
            )
        return None, ""
    checkpoint, skipped = newest_whole(folder)
    if checkpoint is None:
        return None, ""
    notice = f"{folder}: {', '.join(skipped)}; {checkpoint.name} is used." if skipped else ""
    check_settings(checkpoint, folder.name, config, num_processes, notice)
    return checkpoint, notice


def check_settings(checkpoint: Path, stage: str, config: Config, num_processes: int, notice: str = ""):
    """Raises a `ValueError` that names the settings by which a run would go on otherwise than it began."""
    state = read_state(checkpoint)
    before = state["settings"] | {"num_processes": state["num_processes"]}
    now = settings_record(config) | {"num_processes": num_processes}
    changed = [name for name, value in now.items() if name in before and before[name] != value and shapes(name, stage)]
    if not changed:
        return
    told = ", ".join(f"`{name}` was {before[name]!r} and is {now[name]!r}" for name in changed)
    lines = [f"`--resume` must keep the settings of {checkpoint}: {told}."]
    if any(name.endswith("_steps") for name in changed):
        lines.append(
            "The learning rate falls over the steps that a stage begins with; to train a finished pipeline further, "
            "give it as `--start-from`, with another `--output-dir`."
        )
    raise ValueError(" ".join([*lines, "To train afresh, name another `--output-dir`.", notice]).strip())
