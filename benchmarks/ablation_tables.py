"""Writes benchmarks/ABLATIONS.md from the JSON files in benchmarks/ablations/: part of `make results`."""

import json
from pathlib import Path

from readme_results import ROOT, read, stage_minutes, table

from medseglatdiff.data.files import write_text

TITLES = {
    "mask-autoencoder": "The mask autoencoder: its loss, bottleneck, channels and factor",
    "target": "A random rater's mask against the consensus as the target",
    "encoder-training": "Image encoder trained on with the U-Net, or frozen",
    "condition": "Image autoencoder or ImageNet features as the condition",
    "prediction": "What the U-Net predicts",
    "latents": "Latents scaled to unit variance, or as they come",
    "space": "Diffusion over latents against pixels",
    "augmentation": "Random zoom, turn and shift beside the square's symmetries",
    "sampling": "Steps, masks and noise",
}
MEASURES = {
    "dice": "Dice",
    "ged": "GED",
    "ged_unbiased": "GED, unbiased",
    "hm_iou": "HM-IoU",
    "diversity": "diversity",
    "ece_band": "calibration error, uncertain pixels",
}
COSTS = {"training_core_seconds": "training, core s", "sampling_core_seconds": "a mask, core s"}
WHOLE_RUNS = {
    "image autoencoder (published)": "pipelines/medseglatdiff-lidc-idri",
    "ImageNet features": "benchmarks/whole_runs/lidc-idri-imagenet",
    "image autoencoder, trained on": "benchmarks/whole_runs/lidc-idri-more",
}
NUMBER = "{:.3f}".format


def spread(entry: dict) -> str:
    """Mean ± standard deviation over runs."""
    return NUMBER(entry["mean"]) + (f" ± {entry['std']:.3f}" if entry["std"] is not None else "")


def training_table(results: dict) -> list[str]:
    """Variants of a training setting: a line each."""
    variants = results["variants"]
    shown = {name: text for name, text in (MEASURES | COSTS).items() if all(name in v for v in variants.values())}
    rows = [[label, str(entry["runs"]), *(spread(entry[name]) for name in shown)] for label, entry in variants.items()]
    what = (
        f"{results['num_images']} images of the {results['split']} split, {results['num_masks']} masks, "
        f"{results['sampling_steps']} steps; `{results['preset']}` with {results['steps']} steps of the U-Net of "
        f"{results['batch_size']} images. Mean ± standard deviation over runs from different seeds."
    )
    return [what, "", *table(["variant", "runs", *shown.values()], rows)]


def autoencoder_table(results: dict) -> list[str]:
    """Variants of the mask autoencoder: Dice and missed objects by size."""
    strata = [name for name in next(iter(results["variants"].values())) if name != "all"]
    columns = [(name, measure) for name in strata for measure in ("dice", "missed")]
    rows = []
    for label, row in results["variants"].items():
        std = f" ± {row['all']['dice_std']:.4f}" if "dice_std" in row["all"] else ""
        parts = [f"{row[name][m]:.2%}" if m == "missed" else NUMBER(row[name][m]) for name, m in columns]
        rows.append([label, f"{row['all']['dice']:.4f}{std}", f"{row['all']['iou']:.4f}", *parts])
    first = next(iter(results["variants"].values()))
    counts = "".join(f", {first[name]['masks']} of {name}" for name in strata)
    what = (
        f"{first['all']['masks']} non-empty masks of the {results['split']} split{counts}; {results['steps']} "
        f"steps of {results['batch_size']} masks; means over {results['runs']} seeds."
    )
    head = ["variant", "Dice", "IoU", *(f"{'Dice' if m == 'dice' else 'missed'}, {name}" for name, m in columns)]
    return [what, "", *table(head, rows)]


def measures_table(first_column: str, entries: dict[str, dict], chosen: bool = False) -> list[str]:
    """A line for each entry, with the measures that any of them has; for `chosen` masks those that hold for them."""
    shown = {name: text for name, text in (MEASURES | COSTS).items() if any(name in e for e in entries.values())}
    if chosen:
        shown.pop("ged_unbiased", None)  # it assumes independent masks
    rows = [
        [label, *(NUMBER(entry[name]) if name in entry else "" for name in shown)] for label, entry in entries.items()
    ]
    return table([first_column, *shown.values()], rows)


