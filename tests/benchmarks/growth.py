"""Growth of cost with the image, the proposals, the batch and the objects: exponents, tables and docs/growth.png."""

from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from htc_tf.visualization.charts import BACKGROUND, DPI, FAINT
from htc_tf.visualization.palette import palette
from tests.benchmarks.figures import seconds_of, share, short
from tests.studies import recorded

UNITS = {"area": "million pixels", "proposals": "proposals", "batch": "images", "objects": "objects per image"}
TITLES = {"inference": "inference", "train": "training step", "input": "input"}
COLORS = dict(zip(TITLES, map(to_hex, palette(len(TITLES)) / 255), strict=True))
SLACK = 0.1  # of an exponent, for the noise of measurements


class Curve(NamedTuple):
    """The cost of a step against one number."""

    mode: str
    by: str
    x: list
    seconds: list  # CPU seconds per step
    flop: list | None  # per step, if the mode counts them

    @property
    def exponent(self):
        """The slope of log cost by log x."""
        return slope(self.x, self.seconds)

    @property
    def sound(self):
        """True if the cost grows no faster than the FLOPs, or than in proportion."""
        return self.exponent <= max(1.0, slope(self.x, self.flop) if self.flop else 0.0) + SLACK


def slope(x, y):
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(set(x)) > 1 else float("nan")


def curves(series, results):
    """Returns the Curves of the series {(mode, by): [Job, ...]} that have at least two results {job: figures}."""
    found = {key: [(job, results[job.name]) for job in jobs] for key, jobs in series.items()}
    found = {key: [pair for pair in pairs if "failed" not in pair[1]] for key, pairs in found.items()}
    return [make_curve(*key, pairs) for key, pairs in found.items() if len(pairs) > 1]


def make_curve(mode, by, measured):
    """Returns the Curve of [(Job, figures), ...]."""
    x = [value_of(by, figures["work"], job) for job, figures in measured]
    # Figures per image are multiplied by the images of a step.
    times = [figures["work"]["batch"] if by == "batch" and figures["unit"] == "image" else 1 for _, figures in measured]
    seconds = [seconds_of(figures) * n for (_, figures), n in zip(measured, times, strict=True)]
    limits = [share(figures, "FLOP") for _, figures in measured]
    flop = [limit["amount"] * n for limit, n in zip(limits, times, strict=True)] if all(limits) else None
    return Curve(mode, by, x, seconds, flop)


def value_of(by, work, job):
    """Returns the number that a job has in its series."""
    if by == "area":
        return work["height"] * work["width"] / 1e6
    return float(job.name.rpartition("_")[2])


def tables(curves):
    """Returns Markdown lines: per varied number a table of CPU seconds and FLOPs, and the exponents of both."""
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
                header.append("GFLOP")
                columns.append(column(curve, [flop / 1e9 for flop in curve.flop], varied[0].x))
        lines += [*recorded.format_table(header, zip(*columns, strict=True)), ""]
    return [*lines, verdict(curves)]


def column(curve, values, wanted):
    """Returns the cells of a curve's values at each x of `wanted`, and of their exponent."""
    known = {x: short(value) for x, value in zip(curve.x, values, strict=True)}
    return [known.get(x, "") for x in wanted] + [f"**{slope(curve.x, values):.2f}**"]


def verdict(curves):
    faster = [f"{TITLES[c.mode]} by {UNITS[c.by]} ({c.exponent:.2f})" for c in curves if not c.sound]
    if not faster:
        return "No cost grows faster than its work: every exponent is at most that of the FLOPs, or 1."
    return f"**Faster than its work grows**: {', '.join(faster)}."


def draw(curves):
    """Returns a matplotlib Figure: per varied number a panel of relative costs on logarithmic axes."""
    figure = Figure(figsize=(14, 4), dpi=DPI, facecolor=BACKGROUND, layout="constrained")
    title = "CPU seconds per step, relative to the smallest; gray: proportional"
    figure.suptitle(title, x=0.01, ha="left")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)  # inches
    for axes, (by, unit) in zip(figure.subplots(1, len(UNITS)), UNITS.items(), strict=True):
        axes.set_xlabel(unit, color=FAINT)
        axes.spines[:].set_visible(False)
        drawn = [curve for curve in curves if curve.by == by]
        if not drawn:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "not measured", color=FAINT, ha="center", transform=axes.transAxes)
            continue
        axes.set(xscale="log", yscale="log", facecolor=BACKGROUND)
        axes.grid(color="#e2e2e0")
        low, high = min(x for c in drawn for x in c.x), max(x for c in drawn for x in c.x)
        axes.plot([low, high], [1, high / low], color=FAINT, linewidth=1)
        for curve in drawn:
            relative = [seconds / curve.seconds[0] for seconds in curve.seconds]
            axes.plot(curve.x, relative, color=COLORS[curve.mode], marker="o", markersize=4)
        axes.set_xticks(drawn[0].x, [f"{x:.2g}" if x < 10 else f"{x:.0f}" for x in drawn[0].x])
        most = max([high / low, *(s / c.seconds[0] for c in drawn for s in c.seconds)])
        ticks = [tick for power in (1, 10, 100) for tick in (power, 2 * power, 5 * power) if tick <= most]
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.tick_params(colors=FAINT)
    # One legend for all panels: a line without data per mode.
    lines = [axes.plot([], [], color=color, label=TITLES[mode])[0] for mode, color in COLORS.items()]
    figure.legend(handles=lines, loc="outside lower left", ncols=len(lines), frameon=False)
    return figure
