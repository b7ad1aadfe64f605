"""COCO annotations and images to a folder of TFRecords: the first command of the walk.

    python -m pipelines.coco_to_tfrecord --annotations FILE --images DIR [--stuff DIR|FILE] --output DIR

    pipelines.plan     annotation file -> plan/NNNNN.jsonl, one for each shard     (here, in this process)
    pipelines.shards   plan/NNNNN.jsonl and images -> NNNNN-of-MMMMM.tfrecord      (Beam, a worker for a shard)
    pipelines.report   sidecars -> table, report.json, rejected.jsonl, dataset_info.json

After it: `htc_tf.data.input` reads the records. Stopped at any time, the same command continues where it was.
Flags that are not its own are Beam's: --direct_running_mode=multi_processing --direct_num_workers=4, --runner=….
The default runner works in this process and needs no download, which Beam's own default (Prism) would. Every path may
be of a store that Beam reaches: gs://…, s3://…, hdfs://… (`pipelines.files`). All about it: docs/data.md.
"""

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from htc_tf import command_line, lock
from htc_tf.errors import UserError, command
from pipelines import coco, files, job_progress
from pipelines.beam_options import RUNNER, parse_beam
from pipelines.plan import FOLDER, Options, Plan, make_plan

LOCK_FILE = "lock"


@command
def main(arguments: list[str] | None = None) -> None:
    flags, beam_arguments = parse(arguments)
    beam_options = parse_beam(beam_arguments)
    paths = (flags.annotations, flags.images, flags.stuff, flags.output)
    for name in ("annotations", "images", "stuff", "output"):
        if getattr(flags, name) == "":  # an unset variable of a shell
            raise UserError(f"--{name} is empty: name a path")
    open_stores(filter(None, paths), beam_options)
    panoptic_file = flags.stuff if flags.stuff and flags.stuff.endswith(".json") else None
    # A panoptic file's PNGs lie in the folder of its name beside it, as COCO ships them.
    stuff = flags.stuff.removesuffix(".json") if panoptic_file else flags.stuff
    coco.check_file(flags.annotations)
    if panoptic_file:
        coco.check_file(panoptic_file, "--stuff")
    for flag, folder in (("--images", flags.images), ("--stuff", stuff)):
        if folder and not files.is_folder(folder):
            raise UserError(f"{flag} {folder}: no such folder")
    if files.size(flags.output) is not None:
        raise UserError(f"--output {flags.output} is a file: name a folder")
    with reserve(flags.output):
        print(f"reading {flags.annotations}", flush=True)
        options = Options(
            shards=flags.shards,
            seed=flags.seed,
            max_pixels=flags.max_pixels,
            stuff=stuff is not None,
            stuff_labels=flags.stuff_labels,
            masks=flags.masks,
            decode=flags.decode,
            exif=flags.exif,
            boxes=flags.boxes,
        )
        plan = make_plan(flags.annotations, flags.images, flags.output, options, stuff, panoptic_file)
        write_records(flags, stuff, plan, beam_options)


