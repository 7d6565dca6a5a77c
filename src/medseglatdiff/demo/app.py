"""The demo: `build_demo(pipelines)` is the page, and the command `demo` serves it."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from ..pipeline.loading import load_pipeline
from ..pipeline.pipeline import MedSegLatDiffPipeline
from . import texts
from .client_limits import UploadLimit
from .events import KEEP_SECONDS
from .handlers import Handlers
from .layout import Controls, Inputs, build_page
from .limits import MAX_FILE_MB, silence_pydicom
from .model_names import short_names
from .results import Shown
from .storage import FilesIn, claim_folder

FOLDER = Path(__file__).parent
# of a button, in the page itself: a call of the server would come too late
ENABLE, DISABLE = (f"() => ({{__type__: 'update', interactive: {on}}})" for on in ("true", "false"))
SAMPLING = dict(concurrency_limit=1, concurrency_id="sampling")
FONT = ["system-ui", "sans-serif"]  # nothing is fetched from elsewhere
HIDDEN = dict(api_visibility="private", show_progress="hidden")
LATEST = HIDDEN | dict(trigger_mode="always_last")
# to the picture, where it stands above the buttons
SCROLL = "() => innerWidth < 900 && document.getElementById('stage').scrollIntoView()"
THEME = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=["monospace"]).set(
    body_text_color_subdued="*neutral_600",  # these three: dark enough to be read (WCAG AA)
    block_info_text_color="*neutral_600",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
)
LAUNCH = dict(
    theme=THEME,
    css=f"{(FOLDER / 'style.css').read_text()}\n{texts.swatches()}",
    max_file_size=f"{MAX_FILE_MB}mb",
    run_history=False,
    footer_links=["api"],
    ssr_mode=False,
    app_kwargs=dict(middleware=[Middleware(UploadLimit)]),
    state_session_capacity=64,
)


class Page(gr.Blocks):
    """Blocks whose files all go by age and at the end, and which answer malformed calls by a sentence.

    Args:
        keep_seconds (`int`): how old files may become.
    """

    def __init__(self, keep_seconds: int):
        folder = claim_folder()
        super().__init__(title="MedSegLatDiff", analytics_enabled=False, delete_cache=(60, keep_seconds))
        self.temp_file_sets.append(FilesIn(folder))

    async def preprocess_data(self, *args, **options):
        """Gradio's own, whose errors on malformed values say nothing that a caller could use."""
        try:
            return await super().preprocess_data(*args, **options)
        except Exception:  # of a stranger's JSON: nearly anything
            raise gr.Error(texts.MALFORMED, print_exception=False) from None


def build_demo(pipelines: dict[str, MedSegLatDiffPipeline], problems: Sequence[str] = ()) -> gr.Blocks:
    """The page, with its queue; `launch(**LAUNCH)` serves it.

    Args:
        pipelines (`dict[str, MedSegLatDiffPipeline]`): by the names to show.
        problems (`Sequence[str]`, *optional*): sentences to show at the top, such as why a model is missing.
    """
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
    silence_pydicom()
    handlers = Handlers(pipelines)
    with Page(KEEP_SECONDS) as demo:
        gr.Markdown(texts.HEAD, elem_id="head")
        gr.HTML("".join(texts.problem(sentence) for sentence in problems), visible=bool(problems))
        inputs, controls, shown = build_page(handlers)
        connect_runs(handlers, inputs, controls, shown)
        connect_clicks(handlers, inputs, controls, shown)
        connect_results(handlers, controls, shown)
        publish(handlers, inputs)
        demo.unload(handlers.forget)
    demo.stop_runs = handlers.stop
    return demo.queue(max_size=64)


def connect_runs(handlers: Handlers, inputs: Inputs, controls: Controls, shown: Shown):
    """Uploads, examples, runs and their end; none of these is part of the API."""
    example = gr.State()
    chosen = [inputs.model, inputs.masks, inputs.steps]
    controls.examples.select(handlers.choose_example, chosen, [inputs.image, *chosen, example], **HIDDEN)
    # nothing runs before a preview is there: late, it would wipe out what the run has said
    uploads = [inputs.image.upload, inputs.image.clear]
    gr.on(uploads, None, outputs=controls.run, js=DISABLE, api_visibility="private")
    previewed = gr.on(uploads, handlers.preview, [inputs.image, inputs.model], list(shown), **LATEST)
    previewed.then(None, outputs=controls.run, js=ENABLE, api_visibility="private")  # also after a failure
    runs, given = [controls.run.click, example.change], [*inputs, controls.zoom]
    gr.on(runs, handlers.segment_page, given, list(shown), **LATEST, **SAMPLING)
    # the run itself says that it has stopped, which Gradio's `cancels` would keep from the page
    shown.cancel.click(handlers.cancel, None, list(shown), **HIDDEN, queue=False)
    gr.on([controls.run.click, controls.examples.select, *uploads], fn=None, js=SCROLL, api_visibility="private")


