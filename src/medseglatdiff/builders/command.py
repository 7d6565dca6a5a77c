"""The command `dataset`: the name of a builder, or `pack`, then its options."""

import argparse
from collections.abc import Callable

from ..data import packing
from . import cvc_clinicdb, folder, isic2018, lidc_idri, phantom

BUILDERS: dict[str, Callable[[list[str]], object]] = {
    "phantom": phantom.main,
    "folder": folder.main,
    "lidc-idri": lidc_idri.main,
    "cvc-clinicdb": cvc_clinicdb.main,
    "isic2018": isic2018.main,
    "pack": packing.main,
}


def main(arguments: list[str]):
    """`medseglatdiff dataset BUILDER ...`."""
    parser = argparse.ArgumentParser(
        prog="medseglatdiff dataset",
        description="Builds a data set in the format of the Hub from your files.",
        epilog="`medseglatdiff dataset BUILDER --help` explains a builder and its options.",
    )
    parser.add_argument("builder", choices=BUILDERS, metavar="BUILDER", help=", ".join(BUILDERS))
    options = parser.parse_args(arguments[:1])
    BUILDERS[options.builder](arguments[1:])
