"""What the parts of the kit share: their flags, timing and printing of results, without TensorFlow."""

import argparse
import json
import lzma
import time
from pathlib import Path

import numpy as np

PROGRAMS = Path(__file__).resolve().parent / "programs"


def parse(description, *names):
    """Returns the flags of a part: words called `names`, --runs and --cpu."""
    parser = argparse.ArgumentParser(description=description)
    for name in names:
        parser.add_argument(name, nargs="?")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--cpu", action="store_true")
    return parser.parse_args()


def report(**result):
    print(json.dumps(result), flush=True)


def time_runs(function, runs, warm=3):
    """Calls a function that waits for its result.

    Returns:
        {"median_ms", "p90_ms"} of the runs after `warm` more.
    """
    times = []
    for _ in range(warm + runs):
        began = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - began))
    median, p90 = np.quantile(times[warm:], [0.5, 0.9])
    return {"median_ms": round(float(median), 3), "p90_ms": round(float(p90), 3)}


def read_description(name):
    """Returns the content of programs/NAME.json.xz, written by `tests.benchmarks.hlo`."""
    with lzma.open(PROGRAMS / f"{name}.json.xz", "rt") as file:
        return json.load(file)
