"""`medseglatdiff COMMAND ...`: everything that the package does, from the command line.

Each command is imported only when it is called: `segment` and `info` need the core alone, the others their extras.
"""

import argparse
import sys
from collections.abc import Callable, Sequence


def segment(arguments: list[str]) -> int:
    """segment images: masks, confidence and a picture of them for each"""
    from .pipeline.segment import main

    return main(arguments)


def info(arguments: list[str]):
    """what a checkpoint consists of and wants"""
    from .pipeline.loading import main

    main(arguments)


def dataset(arguments: list[str]):
    """build a data set from an archive, a folder or phantoms (extra `train`)"""
    from .builders.command import main

    main(arguments)


def train(arguments: list[str]):
    """train the stages of a pipeline (extra `train`)"""
    from .training.train import main

    main(arguments)


def calibrate(arguments: list[str]):
    """choose threshold, spread and calibration of a pipeline on the validation split (extra `train`)"""
    from .training.calibrate import main

    main(arguments)


def evaluate(arguments: list[str]):
    """measure a pipeline over a split (extra `evaluate`)"""
    from .evaluation.evaluate import main

    main(arguments)


def publish(arguments: list[str]):
    """write the card of a pipeline and upload it to the Hub (extra `hub`)"""
    from .hub.command import main

    main(arguments)


def demo(arguments: list[str]):
    """serve the demo's page (extra `demo`)"""
    from .demo.app import main

    main(arguments)


COMMANDS: tuple[Callable[[list[str]], int | None], ...] = (
    segment,
    info,
    dataset,
    train,
    calibrate,
    evaluate,
    publish,
    demo,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 if all went well, 2 after bad input, with one sentence on stderr that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="medseglatdiff",
        description="Several plausible masks for a medical image.",
        epilog="`medseglatdiff COMMAND --help` explains a command and its options.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        entry = commands.add_parser(command.__name__, help=command.__doc__, add_help=False)
        entry.set_defaults(command=command)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = parser.parse_args(arguments[:1]).command
    try:
        return command(arguments[1:]) or 0
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"medseglatdiff: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("medseglatdiff: interrupted", file=sys.stderr)
        return 130
