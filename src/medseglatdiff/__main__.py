"""`python -m medseglatdiff` and `accelerate launch -m medseglatdiff`: the command line."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
