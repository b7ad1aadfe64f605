"""Fixtures `compare` and `reference` from tests/studies/parity.py."""

import runpy
from pathlib import Path

PARITY = runpy.run_path(str(Path(__file__).resolve().parents[1] / "studies" / "parity.py"))
compare, reference = PARITY["compare"], PARITY["reference"]
