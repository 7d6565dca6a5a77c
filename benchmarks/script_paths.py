"""Makes the scripts of training/ importable for the benchmarks: they are scripts, not a package.

Imported as a whole (`import training_path`), which import sorting puts before every `from ... import`. The folder
comes last on the path, for its evaluate.py must not hide the library evaluate.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "training"))
