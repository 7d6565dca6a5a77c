"""The plots of an evaluation, as PNG beside its results: readable without a caption, colour-blind safe.

Colours are Okabe and Ito's; lines differ in marker and dash as well.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas

from ..data.files import replacing

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"
WIDTH, HEIGHT = 5.2, 4.4  # inches, at 150 dots each


def new_figure(panels: int = 1) -> tuple[plt.Figure, np.ndarray]:
    """A figure with this number of panels side by side, and their axes."""
    figure, axes = plt.subplots(1, panels, figsize=(WIDTH * panels**0.7, HEIGHT), layout="constrained", squeeze=False)
    for panel in axes[0]:
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
    return figure, axes[0]


def save_figure(figure: plt.Figure, path: Path):
    """Writes a figure and closes it."""
    try:
        with replacing(path) as partial:
            figure.savefig(partial, dpi=150)
    finally:
        plt.close(figure)


def plot_reliability(results: dict) -> plt.Figure:
    """How often readers marked a pixel, against the confidence that the model gave it."""
    figure, (axes,) = new_figure()
    curve, error = results["curves"]["reliability"], results["metrics"]["ece"]["value"]
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="perfectly calibrated")
    label = f"model, gap {error:.3f} on average over all pixels (ECE)"
    axes.plot(curve["confidence"], curve["frequency"], "o-", color=BLUE, label=label)
    axes.set(xlabel="confidence of the model", ylabel="share of readers who marked the pixel", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title="Does confidence mean what it says?")
    figure.legend(loc="outside lower center")
    return figure


def plot_risk_coverage(results: dict) -> plt.Figure:
    """The error on the images that remain when the most uncertain ones are set aside, by two measures."""
    figure, (axes,) = new_figure()
    lines = [("", "mean uncertainty", ORANGE, ":"), ("_disagreement", "disagreement of the masks", BLUE, "-")]
    for name, what, colour, dash in lines:
        if f"risk_coverage{name}" in results["curves"]:
            curve, area = results["curves"][f"risk_coverage{name}"], results["metrics"][f"aurc{name}"]["value"]
            label = f"set aside by {what} (mean of the curve {area:.3f})"
            axes.plot(curve["coverage"], curve["risk"], dash, color=colour, label=label)
    axes.axhline(curve["risk"][-1], ls="--", color=GREY, label=f"all images ({curve['risk'][-1]:.3f})")
    axes.set(xlabel="share of images kept", ylabel="mean error of the kept images (1 - Dice)")
    axes.set(xlim=(0, 1), ylim=(0, None), title="Does uncertainty find the errors?")
    figure.legend(loc="outside lower center")
    return figure


def plot_quality(series: dict[str, dict], xlabel: str) -> plt.Figure:
    """Dice and GED with their intervals, in a panel each, against a count; `series` maps counts to metrics."""
    titles = {"dice": "Dice of the masks' majority (higher is better)", "ged": "GED (lower is better)"}
    titles = {name: title for name, title in titles.items() if any(name in metrics for metrics in series.values())}
    figure, panels = new_figure(len(titles))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        counts = sorted(int(count) for count, metrics in series.items() if name in metrics)
        entries = [series[str(count)][name] for count in counts]
        axes.plot(counts, [entry["value"] for entry in entries], "o-", color=BLUE)
        low, high = (np.array([entry[end] for entry in entries], float) for end in ("low", "high"))  # [counts] each
        axes.fill_between(counts, low, high, color=BLUE, alpha=0.15)
        axes.set(title=title, xlabel=xlabel, ylabel=with_interval("mean over images", entries), xscale="log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
    return figure


def with_interval(what: str, entries: list[dict]) -> str:
    """The label of an axis, with a note if there are intervals."""
    return f"{what}, with 95 % interval" if any(entry["low"] is not None for entry in entries) else what


def plot_classes(classes: dict[str, dict], mean: dict) -> plt.Figure:
    """Dice and GED of each class and of their mean, with their intervals, in a panel each."""
    titles = {"dice": "Dice of the consensus (higher is better)", "ged": "GED (lower is better)"}
    titles = {name: title for name, title in titles.items() if name in mean}
    figure, panels = new_figure(len(titles))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        blocks = {f"class {label}": block[name] for label, block in classes.items()} | {"mean": mean[name]}
        ends = np.array([[entry["value"], entry["low"], entry["high"]] for entry in blocks.values()], float)  # [n, 3]
        reach = np.abs(ends[:, 1:] - ends[:, :1]).T  # [2, n]
        axes.errorbar(list(blocks), ends[:, 0], np.nan_to_num(reach), fmt="o", color=BLUE, capsize=4)
        axes.set(title=title, ylabel=with_interval("mean over images", list(blocks.values())))
        axes.margins(x=0.2)
    return figure


def plot_size(table: pandas.DataFrame) -> plt.Figure:
    """Dice of the consensus against the size of the lesion: every image, and the mean per doubling of the area."""
    figure, (axes,) = new_figure()
    seen = table[table["reference_area"] > 0]
    axes.scatter(seen["reference_area"], seen["dice"], s=10, color=BLUE, alpha=0.35, lw=0, label="one image")
    means = seen.groupby(np.floor(np.log2(seen["reference_area"])))["dice"].mean()
    axes.plot(2 ** (means.index + 0.5), means, "s--", color=ORANGE, label="mean per doubling of the area")
    axes.set(xlabel="area that the majority of readers marked [pixels]", ylabel="Dice of the consensus", xscale="log")
    axes.set(ylim=(-0.03, 1.03), title="Quality against lesion size")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def save_plots(results: dict, table: pandas.DataFrame, folder: Path) -> list[Path]:
    """Writes every plot for which there are results, and returns the files.

    Args:
        results (`dict`): as in results.json.
        table (`pandas.DataFrame`): one row per image (and number of steps), as in results.parquet.
        folder (`Path`): folder of the PNG files.
    """
    figures = {
        "reliability": plot_reliability(results),
        "risk_coverage": plot_risk_coverage(results),
        "samples": plot_quality(results["by_num_masks"], "number of hypotheses"),
        "size": plot_size(table[table["steps"] == results["num_inference_steps"]]),
    }
    if "classes" in results:
        figures["classes"] = plot_classes(results["classes"], results["metrics"])
    if "by_steps" in results:
        series = {steps: block["metrics"] for steps, block in results["by_steps"].items()}
        figures["steps"] = plot_quality(series, "denoising steps")
    paths = [folder / f"plot_{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths
