"""A page to try the metrics: predictions and references as PNG or npz go in; numbers and a picture come out."""

import zipfile
from pathlib import Path

import evaluate
import gradio as gr
import matplotlib
import numpy as np
import PIL.Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MODULE = str(Path(__file__).parent)
BLUE, ORANGE = "#0072B2", "#E69F00"


def read_file(path: Path) -> list[np.ndarray]:
    """Masks `(H, W)` of a PNG file, black and one other grey, or of an npz file of arrays `(H, W)` or `(N, H, W)`."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = list(archive.values())
        else:
            with PIL.Image.open(path) as image:
                arrays = [np.asarray(image.convert("L"))]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise gr.Error(f"{path.name} cannot be read: {error}") from error
    masks = []
    for array in arrays:
        if array.ndim not in (2, 3) or array.size == 0:
            raise gr.Error(f"{path.name} must hold masks (H, W) or (N, H, W), but has an array {array.shape}.")
        values = np.unique(array)
        if len(values[values != 0]) > 1:
            raise gr.Error(f"{path.name} must hold 0 and one other value, but holds {values[:4].tolist()}.")
        masks += list(array.reshape(-1, *array.shape[-2:]) != 0)
    return masks


def read_masks(files: list[str] | None, name: str) -> np.ndarray:
    """All masks of these files, bool `(N, H, W)`."""
    masks = [mask for file in files or [] for mask in read_file(Path(file))]
    if not masks:
        raise gr.Error(f"Please upload at least one mask as {name}.")
    sizes = sorted({mask.shape for mask in masks})
    if len(sizes) > 1:
        raise gr.Error(f"All masks of the {name} must have one size, but had {sizes}.")
    return np.stack(masks)


def measure(predictions: list[str] | None, references: list[str] | None) -> tuple[list[list], plt.Figure]:
    """The numbers of one image, as rows of metric and value, and both mean masks with the majorities' outlines."""
    samples, raters = read_masks(predictions, "predictions"), read_masks(references, "references")
    if samples.shape[1:] != raters.shape[1:]:
        raise gr.Error(f"Predictions and references must have one size: {samples.shape[1:]}, {raters.shape[1:]}.")
    ours, theirs = samples.mean(axis=0), raters.mean(axis=0)  # [H, W], [H, W]
    inputs = {
        "binary": (ours >= 0.5, theirs >= 0.5),
        "multi_rater": (samples, raters),
        "confidence": (ours, raters),
    }
    numbers = {}
    for name, (prediction, reference) in inputs.items():
        numbers |= evaluate.load(MODULE, name).compute(predictions=[prediction], references=[reference])
    figure, panels = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    for axes, mean, title in zip(panels, (ours, theirs), ("predictions", "references"), strict=True):
        axes.imshow(mean, cmap="gray", vmin=0, vmax=1)
        for map_, colour, dash in ((ours, BLUE, "-"), (theirs, ORANGE, "--")):
            if (map_ >= 0.5).any() and (map_ < 0.5).any():
                axes.contour(map_ >= 0.5, levels=[0.5], colors=colour, linestyles=dash, linewidths=2)
        axes.set(title=f"mean of the {title}", xticks=[], yticks=[])
    figure.supxlabel("outlines of the majority: blue predictions, orange and dashed references")
    plt.close(figure)
    return [[name, round(value, 4)] for name, value in numbers.items()], figure


def build_demo() -> gr.Blocks:
    with gr.Blocks(title="MedSeg metrics") as demo:
        gr.Markdown(
            "# MedSeg metrics\nUpload one image's masks: several hypotheses, and what one or several raters drew."
        )
        with gr.Row():
            predictions = gr.File(label="predictions", file_count="multiple", file_types=[".png", ".npz"])
            references = gr.File(label="references", file_count="multiple", file_types=[".png", ".npz"])
        button = gr.Button("Measure", variant="primary")
        with gr.Row():
            numbers = gr.Dataframe(headers=["metric", "value"], label="numbers")
            picture = gr.Plot(label="mean masks")
        button.click(measure, [predictions, references], [numbers, picture], api_name="measure")
    return demo


if __name__ == "__main__":
    build_demo().launch()
