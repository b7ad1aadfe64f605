"""Comparisons with the references, and the table that they make: docs/parity.md.

Tests measure with the fixture `compare`, which asserts and notes what it saw. Run as a script, this file runs those
tests and writes down what they noted, so that the table and the tests cannot disagree:

    python -m tests.studies.parity --output docs/parity.md [--reference ../shared/reference]

That takes 25 CPU-minutes: training of the medium case and all trajectories are among them, which `make test` leaves
out. With --reference the whole arrays of that folder (mmdet/ and paddle/ in it) take the place of those in
tests/reference, which are thinned out.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

HERE = Path(__file__).resolve().parents[1]
TESTS = ("ops/test_*.py", "models/test_parity_*.py")
LONG = "PARITY_LONG"  # set in the environment: the comparisons that take minutes run too
INTRODUCTION = """# Parity

What the references' arrays say, and how far from it the largest difference lies: every number that the tests compare,
as they measured it. Written by `make parity`; do not edit.

- *size* is the largest value of the reference array, *allowed* what the test lets pass. Where the difference is 0,
  every bit is equal.
- The weights are stand-ins, drawn from the parameters' names: nothing was trained, only equality counts.
- *ratio* is ours by theirs, *distance* the norm of the difference by the norm of theirs.
- {arrays}

Where the references differ from each other, the paper's behaviour or else mmdetection's is the default, and the other a
switch. `gin/options/paddle.gin` sets all of Paddle's, `gin/options/mmdet3.gin` the one of mmdetection 3.

{differences}

