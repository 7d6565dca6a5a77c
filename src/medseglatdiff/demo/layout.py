"""The page's components, without what they do: the inputs on the left, picture, status and results on the right."""

from typing import NamedTuple

import gradio as gr

from ..overview import MAGMA, VIRIDIS
from . import texts
from .example_images import CAPTIONS, EXAMPLES, FINISHED, suited_model, thumbnail
from .handlers import LOOK, MINUS, PLUS, Handlers
from .limits import MAX_MASKS, MAX_STEPS
from .results import Shown


class Inputs(NamedTuple):
    """What decides about a run."""

    image: gr.File
    model: gr.Dropdown
    masks: gr.Number
    steps: gr.Number
    seed: gr.Number


class Controls(NamedTuple):
    """What changes what is shown, without being shown itself."""

    examples: gr.Gallery
    run: gr.Button
    means: gr.Radio
    x: gr.Number
    y: gr.Number
    use_point: gr.Button
    take_back: gr.Button
    zoom: gr.Checkbox


def build_page(handlers: Handlers) -> tuple[Inputs, Controls, Shown]:
    """All components; those of `Shown` by the names of its values."""
    with gr.Row(equal_height=False, elem_id="page"):  # style.css says what stands where
        with gr.Column(min_width=300, elem_id="choices"):
            inputs, examples, run = build_inputs(handlers)
        with gr.Column(min_width=300, elem_id="stage"):
            with gr.Row(equal_height=True, elem_id="said"):
                status = gr.HTML(texts.said(texts.WELCOME), elem_id="status")
                cancel = gr.Button("Cancel", size="sm", scale=0, min_width=80, interactive=False, elem_id="cancel")
            picture = gr.Image(
                str(FINISHED),
                label="Image and outlines",
                format="png",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="picture",
                alt_text="the image with the outlines of hypotheses and consensus",
            )
            with gr.Accordion("Click on the picture, or give a point by numbers", open=False, elem_id="clicks"):
                means, x, y, use_point, take_back = build_clicks()
        with gr.Column(min_width=300, elem_id="below"):
            *results, zoom = build_results()
    controls = Controls(examples, run, means, x, y, use_point, take_back, zoom)
    return inputs, controls, Shown(status, cancel, picture, *results)


def build_inputs(handlers: Handlers) -> tuple:
    """The left column: what to segment, how, and the buttons."""
    first = suited_model(EXAMPLES[0], handlers.pipelines) or next(iter(handlers.pipelines), None)
    masks, steps = handlers.defaults(first) if first else (1, 1)
    model = gr.Dropdown([(words, name) for name, words in handlers.words.items()], value=first, label="Model")
    image = gr.File(label="Image (PNG, JPEG, TIFF or DICOM)", type="filepath", height=110, elem_id="upload")
    run = gr.Button("Segment", variant="primary", elem_id="run")
    examples = gr.Gallery(
        [(thumbnail(path), CAPTIONS[path.name]) for path in EXAMPLES],
        label="Or click an example: simulated nodules, polyps and moles, each for its own model",
        columns=5,
        height="auto",
        allow_preview=False,
        object_fit="cover",
        buttons=[],
        interactive=False,
        elem_id="examples",
    )
    with gr.Row():
        num_masks = gr.Number(masks, label="Hypotheses", info=f"1 to {MAX_MASKS}", min_width=90, elem_id="masks")
        num_steps = gr.Number(steps, label="Steps", info=f"1 to {MAX_STEPS}", min_width=90, elem_id="steps")
        seed = gr.Number(0, label="Seed", info="repeats a run", min_width=90, elem_id="seed")
    model.change(handlers.defaults, model, [num_masks, num_steps], api_visibility="private")
    return Inputs(image, model, num_masks, num_steps, seed), examples, run


def build_clicks() -> list:
    """What a click on the picture means, and the same by keyboard."""
    means = gr.Radio([PLUS, MINUS, LOOK], value=PLUS, label="A click says of the pixel", elem_id="means")
    gr.Markdown(texts.CLICKS_NOTE, elem_classes="note")
    with gr.Row():
        x = gr.Number(label="x", info="pixels of the picture, from the left", min_width=90, elem_id="x")
        y = gr.Number(label="y", info="from the top", min_width=90, elem_id="y")
    with gr.Row():
        use = gr.Button("Use this point", min_width=120, elem_id="use-point")
        take_back = gr.Button("Take the points back", min_width=120, elem_id="take-back")
    return [means, x, y, use, take_back]


def build_results() -> list:
    """What appears below the picture, in the order of `Shown`, and the check box that zooms."""
    with gr.Column(visible=False, elem_id="results") as column:
        legend = gr.HTML(visible=False, elem_id="legend")
        zoom = gr.Checkbox(True, label="Zoom to the finding", elem_id="zoom")
        outlines = gr.CheckboxGroup(label="Outlines shown", show_select_all=True, elem_id="outlines")
        threshold = gr.Slider(1, 100, step=1, label="Consensus: least confidence (%)", buttons=[], elem_id="threshold")
        cards = gr.HTML(elem_id="cards")
        with gr.Row():
            confidence = build_map(
                "Confidence", VIRIDIS, ("0 %", "50 %", "100 %"), "from the share of the hypotheses that hold a pixel"
            )
            uncertainty = build_map("Uncertainty", MAGMA, ("0", "0.5", "1 bit"), "0: sure, 1 bit: undecided")
        gallery = gr.Gallery(
            label="Hypotheses one by one: area, share of the image",
            columns=4,
            height="auto",
            object_fit="contain",
            buttons=[],
            interactive=False,
            elem_id="gallery",
        )
        with gr.Row(elem_id="downloads"):
            files = [
                gr.DownloadButton(label, size="md", min_width=150, elem_id=name)
                for name, label in (
                    ("zip", "Masks (PNG, zip)"),
                    ("npz", "All arrays (npz)"),
                    ("json", "Settings and numbers (JSON)"),
                    ("overview", "Overview (PNG)"),
                    ("seg", "DICOM Segmentation"),
                )
            ]
        gr.Markdown(texts.DOWNLOADS_NOTE, elem_id="downloads-note")
    return [column, legend, outlines, threshold, cards, confidence, uncertainty, gallery, *files, zoom]


def build_map(label: str, anchors: str, ticks: tuple[str, ...], meaning: str) -> gr.Image:
    """A map above its scale."""
    with gr.Column(min_width=150):
        options = dict(format="png", interactive=False, buttons=["fullscreen"])
        picture = gr.Image(label=label, alt_text=f"map: {meaning}", elem_id=label.lower(), **options)
        gr.HTML(texts.scale(anchors, ticks, meaning))
    return picture
