"""Writes docs/results.md and README.md's small table from the JSON files of evaluations and benchmarks: part of `make
results`."""

import json
from pathlib import Path

from medseglatdiff.data.files import write_text
from medseglatdiff.hub.tables import has_interval
from medseglatdiff.training.history import read_record

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
TITLES = {
    "lidc-idri": "LIDC-IDRI, lung nodules, four readers, split by patient",
    "cvc-clinicdb": "CVC-ClinicDB, polyps, split by video sequence",
    "isic2018": "ISIC-2018, skin lesions, split by image",
}
COLUMNS = {
    "ged": "GED (lower is better)",
    "hm_iou": "HM-IoU",
    "dice": "Dice",
    "dice_non_empty": "Dice, where most readers marked a nodule",
    "missed": "missed of these",
    "iou": "IoU",
    "aurc": "risk-coverage area by mean uncertainty",
    "aurc_disagreement": "by disagreement of the masks",
    "diversity_ratio": "diversity / raters'",
    "ece_band": "calibration error, uncertain pixels",
}
SHOWN = {
    "lidc-idri": ("ged", "hm_iou", "dice", "dice_non_empty", "missed", "diversity_ratio", "ece_band"),
    "cvc-clinicdb": ("dice", "iou", "aurc", "aurc_disagreement", "ece_band"),
    "isic2018": ("dice", "iou", "aurc", "aurc_disagreement", "ece_band"),
}
# baselines show all but these: one mask disagrees with none, and a mean of probabilities is uncertain of every pixel
OF_SEVERAL, OF_SHARES = ("aurc_disagreement", "diversity_ratio"), "ece_band"
PLOTS = {
    "samples": "Dice and GED by the number of masks",
    "reliability": "How often readers marked a pixel, by the model's confidence",
    "risk_coverage": "Mean error (log scale) of the images kept, 5 % at least, the most uncertain ones set aside",
}
LABELS = {
    "always_empty": "always empty",
    "majority": "the raters' majority, repeated (a perfect deterministic model)",
    "random_rater": "a rater drawn at random (the oracle)",
    "pretrained_unet": "U-Net on EfficientNet-Lite0 with ImageNet weights",
    "dynunet": "DynUNet (nnU-Net's architecture)",
    "dynunet-monte-carlo": "DynUNet, Monte Carlo dropout",
    "dynunet-ensemble-4": "DynUNet, ensemble of four",
    "segformer": "SegFormer-B0 from scratch",
    "conditional_vae": "conditional VAE (Probabilistic U-Net's kind)",
}


def read(path: str) -> dict:
    """A results file of this repository."""
    return json.loads((ROOT / path).read_text())


def datasets() -> list[str]:
    """The data sets that there is a trained pipeline for."""
    return [name for name in TITLES if (ROOT / f"pipelines/medseglatdiff-{name}/results.json").is_file()]


def ours(dataset: str) -> dict:
    """Our pipeline's results on a data set's test split."""
    return read(f"pipelines/medseglatdiff-{dataset}/results.json")


def baselines(dataset: str) -> list[dict]:
    """Results of every baseline measured on a data set."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks/baselines").glob(f"{dataset}-*.json"))]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]


def cells(metrics: dict, names: tuple[str, ...], num_groups: int = 0) -> list[str]:
    """The values of these metrics, empty where one is not there; with the intervals of results over `num_groups`."""
    texts = []
    for name in names:
        entry = metrics.get(name, {"value": None})
        text = "" if entry["value"] is None else f"{entry['value']:.3f}"
        if text and num_groups and has_interval(entry, num_groups):
            text += f" ({entry['low']:.3f}-{entry['high']:.3f})"
        texts.append(text)
    return texts


def several_masks(results: dict) -> bool:
    """Whether a predictor's masks of an image ever differ."""
    return results["metrics"]["diversity"]["value"] > 0