def connect_clicks(handlers: Handlers, inputs: Inputs, controls: Controls, shown: Shown):
    """A click on the picture, and the same by numbers, at once; the answer when the model is free."""

    def clicked(means, model, shown_outlines, zoom, request: gr.Request, event: gr.SelectData) -> Shown:
        x, y = event.index
        return handlers.mark(means, model, shown_outlines, zoom, x, y, request)

    given = [controls.means, inputs.model, shown.outlines, controls.zoom]
    marked = [
        shown.picture.select(clicked, given, list(shown), **HIDDEN),
        controls.use_point.click(handlers.mark, [*given, controls.x, controls.y], list(shown), **HIDDEN),
        controls.take_back.click(handlers.take_back, None, list(shown), **HIDDEN),
    ]
    for event in marked:
        event.then(handlers.correct, controls.zoom, list(shown), **HIDDEN, **SAMPLING)


def connect_results(handlers: Handlers, controls: Controls, shown: Shown):
    """The threshold, which goes for the files as well, the outlines that are ticked, and the zoom."""
    given, several = [shown.outlines, shown.threshold, controls.zoom], dict(concurrency_limit=4)
    moved = shown.threshold.input(handlers.redraw, given, list(shown), **LATEST, **several)
    moved.then(handlers.rewrite, None, list(shown), **LATEST, **several)
    shown.outlines.input(handlers.redraw, given, list(shown), **LATEST, **several)
    zoomed = controls.zoom.input(handlers.redraw, given, list(shown), **LATEST, **several)
    zoomed.then(handlers.zoom, controls.zoom, list(shown), **LATEST, **several)


def publish(handlers: Handlers, inputs: Inputs):
    """The API: `/segment`, with the page's inputs, where to look, and the page's files as outputs."""
    numbers, point = gr.JSON(visible=False, label="numbers"), gr.JSON(visible=False, label="point")
    files = [
        gr.File(visible=False, label=label) for label in ("masks (zip of PNG)", "arrays (npz)", "DICOM Segmentation")
    ]
    button = gr.Button(visible=False)
    button.click(handlers.segment, [*inputs, point], [numbers, *files], api_name="segment", **SAMPLING)


def load_pipelines(models: list[str]) -> tuple[dict[str, MedSegLatDiffPipeline], list[str]]:
    """The pipelines that can be loaded, by short names, and a sentence for each that cannot."""
    pipelines, problems = {}, []
    for model, name in zip(models, short_names(models), strict=True):
        try:
            pipelines[name] = load_pipeline(model)
        except ValueError:
            problems.append(f"The model {name} could not be loaded. Please check the folder or Hub id {model}.")
    return pipelines, problems or ([] if pipelines else [texts.NO_MODEL])


def find_models() -> list[str]:
    """Folders or Hub ids: what MEDSEGLATDIFF_MODELS lists."""
    listed = os.environ.get("MEDSEGLATDIFF_MODELS", "")
    return [model.strip() for model in listed.split(",") if model.strip()]


def main(arguments: list[str] | None = None):
    """`medseglatdiff demo`: serves the page until it is interrupted."""
    parser = argparse.ArgumentParser(prog="medseglatdiff demo", description="Serves the demo's page.")
    parser.add_argument(
        "models",
        nargs="*",
        metavar="PATH_OR_ID",
        help="folders or Hub ids of pipelines (default: the list in MEDSEGLATDIFF_MODELS, with commas in between)",
    )
    models = parser.parse_args(arguments).models or find_models()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # what a container gets: the ends below still happen
    demo = build_demo(*load_pipelines(models))
    try:
        demo.launch(**LAUNCH)
    finally:
        demo.stop_runs()
        demo.close(verbose=False)
