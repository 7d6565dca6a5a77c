"""What a model card says, in words and tables: pure functions of results.json, training.json and dataset.md."""

import re
from collections.abc import Sequence

from huggingface_hub import DatasetCard

from .pipeline import MedSegLatDiffPipeline
from .tables import interval, markdown_table

METRICS = {
    "ged": "generalised energy distance (GED) ↓",
    "ged_unbiased": "GED without the bias of few masks ↓",
    "hm_iou": "Hungarian-matched IoU, balanced (HM-IoU) ↑",
    "dice": "Dice of the consensus ↑",
    "dice_non_empty": "Dice, references that are not empty ↑",
    "dice_pooled": "Dice, pooled pixels ↑",
    "iou": "IoU of the consensus ↑",
    "iou_pooled": "IoU, pooled pixels ↑",
    "thresholded_jaccard": "ISIC score (Jaccard, 0 below 0.65) ↑",
    "d_max": "best Dice of any mask per rater ↑",
    "dice_match": "Hungarian-matched Dice ↑",
    "soft_dice": "soft Dice of the mean maps ↑",
    "ncc": "normalised cross-correlation (NCC) ↑",
    "diversity": "diversity of the masks",
    "diversity_ratio": "diversity over that of the raters (1 is right)",
    "missed": "share of references missed altogether ↓",
    "nsd": "normalised surface distance ↑",
    "hd95": "95 % Hausdorff distance, pixels ↓",
    "ece": "expected calibration error, all pixels ↓",
    "ece_band": "expected calibration error, 0 < confidence < 1 ↓",
    "brier": "Brier score ↓",
    "nll": "negative log-likelihood, nats ↓",
    "aurc": "area under risk and coverage, by mean uncertainty ↓",
    "aurc_disagreement": "area under risk and coverage, by disagreement of the masks ↓",
}
HEADLINES = ("ged", "hm_iou", "dice", "dice_non_empty", "iou", "thresholded_jaccard", "ece")
SHORT = {"ged": "GED ↓", "hm_iou": "HM-IoU ↑", "dice": "Dice ↑", "iou": "IoU ↑", "diversity": "diversity"}
SHORT["missed"] = "missed ↓"
PREDICTORS = {
    "always_empty": "always empty",
    "union": "union of the raters",
    "majority": "majority of the raters, repeated",
    "random_rater": "a rater drawn at random",
}
STAGES = {
    "mask_vae": "mask autoencoder",
    "image_vae": "image autoencoder",
    "unet": "denoiser",
    "energy": "sampler, by the energy score",
    "mask_decoder": "mask decoder, over the encoder as it was",
}
RATES = {"unet": "unet_learning_rate", "energy": "energy_learning_rate"}
PLOTS = {
    "reliability": "Reliability diagram",
    "risk_coverage": "Risk and coverage",
    "samples": "Quality against the number of masks",
    "size": "Quality against lesion size",
    "steps": "Quality against the number of steps",
}


def comparison(corner: str, blocks: dict[str, dict], names: Sequence[str], **columns: Sequence[str]) -> str:
    """One row per block of metrics, one column per metric that any of them has, and any further `columns`."""
    rows = [[label, *(interval(block.get(name)) for name in names)] for label, block in blocks.items()]
    rows = [[*row, *more] for row, *more in zip(rows, *columns.values(), strict=True)]
    return markdown_table([corner, *(SHORT[name] for name in names), *columns], rows)


CALIBRATED = ", mapped to how often raters of the validation split marked such pixels"


def pipeline_facts(pipeline: MedSegLatDiffPipeline) -> str:
    """What goes in, what comes out, defaults and size."""
    config, classes = pipeline.config, pipeline.num_classes
    kind = "RGB" if pipeline.image_encoder.config.in_channels == 3 else "grey"
    stretched = ", each stretched to its full range of values" if config.stretch else ""
    candidates = pipeline.num_drawn(config.default_num_masks)
    chosen = f" that stand for {candidates} drawn" if candidates > config.default_num_masks else ""
    parts = {name: getattr(pipeline, name).num_parameters() for name in ("image_encoder", "mask_vae", "unet")}
    rows = [
        ["**takes**", f"{kind} images of any size, resized to {config.sample_size} x {config.sample_size}{stretched}"],
        ["**returns**", "masks, confidence, uncertainty and consensus at each image's own size"],
        ["**foreground classes**", str(classes)],
        [
            "**defaults**",
            f"{config.default_num_masks} masks{chosen}, {config.default_num_inference_steps} denoising steps",
        ],
        ["**confidence**", "share of the hypotheses that hold a pixel" + (CALIBRATED if config.calibration else "")],
        ["**consensus**", f"where the confidence is at least {config.threshold}"],
        ["**parameters**", ", ".join(f"{name} {count:,}" for name, count in parts.items())],
    ]
    return markdown_table(["", " "], rows).replace("|  |   |", "| | |")


