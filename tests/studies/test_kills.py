"""A killed training resumes bit for bit; `python -m tests.studies.kills` alone tries it more often."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BARE = ["NUM_STAGES=1", "MASKS=False", "SEMANTIC=False"]


@pytest.mark.slow
def test_a_killed_training_equals_an_uninterrupted_one(tiny_data):
    command = [sys.executable, "-m", "tests.studies.kills", "--kills", "1", "--steps", "30", "--devices", "1"]
    command += ["--records", str(tiny_data.records), *(f"--gin_param={param}" for param in BARE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "differ from the uninterrupted training: 0 of 30" in done.stdout and "in any bit: 0 of" in done.stdout