def core_minutes(entry: dict) -> str:
    """What the training of a baseline's members cost together, on the machine that the minutes are of."""
    if entry.get("steps"):  # older results have no such key
        return f"{entry['core_minutes']:.0f} core minutes (by their {entry['steps']:,} steps, on another machine)"
    return f"{sum(member['core_seconds'] for member in entry['training']) / 60:.0f} core minutes"


def stage_minutes(training: dict) -> str:
    """What the stages of a pipeline's training.json cost together, those of its start too."""
    return f"{60 * sum(stage['cpu_hours'] for stage in training['stages'].values()):.0f} core minutes"


def trained(training: dict, name: str) -> str:
    """What the training of a pipeline of this name cost, and whose weights it starts from."""
    text, start = f"trained {stage_minutes(training)}", Path(training["config"]["start_from"] or "").name
    return text if start in ("", name) else f"{text}, those of {start} included, from whose weights it starts"


def random_frames(dataset: str, names: tuple[str, ...]) -> list[list[str]]:
    """The row of our preset on a split that leaks, as others report; no row where that was not measured."""
    folder = f"benchmarks/random_frames/{dataset}"
    if not (ROOT / folder).is_dir():
        return []
    results = read(f"{folder}/results.json")
    protocol = f"random frames, which leak: {results['num_images']} of them"
    return [
        [
            "medseglatdiff, same preset",
            *cells(results["metrics"], names, results["num_groups"]),
            f"{protocol}; {trained(read(f'{folder}/training.json'), f'medseglatdiff-{dataset}')}",
        ]
    ]


def dataset_section(dataset: str) -> list[str]:
    """Ours, the baselines and degenerate predictors on one test split, then what others report with their protocol."""
    results, names, published = ours(dataset), SHOWN[dataset], read("benchmarks/published.json")[dataset]
    steps, num_groups = results["num_inference_steps"], results["num_groups"]
    training = read(f"pipelines/medseglatdiff-{dataset}/training.json")
    protocol = f"this split; {trained(training, f'medseglatdiff-{dataset}')}"
    chosen = results.get("num_candidates", 0) > results["num_masks"]  # older results are of masks as drawn
    candidates = f", chosen from {results['num_candidates']}" if chosen else ""
    rows = [[f"**medseglatdiff, {steps} steps{candidates}**", *cells(results["metrics"], names, num_groups), protocol]]
    if chosen:
        drawn = read(f"benchmarks/as_drawn/{dataset}.json")
        rows.append(
            ["the same, masks as drawn", *cells(drawn["metrics"], names, num_groups), "this split; same weights"]
        )
    for entry in baselines(dataset):
        assert entry["data_fingerprint"] == results["data_fingerprint"], f"{entry['network']} saw other test images"
        label, time = LABELS[entry["network"]], core_minutes(entry)
        left_out = [OF_SHARES, *(() if several_masks(entry) else OF_SEVERAL)]
        metrics = {name: value for name, value in entry["metrics"].items() if name not in left_out}
        rows.append([label, *cells(metrics, names, num_groups), f"this split; trained {time}"])
    for name in ("majority", "random_rater", "always_empty"):
        if name in results["degenerate"]:
            rows.append([LABELS[name], *cells(results["degenerate"][name], names), "this split"])
    rows += random_frames(dataset, names)
    for entry in published:
        values = [f"{entry[name]:.3f}" if name in entry else "" for name in names]
        rows.append([entry["method"], *values, entry["protocol"]])
    groups = f" of {num_groups} groups" if num_groups < results["num_images"] else ""
    intervals = "95 % intervals over the groups"
    if not any(has_interval(entry, num_groups) for entry in results["metrics"].values()):
        intervals = f"no intervals: {num_groups} groups are too few for the method that these results were made with"
    what = (
        f"Test split, {results['num_images']} images{groups}, {results['num_masks']} masks each, seed "
        f"{results['seed']}; means over images, {intervals}. What only masks that differ have stays empty for "
        "networks of one mask; the calibration error stays empty for the baselines, whose confidence is a mean of "
        "probabilities, uncertain of every pixel."
    )
    return [f"## {TITLES[dataset]}", "", what, "", *table(["method", *map(COLUMNS.get, names), "measured on"], rows)]


