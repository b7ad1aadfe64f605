"""Conversion, told top to bottom: another framework's weights become a run that every command takes like a trained one.

Comes in the place of training, or before it: training in the new run's folder starts from these weights.
"""

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from htc_tf.checkpoint import Checkpoints
from htc_tf.data import coco_classes
from htc_tf.errors import UserError
from htc_tf.weights.assign import load
from htc_tf.weights.files import read
from htc_tf.weights.names import Framework
from htc_tf.weights.swin_names import OUTPUT_NORMS
from htc_tf.weights.versions import from_mmdet, from_paddle, from_swin, from_torchvision


class Source(NamedTuple):
    """How one --source is read: versions' function, whose names it yields, what it never brings along."""

    bring: Callable
    framework: Framework
    absent: str | None = None


SOURCES = {
    "mmdet": Source(from_mmdet, Framework.MMDET),
    "paddle": Source(from_paddle, Framework.PADDLE),
    "torchvision": Source(from_torchvision, Framework.MMDET, absent=r"^(?!backbone\.)"),
    "swin": Source(from_swin, Framework.MMDET, absent=rf"^(?!backbone\.)|{OUTPUT_NORMS}"),
}
# Units of the third stage's deltas in the Paddle port; 0.033 and 0.067 elsewhere.
PADDLE_STDS = (1 / 30, 1 / 30, 1 / 15, 1 / 15)
PADDLE_NOTE = (
    "the Paddle port was trained with stage 3's deltas in units of 1/30 and 1/15, this configuration has others: "
    "convert again with --gin_file gin/options/paddle.gin after the run file for the port's own numbers"
)


def convert(experiment, config, source, weights, run, annotations=None, allow_partial=()):
    """Writes the Run `run`: configuration, classes, and a checkpoint of step 0 that holds weights alone.

    Args:
        experiment: Experiment.
        config: the resolved gin, as text.
        source: a key of SOURCES.
        weights: path of the checkpoint file.
        run: a Run; its folder must not hold one yet.
        annotations: path of a COCO annotation file, for the classes; None takes COCO's 80.
        allow_partial: regular expressions; a name in which one is found may stay unmatched.
    Raises:
        UserError: the file is refused, or does not fit the configuration. Nothing was written.
    """
    patterns = [compile_pattern(pattern) for pattern in allow_partial]
    categories = choose_categories(annotations, experiment.num_classes)
    if run.config.exists() or run.checkpoints.exists():
        raise UserError(f"{run.folder} already holds a run: name another --output")
    kind = SOURCES[source]
    arrays, notes = kind.bring(read(weights), weights)
    check_finite(arrays, weights)

    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    model.build_variables()
    unmatched = load(model, arrays, kind.framework)
    kept = settle(unmatched, patterns, kind.absent, weights)

    run.create(config, categories)
    Checkpoints(run, model).save(0)
    if source == "paddle" and not has_paddle_stds(model):
        notes.append(PADDLE_NOTE)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    count = len(model.variables)
    print(f"{run.folder}: {count - kept} of {count} variables from {weights}, {kept} keep their initial values")


def settle(unmatched, patterns, absent, weights):
    """Lists what did not match; returns how many of our variables stay as they are.

    Raises:
        UserError: something did not match that neither the patterns nor the source's own `absent` covers.
    """
    missing = [name for name in unmatched.missing if absent is None or not re.search(absent, name)]
    lines = [f"missing in the file: {name}" for name in missing]
    lines += [f"not in the model: {name}" for name in unmatched.unexpected]
    lines += [f"another shape: {line}" for line in unmatched.misshapen]
    refused = 0
    for line in lines:
        name = line.split(": ")[1]
        allowed = any(pattern.search(name) for pattern in patterns)
        refused += not allowed
        print(f"{line}{' (allowed)' if allowed else ''}", file=sys.stderr)
    if refused:
        raise UserError(
            f"{weights} and the configuration differ in {refused} names, listed above: give the configuration that it "
            "was trained with, or cover them by --allow_partial PATTERN. Nothing was written"
        )
    return len(unmatched.missing) + len(unmatched.misshapen)


def compile_pattern(pattern):
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--allow_partial {pattern}: no regular expression ({error}); part of a name, such as fc_cls, is one"
        ) from error


def check_finite(arrays, weights):
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(f"{weights} holds NaN or infinity in {', '.join(bad[:8])}: its training failed")


def has_paddle_stds(model):
    third = [stage.target_stds for stage in model.stages[2:3]]
    return all(
        math.isclose(a, b, rel_tol=1e-3) for target_stds in third for a, b in zip(target_stds, PADDLE_STDS, strict=True)
    )


def choose_categories(annotations, num_classes):
    """[{"id": ..., "name": ...}, ...] in the order of the ids: an annotation file's, or COCO's.

    Raises:
        UserError: they are not `num_classes`, or the file is no annotation file.
    """
    if annotations is None:
        if num_classes != len(coco_classes.THING_NAMES):
            raise UserError(
                f"--annotations is missing: NUM_CLASSES = {num_classes}, and only COCO's 80 classes are known by name"
            )
        return [{"id": key, "name": name} for key, name in coco_classes.THING_NAMES.items()]
    try:
        rows = json.loads(Path(annotations).read_text(encoding="utf-8"))["categories"]
        names = {row["id"]: row["name"] for row in rows}
    except OSError as error:
        raise UserError(f"--annotations {annotations} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--annotations {annotations} is no COCO annotation file ({error})") from error
    if len(names) != num_classes:
        raise UserError(
            f"--annotations {annotations} has {len(names)} classes, but NUM_CLASSES = {num_classes}: "
            f"add --gin_param NUM_CLASSES={len(names)}"
        )
    return [{"id": key, "name": names[key]} for key in sorted(names)]
