"""Sampling a few candidates at a time, so that a page can show progress, stop in between, and ask for more."""

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch

from ..pipeline.inputs import field_of_view
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.regions import Window, paste, region_window, warn_without_region
from ..pipeline.sampling import MedSegLatDiffCandidates
from .limits import InputError, Upload

CHUNK = 8  # candidates that pass the networks at once: a multiple of the symmetries, to keep in step with them
LIVE = 16  # most candidates that are shown while they arrive
FEWEST = 4  # with fewer candidates left after clicks, more are drawn
ROUNDS = 4  # of drawing more, at most, for one click


@dataclass(frozen=True)
class Segmentation:
    """One image's hypotheses and what follows from them; arrays as `MedSegLatDiffPipelineOutput` has them."""

    masks: np.ndarray
    confidence: np.ndarray
    uncertainty: np.ndarray
    consensus: np.ndarray
    threshold: float
    seconds: float

    @property
    def num_classes(self) -> int:
        """Foreground classes: 1 where the masks are binary."""
        return 1 if self.confidence.ndim == 2 else len(self.confidence)

    def at_threshold(self, threshold: float) -> "Segmentation":
        """The same with the consensus at another least confidence; with several classes the most confident wins."""
        confidence = self.confidence.reshape(-1, *self.confidence.shape[-2:])  # [K, H, W]
        winner = np.where(confidence.max(axis=0) >= threshold, confidence.argmax(axis=0) + 1, 0)  # [H, W]
        consensus = winner.astype(self.consensus.dtype)  # [H, W]
        return Segmentation(self.masks, self.confidence, self.uncertainty, consensus, threshold, self.seconds)


class Progress(NamedTuple):
    """How far sampling is: the share of its steps, candidates that are finished, and the first of them as masks."""

    share: float
    done: int
    masks: np.ndarray


