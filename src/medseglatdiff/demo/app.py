"""The demo: `build_demo(pipelines)` is the page, and the command `demo` serves it."""

import argparse
import os
import signal
import sys
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from ..pipeline.loading import load_pipeline
from ..pipeline.pipeline import MedSegLatDiffPipeline
from . import texts
from .client_limits import UploadLimit
from .handlers import KEEP_SECONDS, Handlers, redraw
from .layout import build_inputs, build_results
from .limits import MAX_FILE_MB, silence_pydicom
from .storage import FilesIn, claim_folder

FOLDER = Path(__file__).parent
# of a button, in the page itself: a call of the server would come too late
ENABLE, DISABLE = (f"() => ({{__type__: 'update', interactive: {on}}})" for on in ("true", "false"))
SAMPLING = dict(concurrency_limit=1, concurrency_id="sampling")
FONT = ["system-ui", "sans-serif"]  # nothing is fetched from elsewhere
# on phones the results lie below the window
SCROLL = "() => innerWidth < 900 && document.getElementById('status').scrollIntoView({behavior: 'smooth'})"
LAUNCH = dict(
    theme=gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=["monospace"]),
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


def build_demo(pipelines: dict[str, MedSegLatDiffPipeline], problems: list[str] = ()) -> gr.Blocks:
    """The page, with its queue; `launch(**LAUNCH)` serves it.

    Args:
        pipelines (`dict[str, MedSegLatDiffPipeline]`): by the names to show, each with one foreground class.
        problems (`list[str]`, *optional*): sentences to show at the top, such as why a model is missing.

    Raises:
        ValueError: for a pipeline with several classes.
    """
    for name, pipeline in pipelines.items():
        if pipeline.num_classes != 1:
            raise ValueError(f"`pipelines` must have one foreground class, but {name} has {pipeline.num_classes}.")
        pipeline.set_progress_bar_config(disable=True)
    silence_pydicom()
    handlers = Handlers(pipelines)
    with Page(KEEP_SECONDS) as demo:
        gr.Markdown(texts.HEAD, elem_id="head")
        gr.HTML("".join(texts.problem(sentence) for sentence in problems), visible=bool(problems))
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320, elem_id="choices"):
                inputs, examples, run, cancel, status = build_inputs(handlers)
            with gr.Column(scale=3, min_width=320):
                picture = gr.Image(
                    label="Image and outlines",
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="picture",
                    alt_text="the image with the outlines of hypotheses and consensus",
                )
                results = build_results()
        connect(handlers, inputs, examples, run, cancel, status, picture, results)
        publish(handlers, inputs)
    demo.stop_runs = handlers.stop
    return demo.queue(max_size=64)


def connect(handlers: Handlers, inputs: list, examples, run, cancel, status, picture, results: list):
    """What happens on which click; none of these is part of the API."""
    image, model, masks, steps, _ = inputs
    column, stored, outlines, threshold, cards = results[:5]
    hidden = dict(api_visibility="private", show_progress="hidden")
    example = gr.State()
    chosen = [model, masks, steps]
    examples.select(handlers.choose_example, chosen, [image, *chosen, example], **hidden)
    connect_preview(handlers, image, model, run, [status, picture, column])
    sampled = gr.on(  # one event for both triggers: Gradio's page cancels several one after the other, too late
        [run.click, example.change],
        handlers.segment_page,
        inputs,
        [status, cancel, picture, *results],
        show_progress="minimal",
        show_progress_on=status,
        trigger_mode="always_last",
        api_visibility="private",
        **SAMPLING,
    )
    cancel.click(stopping, None, [status, cancel], cancels=sampled, **hidden, queue=False)
    sampled.failure(stopped, None, [status, cancel], **hidden)
    gr.on([run.click, examples.select], fn=None, js=SCROLL, api_visibility="private")
    gr.on(
        [threshold.input, outlines.input],
        redraw,
        [stored, outlines, threshold],
        [status, picture, cards],
        **hidden,
        trigger_mode="always_last",
        concurrency_limit=4,
    )


def connect_preview(handlers: Handlers, image, model, run, shown: list):
    """The preview of an upload; nothing runs before it is there: late, it would wipe out what the run has said."""
    chosen = [image.upload, image.clear]
    gr.on(chosen, None, outputs=run, js=DISABLE, api_visibility="private")
    previewed = gr.on(
        chosen,
        handlers.preview,
        [image, model],
        shown,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )
    previewed.then(None, outputs=run, js=ENABLE, api_visibility="private")  # also after a failure


def publish(handlers: Handlers, inputs: list):
    """The API: `/segment`, with the page's inputs and its files as outputs."""
    numbers = gr.JSON(visible=False, label="numbers")
    files = [
        gr.File(visible=False, label=label) for label in ("masks (zip of PNG)", "arrays (npz)", "DICOM Segmentation")
    ]
    button = gr.Button(visible=False)
    button.click(handlers.segment, inputs, [numbers, *files], api_name="segment", **SAMPLING)


def stopping() -> tuple:
    """The page until the hypotheses at hand are done: nothing can stop in their midst."""
    return texts.said(texts.STOPPING), gr.update(interactive=False)


def stopped() -> tuple:
    """The page after a run that did not reach its end."""
    return texts.said(texts.STOPPED), gr.update(interactive=False)


def load_pipelines(models: list[str]) -> tuple[dict[str, MedSegLatDiffPipeline], list[str]]:
    """The pipelines that can be loaded, by the last part of their name, and a sentence for each that cannot."""
    pipelines, problems = {}, []
    for model in models:
        name = Path(model).name
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
