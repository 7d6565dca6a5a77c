"""The page's words and numbers as HTML; whatever comes from outside is escaped."""

from html import escape

import numpy as np

from .numbers import NOT_A_DEVICE, areas, pixel_area
from .pictures import COLOURS, colour_of
from .sampling import Job, Progress, Segmentation

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
NO_SEG_CLASSES = "No DICOM Segmentation: it is written for models with one class only."
WELCOME = "A finished example. Upload an image, or click an example to see its own outlines."
NO_IMAGE_YET = "Please upload an image first, or click an example."
NO_POINT = "Please give both x and y as numbers, or click on the picture."
CLICK_FIRST = "Please click on the finding: this model looks at a small part of so large an image."
MAY_CLICK = "Ready to segment. A click on the picture sets where to look."
POINT_SET = "The model will look inside the frame. Ready to segment."
NO_REGIONS = "This model looks at the whole image: segment it first, then click to correct."
ASKING = "Looking for the hypotheses that fit..."
CLICKS_NOTE = """Before segmenting, a click sets where models look that were trained on crops. Afterwards it keeps the
hypotheses that hold the pixel (+) or do not (-); where fewer than four are left, more are drawn."""
STOPPING = "Stopping..."
STOPPED = "Stopped before the end. Choose an image or other settings, and start again whenever you like."
DOWNLOADS_NOTE = """Files hold what you see: the consensus at the threshold that is set, and the hypotheses that fit
your clicks. A DICOM Segmentation carries the patient data of the file that you uploaded; the others carry none."""


def problem(sentence: str) -> str:
    """What went wrong, announced to screen readers."""
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'


def said(sentence: str) -> str:
    """What is going on, announced politely."""
    return f'<p class="said" role="status">{escape(sentence)}</p>'


def progress(job: Job, report: Progress | None, seconds: float = 0) -> str:
    """A bar of the steps taken, candidates drawn, and the time that is left, once it can be told."""
    share, done = (report.share, report.done) if report else (0, 0)
    left = f", about {max(1, round(seconds * (1 - share) / share))} s left" if share > 0 else ""
    bar = f'<progress value="{share:.3f}" max="1" aria-label="share of the steps taken"></progress>'
    return f'<div class="said" role="status">{done} of {job.num_candidates} hypotheses drawn{left}{bar}</div>'


def ready(upload, region_wanted: str) -> str:
    """The size of an upload, and what to do next."""
    height, width = upload.size
    shown = upload.image.shape
    smaller = f", shown at {shown[1]:,} x {shown[0]:,} and segmented from the original" if upload.full_size else ""
    return said(f"{width:,} x {height:,} pixels{smaller}. {region_wanted or 'Ready to segment.'}")


def area(pixels: float, spacing: tuple[float, float] | None, unit: bool = True) -> str:
    """An area in mm² where the spacing is known, else in pixels."""
    pixel = pixel_area(spacing)
    number = f"{pixels * pixel:.1f}" if pixel else f"{pixels:,.0f}"
    return f"{number} {'mm²' if pixel else 'px'}" if unit else number


def caption(index: int, mask: np.ndarray, spacing: tuple[float, float] | None) -> str:
    """A hypothesis's number, area and share of the image."""
    found = mask > 0  # [H, W]
    return f"{index + 1}: {area(found.sum(), spacing)}, {found.mean():.1%}" if found.any() else f"{index + 1}: empty"


def cards(segmentation: Segmentation, spacing: tuple[float, float] | None) -> str:
    """Areas as ranges over hypotheses, the consensus at a threshold, and how many found nothing; by class."""
    facts = []
    for k in range(1, segmentation.num_classes + 1):
        name = "area" if segmentation.num_classes == 1 else f"class {k}: area"
        sizes = areas(segmentation.masks == k)  # [M]
        least, most = area(sizes.min(), spacing, unit=False), area(sizes.max(), spacing)
        middle = area(float(np.median(sizes)), spacing)
        facts.append((f"{least} to {most}", f"{name} over {len(sizes)} hypotheses, median {middle}"))
        agreed = area((segmentation.consensus == k).sum(), spacing)
        facts.append((agreed, f"{name} where the confidence is at least {segmentation.threshold:.0%}"))
    empty = int((areas(segmentation.masks) == 0).sum())
    facts.append((f"{empty} of {len(segmentation.masks)}", "hypotheses find nothing at all"))
    return (
        '<div class="cards">'
        + "".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in facts)
        + "</div>"
    )


def legend(num_classes: int) -> str:
    """The colours of several classes; nothing for one."""
    if num_classes == 1:
        return ""
    entries = (f'<li style="--swatch: rgb{colour_of(k - 1)}">class {k}</li>' for k in range(1, num_classes + 1))
    return f'<ul class="legend" aria-label="colours of the classes">{"".join(entries)}</ul>'


def scale(anchors: str, ticks: tuple[str, ...], meaning: str) -> str:
    """A map's colour bar with its ticks."""
    colours = ", ".join(f"#{anchor}" for anchor in anchors.split())
    marks = "".join(f"<span>{tick}</span>" for tick in ticks)
    bar = f'<div class="bar" style="background: linear-gradient(to right, {colours})"></div>'
    return f'<div class="scale">{bar}<div class="ticks">{marks}</div><p>{escape(meaning)}</p></div>'


def done(job: Job, segmentation: Segmentation, model: str, notes: str = "") -> str:
    """What is shown, how long it took, and what should be known about it."""
    count = len(segmentation.masks)
    text = f"{count} hypotheses by {model} in {segmentation.seconds:.1f} s."
    if job.clicks:
        exact = "" if count < job.num_masks else "at least "
        text = (
            f"{exact}{count} of {job.num_drawn} candidates fit your {plural(len(job.clicks), 'point')}.".capitalize()
        )
    if job.rounds > 1:
        text += f" Few fitted, so more were drawn: {job.num_drawn} by now."
    return said(f"{text} {notes}".strip())


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def swatches() -> str:
    """CSS that gives each hypothesis's check box the colour of its outline; the first box is the consensus."""
    return "\n".join(
        f"#outlines label:nth-child({len(COLOURS)}n+{index + 2}) {{ --swatch: rgb{colour}; }}"
        for index, colour in enumerate(COLOURS)
    )
