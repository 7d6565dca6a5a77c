"""The results section of a model card, in words and tables: pure functions of results.json."""

from collections.abc import Sequence

from ..metrics.names import NAMES as METRICS
from .tables import interval, interval_words, markdown_table

HEADLINES = ("ged", "hm_iou", "dice", "dice_non_empty", "iou", "thresholded_jaccard", "ece")
SHORT = {"ged": "GED ↓", "hm_iou": "HM-IoU ↑", "dice": "Dice ↑", "iou": "IoU ↑", "diversity": "diversity"}
SHORT["missed"] = "missed ↓"
PREDICTORS = {
    "always_empty": "always empty",
    "union": "union of the raters",
    "majority": "majority of the raters, repeated",
    "random_rater": "a rater drawn at random",
}
PLOTS = {
    "reliability": "Reliability diagram",
    "risk_coverage": "Risk and coverage",
    "samples": "Quality against the number of masks",
    "size": "Quality against lesion size",
    "steps": "Quality against the number of steps",
    "classes": "Quality of each class",
}


def comparison(
    corner: str, blocks: dict[str, dict], names: Sequence[str], num_groups: int, **columns: Sequence[str]
) -> str:
    """One row per block of metrics, one column per metric that any of them has, and any further `columns`."""
    rows = [[label, *(interval(block.get(name), num_groups) for name in names)] for label, block in blocks.items()]
    rows = [[*row, *more] for row, *more in zip(rows, *columns.values(), strict=True)]
    return markdown_table([corner, *(SHORT[name] for name in names), *columns], rows)


def result_facts(results: dict, data_name: str) -> dict:
    """How results were measured, the tables and the plots, from results.json."""
    speed = f", {results['masks_per_second']:.1f} masks per second" if "masks_per_second" in results else ""
    summary = (
        f"{results['num_images']:,} images of {results['num_groups']:,} groups of the `{results['split']}` split of "
        f"{data_name}{', chosen at random' if results['limit'] else ''}; {results['num_masks']} masks per image, "
        f"{results['num_inference_steps']} steps of {results['scheduler']}, seed {results['seed']}, on "
        f"{results['device']}, mixed precision {results['mixed_precision']}{speed}. {interval_words(results)} "
        "Dice, IoU and distances refer to the raters' majority. "
        f"Data fingerprint `{results['data_fingerprint']}`; all numbers are in `results.json`."
    )
    if results.get("num_candidates", 0) > results["num_masks"]:
        summary += (
            f" The masks are representative of {results['num_candidates']} candidates (spread {results['spread']}). "
            "They cover the candidates better than the same number of independent samples, which other work reports."
        )
    elif results.get("antithetic"):
        summary += (
            " Half of the masks start from the negated noise of the other half, so they are not independent samples "
            "as in other work; the unbiased GED assumes independence and is too low here."
        )
    needed = {"steps": "by_steps", "classes": "classes"}  # optional results that a plot is drawn from
    plots = [name for name in PLOTS if name not in needed or needed[name] in results]
    return {
        "summary": summary,
        "tables": result_tables(results),
        "plots": {PLOTS[name]: f"plot_{name}.png" for name in plots},
    }


def result_tables(results: dict) -> dict[str, str]:
    """The tables by title; those without results are left out."""
    measured = {name: entry for name, entry in results["metrics"].items() if entry["value"] is not None}
    groups = results["num_groups"]
    if results.get("num_candidates", 0) > results["num_masks"]:
        measured.pop("ged_unbiased", None)  # it assumes independent masks
    rows = [
        [
            METRICS[name],
            interval(measured[name], groups),
            measured[name]["averaging"],
            f"{measured[name]['num_images']:,}",
            f"{measured[name]['num_infinite']:,}" if measured[name]["num_infinite"] else "",
        ]
        for name in METRICS
        if name in measured
    ]
    tables = {"All metrics": markdown_table(["metric", "value", "mean", "images", "infinite, left out"], rows)}
    compared, by_part = ("ged", "hm_iou", "dice", "iou", "diversity"), ("missed", "dice", "iou", "ged", "hm_iou")
    if results["degenerate"]:
        blocks = {PREDICTORS[name]: block for name, block in results["degenerate"].items()}
        title = "Compared with predictors that need no model"
        tables[title] = comparison("predictor", {"**this model**": results["metrics"], **blocks}, compared, groups)
    if results["strata"]:
        images = [f"{block['dice']['num_images']:,}" for block in results["strata"].values()]
        tables["By size of the reference"] = comparison("pixels", results["strata"], by_part, groups, images=images)
    if "classes" in results:
        tables["By class"] = comparison("class", results["classes"], (*by_part, "diversity"), groups)
    if "by_steps" in results:
        blocks = {steps: block["metrics"] for steps, block in results["by_steps"].items()}
        measured_speeds = [block.get("masks_per_second") for block in results["by_steps"].values()]
        speeds = {"masks per second": [f"{speed:.1f}" if speed else "" for speed in measured_speeds]}
        tables["By number of denoising steps"] = comparison("steps", blocks, compared, groups, **speeds)
    tables["By number of masks (the first of each image): Dice of their majority"] = comparison(
        "masks", results["by_num_masks"], ("ged", "dice"), groups
    )
    return tables


def tiny_lesions(results: dict) -> str:
    """How often the smallest references are missed."""
    for label, block in results.get("strata", {}).items():
        missed = block["missed"]
        return (
            f"Of {missed['num_images']:,} references of {label.replace('<=', 'at most ')} pixels the consensus misses "
            f"{100 * missed['value']:.0f} % entirely."
        )
    return "Structures of a few pixels are missed most often."
