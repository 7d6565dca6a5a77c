"""`accelerate launch training/evaluate.py ...`: the same as `accelerate launch -m medseglatdiff evaluate ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
