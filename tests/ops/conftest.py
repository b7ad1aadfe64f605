"""The fixtures `compare` and `reference` of tests/parity.py."""

import runpy
from pathlib import Path

PARITY = runpy.run_path(str(Path(__file__).resolve().parent.parent / "parity.py"))
compare, reference = PARITY["compare"], PARITY["reference"]
