"""How cost grows: with the image, the proposals, the batch, the objects. Exponents, a table for each, and the plot.

Before it: `tests.benchmarks` measured series of jobs that differ in one number. After it: `tests.benchmarks_page`, and
docs/growth.png.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from htc_tf.visualization.charts import GRID, SOFT, Sheet
from htc_tf.visualization.palette import palette
from tests.benchmarks.figures import seconds_of, share, short
from tests.studies import recorded

UNITS = {"area": "million pixels", "proposals": "proposals", "batch": "images", "objects": "objects an image"}
TITLES = {"inference": "inference", "train": "training step", "input": "input"}
SLACK = 0.1  # of an exponent, for what measuring leaves open
SIDE, LEFT, TOP, GAP, BELOW = 260, 64, 64, 76, 84  # pixels of the plot


class Curve(NamedTuple):
    """One series of the growth: a step's cost against one number."""

    mode: str
    by: str
    x: list
    seconds: list  # CPU seconds of a step
    flop: list | None  # of a step, where the mode counts them

    @property
    def exponent(self):
        """The slope of log cost by log x."""
        return slope(self.x, self.seconds)

    @property
    def sound(self):
        """Whether the cost grows no faster than the work: than the arithmetic, or in proportion."""
        return self.exponent <= max(1.0, slope(self.x, self.flop) if self.flop else 0.0) + SLACK


def slope(x, y):
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(set(x)) > 1 else float("nan")


def curves(series, results):
    """{(mode, by): [Job, ...]}, {job: figures} -> [Curve, ...] of the jobs that have figures."""
    found = {key: [(job, results[job.name]) for job in jobs] for key, jobs in series.items()}
    found = {key: [pair for pair in pairs if "failed" not in pair[1]] for key, pairs in found.items()}
    return [draw_up(*key, pairs) for key, pairs in found.items() if len(pairs) > 1]


def draw_up(mode, by, measured):
    """[(Job, figures), ...] -> Curve"""
    x = [value_of(by, figures["work"], job) for job, figures in measured]
    # Of a step: what is told by the image is so many times as much.
    times = [figures["work"]["batch"] if by == "batch" and figures["unit"] == "image" else 1 for _, figures in measured]
    seconds = [seconds_of(figures) * n for (_, figures), n in zip(measured, times, strict=True)]
    limits = [share(figures, "FLOP") for _, figures in measured]
    flop = [limit["amount"] * n for limit, n in zip(limits, times, strict=True)] if all(limits) else None
    return Curve(mode, by, x, seconds, flop)


def value_of(by, work, job):
    """Where a job stands in its series."""
    if by == "area":
        return work["height"] * work["width"] / 1e6
    return float(job.name.rpartition("_")[2])


def tables(curves):
    """Lines: for each number that is varied a table of CPU seconds and arithmetic, and the exponents of both."""
    lines = []
    for by, unit in UNITS.items():
        varied = [curve for curve in curves if curve.by == by]
        if not varied:
            lines += [f"By {unit}: not measured.", ""]
            continue
        header, columns = [unit], [[short(x) for x in varied[0].x] + ["**exponent**"]]
        for curve in varied:
            header.append(f"{TITLES[curve.mode]}, CPU-seconds")
            columns.append(column(curve, curve.seconds, varied[0].x))
            if curve.flop:
                header.append("its GFLOP")
                columns.append(column(curve, [flop / 1e9 for flop in curve.flop], varied[0].x))
        lines += [*recorded.format_table(header, zip(*columns, strict=True)), ""]
    return [*lines, verdict(curves)]


def column(curve, values, wanted):
    """The cells of a curve's values where `wanted` asks for them, and of their exponent."""
    known = {x: short(value) for x, value in zip(curve.x, values, strict=True)}
    return [known.get(x, "") for x in wanted] + [f"**{slope(curve.x, values):.2f}**"]


def verdict(curves):
    faster = [
        f"{TITLES[curve.mode]} by {UNITS[curve.by]} ({curve.exponent:.2f})" for curve in curves if not curve.sound
    ]
    if not faster:
        return "Nothing grows faster than its work: no exponent is above that of its arithmetic, or above 1."
    return f"**Faster than its work grows**: {', '.join(faster)}."


def save(curves, path):
    """Writes the plot: a panel for each number, the cost by that of the smallest, both axes logarithmic."""
    Image.fromarray(draw(curves)).save(Path(path), optimize=True)


def draw(curves):
    """-> [H, W, 3] uint8"""
    sheet = Sheet(LEFT + len(UNITS) * (SIDE + GAP), TOP + SIDE + BELOW)
    colours = dict(zip(TITLES, map(tuple, palette(len(TITLES)).tolist()), strict=True))
    sheet.text(LEFT, 22, "CPU-seconds of a step, by those of the smallest; grey: in proportion", size=16)
    for panel, (by, unit) in enumerate(UNITS.items()):
        draw_panel(sheet, LEFT + panel * (SIDE + GAP), unit, [curve for curve in curves if curve.by == by], colours)
    for place, (mode, colour) in enumerate(colours.items()):
        x, y = LEFT + 150 * place, TOP + SIDE + BELOW - 20
        sheet.line([(x, y), (x + 24, y)], colour, 2.5)
        sheet.text(x + 32, y, TITLES[mode])
    return sheet.finish()


def draw_panel(sheet, left, unit, curves, colours):
    sheet.text(left + SIDE / 2, TOP + SIDE + 34, unit, colour=SOFT, anchor="mm")
    if not curves:
        sheet.text(left + SIDE / 2, TOP + SIDE / 2, "not measured", colour=SOFT, anchor="mm")
        return
    low, high = min(x for c in curves for x in c.x), max(x for c in curves for x in c.x)
    most = max([high / low, *(cost for c in curves for cost in relative(c))])
    least = min(1.0, *(cost for c in curves for cost in relative(c)))

    def place(x, cost):
        across = np.log(x / low) / np.log(high / low)
        up = np.log(cost / least) / np.log(most / least)
        return left + SIDE * across, TOP + SIDE * (1 - up)

    for x in curves[0].x:
        at = place(x, 1)[0]
        sheet.line([(at, TOP), (at, TOP + SIDE)], GRID)
        sheet.text(at, TOP + SIDE + 14, f"{x:.2g}" if x < 10 else f"{x:.0f}", 12, SOFT, "mm")
    for cost in (cost for power in range(3) for cost in (10**power, 2 * 10**power, 5 * 10**power)):
        if least <= cost <= most:
            at = place(low, cost)[1]
            sheet.line([(left, at), (left + SIDE, at)], GRID)
            sheet.text(left - 8, at, f"{cost}", 12, SOFT, "rm")
    sheet.line([place(low, 1), place(high, high / low)], SOFT, 1.5)
    for curve in curves:
        points = [place(x, cost) for x, cost in zip(curve.x, relative(curve), strict=True)]
        sheet.line(points, colours[curve.mode], 2.5)
        for x, y in points:
            sheet.box(x - 3, y - 3, x + 3, y + 3, colours[curve.mode], 3)


def relative(curve):
    return [seconds / curve.seconds[0] for seconds in curve.seconds]
