"""`accelerate launch training/calibrate.py ...`: the same as `accelerate launch -m medseglatdiff calibrate ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
