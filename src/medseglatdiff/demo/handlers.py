"""What happens when something is clicked: from inputs to the values that the page's components show."""

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4
from weakref import WeakSet

import gradio as gr
import numpy as np
from gradio.context import LocalContext
from gradio.utils import get_upload_folder

from ..overview import MAGMA, VIRIDIS
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.sampling import SamplingInterrupted
from . import texts
from .downloads import Downloads, write_downloads, write_numbers
from .example_images import EXAMPLES, suited_model
from .limits import InputError, check_settings, read_upload
from .pictures import draw_map, draw_outlines, draw_tiles
from .sampling import Job, Segmentation
from .storage import new_folder

CONSENSUS = "consensus"
KEEP_SECONDS = 60 * texts.KEEP_MINUTES
LOG = logging.getLogger("medseglatdiff.demo")


class Handlers:
    """The page's callbacks.

    Args:
        pipelines (`dict[str, MedSegLatDiffPipeline]`): by the names that the page shows.
    """

    def __init__(self, pipelines: dict[str, MedSegLatDiffPipeline]):
        self.pipelines = pipelines
        self.running: WeakSet[Job] = WeakSet()

    def job(self, image: bytes | None, model: str | None, num_masks, num_inference_steps, seed) -> Job:
        """Checks every input, the upload last, before anything is sampled."""
        if model not in self.pipelines:
            raise InputError(texts.NO_MODEL)
        pipeline = self.pipelines[model]
        settings = check_settings(num_masks, num_inference_steps, seed)
        job = Job(read_upload(image, pipeline.config.stretch), pipeline, model, *settings, gone=client_gone())
        self.running.add(job)
        return job

    def stop(self):
        """Interrupts every run, for the end of the server."""
        for job in self.running:
            job.cancelled.set()

    def segment_page(self, *inputs) -> Iterator[tuple]:
        """Values of status, cancel button, picture and results, as the hypotheses arrive."""
        try:
            with only_sentences():
                job = self.job(*inputs)
                empty = np.zeros((0, *job.upload.image.shape[:2]), bool)
                yield texts.progress(0, job.num_candidates), RUNNING, draw_outlines(job.upload.image, empty), *HIDDEN
                for masks in job.sample():
                    picture = draw_outlines(job.upload.image, masks, range(len(masks)))
                    yield texts.progress(len(masks), job.num_candidates), RUNNING, picture, *HIDDEN
                segmentation = job.finish()
                folder = new_folder(Path(get_upload_folder()), KEEP_SECONDS)
                files = write_downloads(job, segmentation, folder)
                yield results(job, segmentation, files, write_numbers(job.numbers(segmentation), folder))
        except InputError as error:
            yield texts.problem(str(error)), IDLE, gr.skip(), *HIDDEN

    def segment(self, image, model, num_masks, num_inference_steps, seed) -> tuple[dict, str, str, str | None]:
        """Several plausible masks for one image: the numbers, the masks as PNG, all arrays, DICOM Segmentation."""
        try:
            with only_sentences():
                job = self.job(image, model, num_masks, num_inference_steps, seed)
                for _ in job.sample():
                    pass
                segmentation = job.finish()
                files = write_downloads(job, segmentation, new_folder(Path(get_upload_folder()), KEEP_SECONDS))
                return job.numbers(segmentation), *files
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def preview(self, image: bytes | None, model: str | None) -> tuple:
        """The upload as the model will see it, or what is wrong with it."""
        try:
            with only_sentences():
                if image is None:
                    return "", None, HIDE
                if model not in self.pipelines:
                    raise InputError(texts.NO_MODEL)
                upload = read_upload(image, self.pipelines[model].config.stretch)
                size = "{1} x {0} pixels".format(*upload.image.shape)
                empty = np.zeros((0, *upload.image.shape[:2]), bool)
                return texts.said(f"{size}, ready to segment."), draw_outlines(upload.image, empty), HIDE
        except InputError as error:
            return texts.problem(str(error)), None, HIDE

    def choose_example(self, model: str | None, masks: float, steps: float, event: gr.SelectData) -> tuple:
        """The example's file, as if it had been uploaded, with the model for such images and that model's defaults,
        and a new value that sets off the run."""
        path = EXAMPLES[event.index]
        suited = suited_model(path, self.pipelines) or model
        if suited != model:
            masks, steps = self.defaults(suited)
        return str(path), suited, masks, steps, uuid4().hex

    def defaults(self, model: str) -> tuple[int, int]:
        """The checkpoint's own numbers of hypotheses and of steps."""
        config = self.pipelines[model].config
        return config.default_num_masks, config.default_num_inference_steps


