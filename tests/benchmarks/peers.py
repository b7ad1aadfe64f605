"""Inference and training beside the peers and the targets, each as a share of the limit of its own machine.

The limit is the network's FLOPs at the machine's own rate of matrix products.
"""

from typing import NamedTuple

from tests.benchmarks.figures import THEIRS, Missing, need, percent, seconds_of, share, short
from tests.studies import recorded

MMDETECTION, PADDLE, TARGET = "mmdetection 3.3.0", "laihuihui/htc (Paddle)", "target"


class Other(NamedTuple):
    """A figure of a peer, or a target."""

    name: str
    seconds: float  # CPU seconds per image or step
    gigabytes: float | None = None
    precision: str = "float32"


# {title: (job, others)}
INFERENCE = {
    "800 x 1344, per image": (
        "inference",
        [
            Other(TARGET, 8.0, 1.5),
            Other(TARGET, 3.2, 1.5, "bfloat16"),
            Other(MMDETECTION, 12.4, 1.4),
            Other(PADDLE, 18.9),
        ],
    ),
    "512 x 512, per image": ("inference_512", [Other(MMDETECTION, 7.7), Other(PADDLE, 11.0)]),
}
TRAINING = {
    "800 x 1344, a step of one image": (
        "train",
        [
            Other(TARGET, 30.0, 5.0),
            Other(TARGET, 13.0, 5.0, "bfloat16"),
            Other(MMDETECTION, 35.3, 5.2),
            Other(PADDLE, 29.5),
        ],
    ),
    "512 x 512, a step of two images": (
        "train_512",
        [
            Other(TARGET, 38.0),
            Other(TARGET, 17.0, None, "bfloat16"),
            Other(MMDETECTION, 43.3),
            Other(PADDLE, 26.5),
        ],
    ),
}


def inference(results):
    lines = networks(results, INFERENCE)
    details = results["inference"].get("details", {})
    rows = [
        [name, short(part["cpu_ms_per_image"]), percent(part["share"]), *flop_cells(part)]
        for name, part in details.items()
        if isinstance(part, dict) and "cpu_ms_per_image" in part
    ]
    if rows:
        header = ["part, 800 x 1344", "CPU ms", "share", "GFLOP", "GFLOP per CPU second"]
        lines += ["", "Part by part, each timed by itself:", "", *recorded.format_table(header, rows)]
    return lines


def flop_cells(part):
    if not part["flop_per_image"]:
        return ["", ""]
    return [short(part["flop_per_image"] / 1e9), f"{part['flop_per_cpu_second'] / 1e9:.1f}"]


def training(results):
    lines = networks(results, TRAINING)
    details = results["train"].get("details", {})
    rows = [
        [name, short(part["forward"] / 1e9), short(part["backward"] / 1e9)]
        for name, part in details.items()
        if isinstance(part, dict) and "forward" in part
    ]
    if rows:
        positives = ", ".join(map(str, details["positives for masks"]))
        title = f"FLOPs of the first, whose stages had {positives} positives for their masks:"
        lines += ["", title, "", *recorded.format_table(["part", "GFLOP forward", "GFLOP backward"], rows)]
    return lines


def networks(results, sizes):
    """Returns a table per size: our figures, the targets and the peers'."""
    lines = []
    for title, (job, others) in sizes.items():
        lines += [f"### {title}", ""]
        try:
            lines += [*compare(results, job, others), ""]
        except Missing as reason:
            lines += [f"Not measured: {reason}.", ""]
    return lines[:-1]


def compare(results, job, others):
    """Returns the table of one size."""
    ours = need(results, job)
    limit = share(ours, "FLOP")
    rows = [our_row(result, precision) for precision, result in measured(results, job)]
    closing = (
        f"{short(limit['amount'] / 1e9)} GFLOP; this machine did {limit['rate'] / 1e9:.1f} GFLOP per CPU second "
        f"in the same run. Wall time, beside other programs: {short(ours['wall_seconds']['median'])} seconds."
    )
    for other in others:
        reached = limit["amount"] / THEIRS[other.precision] / other.seconds
        here = ""  # unknown for bfloat16: this machine may not have it in hardware
        if other.precision == "float32":
            here = short(limit["limit_seconds"] / reached)
            if other.name == TARGET:
                verdict = "reached" if limit["share"] >= reached else "missed"
                closing += f" The target's share is {verdict}: {percent(limit['share'])} (target: {percent(reached)})."
        memory = f"{other.gigabytes}" if other.gigabytes else ""
        rows.append([f"{other.name}, {other.precision}", f"{other.seconds}", percent(reached), here, memory])
    header = ["", "CPU-seconds", "share of its machine's products", "the same share here, CPU-seconds", "peak GB"]
    return [*recorded.format_table(header, rows), "", closing]


def measured(results, job):
    """Returns [(precision, figures), ...] of a job in float32, and in bfloat16 if it was measured."""
    jobs = {"float32": job, "bfloat16": f"{job}_bfloat16"}
    return [(name, results[job]) for name, job in jobs.items() if "failed" not in results.get(job, {"failed": ""})]


def our_row(result, precision):
    seconds, peak = short(seconds_of(result)), result["memory_bytes"]["peak"]
    reached = percent(share(result, "FLOP")["share"])
    return [f"**htc_tf**, {precision}", f"**{seconds}**", reached, f"**{seconds}**", f"{peak / 1e9:.1f}"]
