"""python -m htc_tf.benchmark: what a part of the work costs on this machine: CPU seconds, wall time, memory."""

import importlib
import json
from pathlib import Path
from typing import NamedTuple

from htc_tf import command_line, config
from htc_tf.errors import UserError, command

PAPER, SHAPES = "gin/htc_r50_fpn_1x_coco.gin", "gin/htc_shapes.gin"


class Mode(NamedTuple):
    """What is measured, by a file of htc_tf/engine/benchmarks with a function `run`: Work -> Measurement."""

    about: str
    height: int = 800  # pixels, where no flag says otherwise
    width: int = 1333
    batch: int = 2  # images a step, on all devices
    gin: str | None = None  # the configuration where no flag says otherwise; None: the mode has none
    objects: int = 8  # an image, where the mode draws its own
    repeats: int = 30  # measurements


MODES = {
    "inference": Mode("a decoded image to its pasted masks", 800, 1344, 1, PAPER, repeats=5),
    "train": Mode("a training step: forward, backward, update", 800, 1344, 1, PAPER, repeats=3),
    "input": Mode("records to batches: decode, augment, resize, lay out", objects=7),
    "masks": Mode("an image's masks pasted and encoded as run lengths", 480, 640, 100),
    "roi_align": Mode("RoIs pooled from a pyramid, by each implementation", 800, 1344, 1),
    "nms": Mode("candidates to proposals, and to detections, in graph mode and under XLA", 800, 1344, 2),
    "postprocess": Mode("refined boxes and class logits to an image's detections", 800, 1344, 1),
    "eval": Mode("an image's detections to COCO's figures, of --batch images together", 480, 640, 100),
    "start": Mode("a cold process: its help, its first picture", 512, 512, 1, PAPER),
    "machine": Mode("a product of two matrices; the rates that the other modes are held against"),
    "scaling": Mode("a training step, by the number of devices", 192, 192, 4, SHAPES),
    "serving": Mode("requests to an exported model, and the bytes of its answers", 480, 640, 1),
}


def parse():
    modes = (f"{name}: {m.about} ({m.height} x {m.width}, batch {m.batch})" for name, m in MODES.items())
    parser = command_line.Parser(
        prog="python -m htc_tf.benchmark", description=__doc__, epilog="modes: " + "; ".join(modes)
    )
    parser.add_argument("--mode", required=True, metavar="MODE", help=f"what to measure: {', '.join(MODES)}")
    parser.add_argument("--height", type=command_line.positive, help="of the images (default: the mode's, below)")
    parser.add_argument("--width", type=command_line.positive, help="of the images (default: the mode's)")
    parser.add_argument("--batch", type=command_line.positive, help="images a step, on all devices (default: mode's)")
    parser.add_argument("--precision", default="float32", metavar="P", help="float32 (default) or bfloat16")
    parser.add_argument("--records", metavar="DIR", help="records to read (default: drawn ones, made for the purpose)")
    parser.add_argument(
        "--repeats", type=command_line.positive, help="measurements (default: 30; inference: 5; train: 3)"
    )
    parser.add_argument("--objects", type=command_line.positive, help="train, input: objects an image (default: 8; 7)")
    parser.add_argument(
        "--devices",
        type=command_line.positive,
        nargs="+",
        default=[1, 2, 4],
        metavar="N",
        help="scaling: how many (default: 1 2 4)",
    )
    parser.add_argument("--export", metavar="EXPORT", help="serving: the --output of htc_tf.export")
    parser.add_argument(
        "--batch_sizes",
        type=command_line.positive,
        nargs="+",
        metavar="N",
        help="serving: pictures a request (default: --batch)",
    )
    parser.add_argument(
        "--dump_hlo",
        metavar="FILE",
        help="inference, train: measure nothing, but write what XLA would compile, for another device to run",
    )
    config.add_flags(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go too")
    flags = parser.parse_args()
    if flags.mode in MODES:
        for name in ("height", "width", "batch", "objects", "repeats"):
            if getattr(flags, name) is None:
                setattr(flags, name, getattr(MODES[flags.mode], name))
        flags.batch_sizes = flags.batch_sizes or [flags.batch]
    return flags


def check(flags):
    """Raises UserError for what argparse lets pass."""
    if flags.mode not in MODES:
        raise UserError(f"--mode {flags.mode} is unknown; there are {', '.join(MODES)}")
    if flags.precision not in ("float32", "bfloat16"):
        raise UserError(f"--precision {flags.precision} is unknown; give float32 or bfloat16")
    if flags.mode == "serving" and not flags.export:
        raise UserError("--mode serving wants --export, the folder that python -m htc_tf.export wrote")
    if flags.dump_hlo and flags.mode not in ("inference", "train"):
        raise UserError(f"--dump_hlo goes with --mode inference or train, not with {flags.mode}")


def configure(flags):
    """Parses the gin of a mode that has one, with the sizes that the flags say."""
    low, high = sorted((flags.height, flags.width))
    sizes = [f"IMAGE_MIN_SIDE={low}", f"IMAGE_MAX_SIDE={high}", f"BATCH_SIZE={flags.batch}"]
    compiled = ["XLA=True"] if flags.dump_hlo else []
    bindings = [*sizes, f"PRECISION='{flags.precision}'", *flags.gin_param, *compiled]
    config.load(flags.gin_file or [MODES[flags.mode].gin], bindings)


@command
def main():
    flags = parse()
    check(flags)
    # TensorFlow starts as it does for training.
    config.import_gin()
    if MODES[flags.mode].gin:
        configure(flags)
    from htc_tf.benchmarks.measure import Work, format_table

    work = Work(*(getattr(flags, name) for name in Work._fields))
    module = importlib.import_module(f"htc_tf.benchmarks.{flags.mode}")
    if flags.dump_hlo:
        from htc_tf.benchmarks.hlo import dump

        print(dump(module.program(work), flags.dump_hlo))
        return
    measurement = module.run(work)
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
