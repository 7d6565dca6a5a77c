"""Writes the results into README.md from the JSON files that the evaluations and benchmarks wrote: `make results`."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
PREDICTORS = {
    "always_empty": "always empty",
    "majority": "the raters' majority, repeated (a perfect deterministic model)",
    "random_rater": "a rater drawn at random (the oracle)",
}


def read(path: str) -> dict:
    """A results file of this repository."""
    return json.loads((ROOT / path).read_text())


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]


def interval(entry: dict) -> str:
    """A value with its interval."""
    return f"{entry['value']:.3f} ({entry['low']:.3f}-{entry['high']:.3f})"


def lidc_idri() -> list[str]:
    """GED and HM-IoU on the LIDC-IDRI test split beside degenerate predictors and published figures."""
    results, published = read("pipelines/medseglatdiff-lidc-idri/results.json"), read("benchmarks/published.json")
    metrics = results["metrics"]
    ours = [f"**medseglatdiff, {results['num_inference_steps']} steps**", interval(metrics["ged"])]
    rows = [[*ours, interval(metrics["hm_iou"]), "this split"]]
    for name, label in PREDICTORS.items():
        entries = results["degenerate"][name]
        rows.append([label, f"{entries['ged']['value']:.3f}", f"{entries['hm_iou']['value']:.3f}", "this split"])
    for entry in published["lidc_idri"]:
        rows.append([entry["method"], f"{entry['ged']:.3f}", f"{entry['hm_iou']:.3f}", entry["source"]])
    what = (
        f"LIDC-IDRI, test split by patient, {results['num_images']} slices of {results['num_groups']} patients, "
        f"{results['num_masks']} masks per slice, seed {results['seed']}; means over slices. "
        "Published figures are on the 15,096-crop pickle with splits of their own, so they are near but not equal."
    )
    dice = f"Dice of the consensus against the raters' majority: {interval(metrics['dice'])} over all slices."
    head = [
        "method",
        f"GED, {results['num_masks']} samples (lower is better)",
        "HM-IoU (higher is better)",
        "measured on",
    ]
    return [what, "", *table(head, rows), "", dice]


def mask_autoencoder() -> list[str]:
    """What the reconstruction loss does to masks of few pixels."""
    results = read("benchmarks/mask_autoencoder.json")
    rows = [
        [name, f"{row['all']['dice']:.4f}", f"{row['all']['iou']:.4f}", f"{row['<= 16 px']['dice']:.4f}",
         f"{row['<= 16 px']['missed']:.2%}", f"{row['<= 64 px']['missed']:.2%}"]
        for name, row in results["variants"].items()
    ]  # fmt: skip
    count = next(iter(results["variants"].values()))["all"]["masks"]
    what = (
        f"The mask autoencoder alone, on the {count} non-empty masks of the LIDC-IDRI {results['split']} split, after "
        f"{results['steps']} steps with each loss (seed {results['seed']}; `python benchmarks/mask_autoencoder.py`):"
    )
    head = ["loss", "Dice", "IoU", "Dice, <= 16 px", "missed, <= 16 px", "missed, <= 64 px"]
    return [what, "", *table(head, rows)]


def speed() -> list[str]:
    """Time and memory of one image."""
    results = read("benchmarks/speed.json")
    sampling = results["sampling"]
    return [
        f"{sampling['num_masks']} masks of one {sampling['image']} image with {sampling['num_inference_steps']} steps "
        f"take {sampling['seconds']:.2f} s on {results['cpu_cores']} CPU cores with "
        f"{sampling['peak_memory_gb']:.2f} GB of memory at most (`python benchmarks/speed.py`)."
    ]


def main():
    before, rest = (ROOT / "README.md").read_text().split(START)
    _, after = rest.split(END)
    lines = [START, *lidc_idri(), "", *mask_autoencoder(), "", *speed(), END]
    partial = ROOT / "README.md.partial"
    partial.write_text(before + "\n".join(lines) + after)
    partial.rename(ROOT / "README.md")


if __name__ == "__main__":
    main()
