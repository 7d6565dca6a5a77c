"""What the server remembers of each visitor, for as long as it keeps files, and of no more than a few at once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .limits import Upload
from .pictures import View
from .sampling import Job, Segmentation

MOST = 64  # visitors: the earliest of more is forgotten


@dataclass
class Session:
    """A visitor's image and results.

    Args:
        upload (`Upload`, *optional*): the image that the picture shows.
        region (`tuple`, *optional*): the point that was clicked before segmenting, in the uploaded image's pixels.
        job (`Job`, *optional*): the latest run.
        segmentation (`Segmentation`, *optional*): its result, at the threshold that is set.
        view (`View`, *optional*): what the picture shows of the image.
        is_waiting (`bool`): whether a click has not been answered by new results yet.
    """

    upload: Upload | None = None
    region: tuple[float, float] | None = None
    job: Job | None = None
    segmentation: Segmentation | None = None
    view: View | None = None
    is_waiting: bool = False
    touched: float = 0.0

    @property
    def result(self) -> tuple[Job, Segmentation]:
        """The latest run and its result.

        Raises:
            RuntimeError: where there is none.
        """
        if self.job is None or self.segmentation is None:
            raise RuntimeError("This session has no result.")
        return self.job, self.segmentation


class Sessions:
    """The visitors' sessions, by Gradio's session hash.

    Args:
        keep_seconds (`float`): how long a session is kept that nothing happens in.
        now (`Callable`, *optional*): the time in seconds.
    """

    def __init__(self, keep_seconds: float, now: Callable[[], float] = time.monotonic):
        self.keep_seconds, self.now = keep_seconds, now
        self.sessions: OrderedDict[str | None, Session] = OrderedDict()
        self.lock = threading.Lock()

    def __getitem__(self, key: str | None) -> Session:
        """The session of a visitor, a new one if there is none; what has expired is forgotten."""
        with self.lock:
            session = self.sessions.pop(key, None)
            for other in list(self.sessions):
                if self.sessions[other].touched >= self.now() - self.keep_seconds and len(self.sessions) < MOST:
                    break
                self._end(other)
            if session is None or session.touched < self.now() - self.keep_seconds:
                session = Session()
            session.touched = self.now()
            self.sessions[key] = session
            return session

    def renew(self, key: str | None) -> Session:
        """A new session in place of a visitor's old one, whose run is stopped."""
        self.forget(key)
        return self[key]

    def forget(self, key: str | None):
        """Drops what is known of a visitor, and stops the run."""
        with self.lock:
            if key in self.sessions:
                self._end(key)

    def stop(self):
        """Drops everything: the server ends."""
        with self.lock:
            for key in list(self.sessions):
                self._end(key)

    def _end(self, key: str | None):
        session = self.sessions.pop(key)
        if session.job:
            session.job.cancelled.set()