Without a switch: Paddle's mask targets are polygons drawn on 28 x 28 cells (ours are bitmaps, pooled; the share of
cells that differ is below); its RPN losses divide by 256 for each image even where fewer anchors were sampled; it pads
semantic maps with 0, which is person; RoIs without area are NaN there on a CPU; and its RoIs change their level at
sizes 0.0002 pixels below ours.
"""
DIFFERENCES = (
    ("what", "default", "switch"),
    ("---", "---", "---"),
    (
        "a detection's mask",
        "the mean over the stages (paper, mmdetection 1, Paddle)",
        "`HTC.average_masks = False`: the last stage's (mmdetection 3)",
    ),
    (
        "semantic loss",
        "the mean over all pixels (mmdetection 3)",
        "`HTCLoss.semantic_mean = 'valid'`: over the labelled ones (mmdetection 1, Paddle)",
    ),
    ("units of stage 3's deltas", "0.033, 0.067", "`stage3/Stage.target_stds`: 1/30, 1/15 (Paddle)"),
    ("batch norm's scale and offset", "learn", "`ResNet.norm = 'constant_batch'`: do not (Paddle)"),
    ("smallest proposal", "any", "`RPN.minimum_size = 1.0`: a pixel a side (Paddle)"),
    ("an object's best anchors", "positive from IoU 0.3", "`AnchorSampler.minimum_iou = 1e-6`: from any (Paddle)"),
    ("what they learn", "that object", "`AnchorSampler.reassign = False`: the object that they overlap most (Paddle)"),
    (
        "an object's best RoIs",
        "are its own",
        "`RoISampler.low_quality = False`: belong to the object that they overlap most (Paddle)",
    ),
    ("refined truth boxes", "end with their stage", "`HTC.drop_refined_truth = False`: go on (Paddle)"),
    (
        "boxes refined to nothing",
        "go on, their features zero",
        "`HTC.drop_empty = True`: end with their stage (Paddle)",
    ),
    ("warm-up", "500 steps", "`StepSchedule.warmup_steps = 1000` (Paddle)"),
)
THINNED = "The arrays are those of tests/reference, where large ones are thinned out."
WHOLE = "The arrays are the references' whole ones; `make test` reads them thinned out, from tests/reference."


class Note(NamedTuple):
    """What one comparison saw."""

    case: str
    size: float
    difference: float
    allowed: float


@pytest.fixture(scope="session")
def reference():
    """reference("op_nms") -> arrays by name: tests/reference/op_nms.npz, or the whole of it where it is at hand."""

    def load(name):
        whole = whole_arrays(name)
        return np.load(HERE / "reference" / f"{name}.npz" if whole is None else whole, allow_pickle=False)

    return load


def whole_arrays(name):
    """The file that tests/reference/NAME.npz was thinned out from, or None."""
    if "REFERENCE" not in os.environ:
        return None
    path = Path("mmdet", f"{name}.npz")
    if name.startswith("paddle_"):
        path = Path("paddle", f"{name.removeprefix('paddle_')}_128x160.npz")
    path = Path(os.environ["REFERENCE"]) / path
    return path if path.is_file() else None


@pytest.fixture
def compare(record_property):
    """compare(case, ours, theirs, atol=0, rtol=0): no difference is above atol + rtol x the largest value of theirs."""

    def compare(case, ours, theirs, atol=0.0, rtol=0.0):
        ours, theirs = (np.squeeze(np.asarray(array, np.float64)) for array in (ours, theirs))
        assert ours.shape == theirs.shape, f"{case}: {ours.shape} is not {theirs.shape}"
        assert np.isfinite(ours).all() and np.isfinite(theirs).all(), f"{case}: not finite"
        size = float(np.abs(theirs).max(initial=0))
        difference = float(np.abs(ours - theirs).max(initial=0))
        note = Note(case, size, difference, float(atol + rtol * size))
        record_property("parity", tuple(note))  # plain values, which may come from another process
        assert note.difference <= note.allowed, note

    return compare


class Table:
    """A pytest plugin: gathers the notes of each test file and writes them as tables."""

    def __init__(self):
        self.titles, self.notes = {}, {}

    def pytest_collection_modifyitems(self, items):
        for item in items:
            path = item.nodeid.partition("::")[0]
            self.titles[path] = (item.module.__doc__ or path).strip().splitlines()[0].rstrip(".")

    def pytest_runtest_logreport(self, report):
        path = report.nodeid.partition("::")[0]
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "parity":
                note = Note(*value)
                rows = self.notes.setdefault(path, {})
                rows[note.case] = max(rows.get(note.case, note), note, key=lambda n: n.difference)

    def write(self, path, whole):
        differences = "\n".join(f"| {' | '.join(row)} |" for row in DIFFERENCES)
        lines = [INTRODUCTION.format(arrays=WHOLE if whole else THINNED, differences=differences)]
        for source, rows in self.notes.items():
            lines += [f"## {self.titles[source]}", "", f"[{source}](../{source})", ""]
            lines += ["| case | size | largest difference | allowed |", "| --- | --- | --- | --- |"]
            for note in rows.values():
                allowed = f"{note.allowed:.2g}" if note.allowed else "none"
                lines.append(f"| {note.case} | {note.size:.3g} | {note.difference:.2g} | {allowed} |")
            lines.append("")
        Path(path).write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description="Runs the comparisons with the references and writes their table.")
    parser.add_argument("--output", required=True, metavar="FILE", help="the table, such as docs/parity.md")
    parser.add_argument("--reference", metavar="DIR", help="the whole arrays, in DIR/mmdet and DIR/paddle")
    args = parser.parse_args()
    if args.reference and not (Path(args.reference) / "mmdet").is_dir():
        parser.error(f"--reference {args.reference}: there is no folder mmdet in it")
    os.environ[LONG] = "1"
    if args.reference:
        os.environ["REFERENCE"] = str(Path(args.reference).resolve())
    files = sorted(str(path) for pattern in TESTS for path in HERE.glob(pattern))
    table = Table()
    status = pytest.main([f"--rootdir={HERE.parent}", f"--confcutdir={HERE}", *files], plugins=[table])
    if status:
        sys.exit(f"{args.output} is left as it was: not all comparisons hold")
    table.write(args.output, bool(args.reference))


if __name__ == "__main__":
    main()