def sampling_table(results: dict) -> list[str]:
    """One pipeline under other numbers of steps, other noise and fewer masks."""
    default = results["default_steps"]
    entries = {f"{steps} step" + "s" * (steps != "1"): entry for steps, entry in results["by_steps"].items()}
    entries |= {f"{default} steps, {noise} noise": entry for noise, entry in results["by_noise"].items()}
    what = f"{results['num_images']} images of the {results['split']} split, {results['num_masks']} masks, seed 0."
    lines = [what, "", *measures_table("sampling", entries), "", "Fewer masks, drawn anew:", ""]
    lines += measures_table("masks", results["by_num_masks"])
    if "by_candidates" in results:  # later than the first results
        chosen = f"{results['chosen_masks']} masks, {default} steps, chosen from as many candidates, spread "
        lines += ["", f"{chosen}{results['default_spread']}:", ""]
        lines += measures_table("candidates", results["by_candidates"], chosen=True)
    if results.get("by_spread"):
        lines += ["", "The same from the pipeline's own number of candidates, by spread:", ""]
        lines += measures_table("spread", results["by_spread"], chosen=True)
    return lines


def whole_runs_section() -> list[str]:
    """Conditions, trained to the end of their presets, by what calibrate.py measured on the same images."""
    head = ["condition", "trained", "GED, spread 1", "HM-IoU, spread 1", "GED, chosen spread", "HM-IoU, chosen spread"]
    head += ["chosen spread", "Dice", "Dice, where most readers marked"]
    rows, measured = [], {label: read(f"{folder}/calibration.json") for label, folder in WHOLE_RUNS.items()}
    for label, own in measured.items():
        number = own["number"] - 1
        spreads = [own["by_spread"][spread] for spread in ("1.0", str(own["spread"]))]
        values = [entry[name] for entry in spreads for name in ("ged", "hm_iou")]
        values += [own["spread"], own["dice_by_number"][number], own["dice_by_number_non_empty"][number]]
        minutes = stage_minutes(read(f"{WHOLE_RUNS[label]}/training.json"))
        rows.append([label, minutes, *map(NUMBER, values)])
    first, *others = measured.values()
    sizes = ("num_images", "num_groups", "num_masks", "num_candidates", "num_inference_steps")
    assert all(own[name] == first[name] for own in others for name in sizes), "measured on other images"
    commands = ", ".join(f"`{own['command']}`" for own in measured.values())
    what = (
        f"{first['num_images']} images of {first['num_groups']} groups of the validation split, "
        f"{first['num_masks']} masks chosen from {first['num_candidates']}, {first['num_inference_steps']} steps, as "
        f"measured by {commands}. The pipelines are of `lidc_idri.json` (with `lidc_idri_decoder.json` after it) and "
        "of `lidc_idri_imagenet.json`, one run each, and the mean (by `training/average.py`, which is no more) of two "
        "runs of `lidc_idri_more.json` from the first one's weights (with the decoder as it was before), 160 and "
        "2,000 steps (the longer one's first 500 with the learning rates of a run of 2,400, its first 1,600 validated "
        "on 128 images). The second differs from the first in its steps, learning rate and foreground weight, too. It "
        "ran on two processes, of which its first two stages counted one: their core time was doubled afterwards."
    )
    return ["## The condition once more, in whole runs", "", what, "", *table(head, rows), ""]


def section(path: Path, kind: str) -> list[str]:
    """One results file: which data, the command, its table."""
    results = json.loads(path.read_text())
    make = {"mask-autoencoder": autoencoder_table, "sampling": sampling_table}.get(kind, training_table)
    commit = f", at commit {results['git_commit'][:7]}" if "git_commit" in results else ""
    command = f"`{results['command']}`{commit}"
    return [f"### {path.stem.removeprefix(kind + '-')}", "", command, "", *make(results), ""]


def main():
    lines = [
        "# Ablations",
        "",
        "Written by `make results` from the JSON files in `ablations/`; whole runs from those in `whole_runs/` and",
        "beside the pipelines. A named commit has the weights, too. Unbiased GED assumes independent masks; where",
        "they come in antithetic pairs, as those of the published presets do, it errs on the low side.",
        "",
    ]
    for kind, title in TITLES.items():
        paths = sorted((ROOT / "benchmarks" / "ablations").glob(f"{kind}-*.json"))
        lines += [f"## {title}", ""] if paths else []
        for path in paths:
            lines += section(path, kind)
        if kind == "condition":
            lines += whole_runs_section()
    out = ROOT / "benchmarks" / "ABLATIONS.md"
    write_text(out, "\n".join(lines))


if __name__ == "__main__":
    main()
