"""Makes the scripts of training/ and dataset_scripts/ importable for the benchmarks: they are scripts, not packages.

Imported as a whole (`import script_paths`), which import sorting puts before every `from ... import`. The folders
come last on the path, for training/evaluate.py must not hide the library evaluate.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "training"), str(ROOT / "dataset_scripts")]
