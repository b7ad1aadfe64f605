"""COCO annotations and images to a folder of TFRecords: the first command of the walk.

    python -m pipelines.coco_to_tfrecord --annotations FILE --images DIR [--stuff DIR] --output DIR

    pipelines.plan     annotation file -> plan/NNNNN.jsonl, one for each shard     (here, in this process)
    pipelines.shards   plan/NNNNN.jsonl and images -> NNNNN-of-MMMMM.tfrecord      (Beam, a worker for a shard)
    pipelines.report   sidecars -> table, report.json, rejected.jsonl, dataset_info.json

After it: `htc_tf.data.input` reads the records. Stopped at any time, the same command goes on where it was.
Flags that are not its own are Beam's: --direct_running_mode=multi_processing --direct_num_workers=4, --runner=….
The default runner works in this process and needs no download, which Beam's own default (Prism) would.
"""

import argparse
import dataclasses
import math
import os
from pathlib import Path

from htc_tf.errors import UserError, command
from pipelines import coco, files, progress
from pipelines.beam_options import RUNNER, parse_beam
from pipelines.plan import Options, Plan, make_plan


@command
def main(arguments: list[str] | None = None) -> None:
    flags, beam_arguments = parse(arguments)
    coco.check_file(flags.annotations)
    for flag, folder in (("--images", flags.images), ("--stuff", flags.stuff)):
        if folder and not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such folder")
    beam_options = parse_beam(beam_arguments)
    print(f"reading {flags.annotations}", flush=True)
    options = Options(flags.shards, flags.seed, flags.max_pixels, flags.stuff is not None, flags.stuff_labels)
    plan = make_plan(flags.annotations, flags.output, options)
    write_records(flags, plan, beam_options)


def write_records(flags: argparse.Namespace, plan: Plan, beam_options) -> None:
    """Runs the Beam job for the shards that are not finished, then reports and completes the data set."""
    # Beam and TensorFlow take seconds to import: not before the flags and the annotation file are known to be good.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from pipelines import report, shards

    report.conclude(flags.output, plan, [], flags.max_bad_fraction)
    files.remove_temporaries(flags.output)
    pending = [shard for shard in range(len(plan.tokens)) if not shards.is_finished(flags.output, plan, shard)]
    if pending:
        (flags.output / report.INFO_FILE).unlink(missing_ok=True)
        job = shards.Job(
            plan=dataclasses.replace(plan, rejected=[]),
            images=os.path.realpath(flags.images),
            stuff=os.path.realpath(flags.stuff) if flags.stuff else None,
            output=os.path.realpath(flags.output),
        )
        total = sum(plan.images)
        done = total - sum(plan.images[shard] for shard in pending)
        with progress.show_progress(shards.progress_path(flags.output, 0).parent, total, done):
            shards.run(job, pending, beam_options)
    sidecars = report.read_sidecars(flags.output, plan)
    counters = report.conclude(flags.output, plan, sidecars, flags.max_bad_fraction)
    info = report.write_info(flags.output, plan, sidecars, counters)
    print(report.describe(flags.output, info))


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """This command's flags, and the arguments that are left for Beam."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.coco_to_tfrecord",
        description="COCO annotations and images to TFRecords.",
        epilog=f"Other flags are Apache Beam's; --runner is {RUNNER} by default. For several local processes: "
        "--direct_running_mode=multi_processing --direct_num_workers=N",
        allow_abbrev=False,
    )
    parser.add_argument("--annotations", type=Path, required=True, help="COCO's instances_*.json")
    parser.add_argument("--images", type=Path, required=True, help="the folder that file_name starts from")
    parser.add_argument("--stuff", type=Path, help="folder of stuff-thing maps, PNG, named as the images")
    parser.add_argument("--output", type=Path, required=True, help="folder of the records")
    parser.add_argument("--shards", type=positive, help="number of files; default: one for 100 images, at most 256")
    parser.add_argument("--seed", type=int, default=0, help="of the images' order; default 0")
    parser.add_argument("--max_bad_fraction", type=fraction, default=0.001, help="of rejected input; default 0.001")
    parser.add_argument(
        "--max_pixels", type=positive, default=Options.max_pixels, help="of an image; default 50,000,000"
    )
    parser.add_argument(
        "--stuff_labels", type=positive, help="labels of the stuff maps; default: 183 for COCO, else the largest + 1"
    )
    return parser.parse_known_args(arguments)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


if __name__ == "__main__":
    main()
