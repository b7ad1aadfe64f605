"""The text of docs/benchmarks.md: the figures of `tests.benchmarks` laid into tests/benchmarks/benchmarks.md.in.

A line {name} of the template is replaced by what the function of that name in `BLOCKS` makes of the figures. Figures of
different machines are compared by their share of the machine's limit: its rate of matrix products, or of copies.
"""

import datetime
import importlib.metadata
import re
from pathlib import Path

from tests.benchmarks import growth, peers
from tests.benchmarks.figures import MMDETECTION_PYTHON, OTHER, THEIRS, Missing, need, percent, seconds_of, short
from tests.studies import recorded

# Targets in CPU milliseconds, on the machine where they were set: RoIAlign of one image, NMS of two.
ROI_ALIGN = {
    "1000 at 7 x 7, adaptive, XLA": 110,
    "1000 at 7 x 7, sampling ratio 2, XLA": 50,
    "1000 at 7 x 7, sampling ratio 2, crop_and_resize": 85,
}
NMS = {"proposals, graph": 14, "proposals, XLA": 8, "final, graph": 9, "final, XLA": 5}
COMMON, COMMON_THERE = "proposals, graph", 13.8  # TensorFlow's own operation, and its CPU milliseconds there
PLACES = ("this", "other")  # the environments of `tests.benchmarks.environments`
TEMPLATE = Path(__file__).with_name("benchmarks.md.in")


def has_bfloat16():
    """Returns True if this CPU multiplies matrices of bfloat16 in hardware (AMX)."""
    info = Path("/proc/cpuinfo")
    return info.exists() and " amx_bf16" in info.read_text()


def describe_machine(results):
    rates = need(results, "machine")["details"]["machine"]
    half = need(results, "machine_bfloat16")["details"]["machine"]
    rows = [
        ["products of float32, GFLOP", f"{rates['matmul_rate'] / 1e9:.1f}", "174 to 176"],
        ["products of bfloat16, GFLOP", f"{half['matmul_rate'] / 1e9:.1f}", "483 to 534"],
        ["copies, GB read and written", f"{rates['copy_rate'] / 1e9:.1f}", "23 to 25"],
    ]
    lines = [
        f"This machine: {recorded.describe_machine()}, TensorFlow {tensorflow_version()}, {datetime.date.today()}.",
        "",
        *recorded.format_table(["per CPU second", "this machine", "the peers'"], rows),
    ]
    if not has_bfloat16():
        lines += ["", "This machine has no AMX: the targets for bfloat16 could not be tried on it."]
    return lines


def tensorflow_version():
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def write(results, curves, toy=False):
    """Returns the page of {job: figures} and [Curve, ...]."""
    blocks = {**BLOCKS, "growth": lambda results: growth.tables(curves)}
    lines = []
    for line in TEMPLATE.read_text().splitlines():
        name = re.fullmatch(r"\{(\w+)\}", line)
        lines += [line] if name is None else fill(blocks[name[1]], results)
    if toy:
        lines.insert(1, "\n**A trial of the command on a tiny network: no figure here means anything.**")
    return "\n".join(lines) + "\n"


def fill(block, results):
    try:
        return block(results)
    except Missing as reason:
        return [f"**Not measured**: {reason}."]


def spread(results, names):
    """Returns a table of CPU milliseconds of {title: job}."""
    rows = [[title, *spread_cells(need(results, name)["cpu_seconds"])] for title, name in names.items()]
    return recorded.format_table(["CPU milliseconds", "median", "p10", "p90", "minimum"], rows)


def spread_cells(summary):
    return [f"{1e3 * summary[name]:,.1f}" for name in ("median", "p10", "p90", "minimum")]


def roi_align(results):
    rows = []
    for name, row in need(results, "roi_align")["details"].items():
        limit, taken = row["share_of_the_limit"], 1e3 * row["cpu_seconds"]["median"]
        targets = ["", ""]
        if name in ROI_ALIGN:
            targets = [f"{ROI_ALIGN[name]}", short(ROI_ALIGN[name] * THEIRS["copy"] / limit["rate"])]
        rows.append([name, short(taken), percent(limit["share"]), *targets])
    header = ["", "CPU milliseconds", "share of copying", "target there", "target here, by the rates of copying"]
    return recorded.format_table(header, rows)


def suppression(results):
    """NMS neither multiplies matrices nor copies much: machines are compared by the operation that both have run."""
    rows = {name: row for name, row in need(results, "nms")["details"].items() if name in NMS}
    slower = 1e3 * seconds_of(rows[COMMON]) / COMMON_THERE
    cells = [
        [name, short(1e3 * seconds_of(row)), f"{NMS[name]}", short(slower * NMS[name])] for name, row in rows.items()
    ]
    header = ["", "CPU milliseconds", "target there", f"target here, {slower:.1f} times as slow"]
    return recorded.format_table(header, cells)


def postprocess(results):
    result = need(results, "postprocess")
    compiled = result["details"]["XLA"]
    rows = [["graph mode", *spread_cells(result["cpu_seconds"])], ["XLA", *spread_cells(compiled)]]
    table = recorded.format_table(["CPU milliseconds per image", "median", "p10", "p90", "minimum"], rows)
    return [*table, "", f"Of {1000 * 80:,} pairs of box and class, {result['details']['candidates']} are candidates."]


def evaluation(results):
    result = need(results, "eval")
    plain = result["details"]["pycocotools"]["cpu_seconds"]
    return [
        *spread(results, {"an image, all 24 metrics": "eval"}),
        "",
        f"pycocotools alone takes {1e3 * plain:.1f} and computes the same metrics.",
    ]


