"""The plots of an evaluation, as PNG beside its results: readable without a caption, colour-blind safe.

Colours are Okabe and Ito's; lines differ in marker and dash as well.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"
WIDTH, HEIGHT = 5.0, 4.0  # inches, at 150 dots each


def save_figure(figure: plt.Figure, path: Path):
    """Writes under a temporary name first, so that no half a picture is left."""
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=150, bbox_inches="tight", format="png")
    plt.close(figure)
    partial.replace(path)


def plot_reliability(results: dict) -> plt.Figure:
    """How often readers marked a pixel, against the confidence that the model gave it."""
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT))
    curve, error = results["curves"]["reliability"], results["metrics"]["ece"]["value"]
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="perfectly calibrated")
    axes.plot(curve["confidence"], curve["frequency"], "o-", color=BLUE, label=f"model (ECE {error:.4f})")
    axes.set(xlabel="confidence", ylabel="share of readers who marked the pixel", title="Reliability", aspect="equal")
    axes.legend()
    return figure


def plot_risk_coverage(results: dict) -> plt.Figure:
    """The error of the images that are kept when the most uncertain ones are set aside."""
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT))
    curve, area = results["curves"]["risk_coverage"], results["metrics"]["aurc"]["value"]
    axes.plot(curve["coverage"], curve["risk"], "-", color=BLUE, label=f"least uncertain first (area {area:.3f})")
    axes.axhline(curve["risk"][-1], ls="--", color=GREY, label="any order, on average")
    axes.set(xlabel="share of images kept", ylabel="mean 1 - Dice of the kept images", title="Risk and coverage")
    axes.set_xlim(0, 1)
    axes.legend()
    return figure


def plot_quality(series: dict[str, dict], xlabel: str) -> plt.Figure:
    """GED and Dice with their intervals against a count: `series` maps the count to its metrics."""
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT))
    styles = (
        ("dice", "Dice of the consensus (higher is better)", "s--", ORANGE),
        ("ged", "GED (lower is better)", "o-", BLUE),
    )
    for name, label, style, colour in styles:
        counts = sorted(int(count) for count, metrics in series.items() if name in metrics)
        entries = [series[str(count)][name] for count in counts]
        if entries:
            axes.plot(counts, [entry["value"] for entry in entries], style, color=colour, label=label)
            low, high = [entry["low"] for entry in entries], [entry["high"] for entry in entries]
            axes.fill_between(counts, low, high, color=colour, alpha=0.15)
    axes.set(xlabel=xlabel, ylabel="mean over images, 95 % interval", title=f"Quality against {xlabel}", xscale="log")
    ticks = sorted(int(count) for count in series)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    return figure


def plot_size(table: pandas.DataFrame) -> plt.Figure:
    """Dice of the consensus against the size of the lesion: every image, and the mean per doubling of the area."""
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT))
    seen = table[table["reference_area"] > 0]
    axes.scatter(seen["reference_area"], seen["dice"], s=8, color=BLUE, alpha=0.3, label="one image")
    means = seen.groupby(np.floor(np.log2(seen["reference_area"])))["dice"].mean()
    axes.plot(2 ** (means.index + 0.5), means, "s-", color=ORANGE, label="mean per doubling of the area")
    axes.set(
        xlabel="area of the majority's mask [pixels]", ylabel="Dice of the consensus", xscale="log", ylim=(-0.03, 1.03)
    )
    axes.set_title("Quality against lesion size")
    axes.legend(loc="lower right")
    return figure


def save_plots(results: dict, table: pandas.DataFrame, folder: Path) -> list[Path]:
    """Writes every plot that the results have data for and returns the files.

    Args:
        results (`dict`): as in results.json.
        table (`pandas.DataFrame`): one row per image (and number of steps), as in results.parquet.
        folder (`Path`): where the PNG files go.
    """
    figures = {
        "reliability": plot_reliability(results),
        "risk_coverage": plot_risk_coverage(results),
        "samples": plot_quality(results["by_num_masks"], "number of hypotheses"),
        "size": plot_size(table[table["steps"] == results["num_inference_steps"]]),
    }
    if "by_steps" in results:
        series = {steps: block["metrics"] for steps, block in results["by_steps"].items()}
        figures["steps"] = plot_quality(series, "denoising steps")
    paths = [folder / f"plot_{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths
