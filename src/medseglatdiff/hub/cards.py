"""The pipeline, data and training sections of a model card: pure functions of training.json and dataset.md."""

import re
from typing import Any

from huggingface_hub import DatasetCard

from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..training.history import read_record
from .tables import markdown_table

STAGES = {
    "mask_vae": "mask autoencoder",
    "image_vae": "image autoencoder",
    "unet": "denoiser",
    "energy": "sampler, with the energy score",
    "mask_decoder": "mask decoder, with a frozen encoder",
}
RATES = {"unet": "unet_learning_rate", "energy": "energy_learning_rate"}
CALIBRATED = ", calibrated to how often the raters of the validation split marked such pixels"
EXAMPLES = {  # by data set, the drawing in demo/examples that resembles its images
    "lidc-idri": "nodule-solid.png",
    "cvc-clinicdb": "polyp-small.png",
    "isic2018": "skin-mole.png",
}


def pipeline_facts(pipeline: MedSegLatDiffPipeline) -> str:
    """A table of the model's inputs, outputs, defaults and size."""
    config, classes = pipeline.config, pipeline.num_classes
    kind = "RGB" if pipeline.image_encoder.config.in_channels == 3 else "grey"
    stretched = "; each image's values are stretched to the full range" if config.stretch else ""
    candidates = pipeline.num_drawn(config.default_num_masks)
    chosen = f", representative of {candidates} candidates" if candidates > config.default_num_masks else ""
    parts = {name: getattr(pipeline, name).num_parameters() for name in ("image_encoder", "mask_vae", "unet")}
    rows = [
        ["**takes**", f"{kind} images of any size, resized to {config.sample_size} x {config.sample_size}{stretched}"],
        ["**returns**", "masks, confidence, uncertainty and consensus at the size of each image"],
        ["**foreground classes**", str(classes)],
        [
            "**defaults**",
            f"{config.default_num_masks} masks{chosen}; {config.default_num_inference_steps} denoising steps",
        ],
        ["**confidence**", "share of the samples that contain a pixel" + (CALIBRATED if config.calibration else "")],
        ["**consensus**", f"pixels with a confidence of at least {config.threshold}"],
        ["**parameters**", ", ".join(f"{name} {count:,}" for name, count in parts.items())],
    ]
    return markdown_table(["", " "], rows).replace("|  |   |", "| | |")


def data_facts(dataset: str, card: DatasetCard | None) -> dict[str, Any]:
    """Name, licence, tags and sections of the data, from the card of the data set where there is one.

    Args:
        dataset (`str`): folder or Hub id; only the last part of a folder's path gets into the card.
        card (`DatasetCard`, *optional*): as the builders write it.
    """
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) and not dataset.startswith(("data/", "../", "./"))
    facts: dict[str, Any] = {"id": dataset if is_hub_id else dataset.rstrip("/").split("/")[-1]}
    facts["name"] = f"`{facts['id']}`"
    if card is None:
        return facts
    intro, *parts = card.text.split("\n## ")
    sections = {title: body.strip() for title, body in (part.split("\n", 1) for part in parts)}
    paragraphs = [part for part in intro.strip().split("\n\n") if not part.startswith("#")]
    return facts | {
        "name": card.data.get("pretty_name") or facts["name"],
        "license": card.data.get("license") or "",
        "license_name": card.data.get("license_name", ""),
        "tags": card.data.get("tags") or [],
        "summary": next((part for part in paragraphs if not part.startswith("|")), ""),
        "splits": next((part for part in paragraphs if part.startswith("|")), ""),
        "problems": sections.get("Known problems", ""),
        "citation": sections.get("Licence and citation", ""),
    }


def example_image(dataset: str, num_channels: int) -> str:
    """The drawing in demo/examples that resembles a data set's images most, from its id and their channels."""
    other = "skin-mole.png" if num_channels == 3 else "nodule-solid.png"
    return EXAMPLES.get(dataset.split("/")[-1], other)


def stage_label(name: str) -> str:
    """A stage's name in a card; `start/energy` is a stage of the pipeline that training started from."""
    *owners, stage = name.split("/")
    return STAGES[stage] + "".join(f", of {'the start' if owner == 'start' else owner}" for owner in owners[::-1])


def images_per_step(stage: str, num_processes: int, config: dict) -> int:
    """Images per training step, over all processes."""
    batch_size = config["energy_batch_size" if stage.endswith("energy") else "batch_size"]
    return batch_size * config["gradient_accumulation_steps"] * num_processes


def foreground_weight(stage: str, config: dict) -> str:
    """The foreground weight of the mask loss; empty for stages without a mask loss."""
    if not stage.split("/")[-1].startswith("mask"):
        return ""
    return "by pixel frequencies" if config["foreground_weight"] is None else str(config["foreground_weight"])


