"""A training ends when the launcher that started it does."""

import os
import sys
import threading
import time

LAUNCHED = ("ACCELERATE_DYNAMO_BACKEND", "TORCHELASTIC_RUN_ID")  # set by accelerate launch; by torchrun
PAUSE, STATUS = 0.25, 143  # seconds between looks; the exit status of a SIGTERM


def end_with_launcher():
    """Ends this process within a second after `accelerate launch` or torchrun, if one of them started it.

    `accelerate launch` with one process does not pass signals on: a training would go on, unseen.
    """
    if any(name in os.environ for name in LAUNCHED):
        threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def watch(launcher: int):
    while os.getppid() == launcher:
        time.sleep(PAUSE)
    print("The launcher has ended, and this training with it; `--resume` goes on.", file=sys.stderr, flush=True)
    os._exit(STATUS)
