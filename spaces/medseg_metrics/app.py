"""A page to try the metrics: predictions and references as PNG or npz go in; numbers and a picture come out."""

import atexit
import shutil
import tempfile
import zipfile
from pathlib import Path

import evaluate
import gradio as gr
import matplotlib
import numpy as np
import PIL.Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.metrics.names import NAMES

MODULE = str(Path(__file__).parent)
BLUE, ORANGE = "#0072B2", "#E69F00"
MEANINGS = {  # what each number says, in a line
    "dice": "2 |A and B| / (|A| + |B|) of the majorities' masks; 1: they are the same",
    "iou": "|A and B| / |A or B| of the majorities' masks",
    "dice_pooled": "the same over the pixels of all images together: here there is one",
    "iou_pooled": "the same over the pixels of all images together: here there is one",
    "thresholded_jaccard": "the IoU, or 0 below 0.65: the score of ISIC 2018",
    "nsd": "share of both outlines that lies within 1 pixel of the other one",
    "hd95": "how far apart the outlines are at 95 % of their points",
    "hd95_infinite": "1 if only one of the masks is empty: then there is no distance",
    "ged": "how far the distribution of hypotheses is from that of the raters; 0: the same",
    "ged_unbiased": "the same, comparable between different numbers of hypotheses",
    "hm_iou": "mean IoU of hypotheses and raters, paired as well as they can be",
    "d_max": "for each rater the best hypothesis, on average",
    "dice_match": "mean Dice of hypotheses and raters, paired as well as they can be",
    "soft_dice": "Dice of the mean of the hypotheses and the mean of the raters",
    "diversity": "how much the hypotheses differ from each other: should be as much as the raters",
    "ece": "mean gap between confidence and how often raters agree with it",
    "ece_band": "the same, only where the confidence is neither 0 nor 1",
    "brier": "mean squared difference of confidence and raters",
    "nll": "surprise at the raters, given the confidence",
}
FONT = ["system-ui", "sans-serif"]  # nothing is fetched from elsewhere
LAUNCH = dict(
    theme=gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=["monospace"]).set(
        body_text_color_subdued="*neutral_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    ),
    css=".gradio-container .main { max-width: 1200px !important; } .table-wrap td { white-space: normal !important; }",
    footer_links=["api"],
)


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
        reason = str(error).replace(str(path), path.name).replace(str(path.parent), "")  # no path of this server
        raise gr.Error(f"{path.name} cannot be read: {reason}", print_exception=False) from error
    masks = []
    for array in arrays:
        if array.ndim not in (2, 3) or array.size == 0:
            raise gr.Error(
                f"{path.name} must hold masks (H, W) or (N, H, W), but has an array {array.shape}.",
                print_exception=False,
            )
        values = np.unique(array)
        if len(values[values != 0]) > 1:
            raise gr.Error(
                f"{path.name} must hold 0 and one other value, but holds {values[:4].tolist()}.", print_exception=False
            )
        masks += list(array.reshape(-1, *array.shape[-2:]) != 0)
    return masks


def read_masks(files: list[str] | None, name: str) -> np.ndarray:
    """All masks of these files, bool `(N, H, W)`."""
    masks = [mask for file in files or [] for mask in read_file(Path(file))]
    if not masks:
        raise gr.Error(f"Please upload at least one mask as {name}.", print_exception=False)
    sizes = sorted({mask.shape for mask in masks})
    if len(sizes) > 1:
        raise gr.Error(f"All masks of the {name} must have one size, but had {sizes}.", print_exception=False)
    return np.stack(masks)


def measure(predictions: list[str] | None, references: list[str] | None) -> tuple[list[list], plt.Figure]:
    """One image's numbers as rows of metric, value and meaning, and the mean masks with the majorities' outlines."""
    samples, raters = read_masks(predictions, "predictions"), read_masks(references, "references")
    if samples.shape[1:] != raters.shape[1:]:
        raise gr.Error(
            f"Predictions and references must have one size: {samples.shape[1:]}, {raters.shape[1:]}.",
            print_exception=False,
        )
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
    rows = [
        [NAMES.get(name, "images without a distance ↓"), round(value, 4), MEANINGS[name]]
        for name, value in numbers.items()
    ]
    return rows, figure


def write_example(folder: Path) -> tuple[list[str], list[str]]:
    """Three hypotheses and four raters of a drawn lesion, as PNG files."""
    raters = next(iter(phantom_rows(1, size=32, seed=3)))["masks"]
    files = []
    for name, masks in (("hypothesis", [*raters[:2], shifted(raters[0])]), ("rater", raters)):
        paths = [folder / f"{name}-{number}.png" for number in range(1, len(masks) + 1)]
        for path, mask in zip(paths, masks, strict=True):
            mask.save(path)
        files.append([str(path) for path in paths])
    return files[0], files[1]


def shifted(mask: PIL.Image.Image) -> PIL.Image.Image:
    """A mask one pixel further to the right."""
    return PIL.Image.fromarray(np.roll(np.asarray(mask), 1, axis=1))


def build_demo() -> gr.Blocks:
    folder = Path(tempfile.mkdtemp(prefix="medseg-metrics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    example = write_example(folder)
    with gr.Blocks(title="MedSeg metrics", analytics_enabled=False, delete_cache=(60, 1800)) as demo:
        gr.Markdown(
            "# How good are several outlines?\nUpload one image's masks: several hypotheses, and what one or several "
            "raters drew. Arrows point to the better end."
        )
        with gr.Row():
            predictions = gr.File(label="predictions", file_count="multiple", file_types=[".png", ".npz"])
            references = gr.File(label="references", file_count="multiple", file_types=[".png", ".npz"])
        with gr.Row():
            button = gr.Button("Measure", variant="primary", elem_id="measure")
            drawn = gr.Button("Show an example", elem_id="example")
        picture = gr.Plot(label="mean masks", elem_id="picture")
        numbers = gr.Dataframe(
            headers=["metric", "value", "meaning"],
            label="numbers",
            wrap=True,
            interactive=False,
            column_widths=["34%", "14%", "52%"],
            elem_id="numbers",
        )
        inputs, outputs = [predictions, references], [numbers, picture]
        button.click(measure, inputs, outputs, api_name="measure")
        drawn.click(lambda: example, None, inputs, api_visibility="private").then(
            measure, inputs, outputs, api_visibility="private"
        )
    return demo


if __name__ == "__main__":
    build_demo().launch(**LAUNCH)
