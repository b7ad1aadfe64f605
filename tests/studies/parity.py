"""python -m tests.studies.parity: runs the comparisons with the references and writes their table, docs/parity.md.

    python -m tests.studies.parity --output docs/parity.md [--reference ../shared/reference]

Tests compare through the fixture `compare`, which asserts and records the largest difference. This command runs those
tests and writes the recorded numbers, so that table and tests cannot disagree. It takes 25 CPU-minutes, because it
includes the training of the medium case and all trajectories, which `make test` leaves out. With --reference it reads
the complete arrays of that folder (with mmdet/ and paddle/) instead of the subsampled ones in tests/reference.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

HERE = Path(__file__).resolve().parents[1]
FAMILIES = HERE / "studies" / "families.md.in"  # a section of the page
TESTS = ("ops/test_*.py", "models/test_parity_*.py")
INTRODUCTION = """# Parity

The largest difference from the arrays of the reference implementations, for every comparison of the tests, as they
measured it. Written by `make parity`; do not edit.

- *size* is the largest value of the reference array, *allowed* the test's tolerance. A difference of 0 means that every
  bit is equal.
- The weights are stand-ins, drawn from the parameters' names: nothing is trained, only equality counts.
- *ratio* is ours divided by theirs, *distance* the norm of the difference divided by the norm of theirs.
- {arrays}

Where the references differ from each other, the default follows the paper, or else mmdetection, and the other behavior
is a switch. `gin/options/paddle.gin` sets all of Paddle's switches, `gin/options/mmdet3.gin` that of mmdetection 3.

{differences}

Without a switch: Paddle's mask targets are polygons drawn on 28 x 28 cells (ours are bitmaps, pooled; the share of
cells that differ is below); its RPN losses divide by 256 for each image even if fewer anchors were sampled; it pads
semantic maps with 0, the label of person; its RoIs of zero area are NaN on a CPU; and its RoIs change their level at
sizes 0.0002 pixels below ours.
"""
DIFFERENCES = (
    ("behavior", "default", "switch"),
    ("---", "---", "---"),
    (
        "mask of a detection",
        "mean over the stages (paper, mmdetection 1, Paddle)",
        "`HTC.average_masks = False`: the last stage's (mmdetection 3)",
    ),
    (
        "semantic loss",
        "mean over all pixels (mmdetection 3)",
        "`HTCLoss.semantic_mean = 'valid'`: over the labeled ones (mmdetection 1, Paddle)",
    ),
    ("target stds of stage 3", "0.033, 0.067", "`stage3/Stage.target_stds`: 1/30, 1/15 (Paddle)"),
    ("batch norm's scale and offset", "trained", "`ResNet.norm = 'constant_batch'`: frozen (Paddle)"),
    ("smallest proposal", "any", "`RPN.minimum_size = 1.0`: a pixel per side (Paddle)"),
    ("best anchors of an object", "positive from IoU 0.3", "`AnchorSampler.minimum_iou = 1e-6`: from any (Paddle)"),
    ("their target", "that object", "`AnchorSampler.reassign = False`: the object that they overlap most (Paddle)"),
    (
        "best RoIs of an object",
        "matched to that object",
        "`RoISampler.low_quality = False`: to the object that they overlap most (Paddle)",
    ),
    (
        "refined ground-truth boxes",
        "dropped after their stage",
        "`HTC.drop_refined_truth = False`: kept as proposals (Paddle)",
    ),
    (
        "boxes refined to zero area",
        "kept, with zero features",
        "`HTC.drop_empty = True`: dropped after their stage (Paddle)",
    ),
    ("warm-up", "500 steps", "`WARMUP_STEPS = 1000` (Paddle)"),
)
SUBSAMPLED = "The arrays are read from tests/reference, where large ones are subsampled."
COMPLETE = "The arrays are the references' complete ones; `make test` reads them subsampled, from tests/reference."


class Note(NamedTuple):
    """The largest difference of one comparison."""

    case: str
    size: float
    difference: float
    allowed: float


@pytest.fixture(scope="session")
def reference():
    """reference("op_nms") returns {name: array}: of tests/reference/op_nms.npz, or of REFERENCE's complete file."""

    def load(name):
        whole = whole_arrays(name)
        return np.load(HERE / "reference" / f"{name}.npz" if whole is None else whole, allow_pickle=False)

    return load


def whole_arrays(name):
    """Returns the complete file that tests/reference/NAME.npz was subsampled from, or None."""
    if "REFERENCE" not in os.environ:
        return None
    path = Path("mmdet", f"{name}.npz")
    if name.startswith("paddle_"):
        path = Path("paddle", f"{name.removeprefix('paddle_')}_128x160.npz")
    path = Path(os.environ["REFERENCE"]) / path
    return path if path.is_file() else None


@pytest.fixture
def compare(record_property):
    """compare(case, ours, theirs, atol=0, rtol=0) asserts that no difference exceeds atol + rtol x max(theirs)."""

    def compare(case, ours, theirs, atol=0.0, rtol=0.0):
        ours, theirs = (np.squeeze(np.asarray(array, np.float64)) for array in (ours, theirs))
        assert ours.shape == theirs.shape, f"{case}: {ours.shape} is not {theirs.shape}"
        assert np.isfinite(ours).all() and np.isfinite(theirs).all(), f"{case}: not finite"
        size = float(np.abs(theirs).max(initial=0))
        difference = float(np.abs(ours - theirs).max(initial=0))
        note = Note(case, size, difference, float(atol + rtol * size))
        record_property("parity", tuple(note))  # plain values, because they may cross processes
        assert note.difference <= note.allowed, note

    return compare


class Table:
    """A pytest plugin that collects the Notes of each test file and writes them as tables."""

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
        lines = [INTRODUCTION.format(arrays=COMPLETE if whole else SUBSAMPLED, differences=differences)]
        lines.append(FAMILIES.read_text())
        for source, rows in self.notes.items():
            lines += [f"## {self.titles[source]}", "", f"[{source}](../{source})", ""]
            lines += ["| case | size | largest difference | allowed |", "| --- | --- | --- | --- |"]
            for note in rows.values():
                allowed = f"{note.allowed:.2g}" if note.allowed else "none"
                lines.append(f"| {note.case} | {note.size:.3g} | {note.difference:.2g} | {allowed} |")
            lines.append("")
        Path(path).write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.parity", description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, metavar="FILE", help="Markdown file to write: docs/parity.md")
    parser.add_argument("--reference", metavar="DIR", help="complete arrays, in DIR/mmdet and DIR/paddle")
    args = parser.parse_args()
    if args.reference and not (Path(args.reference) / "mmdet").is_dir():
        parser.error(f"--reference {args.reference} has no folder mmdet")
    if args.reference:
        os.environ["REFERENCE"] = str(Path(args.reference).resolve())
    files = sorted(str(path) for pattern in TESTS for path in HERE.glob(pattern))
    table = Table()
    status = pytest.main([f"--rootdir={HERE.parent}", f"--confcutdir={HERE}", "-m", "", *files], plugins=[table])
    if status:
        sys.exit(f"{args.output} is unchanged, because comparisons failed: see above")
    table.write(args.output, bool(args.reference))
    print(f"wrote {args.output}: git diff shows what changed")


if __name__ == "__main__":
    main()
