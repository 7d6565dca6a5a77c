"""`medseglatdiff COMMAND ...`: the package's command line.

Each command is imported when it is called: `segment` and `info` need only the core, the others their extras.
"""

import argparse
import difflib
import errno
import io
import os
import select
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from .data.names import printable

FULL = (errno.ENOSPC, errno.EDQUOT)


def segment(arguments: list[str]) -> int:
    """segment images: masks, confidence and a picture for each"""
    from .pipeline.segment import main

    return main(arguments)


def info(arguments: list[str]):
    """describe a checkpoint: its components, inputs and defaults"""
    from .pipeline.loading import main

    main(arguments)


def dataset(arguments: list[str]):
    """build a data set from an archive, a folder or phantoms"""
    from .builders.command import main

    main(arguments)


def train(arguments: list[str]):
    """train the stages of a pipeline"""
    from .training.train import main

    main(arguments)


def calibrate(arguments: list[str]):
    """choose threshold, spread and calibration of a pipeline on the validation split"""
    from .training.calibrate import main

    main(arguments)


def evaluate(arguments: list[str]):
    """measure a pipeline on a split"""
    from .evaluation.evaluate import main

    main(arguments)


def publish(arguments: list[str]):
    """write the card of a pipeline and upload it to the Hub"""
    from .hub.command import main

    main(arguments)


def demo(arguments: list[str]):
    """serve the demo in the browser"""
    from .demo.app import main

    main(arguments)


Command = Callable[[list[str]], int | None]
COMMANDS: dict[Command, str | None] = {  # with the extra that each needs
    segment: None,
    info: None,
    dataset: "train",
    train: "train",
    calibrate: "train",
    evaluate: "evaluate",
    publish: "hub",
    demo: "demo",
}


def find_command(name: str) -> Command:
    """The command of this name; for an unknown one, an argparse error that suggests the nearest."""
    commands = {command.__name__: command for command in COMMANDS}
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands)}"
        raise argparse.ArgumentTypeError(f"there is no {name!r}; {hint}")
    return commands[name]


def parse_command(words: list[str]) -> Command:
    """The command that the first word names."""
    lines = [
        f"  {command.__name__:<11}{command.__doc__}" + (f" (extra `{extra}`)" if extra else "")
        for command, extra in COMMANDS.items()
    ]
    parser = argparse.ArgumentParser(
        prog="medseglatdiff",
        usage="medseglatdiff [-h] [--version] COMMAND ...",
        description="Several plausible masks for a medical image.",
        epilog="\n".join(
            ["commands:", *lines, "", "`medseglatdiff COMMAND --help` explains a command and its options."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", type=find_command, metavar="COMMAND", help="one of the commands below")
    return parser.parse_args(words[:1]).command


def full_disk(error: BaseException | None, words: Sequence[str]) -> str | None:
    """A sentence that names the full device and the file, or `None` if neither the error nor its causes say disk full.

    Libraries may lose the file's name, or even the kind of error; the sentence then names the first of the command's
    paths whose device has less than a megabyte left.
    """
    while error and getattr(error, "errno", None) not in FULL and os.strerror(errno.ENOSPC) not in str(error):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    named = getattr(error, "filename", None)
    for path in map(Path, [named] if named else [*words, "."]):
        device = path.absolute()
        while not device.is_mount():
            device = device.parent
        if named or shutil.disk_usage(device).free < 1_000_000:
            return f"no space left on {device} for {path}"
    return str(error)


def mistake(error: Exception, command: Command | None) -> str | None:
    """What the user did wrong, or `None` for a bug, which needs its traceback.

    Errors about files, values (OSError, ValueError) and missing extras (ImportError) are the user's. So are the
    package's type errors, which begin with the argument in backticks; others come from within a library.
    """
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "medseglatdiff").split(".")[0]
        extra = COMMANDS[command] if command else None
        if module == "medseglatdiff" or command is None or extra is None:
            return None
        return f'{command.__name__} needs the package {module}: pip install "medseglatdiff[{extra}]"'
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    known = isinstance(error, (ImportError, OSError, ValueError))
    return str(error) if known or isinstance(error, TypeError) and str(error).startswith("`") else None


def reader_left() -> bool:
    """Whether the reader of the output is gone, as after `| head`; further output is then discarded."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    left = any(event & select.POLLERR for _, event in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns 0 on success, 2 after a user's mistake, 130 after Ctrl-C, with one sentence on stderr,
    or 141 if the reader of the output is gone. Bugs are raised."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # if its encoding lacks a character
    command: Command | None = None
    try:
        try:
            command = parse_command(words)
            return command(words[1:]) or 0
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("medseglatdiff: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_left():
            return 141
        sentence = full_disk(error, words) or mistake(error, command)
        if sentence is None:
            raise
        print(f"medseglatdiff: {printable(' '.join(sentence.split()))}", file=sys.stderr)
        return 2
