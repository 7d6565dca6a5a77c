"""What the page shows: the values of its components after each event."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from ..overview import MAGMA, VIRIDIS
from ..pipeline.regions import LARGE
from . import texts
from .downloads import Downloads, write_downloads
from .example_images import FINISHED
from .limits import Upload
from .pictures import LONGEST, TILE, View, draw_image, draw_map, draw_outlines, draw_tiles, view_of
from .sampling import Job, Segmentation
from .sessions import Session

CONSENSUS = "consensus"
SKIP = gr.skip()
SHOW, HIDE = gr.update(visible=True), gr.update(visible=False)
ON, OFF = gr.update(interactive=True), gr.update(interactive=False)


class Shown(NamedTuple):
    """Values of the components of these names; what is not given stays as it is."""

    status: Any = SKIP
    cancel: Any = SKIP
    picture: Any = SKIP
    results: Any = SKIP
    legend: Any = SKIP
    outlines: Any = SKIP
    threshold: Any = SKIP
    cards: Any = SKIP
    confidence: Any = SKIP
    uncertainty: Any = SKIP
    gallery: Any = SKIP
    zip: Any = SKIP
    npz: Any = SKIP
    json: Any = SKIP
    overview: Any = SKIP
    seg: Any = SKIP


FILES = Shown._fields[-5:]


def nothing(sentence: str = "") -> Shown:
    """The page while there is no image."""
    return Shown(sentence or texts.said(texts.WELCOME), OFF, str(FINISHED), HIDE)


def preview(session: Session, upload: Upload, region_size: int | None, window=None) -> Shown:
    """An upload before it is segmented, with the window around a point that was clicked."""
    session.upload, session.view = upload, view_of(upload.image.shape)
    wanted = ""
    if region_size and window is None:
        is_large = max(upload.size) > LARGE * region_size
        wanted = texts.CLICK_FIRST if is_large else texts.MAY_CLICK
    elif window is not None:
        wanted = texts.POINT_SET
    picture = draw_image(upload.image, session.view, window)
    return Shown(texts.ready(upload, wanted), OFF, picture, HIDE)


def running(session: Session, job: Job, masks: np.ndarray | None) -> Any:
    """The picture while candidates arrive; `None`: as it was."""
    if masks is None:
        return SKIP
    session.upload, session.view = job.upload, view_of(job.upload.image.shape)
    return draw_outlines(job.upload.image, masks, range(len(masks)), None, job.pipeline.num_classes)


def finished(session: Session, model: str, zoom: bool, folder: Path) -> Shown:
    """Every value at the end of a run or of a correction."""
    job, segmentation = session.result
    classes = segmentation.num_classes
    names = [CONSENSUS, *(str(number) for number in range(1, len(segmentation.masks) + 1))]
    files = write_downloads(job, segmentation, folder)
    return maps(session, zoom)._replace(
        status=texts.done(job, segmentation, model, files.note),
        cancel=OFF,
        picture=result_picture(session, names, zoom),
        results=SHOW,
        legend=gr.update(value=texts.legend(classes), visible=classes > 1),
        outlines=gr.update(choices=names, value=names, elem_classes=["by-class"] if classes > 1 else []),
        threshold=gr.update(value=round(100 * segmentation.threshold)),
        cards=texts.cards(segmentation, job.upload.spacing),
        **buttons(files),
    )


def result_view(segmentation: Segmentation, upload: Upload, zoom: bool, longest: int = LONGEST) -> View:
    """The part around the finding, or all of the image."""
    return view_of(upload.image.shape, np.any(segmentation.masks > 0, axis=0) if zoom else None, longest)


def result_picture(session: Session, shown: Sequence[str], zoom: bool):
    """The picture with the outlines that are ticked."""
    job, segmentation = session.result
    session.view = result_view(segmentation, job.upload, zoom)
    indices = [int(name) - 1 for name in shown if name != CONSENSUS and int(name) <= len(segmentation.masks)]
    return draw_outlines(
        job.upload.image,
        segmentation.masks,
        indices,
        segmentation.consensus if CONSENSUS in shown else None,
        segmentation.num_classes,
        session.view,
        job.clicks,
    )


def redrawn(session: Session, shown: Sequence[str], percent: float, zoom: bool) -> Shown:
    """Outlines and numbers at another threshold over the confidence; `rewritten` files follow."""
    job, segmentation = session.result
    own = job.pipeline.config.threshold
    threshold = own if percent == round(100 * own) else percent / 100  # the slider knows whole percents only
    files = {} if threshold == segmentation.threshold else dict.fromkeys(FILES, OFF)
    segmentation = session.segmentation = segmentation.at_threshold(threshold)
    cards = texts.cards(segmentation, job.upload.spacing)
    return Shown(picture=result_picture(session, shown, zoom), cards=cards, **files)


def maps(session: Session, zoom: bool) -> Shown:
    """Maps and tiles, zoomed or whole."""
    job, segmentation = session.result
    upload, masks = job.upload, segmentation.masks
    view, tile = result_view(segmentation, upload, zoom), result_view(segmentation, upload, zoom, TILE)
    confidence, uncertainty = (
        values.reshape(-1, *values.shape[-2:]).max(axis=0)
        for values in (segmentation.confidence, segmentation.uncertainty)
    )
    captions = [texts.caption(index, mask, upload.spacing) for index, mask in enumerate(masks)]
    return Shown(
        confidence=draw_map(upload.image, confidence, VIRIDIS, view),
        uncertainty=draw_map(upload.image, uncertainty, MAGMA, view),
        gallery=list(zip(draw_tiles(upload.image, masks, segmentation.num_classes, tile), captions, strict=True)),
    )


def buttons(files: Downloads) -> dict:
    """The download buttons, each with its file, or hidden."""
    paths = (files.masks, files.arrays, files.numbers, files.overview, files.dicom)
    values = (gr.update(value=path, visible=path is not None, interactive=True) for path in paths)
    return dict(zip(FILES, values, strict=True))