def redraw(stored: tuple | None, shown: Sequence[str], percent: float) -> tuple:
    """Outlines and numbers at another threshold over the confidence map; nothing is sampled again."""
    path, spacing, own = stored
    if not Path(path).exists():
        return texts.problem(texts.EXPIRED), gr.skip(), gr.skip()
    with np.load(path) as arrays:
        image, masks, confidence = (arrays[name] for name in ("image", "masks", "confidence"))
    threshold = own if percent == round(100 * own) else percent / 100  # the slider knows whole percents only
    consensus = confidence >= threshold  # [H, W]
    picture = draw_outlines(image, masks, *chosen(shown, consensus))
    return gr.skip(), picture, texts.cards(masks, consensus, threshold, spacing)


def results(job: Job, segmentation: Segmentation, files: Downloads, numbers: str) -> tuple:
    """Every value that the page shows at the end."""
    upload, masks, percent = job.upload, segmentation.masks, round(100 * segmentation.threshold)
    names = [CONSENSUS, *(str(number) for number in range(1, len(masks) + 1))]
    captions = [texts.caption(index, mask, upload.spacing) for index, mask in enumerate(masks)]
    notes = texts.NO_SEG if upload.dicom and not files.dicom else ""
    return (
        texts.done(segmentation, job.model, notes),
        IDLE,
        draw_outlines(upload.image, masks, *chosen(names, segmentation.consensus)),
        SHOW,
        (files.arrays, upload.spacing, segmentation.threshold),
        gr.update(choices=names, value=names),
        gr.update(value=percent),
        texts.cards(masks, segmentation.consensus, segmentation.threshold, upload.spacing),
        draw_map(segmentation.confidence, VIRIDIS),
        draw_map(segmentation.uncertainty, MAGMA),
        list(zip(draw_tiles(upload.image, masks), captions, strict=True)),
        *(
            gr.update(value=path, visible=path is not None)
            for path in (files.masks, files.arrays, numbers, files.dicom)
        ),
    )


def chosen(shown: Sequence[str], consensus: np.ndarray) -> tuple[list[int], np.ndarray | None]:
    """The check boxes' names as indices of hypotheses and the consensus or none."""
    return [int(name) - 1 for name in shown if name != CONSENSUS], consensus if CONSENSUS in shown else None


def client_gone() -> Callable[[], bool]:
    """Tells whether the client of the event at hand has gone away; without an event (a direct call) it has not."""
    blocks, number = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = blocks._queue.event_ids_to_events.get(number) if blocks and number else None
    return lambda: event is not None and not event.alive


@contextmanager
def only_sentences():
    """Turns what nobody foresaw into a sentence; the log gets the place, never the message, which may quote a file."""
    try:
        yield
    except InputError:
        raise
    except SamplingInterrupted:
        raise InputError(texts.STOPPED) from None
    except Exception as error:  # whatever it is: the visitor gets a sentence, the log the place
        LOG.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        raise InputError(texts.FAILED) from None


SHOW, HIDE = gr.update(visible=True), gr.update(visible=False)
RUNNING, IDLE = gr.update(interactive=True), gr.update(interactive=False)
HIDDEN = (HIDE, *[gr.skip()] * 11)  # the results while there are none
