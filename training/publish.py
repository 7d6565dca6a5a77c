"""`python training/publish.py ...`: the same as `medseglatdiff publish ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
