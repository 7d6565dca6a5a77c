"""What happens when something is clicked: from inputs to the values that the page's components show."""

from collections.abc import Iterator, Sequence
from uuid import uuid4
from weakref import WeakSet

import gradio as gr

from ..pipeline.inputs import field_of_view
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.regions import region_window
from . import texts
from .downloads import write_downloads
from .events import KEEP_SECONDS, client_gone, drawing, only_sentences, results_folder
from .example_images import EXAMPLES, suited_model
from .limits import UPLOAD_FIRST, InputError, Upload, check_settings, read_file, read_upload, safe_name
from .model_names import human_names
from .numbers import numbers
from .results import HIDE, OFF, Shown, buttons, finished, maps, nothing, preview, redrawn
from .sampling import Job, shrunk
from .sessions import Session, Sessions

PLUS, MINUS, LOOK = "+ belongs to it", "- does not belong", "look here"  # what a click on the picture says


class Handlers:
    """The page's callbacks.

    Args:
        pipelines (`dict[str, MedSegLatDiffPipeline]`): by their short names.
    """

    def __init__(self, pipelines: dict[str, MedSegLatDiffPipeline]):
        self.pipelines = pipelines
        self.words = dict(zip(pipelines, human_names(list(pipelines)), strict=True))
        self.sessions = Sessions(KEEP_SECONDS)
        self.running: WeakSet[Job] = WeakSet()

    # what is segmented

    def pipeline(self, model: str | None) -> MedSegLatDiffPipeline:
        """The pipeline of this name, or an `InputError`."""
        return self.pipelines[self.known(model)]

    def known(self, model: str | None) -> str:
        """The name itself where a pipeline has it, or an `InputError`."""
        if model is None or model not in self.pipelines:
            raise InputError(texts.NO_MODEL)
        return model

    def job(self, path: str | None, model: str | None, num_masks, num_inference_steps, seed, region=None) -> Job:
        """Checks every input, the upload last, before anything is sampled."""
        model = self.known(model)
        pipeline = self.pipelines[model]
        settings = check_settings(num_masks, num_inference_steps, seed)
        if path is None:
            raise InputError(UPLOAD_FIRST)
        upload = read_upload(read_file(path), pipeline.config.stretch)
        name = safe_name(path, upload.dicom is not None)
        job = Job(upload, pipeline, model, *settings, name=name, region=region, gone=client_gone())
        try:
            job.check_region()
            _ = job.window
        except (TypeError, ValueError) as error:
            raise InputError(str(error).replace("`regions`: the", "The")) from None
        self.running.add(job)
        return job

    def stop(self):
        """Interrupts every run, for the end of the server."""
        self.sessions.stop()
        for job in self.running:
            job.cancelled.set()

    # the page

    def segment_page(
        self, path, model, num_masks, num_inference_steps, seed, zoom: bool, request: gr.Request
    ) -> Iterator[Shown]:
        """The page as the hypotheses arrive."""
        session = self.sessions[request.session_hash]
        try:
            with only_sentences():
                region = session.region if self.pipeline(model).config.region_size else None  # of a model before it
                job = session.job = self.job(path, model, num_masks, num_inference_steps, seed, region)
                session.segmentation = None
                yield from drawing(session, job, job.sample())
                session.segmentation = job.finish()
                yield finished(session, self.words[model], zoom, results_folder())
        except InputError as error:
            yield Shown(texts.problem(str(error)), OFF, results=HIDE)

    def correct(self, zoom: bool, request: gr.Request) -> Iterator[Shown]:
        """The page after a click with + or -: the hypotheses that fit, more of which are drawn if few do."""
        session = self.sessions[request.session_hash]
        job = session.job
        if job is None or not session.is_waiting:
            yield Shown()
            return
        session.is_waiting = False
        try:
            with only_sentences():
                job.gone = client_gone()
                _, before = session.result
                after = yield from drawing(session, job, job.correct())
                assert after is not None  # `correct` ends with a result or raises
                session.segmentation = after.at_threshold(before.threshold)
                yield finished(session, self.words[job.model], zoom, results_folder())
        except InputError as error:
            if job.clicks:  # not taken back meanwhile
                job.clicks.pop()
            yield Shown(texts.problem(str(error)), OFF)

    def cancel(self, request: gr.Request) -> Shown:
        """Stops the visitor's run after the step at hand."""
        session = self.sessions[request.session_hash]
        if session.job:
            session.job.cancelled.set()
        return Shown(texts.said(texts.STOPPING), OFF)

    def preview(self, path: str | None, model: str | None, request: gr.Request) -> Shown:
        """The upload as the model will see it, or what is wrong with it."""
        session = self.sessions.renew(request.session_hash)
        try:
            with only_sentences():
                if path is None:
                    return nothing()
                pipeline = self.pipeline(model)
                upload = read_upload(read_file(path), pipeline.config.stretch)
                return preview(session, upload, pipeline.config.region_size)
        except InputError as error:
            return nothing(texts.problem(str(error)))

    def mark(
        self, means: str, model: str | None, shown: Sequence[str], zoom: bool, x, y, request: gr.Request
    ) -> Shown:
        """A click at a pixel of the picture, from 0: where to look, or what belongs to the finding."""
        session = self.sessions[request.session_hash]
        try:
            with only_sentences():
                if session.upload is None or session.view is None:
                    raise InputError(texts.NO_IMAGE_YET)
                if not (isinstance(x, (int, float)) and isinstance(y, (int, float))):
                    raise InputError(texts.NO_POINT)
                point = session.view.point(x, y)
                if session.segmentation is None or means == LOOK:
                    return self.look(session, session.upload, model, point)
                job, segmentation = session.result
                job.clicks.append((*point, means == PLUS))
                session.is_waiting = True
                picture = redrawn(session, shown, 100 * segmentation.threshold, zoom).picture
                return Shown(texts.said(texts.ASKING), picture=picture)
        except InputError as error:
            return Shown(texts.problem(str(error)))

    def look(self, session: Session, upload: Upload, model: str | None, point: tuple[float, float]) -> Shown:
        """Sets the point around which to look, for models that were trained on crops."""
        config = self.pipeline(model).config
        if config.region_size is None:
            return Shown(texts.said(texts.NO_REGIONS))
        full = [
            (value + 0.5) * whole / part
            for value, whole, part in zip(point, upload.size[::-1], upload.image.shape[1::-1], strict=True)
        ]
        session.region, session.segmentation = (full[0] - 0.5, full[1] - 0.5), None
        window = region_window(session.region, upload.size, field_of_view(upload.spacing, config))
        return preview(session, upload, config.region_size, shrunk(window, upload))

    def take_back(self, request: gr.Request) -> Shown:
        """Forgets the clicks on the results."""
        session = self.sessions[request.session_hash]
        if session.segmentation and session.job and session.job.clicks:
            session.job.clicks.clear()
            session.is_waiting = True
        return Shown()

    def redraw(self, shown: Sequence[str], percent: float, zoom: bool, request: gr.Request) -> Shown:
        """The results with other outlines, at another threshold, zoomed or not; nothing is sampled again."""
        session = self.sessions[request.session_hash]
        if session.segmentation is None:
            return Shown(texts.problem(texts.EXPIRED))
        return redrawn(session, shown, percent, zoom)

    def rewrite(self, request: gr.Request) -> Shown:
        """The files as the page shows the results at the moment."""
        session = self.sessions[request.session_hash]
        if session.segmentation is None:
            return Shown()
        job, segmentation = session.result
        return Shown(**buttons(write_downloads(job, segmentation, results_folder())))

    def zoom(self, zoom: bool, request: gr.Request) -> Shown:
        """Maps and tiles of the finding or of the whole image."""
        session = self.sessions[request.session_hash]
        return Shown() if session.segmentation is None else maps(session, zoom)

    def choose_example(self, model, masks, steps, request: gr.Request, event: gr.SelectData) -> tuple:
        """The example's file, as if it had been uploaded, with the model for such images and that model's defaults,
        and a new value that sets off the run."""
        self.sessions.renew(request.session_hash)
        path = EXAMPLES[event.index]
        suited = suited_model(path, self.pipelines) or model
        if suited != model:
            masks, steps = self.defaults(suited)
        return str(path), suited, masks, steps, uuid4().hex

    def defaults(self, model: str) -> tuple[int, int]:
        """The checkpoint's own numbers of hypotheses and of steps."""
        config = self.pipelines[model].config
        return config.default_num_masks, config.default_num_inference_steps

    def forget(self, request: gr.Request):
        """The visitor has left the page."""
        self.sessions.forget(request.session_hash)

    # the API

    def segment(
        self, image, model, num_masks, num_inference_steps, seed, point=None
    ) -> tuple[dict, str, str, str | None]:
        """Several plausible masks for one image: the numbers, the masks as PNG, all arrays, DICOM Segmentation.

        `point`, `[x, y]` in pixels, is where models look that were trained on crops."""
        try:
            with only_sentences():
                job = self.job(image, model, num_masks, num_inference_steps, seed, point)
                for _ in job.sample():
                    pass
                segmentation = job.finish()
                files = write_downloads(job, segmentation, results_folder())
                return numbers(job, segmentation), files.masks, files.arrays, files.dicom
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
