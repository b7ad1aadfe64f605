"""python -m htc_tf.eval: COCO's box and mask metrics of a trained run on a folder of records, or of predictions."""

import json
import os
import sys
from pathlib import Path

from htc_tf import command_line, config
from htc_tf.errors import UserError, command, printable, shell_word
from htc_tf.named_runs import open_run
from htc_tf.run import write_whole

# Flags that say nothing about the evaluation of --predictions.
DETECTION = ("checkpoint", "devices", "gin_file", "gin_param", "trust_config")


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.eval", description=__doc__)
    config.add_flags(parser, reads_run=True)
    parser.add_argument("--checkpoint", metavar="RUN", help="--workdir of a training run, or name of public weights")
    parser.add_argument("--records", metavar="DIR", help="folder of records")
    parser.add_argument(
        "--devices",
        nargs="+",
        help="devices for detection, for example GPU:0 GPU:1 (default: all GPUs); eval/Input.batch_size images on each",
    )
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO's annotation file (default: the records' ground truth)"
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="results in COCO's format to evaluate instead of detecting: those that an earlier call saved beside its "
        "--output, or any other program's; needs --records or --annotations, no --checkpoint",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON file for the metrics")
    parser.add_argument("--report", metavar="DIR", help="folder for tables, curves, errors and confusion matrices")
    parser.add_argument("--backend", default="pycocotools", help="pycocotools (default) or the faster faster-coco-eval")
    flags = parser.parse_args()
    if flags.predictions is None and None in (flags.checkpoint, flags.records):
        parser.error("--checkpoint and --records are needed, or --predictions")
    if flags.predictions is not None and flags.records is flags.annotations is None:
        parser.error("--predictions needs ground truth: give --records or --annotations")
    given = parser.given(flags, DETECTION)
    if flags.predictions is not None and given:
        parser.error(f"{given}: nothing is detected with --predictions; leave it out")
    return flags


def detect(flags, output):
    """Detects in the records and saves the results before they are evaluated.

    Returns:
        (results in COCO's format, image ids, COCO's ground-truth dictionary, category ids, kinds of results)
    """
    run = open_run(flags.checkpoint)
    experiment, resolved = config.load(flags.gin_file, flags.gin_param, run, flags.trust_config)
    from htc_tf.cluster import Cluster, make_strategy
    from htc_tf.evaluation.records import detect_records
    from htc_tf.inference.detector import restore
    from htc_tf.training.checks import check_names
    from htc_tf.training.guard import memory_errors

    remedy = f"{flags.checkpoint} was trained on other classes; prepare the records with those"
    info = experiment.load_info(flags.records, remedy)
    check_names([category["name"] for category in run.read_categories()], run.classes, info)
    ground_truth, _ = read_ground_truth(flags, info)
    detector = restore(experiment, run, find_strategy=lambda: make_strategy(flags.devices, Cluster()))
    make_folder(output.parent)
    partial = open_partial_results(output.with_name(f"{output.stem}.partial.jsonl"), detector, resolved, info)
    with memory_errors(f"lower eval/Input.batch_size = {detector.input.batch_size} or IMAGE_MAX_SIDE"):
        results, image_ids, _ = detect_records(detector, info, partial=partial)
    saved = predictions_beside(output)
    write_whole(saved, json.dumps(results) + "\n")
    partial.remove()
    print(
        f"predictions are in {printable(saved)}; --predictions {shell_word(saved)} evaluates them again",
        file=sys.stderr,
    )
    return results, image_ids, ground_truth, info.category_ids, detector.kinds


def predictions_beside(output):
    """Returns the path of the predictions that are saved beside the metrics."""
    return output.with_name(f"{output.stem}.predictions.json")


def open_partial_results(path, detector, resolved, info):
    """Returns the PartialResults of these weights, configuration and data, including an earlier, killed call's."""
    from htc_tf.checkpoint import data_fingerprint
    from htc_tf.evaluation.partial_results import PartialResults, identify

    together = detector.replicas
    try:
        partial = PartialResults(
            path, identify(detector.model, resolved, data_fingerprint(info), str(together)), together
        )
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another --output") from error
    if partial.entries:
        print(f"{path}: {partial.images} of {info.images} images are detected already", file=sys.stderr)
    return partial


def read(flags):
    """Returns the same as `detect`, from files; the ids are None without records."""
    from htc_tf.data.datasets import load_info
    from htc_tf.evaluation import coco_files

    results = coco_files.read_results(flags.predictions)
    info = None if flags.records is None else load_info(flags.records)
    ground_truth, image_ids = read_ground_truth(flags, info)
    coco_files.check_file_names(results, ground_truth)
    images = [image["id"] for image in ground_truth["images"]] if image_ids is None else image_ids
    found = (result.get("image_id") for result in results)
    covered = len(set(images).intersection(number for number in found if coco_files.is_number(number)))
    if covered < len(images):
        print(f"{flags.predictions}: has results of {covered} of {len(images)} images", file=sys.stderr)
    return results, image_ids, ground_truth, None if info is None else info.category_ids, coco_files.find_kinds(results)


def read_ground_truth(flags, info):
    """Reads the ground truth: the annotation file, if it is given, or else the records' own.

    Args:
        flags: Namespace with `records` and `annotations`.
        info: DatasetInfo of the records, or None.
    Returns:
        (COCO's dictionary, image ids of the records or None)
    Raises:
        UserError: The annotations have other classes or images than the records.
    """
    from htc_tf.data.datasets import coco_from_records
    from htc_tf.evaluation import coco_files

    recorded = None if info is None else coco_from_records(info)
    image_ids = None if info is None else [image["id"] for image in recorded["images"]]
    if flags.annotations is None:
        return recorded, image_ids
    ground_truth = coco_files.read_ground_truth(flags.annotations)
    if info is not None:
        coco_files.check_same(recorded, ground_truth, flags.records, flags.annotations)
    return ground_truth, image_ids


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); name another folder") from error


def check_inputs_stay(flags, output):
    """Raises UserError if a file that is written is one of those that are read."""
    written = [output] if flags.predictions else [output, predictions_beside(output)]
    for flag, read in (("--predictions", flags.predictions), ("--annotations", flags.annotations)):
        for path in written:
            if read is not None and path.exists() and os.path.exists(read) and path.samefile(read):
                raise UserError(f"--output {output} would replace {flag} {read}: name another file")


@command
def main():
    flags = parse()
    output = Path(flags.output)
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: name a JSON file")
    check_inputs_stay(flags, output)
    from htc_tf.evaluation.evaluator import evaluate, load_backend

    load_backend(flags.backend)  # before hours of detection, not after
    if flags.report is not None:
        make_folder(Path(flags.report))
    from htc_tf.evaluation.coco_files import BadResult
    from htc_tf.evaluation.report import format_table, write_report

    try:
        found = detect(flags, output) if flags.predictions is None else read(flags)
        results, image_ids, ground_truth, category_ids, kinds = found
        evaluation = evaluate(ground_truth, results, category_ids, image_ids, kinds, flags.backend)
    except BadResult as error:
        raise UserError(f"{flags.predictions}: {error}" if flags.predictions else str(error)) from None
    metrics = evaluation.metrics
    if flags.report is not None:
        metrics |= write_report(evaluation, Path(flags.report))
    make_folder(output.parent)
    write_whole(output, json.dumps(metrics, indent=1) + "\n")
    print(format_table(metrics))
    report = "" if flags.report is None else f", and the charts in {flags.report}"
    print(printable(f"wrote {output}{report}"), file=sys.stderr)


if __name__ == "__main__":
    main()