def last_settings(stages: dict[str, dict], *kinds: str) -> dict:
    """Settings of the last stage of one of these kinds, including those of the start; empty if there is none."""
    found = [run["settings"] for name, run in stages.items() if name.split("/")[-1] in kinds]
    return found[-1] if found else {}


def rater_rule(stages: dict[str, dict]) -> str:
    """Which of the raters' masks each stage learned from."""
    targets = {name: run["settings"]["target"] for name, run in stages.items() if name.split("/")[-1] == "unet"}
    if stages and {name.split("/")[-1] for name in stages} == {"energy"}:
        return "All raters' masks of an image at every step"
    if set(targets.values()) <= {"random_rater"}:
        return "A random rater's mask at every step"
    if len(set(targets.values())) == 1:
        return "The denoiser learned the raters' majority, the autoencoders a random rater's mask at every step"
    rules = {"random_rater": "a random rater's mask at every step", "consensus": "the raters' majority"}
    learned = ", then ".join(f"{rules[target]} ({stage_label(name)})" for name, target in targets.items())
    return f"The denoiser learned {learned}; the autoencoders a random rater's mask at every step"


def start_fact(settings: dict) -> str:
    """The pipeline that training started from, where the stages do not say it; empty otherwise."""
    stages, start = settings["stages"], settings["config"]["start_from"]
    before = [run for name, run in stages.items() if name.startswith("start/")]
    if not start or not before and any(name.split("/")[-1] == "mask_vae" for name in stages):
        return ""
    commit = f", trained at commit {before[-1]['git_commit'][:7]}" if before and before[-1].get("git_commit") else ""
    known = "" if before else ", whose training is not documented"
    return f" The mask autoencoder and all initial weights come from `{start}`{commit}{known}."


def training_facts(settings: dict) -> dict[str, str]:
    """How it was trained, from training.json."""
    settings = read_record(settings)
    config, rows, stages = settings["config"], settings["rows"], settings["stages"]
    denoiser = last_settings(stages, "unet") or config
    denoisers = [run["settings"] for name, run in stages.items() if name.split("/")[-1] == "unet"]
    pretrained = any(own["image_encoder"] is not None and not own["start_from"] for own in denoisers)
    features = " The image encoder starts from ImageNet weights." if pretrained else ""
    features += start_fact(settings)
    if energy := last_settings(stages, "energy"):
        features += (
            f" Finally, the sampler of {energy['energy_inference_steps']} steps was trained end to end, with the "
            f"energy score and 1 - IoU as distance, of {energy['energy_masks']} samples per image against all raters."
        )
    if averaged := sum(name.startswith("run ") for name in stages):
        features += f" The weights are the mean over {averaged} runs."
    if dropped := [name for run in stages.values() for name in run.get("set_back", {})]:
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(dropped))
        features += f" Settings that validation had chosen for the previous weights were reset: {names}."
    mask_loss = (last_settings(stages, "mask_vae", "mask_decoder") or config)["mask_loss"]
    summary = (
        f"{rows['train']:,} training and {rows['validation']:,} validation rows, {settings['hardware']}, "
        f"{settings['num_processes']} process(es), mixed precision {config['mixed_precision']}, seed "
        f"{config['seed']}. {rater_rule(stages)}; the weights are the moving average "
        f"with the best validation score. Mask loss {mask_loss}; the denoiser learns "
        f"{denoiser['scheduler']['prediction_type']}.{features} All settings, versions and the "
        "commit are in `training.json`."
    )
    return {"summary": summary, "stages": stage_table(stages)}


def stage_table(stages: dict[str, dict]) -> str:
    """One row per stage, with its data set where the stages differ in it."""
    head = ["stage", "steps", "images per step", "learning rate", "foreground weight", "decay of the moving average"]
    head += ["best step", "wall hours", "CPU core hours"]
    datasets = {name: run["settings"]["dataset"].rstrip("/").split("/")[-1] for name, run in stages.items()}
    several = len(set(datasets.values())) > 1
    lines = [
        [
            stage_label(name),
            f"{run['step']:,}",
            str(images_per_step(name, run["num_processes"], run["settings"])),
            str(run["settings"][RATES.get(name.split("/")[-1], "vae_learning_rate")]),
            foreground_weight(name, run["settings"]),
            str(run["settings"]["ema_decay"]),
            f"{run['best_step']:,}",
            f"{run['wall_hours']:.2f}",
            f"{run['cpu_hours']:.2f}",
            *([datasets[name]] if several else []),
        ]
        for name, run in stages.items()
    ]
    return markdown_table([*head, "data set"] if several else head, lines)
