"""`python dataset_scripts/lidc_idri.py ...`: the same as `medseglatdiff dataset lidc-idri ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["dataset", "lidc-idri", *sys.argv[1:]]))
