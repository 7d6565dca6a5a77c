"""`python dataset_scripts/phantom.py ...`: the same as `medseglatdiff dataset phantom ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["dataset", "phantom", *sys.argv[1:]]))
