"""Measurements of the benchmark commands: their flags, the timing of repeated steps, the table and the JSON."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from htc_tf import command_line, config
from htc_tf.errors import UserError
from htc_tf.freed_memory import share_arena
from htc_tf.process_memory import peak_bytes, resident_bytes
from htc_tf.progress import progress_bar

SPECIAL = ("objects", "records", "devices", "export", "batch_sizes")  # flags of some modes only


class Mode(NamedTuple):
    """A benchmark and the defaults of its flags."""

    about: str
    run: Callable  # flags -> Measurement
    height: int = 800  # pixels
    width: int = 1344
    batch: int = 1  # images per step, over all devices
    gin: str | None = None  # the configuration; None if the mode needs none
    objects: int = 8  # synthetic objects per image
    repeats: int = 30  # measurements
    precision: bool = True  # whether it is measured in the precision of --precision or of its configuration
    reads: tuple[str, ...] = ()  # those of the flags SPECIAL that have an effect
    trains: bool = False  # whether it runs with training's settings of memory


class Measurement(NamedTuple):
    """A measurement; times are seconds per `unit`."""

    unit: str
    cpu_seconds: dict[str, float]  # median, mean, p10, p90, minimum
    wall_seconds: dict[str, float]
    memory_bytes: dict[str, int]  # before and after the first, after the middle and the last measurement; the peak
    details: dict[str, Any]


def make_parser(prog, description, modes):
    """Returns the parser of a benchmark command."""
    lines = (
        f"{name}: {m.about} ({m.height} x {m.width}, batch {m.batch}, {m.repeats} repeats)" for name, m in modes.items()
    )
    parser = command_line.Parser(prog=prog, description=description, epilog="modes: " + "; ".join(lines))
    positive = command_line.positive
    parser.add_argument("--mode", required=True, metavar="MODE", help=f"benchmark to run: {', '.join(modes)}")
    for name, about in (
        ("height", "image height"),
        ("width", "image width"),
        ("batch", "images per step, over all devices"),
        ("objects", "synthetic objects per image"),
        ("repeats", "measurements"),
    ):
        parser.add_argument(f"--{name}", type=positive, metavar="N", help=f"{about} (default: the mode's)")
    precision = "float32 or bfloat16 (default: the configuration's; float32 without one)"
    parser.add_argument("--precision", metavar="P", help=precision)
    parser.add_argument("--records", metavar="DIR", help="records to read (default: synthetic ones)")
    devices = "of --mode train: GPUs, or parts of the CPU (default: 1)"
    parser.add_argument("--devices", type=positive, default=1, metavar="N", help=devices)
    parser.add_argument("--export", metavar="EXPORT", help="of --mode serving: the folder that htc_tf.export wrote")
    sizes = "of --mode serving: images per request (default: --batch)"
    parser.add_argument("--batch_sizes", type=positive, nargs="+", metavar="N", help=sizes)
    config.add_flags(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    return parser


def parse(parser, modes):
    """Parses the command line and fills in the mode's defaults.

    Raises:
        UserError: A flag is unknown or does not fit the mode.
    """
    flags = parser.parse_args()
    if flags.mode not in modes:
        raise UserError(f"--mode {flags.mode} is unknown; choose from {', '.join(modes)}")
    if flags.precision not in (None, "float32", "bfloat16"):
        raise UserError(f"--precision {flags.precision} is unknown; choose float32 or bfloat16")
    mode = modes[flags.mode]
    if "export" in mode.reads and not flags.export:
        raise UserError(f"--mode {flags.mode} requires --export, the folder written by python -m htc_tf.export")
    if flags.precision and not mode.precision:
        raise UserError(f"--mode {flags.mode} has no precision of its own: leave --precision out")
    if ignored := parser.given(flags, [name for name in SPECIAL if name not in mode.reads]):
        raise UserError(f"--mode {flags.mode} does not read {ignored}: leave it out")
    for name in ("height", "width", "batch", "objects", "repeats"):
        if getattr(flags, name) is None:
            setattr(flags, name, getattr(mode, name))
    flags.batch_sizes = flags.batch_sizes or [flags.batch]
    if "batch_sizes" in mode.reads:
        flags.batch = flags.batch_sizes[0]  # the table's; the others are details
    return flags


def configure(flags, mode, *bindings):
    """Starts TensorFlow as training does and parses the gin of a Mode that has one, with the sizes of the flags.

    Then `flags.precision` is the one that is measured, None for a Mode without.
    """
    if (flags.gin_file or flags.gin_param) and not mode.gin:
        raise UserError(f"--mode {flags.mode} is not configured by gin: leave --gin_file and --gin_param out")
    config.import_gin()
    if mode.gin:
        low, high = sorted((flags.height, flags.width))
        sizes = [f"IMAGE_MIN_SIDE={low}", f"IMAGE_MAX_SIDE={high}", f"BATCH_SIZE={flags.batch}"]
        length = ["STEPS=1000", "EPOCHS=None"]
        precision = [f"PRECISION='{flags.precision}'"] if flags.precision else []
        bindings = [*sizes, *flags.gin_param, *precision, *length, *bindings]
        experiment, _ = config.load(flags.gin_file or [mode.gin], bindings)
    if mode.precision:
        flags.precision = experiment.precision if mode.gin else flags.precision or "float32"


def run(flags, modes):
    """Runs the benchmark that the parsed flags name, prints its table and writes its JSON."""
    mode = modes[flags.mode]
    if mode.trains:
        share_arena()  # as htc_tf.train does, before TensorFlow is imported
    configure(flags, mode)
    measurement = mode.run(flags)
    print(format_table(flags, measurement))
    if flags.json:
        work = {name: value for name, value in vars(flags).items() if name != "json"}
        content = {"mode": flags.mode, "work": work, **measurement._asdict()}
        try:
            flags.json.parent.mkdir(parents=True, exist_ok=True)
            flags.json.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"--json {flags.json} cannot be written: {error.strerror or error}") from None
    print(f"wrote {flags.json}" if flags.json else "add --json FILE to keep these figures")


def measure(step, unit, units, repeats, warmup, details=None, before=None):
    """Calls `step()`, which does `units` units of work, `warmup` times and then `repeats` times.

    CPU seconds are the process's own, user and system, over all its threads: other programs on the machine disturb them
    far less than the wall time. `before()`, if there is one, is called before each step that counts, and is not timed.

    Returns:
        Measurement.
    """
    cpu, wall, memory, loaded = [], [], [], resident_bytes()
    for number in progress_bar(range(-warmup, repeats), unit="step", desc="measure"):
        if before is not None and number >= 0:
            before()
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        step()
        if number >= 0:
            cpu.append((time.process_time() - cpu_before) / units)
            wall.append((time.perf_counter() - wall_before) / units)
            memory.append(resident_bytes())
    peak = max(peak_bytes(), *memory)  # Linux updates its peak late, by up to some hundred KiB
    memory = {"loaded": loaded, "first": memory[0], "middle": memory[repeats // 2], "last": memory[-1], "peak": peak}
    return Measurement(unit, summarize(cpu), summarize(wall), memory, details or {})


def summarize(values):
    """Returns {statistic: value} of a list of numbers."""
    p10, median, p90 = np.percentile(values, [10, 50, 90]).tolist()
    return {"median": median, "mean": float(np.mean(values)), "p10": p10, "p90": p90, "minimum": float(min(values))}


def format_table(flags, measurement):
    """Returns the figures as text: a line per clock, memory, then a line per detail."""
    titles = list(measurement.cpu_seconds)
    margin = max(map(len, ("memory, MB", *measurement.details))) + 2
    work = [f"{flags.height} x {flags.width}", f"batch {flags.batch}", *filter(None, [flags.precision])]
    lines = [f"{flags.mode}: {', '.join(work)}; ms per {measurement.unit}"]
    lines.append(" " * margin + "".join(f"{title:>10}" for title in titles))
    for name, seconds in (("CPU", measurement.cpu_seconds), ("wall", measurement.wall_seconds)):
        lines.append(name.ljust(margin) + "".join(f"{1e3 * seconds[title]:>10.2f}" for title in titles))
    memory = ", ".join(f"{name} {value / 1e6:,.0f}" for name, value in measurement.memory_bytes.items())
    lines.append("memory, MB".ljust(margin) + memory)
    return "\n".join(lines + [f"{name.ljust(margin)}{describe(value)}" for name, value in measurement.details.items()])


def describe(value):
    """Returns a detail as text; a dictionary as its names and values."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {describe(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
