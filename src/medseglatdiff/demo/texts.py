"""The page's words and numbers as HTML; whatever comes from outside is escaped."""

from html import escape

import numpy as np

from ..overview import COLOURS
from .sampling import NOT_A_DEVICE, Segmentation, pixel_area

KEEP_MINUTES = 30  # how long uploads and results stay on the server

HEAD = f"""# Several plausible outlines for one image

Experts often disagree about where a lesion ends. [MedSegLatDiff](https://arxiv.org/abs/2512.01292) therefore draws
several outlines and shows where they agree and where they do not.

<p class="notice"><b>{NOT_A_DEVICE}</b> Upload nothing that identifies a person. Files are deleted from the server
after {KEEP_MINUTES} minutes.</p>"""
NO_MODEL = (
    "There is no model to run. Please set MEDSEGLATDIFF_MODELS to the folder or Hub id of a pipeline, and restart."
)
FAILED = "Something went wrong on our side. Please try again, or try another image."
MALFORMED = (
    "This call cannot be read. Please send the inputs in the order and of the types that the page lists under Use via "
    "API, the model by a name from its list, and a file by `handle_file` or as what /upload has returned."
)
EXPIRED = "These results have expired. Please segment the image again."
NO_SEG = "No DICOM Segmentation: this file lacks attributes that the standard asks for."
STOPPING = "Stopping..."
STOPPED = "Stopped before the end. Choose an image or other settings, and start again whenever you like."
DOWNLOADS_NOTE = """The consensus in the files is the model's own, at its own threshold. A DICOM Segmentation
carries the patient data of the file that you uploaded; the other files carry none."""


def problem(sentence: str) -> str:
    """What went wrong, announced to screen readers."""
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'


def said(sentence: str) -> str:
    """What is going on, announced politely."""
    return f'<p class="said" role="status">{escape(sentence)}</p>'


def progress(done: int, total: int) -> str:
    """A bar of hypotheses drawn."""
    bar = f'<progress value="{done}" max="{total}" aria-label="hypotheses drawn"></progress>'
    return f'<div class="said" role="status">{done} of {total} hypotheses drawn{bar}</div>'


def area(pixels: float, spacing: tuple[float, float] | None, unit: bool = True) -> str:
    """An area in mm² where the spacing is known, else in pixels."""
    pixel = pixel_area(spacing)
    number = f"{pixels * pixel:.1f}" if pixel else f"{pixels:,.0f}"
    return f"{number} {'mm²' if pixel else 'px'}" if unit else number


def caption(index: int, mask: np.ndarray, spacing: tuple[float, float] | None) -> str:
    """A hypothesis's number, area and share of the image."""
    return f"{index + 1}: {area(mask.sum(), spacing)}, {mask.mean():.1%}" if mask.any() else f"{index + 1}: empty"


def cards(masks: np.ndarray, consensus: np.ndarray, threshold: float, spacing: tuple[float, float] | None) -> str:
    """The foreground's area as a range over hypotheses, the consensus at a threshold, and how many found nothing."""
    areas = masks.sum(axis=(1, 2))  # [M]
    empty = int((areas == 0).sum())
    least, most = area(areas.min(), spacing, unit=False), area(areas.max(), spacing)
    facts = [
        (f"{least} to {most}", f"area over {len(masks)} hypotheses, median {area(float(np.median(areas)), spacing)}"),
        (area(consensus.sum(), spacing), f"area where the confidence is at least {threshold:.0%}"),
        (f"{empty} of {len(masks)}", "hypotheses find nothing at all"),
    ]
    return (
        '<div class="cards">'
        + "".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in facts)
        + "</div>"
    )


def scale(anchors: str, ticks: tuple[str, ...], meaning: str) -> str:
    """A map's colour bar with its ticks."""
    colours = ", ".join(f"#{anchor}" for anchor in anchors.split())
    marks = "".join(f"<span>{tick}</span>" for tick in ticks)
    bar = f'<div class="bar" style="background: linear-gradient(to right, {colours})"></div>'
    return f'<div class="scale">{bar}<div class="ticks">{marks}</div><p>{escape(meaning)}</p></div>'


def done(segmentation: Segmentation, model: str, notes: str) -> str:
    """How long it took, and what should be known about the files."""
    return said(f"{len(segmentation.masks)} hypotheses by {model} in {segmentation.seconds:.1f} s. {notes}".strip())


def swatches() -> str:
    """CSS that gives each hypothesis's check box the colour of its outline; the first box is the consensus."""
    return "\n".join(
        f"#outlines label:nth-child({len(COLOURS)}n+{index + 2}) {{ --swatch: rgb{colour}; }}"
        for index, colour in enumerate(COLOURS)
    )
