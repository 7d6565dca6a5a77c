"""How much a client may upload: a public page must not fill the disk."""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

from gradio.utils import get_upload_folder
from starlette.responses import PlainTextResponse

from .limits import MAX_FILE_MB, TOO_BIG
from .texts import KEEP_MINUTES

MAX_UPLOADS = 40  # of a client, within the time that files are kept
MAX_UPLOADED_MB = 400  # likewise
MAX_STORED_MB = 4000  # of everybody, with results
FORM_BYTES = 10_000  # what a form has besides its file

TOO_MANY = (
    f"You have uploaded {MAX_UPLOADS} files or {MAX_UPLOADED_MB} MB within {KEEP_MINUTES} minutes, which is the most "
    "that this page takes. Please wait a while."
)
FULL = (
    f"This page holds as many files as it can. They are deleted after {KEEP_MINUTES} minutes: please try again later."
)
NO_LENGTH = "An upload must say how long it is, in the header Content-Length."


class UploadLimit:
    """ASGI middleware: uploads over a limit get a sentence, and nothing of them is read.

    Args:
        app: what answers all other requests.
        now (`Callable`, *optional*): the time in seconds.
    """

    def __init__(self, app, now: Callable[[], float] = time.monotonic):
        self.app, self.now = app, now
        self.uploads: dict[str, deque[tuple[float, int]]] = defaultdict(deque)  # client -> time and bytes of each

    async def __call__(self, scope, receive, send):
        is_upload = (
            scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")
        )
        refusal = self.refuse(client_of(scope), length_of(scope)) if is_upload else None
        app = self.app if refusal is None else PlainTextResponse(refusal[1], refusal[0])
        await app(scope, receive, send)

    def refuse(self, client: str, length: int | None) -> tuple[int, str] | None:
        """The HTTP status and the sentence for an upload that is not taken; counts one that is."""
        if length is None:
            return 411, NO_LENGTH
        if length > MAX_FILE_MB * 10**6 + FORM_BYTES:
            return 413, TOO_BIG
        start = self.now() - 60 * KEEP_MINUTES
        for name, uploads in list(self.uploads.items()):
            while uploads and uploads[0][0] < start:
                uploads.popleft()
            if not uploads:
                del self.uploads[name]
        recent = self.uploads.get(client, deque())
        if len(recent) >= MAX_UPLOADS or sum(size for _, size in recent) + length > MAX_UPLOADED_MB * 10**6:
            return 429, TOO_MANY
        if stored_bytes() + length > MAX_STORED_MB * 10**6:
            return 503, FULL
        self.uploads[client].append((self.now(), length))
        return None


def client_of(scope) -> str:
    """The client's address; behind a proxy the one that the proxy saw, which stands last."""
    forwarded = header(scope, b"x-forwarded-for")
    return forwarded.rsplit(",", 1)[-1].strip() if forwarded else (scope["client"] or ["unknown"])[0]


def length_of(scope) -> int | None:
    """What the request says of its length in bytes."""
    text = header(scope, b"content-length")
    return int(text) if text.isdigit() else None


def header(scope, name: bytes) -> str:
    """The last header of this name, or an empty text."""
    return next((value.decode("latin-1") for key, value in reversed(scope["headers"]) if key == name), "")


def stored_bytes() -> int:
    """What lies in Gradio's folder."""
    total = 0
    for path in Path(get_upload_folder()).rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # deleted in this moment
            continue
    return total
