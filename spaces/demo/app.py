"""The demo Space: serves what MEDSEGLATDIFF_MODELS lists, folders or Hub ids with commas in between."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