@dataclass(eq=False)
class Job:
    """One image to segment with checked settings."""

    upload: Upload
    pipeline: MedSegLatDiffPipeline
    model: str
    num_masks: int
    num_inference_steps: int
    seed: int
    name: str = "image"
    region: tuple[float, float] | None = None  # a point in the uploaded image's own pixels
    gone: Callable[[], bool] = lambda: False  # whether nobody waits for the result any more
    started: float = field(default_factory=time.perf_counter)
    cancelled: threading.Event = field(default_factory=threading.Event)
    candidates: MedSegLatDiffCandidates | None = None
    rounds: int = 0
    clicks: list[tuple[float, float, bool]] = field(default_factory=list)  # x, y in the image shown, and + or -

    @property
    def num_candidates(self) -> int:
        """How many candidates are drawn, of which the pipeline returns representative ones."""
        return self.pipeline.num_drawn(self.num_masks)

    @property
    def num_drawn(self) -> int:
        """How many there are."""
        return self.drawn.latents.shape[1]

    @property
    def drawn(self) -> MedSegLatDiffCandidates:
        """The candidates of all rounds.

        Raises:
            RuntimeError: before the end of the first round.
        """
        if self.candidates is None:
            raise RuntimeError("No candidates have been drawn yet.")
        return self.candidates

    @property
    def points(self) -> dict[str, list]:
        """What was clicked, as `select` takes it."""
        chosen = {
            name: [(x, y) for x, y, is_inside in self.clicks if is_inside == wanted]
            for name, wanted in (("inside", True), ("outside", False))
        }
        return {name: [points] for name, points in chosen.items()}

    @property
    def window(self) -> Window | None:
        """The part of the image shown that the model looks at."""
        if self.region is None:
            return None
        window = region_window(self.region, self.upload.size, field_of_view(self.upload.spacing, self.pipeline.config))
        return shrunk(window, self.upload)

    def check_region(self):
        """Raises an `InputError` where the pipeline would warn that the image needs a region, in the same words."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self.region is None:
                warn_without_region(self.upload.size, self.pipeline.config.region_size, 0)
        for warning in caught:
            what = str(warning.message).partition(", `regions=")[0].replace("Image 0", "This image")
            raise InputError(f"{what}: please click on the picture, or pass `point` to the API.")

    def sample(self) -> Iterator[Progress]:
        """Draws the first candidates; sampling stops where the caller does."""
        return self.draw(self.num_candidates)

    def draw(self, count: int) -> Iterator[Progress]:
        """Draws `count` more candidates in a thread; each round has a seed, the one after the last round's."""
        # 1. sample in a thread, which reports each step and hands over each finished batch
        batches, size = math.ceil(count / CHUNK), self.upload.image.shape[:2]
        reports: SimpleQueue = SimpleQueue()

        def after_step(pipeline: MedSegLatDiffPipeline, step: int, timestep: torch.Tensor, tensors: dict):
            pipeline._interrupt = self.cancelled.is_set() or self.gone()
            is_last = (step + 1) % (pipeline.num_timesteps // batches) == 0
            reports.put(((step + 1) / pipeline.num_timesteps, tensors["latents"] if is_last else None))

        def work():
            try:
                settings = dict(num_inference_steps=self.num_inference_steps, seed=self.seed + self.rounds)
                settings |= dict(num_candidates=count, batch_size=CHUNK, callback_on_step_end=after_step)
                region = [self.region] if self.region else None
                reports.put(self.pipeline.sample([self.upload.source()], regions=region, **settings))
            except BaseException as error:  # handed to the thread that waits, which raises it
                reports.put(error)

        self.cancelled.clear()
        threading.Thread(target=work, name="sampling", daemon=True).start()
        # 2. decode what arrives
        window, probabilities, masks, done = self.window, [], [], 0
        extent = window.size if window else size
        try:
            while not isinstance(report := reports.get(), MedSegLatDiffCandidates):
                if isinstance(report, BaseException):
                    raise report
                share, latents = report  # latents [n, C, h, w]
                if latents is not None:
                    with torch.no_grad():
                        probabilities.append(self.pipeline.decode(latents, CHUNK))  # [n, 1+K, S, S]
                    done += len(latents)
                    if done <= max(LIVE, CHUNK):
                        labels = self.pipeline.representative_labels(probabilities[-1], len(latents), extent)
                        masks.append(paste(labels, window, size).cpu().numpy())  # [n, H, W]
                yield Progress(share, done, np.concatenate(masks) if masks else np.zeros((0, *size), np.uint8))
        finally:
            self.cancelled.set()
        # 3. add them to those that are there
        report.sizes, report.windows = [size], [window]
        report.probabilities = [torch.cat(probabilities)]  # [N, 1+K, S, S]
        self.rounds += 1
        self.candidates = report if self.candidates is None else joined(self.candidates, report)

    def finish(self) -> Segmentation:
        """The representative masks of the candidates that fit the points, as the pipeline returns them.

        Raises:
            ValueError: where none fits.
        """
        inside, outside = self.points["inside"], self.points["outside"]
        output = self.pipeline.select(self.drawn, self.num_masks, inside, outside, return_dict=False)
        masks, confidence, uncertainty, consensus = (column[0] for column in output)
        threshold, seconds = self.pipeline.config.threshold, time.perf_counter() - self.started
        return Segmentation(masks, confidence, uncertainty, consensus, threshold, seconds)

    def correct(self) -> Iterator[Progress | Segmentation]:
        """Ends with what fits the points; where fewer than `FEWEST` candidates do, draws more, `ROUNDS` times at most.

        Raises:
            InputError: where none fits even then, or a point lies outside what the model looked at.
        """
        check_clicks(self.clicks, self.window)
        segmentation, last = None, self.rounds + ROUNDS
        while segmentation is None or len(segmentation.masks) < min(FEWEST, self.num_masks):
            try:
                segmentation = self.finish()
            except ValueError:  # none fits
                segmentation = None
            if self.rounds == last or (segmentation and len(segmentation.masks) >= min(FEWEST, self.num_masks)):
                break
            yield from self.draw(self.num_candidates)
        if segmentation is None:
            raise InputError(
                f"None of {self.num_drawn} candidates fits all your points. The last one was taken back: please click "
                "elsewhere."
            )
        yield segmentation


def check_clicks(clicks: list[tuple[float, float, bool]], window: Window | None):
    """Raises an `InputError` for a click outside the window."""
    if window is None:
        return
    for x, y, _ in clicks:
        if not (window.left <= x < window.right and window.top <= y < window.bottom):
            raise InputError("Please click inside the frame: the model has not looked at the rest of the image.")


def shrunk(window: Window, upload: Upload) -> Window:
    """A window of the uploaded image in pixels of the image shown, which may be smaller."""
    down, across = (shown / full for shown, full in zip(upload.image.shape[:2], upload.size, strict=True))
    left, top, right, bottom = window
    return Window(round(left * across), round(top * down), round(right * across), round(bottom * down))


def joined(first: MedSegLatDiffCandidates, second: MedSegLatDiffCandidates) -> MedSegLatDiffCandidates:
    """The candidates of two rounds for one image, both decoded."""
    if first.probabilities is None or second.probabilities is None:
        raise ValueError("`first` and `second` must hold their `probabilities`.")
    latents = torch.cat([first.latents, second.latents], dim=1)  # [1, N, C, h, w]
    probabilities = [torch.cat([first.probabilities[0], second.probabilities[0]])]  # [N, 1+K, S, S]
    return MedSegLatDiffCandidates(latents, first.sizes, first.windows, first.batch_size, probabilities)
