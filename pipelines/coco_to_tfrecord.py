"""Converts COCO annotations and images to a folder of TFRecords.

    python -m pipelines.coco_to_tfrecord --annotations FILE ... --images DIR [--stuff DIR|FILE] --output DIR

    pipelines.plan     reads the annotations; writes plan/NNNNN.jsonl, one per shard        (in this process)
    pipelines.shards   reads the plan and the images; writes NNNNN-of-MMMMM.tfrecord        (Beam, one worker per shard)
    pipelines.report   reads the sidecars; writes report.json, rejected.jsonl, dataset_info.json, and prints a table

If the job is stopped at any time, the same command continues. `htc_tf.data.input` reads the records. Unknown flags are
Beam's: --direct_running_mode=multi_processing --direct_num_workers=4, --runner=…. Every path may be in a store that
Beam can reach: gs://…, s3://…, hdfs://… (`pipelines.files`). Documentation: docs/data.md.
"""

import argparse
import dataclasses
import functools
import signal

from htc_tf import command_line
from htc_tf.data.image_io import MAX_PIXELS
from htc_tf.errors import UserError, command, shell_word

from . import coco, files, job_progress, merged_file, output_folder, runners, sources
from .plan import FOLDER, Options, Plan, make_plan


@command
def main(arguments: list[str] | None = None) -> None:
    flags, beam_arguments = parse(arguments)
    beam_options = runners.parse_beam(beam_arguments)
    runners.check_runner(beam_options)
    paths = [*flags.annotations, *flags.images, flags.stuff, flags.output]
    runners.open_stores(filter(None, paths), beam_options)
    panoptic_file = flags.stuff if flags.stuff and flags.stuff.endswith(".json") else None
    # COCO ships a panoptic file's PNGs in the folder of the same name beside it.
    stuff = flags.stuff.removesuffix(".json") if panoptic_file else flags.stuff
    annotations = sources.find_annotations(flags.annotations)
    if panoptic_file:
        coco.check_file(panoptic_file, "--stuff")
    folders = sources.find_folders(flags.images, annotations)
    if stuff and not files.is_folder(stuff):
        raise UserError(f"--stuff {stuff}: no such folder")
    if files.size(flags.output) is not None:
        raise UserError(f"--output {flags.output} is a file: give a folder")
    output_folder.refuse_foreign(flags.output)
    with output_folder.reserve(flags.output):
        print(f"reading {', '.join(annotations)}", flush=True)
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
            follow_links=flags.follow_links,
        )
        plan = make_plan(annotations, folders, flags.output, options, stuff, panoptic_file)
        write_records(flags, folders, stuff, plan, beam_options)


