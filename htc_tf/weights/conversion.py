"""Conversion of another framework's checkpoint to a run, which every command reads like a trained one.

Training in the folder of the new run starts from its weights.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from htc_tf.checkpoint import Checkpoints
from htc_tf.data import annotations as coco_file
from htc_tf.data import coco_classes
from htc_tf.errors import UserError, listed
from htc_tf.run import Run, sync
from htc_tf.weights.assign import Unmatched, load
from htc_tf.weights.sources import SOURCES, read_weights

if TYPE_CHECKING:
    from htc_tf.experiment import Experiment
    from htc_tf.models.htc import HTC


# target_stds of the third stage in the Paddle port; 0.033 and 0.067 elsewhere.
PADDLE_STDS = (1 / 30, 1 / 30, 1 / 15, 1 / 15)
PADDLE_NOTE = (
    "the Paddle port was trained with target_stds of 1/30 and 1/15 in stage 3, this configuration has others: convert "
    "again with --gin_file gin/options/paddle.gin after the experiment config to reproduce the port's numbers"
)


def convert(
    experiment: Experiment,
    config: str,
    path: str | os.PathLike,
    run: Run,
    source: str | None = None,
    ema: bool | None = None,
    annotations: str | os.PathLike | None = None,
    allow_partial: Sequence[str] = (),
) -> tuple[int, int]:
    """Writes a run: configuration, classes, and a checkpoint of step 0 with weights only.

    Args:
        experiment: The Experiment.
        config: Resolved gin configuration, as text.
        path: Path of the checkpoint file.
        run: The Run to write; its folder must not hold one yet.
        source: Key of `sources.SOURCES`, or None to tell it by the names in the file.
        ema: bool, True for the file's averaged weights, False for its last ones, None for those that its framework
            loads.
        annotations: Path of a COCO annotation file with the classes; None for those that the file names, or COCO's 80.
        allow_partial: Regular expressions; names that one of them matches may stay unmatched.
    Returns:
        (number of variables that got weights, number of all variables)
    Raises:
        UserError: The file is refused or does not fit the configuration; nothing is written.
    """
    check_new(run)
    patterns = [compile_pattern(pattern) for pattern in allow_partial]
    categories = read_categories(annotations, experiment.num_classes) if annotations else None
    weights = read_weights(path, source, ema)
    notes = [*weights.notes, *compare_order(categories or (), weights.class_names or (), annotations)]
    categories = categories or name_categories(weights.class_names, experiment.num_classes)

    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    model.build_variables()
    unmatched = load(model, weights.arrays, weights.framework)
    kept = check_unmatched(unmatched, patterns, SOURCES[weights.source].absent, path)

    write_run(run, config, categories, model)
    foreign = weights.source == "paddle" and not has_paddle_stds(model)
    for note in [*notes, *([PADDLE_NOTE] if foreign else [])]:
        print(f"note: {note}", file=sys.stderr)
    count = len(model.variables)
    return count - kept, count


def write_run(run: Run, config: str, categories: list[dict[str, Any]], model: HTC) -> None:
    """Writes a run aside, then renames its files: a failure while writing, such as a full disk, leaves none of them.

    config.gin is the last, so that a folder with it holds a whole run even after a kill.
    """
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(prefix=".aside", dir=run.folder)
    except OSError as error:
        raise UserError(f"{run.folder} cannot be written ({error.strerror}): name another folder") from error
    with aside:
        made = Run(aside.name)
        made.create(config, categories)
        Checkpoints(made, model).save(0)
        for path in (made.checkpoints, made.classes, made.config):
            path.rename(run.folder / path.name)
        sync(run.folder)


def check_new(run: Run) -> None:
    """Raises a UserError if the folder holds a run, or checkpoints whose place a run would need."""
    if run.config.exists():
        raise UserError(f"{run.folder} already holds a run: name another --output")
    if run.checkpoints.exists():  # of a killed conversion, or the user's own
        raise UserError(f"{run.checkpoints} is there without config.gin: move it away, or name another --output")


def check_unmatched(
    unmatched: Unmatched, patterns: Sequence[re.Pattern[str]], absent: str | None, weights: str | os.PathLike
) -> int:
    """Prints the names that did not match and returns the number of variables that keep their initial values.

    Raises:
        UserError: Neither a pattern nor the source's `absent` covers one of the names.
    """
    missing = [name for name in unmatched.missing if absent is None or not re.search(absent, name)]
    lines = [f"missing in the file: {name}" for name in missing]
    lines += [f"not in the model: {name}" for name in unmatched.unexpected]
    lines += [f"another shape: {line}" for line in unmatched.mismatched]
    refused = 0
    for line in lines:
        name = line.split(": ")[1]
        allowed = any(pattern.search(name) for pattern in patterns)
        refused += not allowed
        print(f"{line}{' (allowed)' if allowed else ''}", file=sys.stderr)
    if refused:
        raise UserError(
            f"{weights} and the configuration differ in {refused} names, listed above: give the configuration of its "
            "training, or allow them with --allow_partial PATTERN. Nothing was written"
        )
    return len(unmatched.missing) + len(unmatched.mismatched)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--allow_partial {pattern}: not a regular expression ({error}); a part of a name, such as fc_cls, is one"
        ) from error


def has_paddle_stds(model: HTC) -> bool:
    """Returns True if the third stage, if any, has the Paddle port's target_stds."""
    third_stage = model.stages[2:3]
    return all(np.allclose(stage.target_stds, PADDLE_STDS, rtol=1e-3, atol=0) for stage in third_stage)


