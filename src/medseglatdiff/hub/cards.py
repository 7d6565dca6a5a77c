"""What a model card says of pipeline, data and training: pure functions of training.json and dataset.md."""

import re

from huggingface_hub import DatasetCard

from ..pipeline.pipeline import MedSegLatDiffPipeline
from .tables import markdown_table

STAGES = {
    "mask_vae": "mask autoencoder",
    "image_vae": "image autoencoder",
    "unet": "denoiser",
    "energy": "sampler, by the energy score",
    "mask_decoder": "mask decoder, over the encoder as it was",
}
RATES = {"unet": "unet_learning_rate", "energy": "energy_learning_rate"}
CALIBRATED = ", calibrated: mapped to how often raters of the validation split marked such pixels"
EXAMPLES = {  # drawings in demo/examples by the data set whose images they resemble
    "lidc-idri": "nodule-solid.png",
    "cvc-clinicdb": "polyp-small.png",
    "isic2018": "skin-mole.png",
}


def pipeline_facts(pipeline: MedSegLatDiffPipeline) -> str:
    """A table of what the model takes and returns, its defaults and its size."""
    config, classes = pipeline.config, pipeline.num_classes
    kind = "RGB" if pipeline.image_encoder.config.in_channels == 3 else "grey"
    stretched = "; the values of each are stretched to the full range" if config.stretch else ""
    candidates = pipeline.num_drawn(config.default_num_masks)
    chosen = f", representatives of {candidates} candidates" if candidates > config.default_num_masks else ""
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


def data_facts(dataset: str, card: DatasetCard | None) -> dict[str, str]:
    """Name, licence, tags and sections of the data, from the card of the data set where there is one.

    Args:
        dataset (`str`): folder or Hub id; of a folder, only the last name gets into the card.
        card (`DatasetCard`, *optional*): as the builders write it.
    """
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) and not dataset.startswith(("data/", "../", "./"))
    facts = {"id": dataset if is_hub_id else dataset.rstrip("/").split("/")[-1]}
    facts["name"] = f"`{facts['id']}`"
    if card is None:
        return facts
    intro, *sections = card.text.split("\n## ")
    sections = {title: body.strip() for title, body in (section.split("\n", 1) for section in sections)}
    paragraphs = [part for part in intro.strip().split("\n\n") if not part.startswith("#")]
    return facts | {
        "name": card.data.pretty_name or facts["name"],
        "license": card.data.license or "",
        "license_name": card.data.get("license_name", ""),
        "tags": card.data.tags or [],
        "summary": next((part for part in paragraphs if not part.startswith("|")), ""),
        "splits": next((part for part in paragraphs if part.startswith("|")), ""),
        "problems": sections.get("Known problems", ""),
        "citation": sections.get("Licence and citation", ""),
    }


def example_image(dataset: str, num_channels: int) -> str:
    """The drawing in demo/examples that resembles the images of a data set most, by its id and their channels."""
    other = "skin-mole.png" if num_channels == 3 else "nodule-solid.png"
    return EXAMPLES.get(dataset.split("/")[-1], other)


def stage_label(name: str) -> str:
    """Of `start/energy` and the like: the stage, then whose it was."""
    *owners, stage = name.split("/")
    return STAGES[stage] + "".join(f", of {'the start' if owner == 'start' else owner}" for owner in owners[::-1])


def images_per_step(stage: str, num_processes: int, config: dict) -> int:
    """Of all processes together."""
    batch_size = config["energy_batch_size" if stage.endswith("energy") else "batch_size"]
    return batch_size * config["gradient_accumulation_steps"] * num_processes


def foreground_weight(stage: str, config: dict) -> str:
    """Of the mask loss; nothing for stages without one."""
    if not stage.split("/")[-1].startswith("mask"):
        return ""
    return "by pixel frequencies" if config["foreground_weight"] is None else str(config["foreground_weight"])


def training_facts(settings: dict) -> dict[str, str]:
    """How it was trained, from training.json."""
    config, rows = settings["config"], settings["rows"]
    features = " The image encoder starts from ImageNet weights." if config.get("image_encoder") else ""
    starts = [run for name, run in settings["stages"].items() if name.startswith("start/")]
    if starts:
        start = f"`{config['start_from']}`"
        start += f", trained at commit {starts[-1]['git_commit'][:7]}" if starts[-1].get("git_commit") else ""
        features += f" Mask autoencoder and the first weights of the rest are those of {start}."
    if any(name.endswith("energy") for name in settings["stages"]):
        features += (
            f" At last the sampler of {config['energy_inference_steps']} steps was trained as a whole: by the energy "
            f"score, with 1 - IoU as its distance, of {config['energy_masks']} hypotheses an image against all raters."
        )
    if averaged := sum(name.startswith("run ") for name in settings["stages"]):
        features += f" The weights are the mean of those of {averaged} runs."
    summary = (
        f"{rows['train']:,} training and {rows['validation']:,} validation rows, {settings['hardware']}, "
        f"{settings['num_processes']} process(es), mixed precision {config['mixed_precision']}, seed "
        f"{config['seed']}. A random rater's mask at every step; the kept weights are the moving average "
        f"with the best validation score. Mask loss {config['mask_loss']}; the denoiser learns "
        f"{config['scheduler']['prediction_type']}.{features} All settings, versions and the "
        "commit stand in `training.json`."
    )
    head = ["stage", "steps", "images per step", "learning rate", "foreground weight", "decay of the moving average"]
    head += ["best step", "wall hours", "CPU core hours"]
    runs = [(name, run, config | run.get("other_settings", {})) for name, run in settings["stages"].items()]
    stages = [
        [
            stage_label(name),
            f"{run['step']:,}",
            str(images_per_step(name, run.get("num_processes", settings["num_processes"]), own)),
            str(own[RATES.get(name.split("/")[-1], "vae_learning_rate")]),
            foreground_weight(name, own),
            str(own["ema_decay"]),
            f"{run['best_step']:,}",
            f"{run['wall_hours']:.2f}",
            f"{run['cpu_hours']:.2f}",
        ]
        for name, run, own in runs
    ]
    return {"summary": summary, "stages": markdown_table(head, stages)}
