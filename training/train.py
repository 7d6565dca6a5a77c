"""`accelerate launch training/train.py ...`: the same as `accelerate launch -m medseglatdiff train ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
