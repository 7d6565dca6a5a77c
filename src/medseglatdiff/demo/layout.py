"""The page's components, without what they do: the inputs on the left, the results below the picture."""

import gradio as gr

from ..overview import MAGMA, VIRIDIS
from . import texts
from .example_images import EXAMPLES, example_name, suited_model, thumbnail
from .handlers import Handlers
from .limits import MAX_MASKS, MAX_STEPS


def build_inputs(handlers: Handlers) -> tuple:
    """The left column: what to segment, how, and the buttons."""
    names = list(handlers.pipelines)
    first = suited_model(EXAMPLES[0], names) or next(iter(names), None)
    masks, steps = handlers.defaults(first) if first else (1, 1)
    model = gr.Dropdown(names, value=first, label="Model")
    image = gr.File(label="Image (PNG, JPEG or DICOM)", type="binary", height=150, elem_id="upload")
    examples = gr.Gallery(
        [(thumbnail(path), example_name(path)) for path in EXAMPLES],
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
    with gr.Row():
        run = gr.Button("Segment", variant="primary", min_width=120, elem_id="run")
        cancel = gr.Button("Cancel", min_width=120, interactive=False, elem_id="cancel")
    status = gr.HTML("", elem_id="status")
    model.change(handlers.defaults, model, [num_masks, num_steps], api_visibility="private")
    return [image, model, num_masks, num_steps, seed], examples, run, cancel, status


def build_results() -> list:
    """What appears below the picture, in the order of `handlers.results`."""
    with gr.Column(visible=False, elem_id="results") as column:
        stored = gr.State()
        outlines = gr.CheckboxGroup(label="Outlines shown", show_select_all=True, elem_id="outlines")
        threshold = gr.Slider(
            1,
            100,
            step=1,
            label="Consensus: least confidence (%)",
            buttons=[],
            elem_id="threshold",
        )
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
                    ("seg", "DICOM Segmentation"),
                )
            ]
        gr.Markdown(texts.DOWNLOADS_NOTE, elem_id="downloads-note")
    return [column, stored, outlines, threshold, cards, confidence, uncertainty, gallery, *files]


def build_map(label: str, anchors: str, ticks: tuple[str, ...], meaning: str) -> gr.Image:
    """A map above its scale."""
    with gr.Column(min_width=150):
        options = dict(format="png", interactive=False, buttons=["fullscreen"])
        picture = gr.Image(label=label, alt_text=f"map: {meaning}", elem_id=label.lower(), **options)
        gr.HTML(texts.scale(anchors, ticks, meaning))
    return picture