def reading(results):
    memory = need(results, "input")["memory_bytes"]
    first, middle, last = (f"{memory[name] / 1e6:,.0f}" for name in ("first", "middle", "last"))
    return [
        *spread(results, {"synthetic images, as `--mode input` draws them": "input"}),
        "",
        f"Memory: {first} MB at the first measurement, {middle} in the middle, {last} at the last.",
    ]


def masks(results):
    details = need(results, "masks")["details"]
    plain, large = details["every pixel, ms"], details["masks as large as the image, ms"]
    return [
        *spread(results, {"an image with 100 masks": "masks"}),
        "",
        f"Drawing every pixel takes {plain:.0f} ms; {large:.0f} ms if each mask is as large as the image.",
    ]


def serving(results):
    result = results.get("serving", {"failed": "it requires --export"})
    rows = [
        [name, *(f"{row[key]:,.0f}" for key in ("p50_ms", "p90_ms", "p99_ms", "first_ms", "cpu_ms_per_image"))]
        for name, row in need({"serving": result}, "serving")["details"].items()
        if isinstance(row, dict) and "p50_ms" in row
    ]
    header = ["a request", "p50 ms", "p90 ms", "p99 ms", "first ms", "CPU ms per image"]
    return recorded.format_table(header, rows)


def start(results):
    result = need(results, "start")
    details = result["details"]
    rows = [
        ["`python -m htc_tf.predict --help`", f"{details['help']['median']:.2f}", "0.5"],
        ["`import tensorflow` alone", f"{details['tensorflow']['median']:.1f}", ""],
        ["`htc_tf.predict` of one image of 512 x 512", f"{seconds_of(result):.1f}", "12"],
        ["the image's part of it, as later images show", f"{details['later image']['median']:.1f}", ""],
        [
            "`htc_tf.train` of the demo's network, one step and its checkpoint",
            f"{details['training']['median']:.1f}",
            "",
        ],
    ]
    return recorded.format_table(["a process, from its start to its end", "CPU-seconds", "target"], rows)


def environments(results):
    """Two tables: the steps in both environments, and what comes before the second step."""
    result = results.get("environments", {"failed": f"it requires {OTHER}, the Python of another environment"})
    details = need({"environments": result}, "environments")["details"]
    versions = [next(iter(details.values()))[place]["tensorflow"] for place in PLACES]
    steps, starts = [], []
    for name, case in details.items():
        figures, work = [case[place] for place in PLACES], case["work"]
        title = f"{name}, {work['height']} x {work['width']}"
        peaks = [f"{figure['peak_bytes'] / 1e9:.2f}" for figure in figures]
        steps.append([title, *(short(seconds_of(figure)) for figure in figures), f"{case['ratio']:.2f}", *peaks])
        starts.append([title, *(short(figure[part]) for part in ("imports", "step") for figure in figures)])
    header = [f"CPU-seconds, {versions[0]}", versions[1], "ratio", f"peak GB, {versions[0]}", versions[1]]
    begun = [f"imported, {versions[0]}", versions[1], f"first step done, {versions[0]}", versions[1]]
    return [
        f"{recorded.describe_machine()}, {datetime.date.today()}; the ratio is the median over the rounds.",
        "",
        *recorded.format_table(["a step after the first", *header], steps),
        "",
        *recorded.format_table(["CPU-seconds from the start of the process", *begun], starts),
    ]


def mmdetection(results):
    """A table of the same steps by both."""
    result = results.get("mmdetection", {"failed": f"it requires {MMDETECTION_PYTHON}, the Python of mmdetection"})
    details = need({"mmdetection": result}, "mmdetection")["details"]
    theirs, rows = next(iter(details.values()))["other"], []
    for name, case in details.items():
        figures, work = [case[place] for place in PLACES], case["work"]
        cells = [short(figure[clock]["median"]) for clock in ("cpu_seconds", "wall_seconds") for figure in figures]
        peaks = [f"{figure['peak_bytes'] / 1e9:.2f}" for figure in figures]
        rows.append([f"{name}, {work['height']} x {work['width']}", *cells, f"{case['ratio']:.2f}", *peaks])
    columns = [f"{unit}{name}" for unit in ("CPU-seconds, ", "wall, ") for name in ("htc_tf", "mmdetection")]
    header = ["float32", *columns, "ratio of CPU-seconds", "peak GB, htc_tf", "mmdetection"]
    return [
        f"mmdetection {theirs['mmdetection']}, PyTorch {theirs['torch']}, {theirs['threads']} threads; "
        f"{recorded.describe_machine()}, {datetime.date.today()}; the ratio is the median over the rounds.",
        "",
        *recorded.format_table(header, rows),
    ]


def memory(results):
    result = need(results, "memory")
    held, steps = result["memory_bytes"], result["work"]["repeats"]
    first, middle, last = (f"{held[name] / 1e6:,.1f}" for name in ("first", "middle", "last"))
    return [
        f"A training of {steps} steps (`tests/tiny.gin`) held {first} MB after its first step, {middle} in the "
        f"middle and {last} after the last."
    ]


# The functions behind the lines {name} of the template.
BLOCKS = {
    "machine": describe_machine,
    "inference": peers.inference,
    "training": peers.training,
    "roi_align": roi_align,
    "nms": suppression,
    "postprocess": postprocess,
    "eval": evaluation,
    "input": reading,
    "masks": masks,
    "serving": serving,
    "start": start,
    "environments": environments,
    "mmdetection": mmdetection,
    "memory": memory,
}
