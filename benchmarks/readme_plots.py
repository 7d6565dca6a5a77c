"""Draws the README's three plots from the results files, to `benchmarks/plots/`: part of `make results`."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from readme_results import LABELS, PLOTS, ROOT, TITLES, baselines, datasets, ours, several_masks

from medseglatdiff.evaluation.plots import BLUE, GREY, ORANGE, new_figure, save_figure

STYLES = {
    "pretrained_unet": ("#D55E00", "--"),
    "dynunet": ("#009E73", "-."),
    "dynunet-monte-carlo": ("#CC79A7", ":"),
    "dynunet-ensemble-4": (ORANGE, (0, (5, 1))),
    "segformer": ("#56B4E9", (0, (1, 1))),
    "conditional_vae": (GREY, (0, (3, 1, 1, 1))),
}
SHORT = {name: TITLES[name].split(",")[0] for name in datasets()}


def plot_samples():
    """Dice of the masks' majority for all data sets, and GED where there are several raters, by number of masks."""
    figure, (dice, ged) = new_figure(2)
    for (dataset, name), marker in zip(SHORT.items(), "os^", strict=False):
        by_num_masks = ours(dataset)["by_num_masks"]
        counts = [int(count) for count in by_num_masks]
        dice.plot(counts, [entry["dice"]["value"] for entry in by_num_masks.values()], marker=marker, label=name)
        if "ged" in by_num_masks["1"]:
            ged.plot(counts, [entry["ged"]["value"] for entry in by_num_masks.values()], marker=marker, label=name)
    majority = ours("lidc-idri")["degenerate"]["majority"]["ged"]["value"]
    ged.axhline(majority, ls="--", color=GREY, label="the raters' majority, repeated")
    for axes, label in ((dice, "Dice of the masks' majority"), (ged, "GED (lower is better)")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, counts)
        axes.set(xlabel="masks, the first so many of each image", ylabel=label)
        axes.legend()
    return figure


def plot_reliability():
    """Frequency of the foreground by confidence, a panel per data set."""
    figure, panels = new_figure(len(SHORT))
    for axes, (dataset, name) in zip(panels, SHORT.items(), strict=True):
        curve = ours(dataset)["curves"]["reliability"]
        axes.plot([0, 1], [0, 1], "--", color=GREY)
        axes.plot(curve["confidence"], curve["frequency"], "o-", color=BLUE)
        axes.set(title=name, xlabel="confidence", ylabel="share of raters who marked the pixel", aspect="equal")
    return figure


def plot_risk_coverage():
    """Mean error of the kept images by share kept, ours and every baseline, a panel per data set.

    Images are set aside by the disagreement of their masks; by mean uncertainty where a network gives one mask. A mean
    over fewer than one image in twenty is left out.
    """
    figure, panels = new_figure(len(SHORT))
    named = {}
    for axes, (dataset, name) in zip(panels, SHORT.items(), strict=True):
        lines = [(entry, LABELS[entry["network"]], *STYLES[entry["network"]]) for entry in baselines(dataset)]
        for results, label, colour, dash in [*lines, (ours(dataset), "medseglatdiff", BLUE, "-")]:
            curve = results["curves"]["risk_coverage_disagreement" if several_masks(results) else "risk_coverage"]
            coverage, risk = np.array(curve["coverage"]), np.array(curve["risk"])  # [N], [N]
            kept = coverage >= 0.05  # [N]
            (named[label],) = axes.plot(coverage[kept], risk[kept], color=colour, ls=dash)
        axes.set(title=name, xlabel="share of images kept", ylabel="mean error (1 - Dice)", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3)
    return figure


def main():
    folder = Path(ROOT, "benchmarks", "plots")
    folder.mkdir(exist_ok=True)
    figures = {"samples": plot_samples, "reliability": plot_reliability, "risk_coverage": plot_risk_coverage}
    for name in PLOTS:
        save_figure(figures[name](), folder / f"{name}.png")


if __name__ == "__main__":
    main()