def mask_autoencoder() -> list[str]:
    """What the reconstruction loss does to masks of few pixels."""
    results, published = read("benchmarks/mask_autoencoder.json"), read("benchmarks/mask_autoencoder_published.json")
    (own,) = published["variants"].values()
    stages = read_record(read("pipelines/medseglatdiff-lidc-idri/training.json"))["stages"]
    first, last = (stages[name]["settings"]["foreground_weight"] for name in ("mask_vae", "mask_decoder"))
    assert own["all"]["masks"] == next(iter(results["variants"].values()))["all"]["masks"], "measured on other masks"
    measured = results["variants"] | {"**the published pipeline's**": own}
    rows = [
        [name, f"{row['all']['dice']:.4f}", f"{row['all']['iou']:.4f}", f"{row['<= 16 px']['dice']:.4f}",
         f"{row['<= 16 px']['missed']:.2%}", f"{row['<= 64 px']['missed']:.2%}"]
        for name, row in measured.items()
    ]  # fmt: skip
    what = (
        f"The mask autoencoder alone, on the {own['all']['masks']} non-empty masks of the LIDC-IDRI "
        f"{results['split']} split, after {results['steps']} steps with each loss (seed {results['seed']}; `python "
        f"benchmarks/mask_autoencoder.py`). The published pipeline's was trained with weight {first:g}, then "
        f"its decoder alone with weight {last:g} (its card tells the steps; `{published['command']}`):"
    )
    head = ["loss", "Dice", "IoU", "Dice, <= 16 px", "missed, <= 16 px", "missed, <= 64 px"]
    return [what, "", *table(head, rows)]


def speed() -> list[str]:
    """Time and memory of one image."""
    results = read("benchmarks/speed.json")
    sampling = results["sampling"]
    return [
        f"{sampling['num_masks']} masks of one {sampling['image']} image, chosen from {sampling['num_candidates']} "
        f"drawn with {sampling['num_inference_steps']} steps, take {sampling['seconds']:.2f} s on "
        f"{results['cpu_cores']} CPU cores with {sampling['peak_memory_gb']:.2f} GB of memory at most "
        "(`python benchmarks/speed.py`)."
    ]


def overview() -> list[str]:
    """The README's table: for each data set ours, the best baseline here, and the best peer with its protocol."""
    rows = []
    for dataset in datasets():
        main, *_ = SHOWN[dataset]
        results, published = ours(dataset), [e for e in read("benchmarks/published.json")[dataset] if main in e]
        best = min if main == "ged" else max
        rival = best(baselines(dataset), key=lambda entry: entry["metrics"][main]["value"])
        peer = best(published, key=lambda entry: entry[main])
        rows.append(
            [
                f"{TITLES[dataset]}: {COLUMNS[main]}",
                *cells(results["metrics"], (main,), results["num_groups"]),
                f"{cells(rival['metrics'], (main,))[0]}, {LABELS[rival['network']]}",
                f"{peer[main]:.3f}, {peer['method']} ({peer['protocol']})",
            ]
        )
    return table(["test split", "medseglatdiff", "best baseline, same split", "best peer, on data of its own"], rows)


def between_marks(path: Path, lines: list[str]):
    """Puts lines in the place of what stands between the marks of a file."""
    before, rest = path.read_text().split(START)
    _, after = rest.split(END)
    write_text(path, before + "\n".join([START, *lines, END]) + after)


def main():
    lines = []
    for dataset in datasets():
        lines += [*dataset_section(dataset), ""]
    for name, text in PLOTS.items():
        lines += [f"![{text}](../benchmarks/plots/{name}.png)", ""]
    lines += ["## The autoencoder's loss, and speed", "", *mask_autoencoder(), "", *speed()]
    between_marks(ROOT / "docs" / "results.md", lines)
    between_marks(ROOT / "README.md", overview())


if __name__ == "__main__":
    main()
