"""`python dataset_scripts/cvc_clinicdb.py ...`: the same as `medseglatdiff dataset cvc-clinicdb ...`."""

import sys

from medseglatdiff.cli import main

if __name__ == "__main__":
    sys.exit(main(["dataset", "cvc-clinicdb", *sys.argv[1:]]))
