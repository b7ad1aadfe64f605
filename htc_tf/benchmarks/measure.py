"""A measurement: the same step again and again, by CPU seconds, wall time and memory.

Before it: a mode, one file each, prepares a step. After it: `htc_tf.benchmark` prints the table and writes the JSON.
CPU seconds are the process's own, user and system, over all its threads: other programs on the machine disturb them
far less than the wall time.
"""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm


class Work(NamedTuple):
    """What is asked for: the flags of `htc_tf.benchmark` by their names."""

    height: int  # pixels
    width: int
    batch: int  # images a step
    precision: str  # of convolutions and products, where the mode has any
    records: str | None  # a folder, or None for drawn data
    repeats: int  # measurements
    devices: Sequence[int] = (1,)  # how many, one number after the other, where the mode trains
    gin_file: Sequence[str] = ()  # the configuration, where the mode has any
    gin_param: Sequence[str] = ()
    export: str | None = None  # the model that is asked, where the mode asks one
    batch_sizes: Sequence[int] = (1,)  # pictures a request, one number after the other
    objects: int = 8  # an image, where the mode draws its own
    dump_hlo: str | None = None  # the file to write, in place of measuring


class Measurement(NamedTuple):
    """What was found. Times are seconds for one `unit` of work."""

    unit: str
    cpu_seconds: dict[str, float]  # median, mean, p10, p90, minimum
    wall_seconds: dict[str, float]
    memory_bytes: dict[
        str, int
    ]  # at the first, the middle and the last measurement; the peak since the program started
    details: dict[str, Any]  # what else there is to say, by name


def measure(step, unit, units, repeats, warmup, details):
    """Calls `step()`, which does `units` units of work, `warmup` times and then `repeats` times. -> Measurement."""
    cpu, wall, memory = [], [], []
    for number in tqdm(range(-warmup, repeats), unit="step", desc="measure"):
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        step()
        if number >= 0:
            cpu.append((time.process_time() - cpu_before) / units)
            wall.append((time.perf_counter() - wall_before) / units)
            memory.append(resident_bytes())
    memory = {"first": memory[0], "middle": memory[repeats // 2], "last": memory[-1], "peak": peak_bytes()}
    return Measurement(unit, summarise(cpu), summarise(wall), memory, details)


def summarise(values):
    """The figures by which a list of numbers is reported."""
    p10, median, p90 = np.percentile(values, [10, 50, 90]).tolist()
    return {"median": median, "mean": float(np.mean(values)), "p10": p10, "p90": p90, "minimum": float(min(values))}


def resident_bytes():
    """The memory that this process holds now; its peak where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_bytes()
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def format_table(mode, work, measurement):
    """The figures as text."""
    titles = list(measurement.cpu_seconds)
    margin = max(map(len, ("memory, MB", *measurement.details))) + 2
    lines = [
        f"{mode}: {work.height} x {work.width}, batch {work.batch}, {work.precision}; ms for one {measurement.unit}"
    ]
    lines.append(" " * margin + "".join(f"{title:>10}" for title in titles))
    for name, seconds in (("CPU", measurement.cpu_seconds), ("wall", measurement.wall_seconds)):
        lines.append(name.ljust(margin) + "".join(f"{1e3 * seconds[title]:>10.2f}" for title in titles))
    memory = ", ".join(f"{name} {value / 1e6:,.0f}" for name, value in measurement.memory_bytes.items())
    lines.append("memory, MB".ljust(margin) + memory)
    lines += [f"{name.ljust(margin)}{value}" for name, value in measurement.details.items()]
    return "\n".join(lines)