def name_categories(names: Sequence[str] | None, num_classes: int) -> list[dict[str, Any]]:
    """Returns [{"id": ..., "name": ...}] of the classes that a checkpoint names, or of COCO's 80.

    Args:
        names: [str] in the order of the model's classes, or None.
        num_classes: int, the number of classes of the configuration.
    Raises:
        UserError: The names are unknown, or their number is not `num_classes`.
    """
    coco = coco_classes.THING_NAMES
    if names is not None and len(names) != num_classes:
        raise UserError(
            f"NUM_CLASSES = {num_classes}, but the file has {len(names)} classes: add --gin_param "
            f"NUM_CLASSES={len(names)}, or --annotations with other classes"
        )
    names = list(coco.values()) if names is None else names
    if len(names) != num_classes:
        raise UserError(
            f"--annotations is missing: NUM_CLASSES = {num_classes}, and the file does not name its classes"
        )
    ids = coco if names == list(coco.values()) else range(1, num_classes + 1)
    return [{"id": key, "name": name} for key, name in zip(ids, names, strict=True)]


def compare_order(
    categories: Sequence[dict[str, Any]], names: Sequence[str], annotations: str | os.PathLike | None
) -> list[str]:
    """Returns a note if a file states the classes of --annotations in another order than that of their ids, else none.

    Neither order is surely the one of the outputs: mmdetection numbers classes in the order in which its annotation
    file lists them, and states those of its configuration.
    """
    by_id = [row["name"] for row in categories]
    if by_id == list(names) or sorted(by_id) != sorted(names):
        return []
    return [
        f"the file lists its classes as {listed(names)}, {annotations} by their ids as {listed(by_id)}: outputs are "
        "named by the ids; if detections have the wrong names, convert without --annotations, or renumber its ids"
    ]


def read_categories(annotations: str | os.PathLike, num_classes: int) -> list[dict[str, Any]]:
    """Returns [{"id": ..., "name": ...}] of a COCO annotation file, in the order of the ids.

    The file is read, and repaired, as by the preparation and the evaluation.

    Raises:
        UserError: Their number is not `num_classes`, or the file is not an annotation file.
    """
    repairs: Counter = Counter()
    try:
        with open(annotations, "rb") as file:
            content = {"categories": coco_file.load(file, f"--annotations {annotations}", repairs)["categories"]}
        coco_file.repair(content, repairs)
        rows = content["categories"]
        names = {row["id"]: row["name"] for row in rows}
        if not all(type(key) is int for key in names):
            raise ValueError("an id is not a whole number")
        if not all(isinstance(name, str) for name in names.values()):
            raise ValueError("a name is not a string")
        if len(names) != len(rows):
            raise ValueError("an id occurs twice")
    except OSError as error:
        raise UserError(f"--annotations {annotations} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--annotations {annotations} is not a COCO annotation file ({error})") from error
    if len(names) != num_classes:
        raise UserError(
            f"--annotations {annotations} has {len(names)} classes, but NUM_CLASSES = {num_classes}: "
            f"add --gin_param NUM_CLASSES={len(names)}"
        )
    coco_file.print_repairs(str(annotations), repairs)
    return [{"id": key, "name": names[key]} for key in sorted(names)]
