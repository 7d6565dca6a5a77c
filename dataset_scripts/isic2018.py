"""`python dataset_scripts/isic2018.py ...`: the same as `medseglatdiff dataset isic2018 ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["dataset", "isic2018", *sys.argv[1:]]))