def data_facts(dataset: str, card: DatasetCard | None) -> dict[str, str]:
    """Name, licence, tags and sections of the data, from the data set's own card where there is one.

    Args:
        dataset (`str`): folder or Hub id; of a folder only the last name is told.
        card (`DatasetCard`, *optional*): as the builders in dataset_scripts/ write it.
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


def result_facts(results: dict, data_name: str) -> dict:
    """How it was measured, the tables and the plots, from results.json."""
    speed = f", {results['masks_per_second']:.1f} masks per second" if "masks_per_second" in results else ""
    summary = (
        f"{results['num_images']:,} images of {results['num_groups']:,} groups of the `{results['split']}` split of "
        f"{data_name}{', chosen at random' if results['limit'] else ''}; {results['num_masks']} masks per image, "
        f"{results['num_inference_steps']} steps of {results['scheduler']}, seed {results['seed']}, on "
        f"{results['device']}, mixed precision {results['mixed_precision']}{speed}. In brackets: 95 % bootstrap "
        "intervals over groups. Dice, IoU and distances refer to the raters' majority. Data fingerprint "
        f"`{results['data_fingerprint']}`; all numbers stand in `results.json`."
    )
    if results.get("num_candidates", 0) > results["num_masks"]:
        summary += (
            f" The masks are those that stand for {results['num_candidates']} drawn (spread {results['spread']}): "
            "they say more than as many independent ones, in which others measure."
        )
    elif results.get("antithetic"):
        summary += (
            " Half of the masks start from the others' noise with the sign turned. They are not independent then, as "
            "those of others are; GED without the bias of few masks assumes that and errs on the low side."
        )
    plots = [name for name in PLOTS if name != "steps" or "by_steps" in results]
    return {
        "summary": summary,
        "tables": result_tables(results),
        "plots": {PLOTS[name]: f"plot_{name}.png" for name in plots},
    }


def result_tables(results: dict) -> dict[str, str]:
    """Each table under its title; those that the results have nothing for are left out."""
    measured = {name: entry for name, entry in results["metrics"].items() if entry["value"] is not None}
    if results.get("num_candidates", 0) > results["num_masks"]:
        measured.pop("ged_unbiased", None)  # it assumes independent masks
    rows = [
        [
            METRICS[name],
            interval(measured[name]),
            measured[name]["averaging"],
            f"{measured[name]['num_images']:,}",
            f"{measured[name]['num_infinite']:,}" if measured[name]["num_infinite"] else "",
        ]
        for name in METRICS
        if name in measured
    ]
    tables = {"All metrics": markdown_table(["metric", "value", "mean", "images", "infinite, left out"], rows)}
    compared = ("ged", "hm_iou", "dice", "iou", "diversity")
    if results["degenerate"]:
        blocks = {PREDICTORS[name]: block for name, block in results["degenerate"].items()}
        title = "Against predictors that need no model"
        tables[title] = comparison("predictor", {"**this model**": results["metrics"], **blocks}, compared)
    if results["strata"]:
        names = ("missed", "dice", "iou", "ged", "hm_iou")
        images = [f"{block['dice']['num_images']:,}" for block in results["strata"].values()]
        tables["By size of the reference"] = comparison("pixels", results["strata"], names, images=images)
    if "by_steps" in results:
        blocks = {steps: block["metrics"] for steps, block in results["by_steps"].items()}
        speeds = [block.get("masks_per_second") for block in results["by_steps"].values()]
        speeds = {"masks per second": [f"{speed:.1f}" if speed else "" for speed in speeds]}
        tables["By number of denoising steps"] = comparison("steps", blocks, compared, **speeds)
    tables["By number of masks, the first so many of each image: Dice of their majority"] = comparison(
        "masks", results["by_num_masks"], ("ged", "dice")
    )
    return tables


def tiny_lesions(results: dict) -> str:
    """What happens to the smallest references that were measured."""
    for label, block in results.get("strata", {}).items():
        missed = block["missed"]
        return (
            f"Of {missed['num_images']:,} references of {label.replace('<=', 'at most ')} pixels the consensus misses "
            f"{100 * missed['value']:.0f} % altogether."
        )
    return "Structures of a few pixels are the first to be missed."
