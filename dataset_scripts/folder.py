"""`python dataset_scripts/folder.py ...`: the same as `medseglatdiff dataset folder ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["dataset", "folder", *sys.argv[1:]]))