def write_records(
    flags: argparse.Namespace, folders: sources.ImageFolders, stuff: str | None, plan: Plan, beam_options
) -> None:
    """Runs the Beam job for the unfinished shards, then reports and completes the dataset."""
    # Beam and TensorFlow take seconds to import, so the flags and the annotation file are checked first.
    from . import report, shards

    report.write_report(flags.output, plan, [], flags.max_bad_fraction)
    for folder in (flags.output, files.join(flags.output, FOLDER)):
        files.remove_temporaries(folder)
    sidecars = shards.read_sidecars(flags.output, plan, verify=True)
    repaired = shards.repair_indexes(flags.output, sidecars)
    if repaired:
        print(f"{repaired} finished shards had no index, or a damaged one: written from their records")
    pending = [shard for shard, sidecar in enumerate(sidecars) if sidecar is None]
    if pending:
        files.remove(files.join(flags.output, report.INFO_FILE))
        for shard in pending:
            files.remove(shards.sidecar_path(flags.output, plan, shard))
        list_finished = functools.partial(shards.list_finished, flags.output, plan)
        with job_progress.show_progress(sum(plan.images), list_finished) as folder:
            job = shards.Job(
                plan=dataclasses.replace(plan, rejected=[]),
                images=folders.root,
                link_folders=() if flags.follow_links else folders.different,
                stuff=stuff and files.resolve(stuff),
                output=files.resolve(flags.output),
                progress=folder,
            )
            shards.run(job, pending, beam_options)
        files.remove_temporaries(flags.output)  # of workers that died, whose shards others wrote
    sidecars = report.collect(flags.output, plan)
    counters = report.write_report(flags.output, plan, sidecars, flags.max_bad_fraction)
    if plan.merged:
        merged_file.write(flags.output, plan, sidecars)
    info = report.write_info(flags.output, plan, sidecars, counters)
    print(report.describe(flags.output, info))
    folder = shell_word(flags.output)
    print(f"next: python -m {__package__}.inspect_records --records {folder} --output sheet.png")


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Returns this command's flags, and the remaining arguments, for Beam."""
    parser = command_line.Parser(
        prog=f"python -m {__package__}.coco_to_tfrecord",
        description="Converts COCO annotations and images to TFRecords.",
        epilog=f"Other flags are Apache Beam's; --runner is {runners.DEFAULT} by default. For several local processes: "
        "--direct_running_mode=multi_processing --direct_num_workers=N",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--annotations",
        required=True,
        nargs="+",
        metavar="FILE",
        help="COCO's instances_*.json, also as .json.gz, or LVIS's lvis_v1_*.json; several files or patterns make one "
        "dataset: ids may repeat, classes are matched by name",
    )
    parser.add_argument(
        "--images",
        required=True,
        nargs="+",
        metavar="DIR",
        help="folder that file_name is relative to; or one for each annotation file, in the same order",
    )
    parser.add_argument(
        "--follow_links",
        action="store_true",
        help="read images and stuff maps through symbolic links that leave their folder: only for data that you trust",
    )
    parser.add_argument(
        "--stuff",
        help="folder of stuff-thing maps, PNGs named as the images; or COCO's panoptic_*.json, with its PNGs in the "
        "folder of the same name beside it",
    )
    parser.add_argument("--output", required=True, help="folder to write the records to")
    parser.add_argument(
        "--masks",
        choices=("rle", "png", "none"),
        default=Options.masks,
        help="rle: COCO's compressed run lengths (default); png: also a PNG of each mask, for Model Garden's parser; "
        "none: boxes only",
    )
    parser.add_argument(
        "--boxes",
        choices=("checked", "unchecked", "mask"),
        default=Options.boxes,
        help="checked: reject objects whose bbox and mask disagree (default); unchecked: keep both unchanged; mask: "
        "compute each box from its mask",
    )
    parser.add_argument(
        "--decode",
        choices=("full", "header"),
        default=Options.decode,
        help="full: decode every image (default); header: check only that it has a header and an end",
    )
    parser.add_argument(
        "--exif",
        choices=("auto", "apply", "ignore"),
        default=Options.exif,
        help="EXIF orientations that leave the size unchanged, such as half turns: apply, ignore, or auto (default): "
        "as the other images of the dataset are annotated, else apply",
    )
    parser.add_argument(
        "--shards", type=command_line.positive, help="number of files; default: one per 100 images, at most 256"
    )
    parser.add_argument("--seed", type=command_line.seed, default=0, help="random seed of the images' order; default 0")
    parser.add_argument(
        "--max_bad_fraction",
        type=command_line.fraction,
        default=0.001,
        help="fraction of the images, and of the annotations, that may be rejected; default 0.001. Up to three are "
        "always allowed if they are less than half; 0 allows none",
    )
    parser.add_argument(
        "--max_pixels",
        type=command_line.whole(1, MAX_PIXELS),  # TensorFlow decodes no larger JPEG
        default=Options.max_pixels,
        help=f"largest image, in pixels, at most {MAX_PIXELS:,}; default {Options.max_pixels:,}",
    )
    parser.add_argument(
        "--stuff_labels",
        type=command_line.positive,
        help="number of labels of the stuff maps; default: 183 for COCO, else the largest label + 1",
    )
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C; else PID 1 of a container ignores it
    main()
