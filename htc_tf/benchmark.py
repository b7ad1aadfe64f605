"""python -m htc_tf.benchmark: what a part of the work costs on this machine: CPU seconds, wall time, memory."""

import argparse
import importlib
import json
from pathlib import Path

from htc_tf import config
from htc_tf.errors import UserError, command

# Each is a file of htc_tf/engine/benchmarks with a function `run`: Work -> Measurement.
MODES = {"input": "records to batches: decode, augment, resize, lay out"}


def parse():
    parser = argparse.ArgumentParser(
        prog="python -m htc_tf.benchmark",
        description=__doc__,
        epilog="modes: " + "; ".join(f"{name}: {what}" for name, what in MODES.items()),
    )
    parser.add_argument("--mode", required=True, metavar="MODE", help=f"what to measure: {', '.join(MODES)}")
    parser.add_argument("--height", type=int, default=800, help="pixels of the images (default: 800)")
    parser.add_argument("--width", type=int, default=1333, help="pixels of the images (default: 1333)")
    parser.add_argument("--batch", type=int, default=2, help="images a step (default: 2)")
    parser.add_argument("--precision", default="float32", metavar="P", help="float32 (default) or bfloat16")
    parser.add_argument("--records", metavar="DIR", help="records to read (default: drawn ones, made for the purpose)")
    parser.add_argument("--repeats", type=int, default=30, help="measurements (default: 30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go too")
    return parser.parse_args()


@command
def main():
    flags = parse()
    if flags.mode not in MODES:
        raise UserError(f"--mode {flags.mode} is unknown; there are {', '.join(MODES)}")
    if flags.precision not in ("float32", "bfloat16"):
        raise UserError(f"--precision {flags.precision} is unknown; give float32 or bfloat16")
    for name in ("height", "width", "batch", "repeats"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} {getattr(flags, name)}: give 1 or more")
    # TensorFlow starts as it does for training.
    config.import_gin()
    from htc_tf.engine.benchmarks.measure import Work, format_table

    work = Work(flags.height, flags.width, flags.batch, flags.precision, flags.records, flags.repeats)
    measurement = importlib.import_module(f"htc_tf.engine.benchmarks.{flags.mode}").run(work)
    if flags.json:
        content = {"mode": flags.mode, "work": work._asdict(), **measurement._asdict()}
        try:
            flags.json.parent.mkdir(parents=True, exist_ok=True)
            flags.json.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"--json {flags.json} cannot be written: {error.strerror or error}") from None
    print(format_table(flags.mode, work, measurement))


if __name__ == "__main__":
    main()