@contextlib.contextmanager
def reserve(output: str) -> Iterator[None]:
    """Keeps other jobs out of a folder of this machine while the block writes to it.

    Raises:
      UserError: another job is writing there, or a file cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        if not files.is_remote(output):
            busy = f"--output {output} is being written by {{holder}}: wait for it, or name another folder"
            # A folder that cannot be written may be complete: then nothing needs to be.
            with contextlib.suppress(OSError):
                stack.enter_context(lock.hold(Path(output, LOCK_FILE), busy))
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{files.explain(error, output)}; finished shards are kept: when this is mended, the same command "
                "continues"
            ) from error


def open_stores(paths: Iterable[str], beam_options) -> None:
    """Gives Beam's FileSystems their options, if any path is of a store.

    Raises:
      UserError: no installed file system has the path's scheme.
    """
    remote = [path for path in paths if files.is_remote(path)]
    if not remote:
        return
    from apache_beam.io.filesystems import FileSystems

    FileSystems.set_options(beam_options)
    for path in remote:
        try:
            FileSystems.get_filesystem(path)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None


def write_records(flags: argparse.Namespace, stuff: str | None, plan: Plan, beam_options) -> None:
    """Runs the Beam job for the shards that are not finished, then reports and completes the data set."""
    # Beam and TensorFlow take seconds to import: not before the flags and the annotation file are known to be good.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from pipelines import report, shards

    report.conclude(flags.output, plan, [], flags.max_bad_fraction)
    for folder in (flags.output, files.join(flags.output, FOLDER)):
        files.remove_temporaries(folder)
    sidecars = shards.read_sidecars(flags.output, plan, verify=True)
    pending = [shard for shard, sidecar in enumerate(sidecars) if sidecar is None]
    if pending:
        files.remove(files.join(flags.output, report.INFO_FILE))
        total = sum(plan.images)
        done = total - sum(plan.images[shard] for shard in pending)
        with job_progress.show_progress(total, done) as folder:
            job = shards.Job(
                plan=dataclasses.replace(plan, rejected=[]),
                images=files.resolve(flags.images),
                stuff=stuff and files.resolve(stuff),
                output=files.resolve(flags.output),
                progress=folder,
            )
            shards.run(job, pending, beam_options)
    sidecars = report.collect(flags.output, plan)
    counters = report.conclude(flags.output, plan, sidecars, flags.max_bad_fraction)
    info = report.write_info(flags.output, plan, sidecars, counters)
    print(report.describe(flags.output, info))


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """This command's flags, and the arguments that are left for Beam."""
    parser = command_line.Parser(
        prog="python -m pipelines.coco_to_tfrecord",
        description="COCO annotations and images to TFRecords.",
        epilog=f"Other flags are Apache Beam's; --runner is {RUNNER} by default. For several local processes: "
        "--direct_running_mode=multi_processing --direct_num_workers=N",
        allow_abbrev=False,
    )
    parser.add_argument("--annotations", required=True, help="COCO's instances_*.json")
    parser.add_argument("--images", required=True, help="the folder that file_name starts from")
    parser.add_argument(
        "--stuff",
        help="folder of stuff-thing maps, PNG, named as the images; or COCO's panoptic_*.json, the folder of its PNGs "
        "beside it under the same name",
    )
    parser.add_argument("--output", required=True, help="folder of the records")
    parser.add_argument(
        "--masks",
        choices=("rle", "png", "none"),
        default=Options.masks,
        help="rle: COCO's compressed run lengths (default); png: these and, for Model Garden's parser, a PNG of each",
    )
    parser.add_argument(
        "--boxes",
        choices=("checked", "unchecked", "mask"),
        default=Options.boxes,
        help="checked: reject an object whose bbox and mask disagree (default); unchecked: keep both as they are; "
        "mask: take each box from its mask",
    )
    parser.add_argument(
        "--decode",
        choices=("full", "header"),
        default=Options.decode,
        help="full: read every image to its end (default); header: see only its header and that it has an end",
    )
    parser.add_argument(
        "--exif",
        choices=("auto", "apply", "ignore"),
        default=Options.exif,
        help="EXIF orientations with which the annotated size agrees both ways, as half turns: apply, ignore, or auto "
        "(default): as the other images of the data set are annotated, else apply",
    )
    parser.add_argument(
        "--shards", type=command_line.positive, help="number of files; default: one for 100 images, at most 256"
    )
    parser.add_argument("--seed", type=command_line.seed, default=0, help="of the images' order; default 0")
    parser.add_argument(
        "--max_bad_fraction",
        type=command_line.fraction,
        default=0.001,
        help="of the images, and of the annotations, that may be rejected; default 0.001. Three are always allowed "
        "where that is less than half of them; 0 allows none",
    )
    parser.add_argument(
        "--max_pixels", type=command_line.positive, default=Options.max_pixels, help="of an image; default 50,000,000"
    )
    parser.add_argument(
        "--stuff_labels",
        type=command_line.positive,
        help="labels of the stuff maps; default: 183 for COCO, else the largest + 1",
    )
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    main()
