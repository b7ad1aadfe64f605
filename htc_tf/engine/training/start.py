"""Where a training's weights come from, and whether classes, records and weights are about the same things.

Called by `training.trainer` before step 1, once with the records and once with the model.
"""

import re
import sys

from htc_tf.engine.checkpoint import listed, restore_weights
from htc_tf.engine.inference import load_fitting
from htc_tf.engine.weights.assign import load
from htc_tf.engine.weights.files import read
from htc_tf.engine.weights.names import Framework
from htc_tf.engine.weights.swin_names import OUTPUT_NORMS
from htc_tf.engine.weights.versions import from_imagenet
from htc_tf.errors import UserError


def load_records(experiment, train_records, val_records):
    """-> (DatasetInfo of the training records, that of the validation records or None).

    Raises:
        UserError: their classes or labels are not those of the configuration, or not each other's.
    """
    train_info = load_fitting(experiment, train_records)
    check_labels(experiment.build_model(), train_info)
    if not val_records:
        return train_info, None
    val_info = load_fitting(experiment, val_records)
    check_names(val_info.class_names, val_records, train_info)
    return train_info, val_info


def check_labels(model, info):
    """A label that the semantic branch does not know would stop a step, or make it NaN."""
    head = model.semantic_head
    if head is not None and info.stuff.present and info.stuff.labels > head.num_labels:
        raise UserError(
            f"{info.folder} has {info.stuff.labels} semantic labels, but NUM_LABELS = {head.num_labels}: "
            f"add --gin_param NUM_LABELS={info.stuff.labels}"
        )


def check_names(names, where, info):
    """As many classes, but other ones or in another order, would train without any error."""
    for number, (theirs, ours) in enumerate(zip(names, info.class_names, strict=False), start=1):
        if theirs != ours:
            raise UserError(f"class {number} is {theirs!r} in {where}, but {ours!r} in {info.folder}")


def check_run(experiment, run, info):
    """The classes that a run's checkpoints were trained on, if it has any, must be those of the records."""
    if run.classes.exists():
        categories = run.read_categories()
        experiment.check_classes(categories, run.folder)
        check_names([category["name"] for category in categories], run.classes, info)


def check_determinism(experiment, model):
    """XLA refuses to compile the gradient of max pooling deterministically, and only a stem that learns needs it."""
    if experiment.xla and experiment.deterministic and any("/stem/" in v.name for v in model.trainable_variables):
        raise UserError(
            "XLA has no deterministic gradient of the backbone's max pooling: give up XLA or DETERMINISTIC, or freeze "
            "the stem (ResNet.frozen_stages = 0 or more)"
        )


def initialise(checkpoints, model, averages=None, init_from=None, backbone_weights=None):
    """Gives the model its first values: the first of these that there is.

    Args:
        checkpoints: the run's own Checkpoints of model, optimiser, step and averages.
        model: with variables.
        averages: MovingAverages of the model, or None.
        init_from: a Run, or None.
        backbone_weights: path of torchvision's weights of a ResNet, or of its authors' of a Swin; or None.
    Returns:
        A line that says where they come from, or None for the last.
    Raises:
        UserError: what is there lacks variables, or has them in other shapes; names and shapes are listed.
    """
    # 1. The run's own newest checkpoint: weights, optimiser, step, averages. A converted run has weights alone.
    path = checkpoints.restore_latest()
    if path is not None:
        source = path
        averages_stored = "averages" in checkpoints.stored
    # 2. --init_from RUN: the weights of another run, averaged where it averages; optimiser and step start afresh.
    elif init_from is not None:
        source, averages_stored = take_weights(init_from, model), False
    # 3. --backbone_weights FILE: a backbone trained on ImageNet; the rest is as in 5.
    elif backbone_weights is not None:
        source, averages_stored = take_backbone(backbone_weights, model), False
    # 4. The weights that the backbone itself can fetch: keras-cv's, trained on ImageNet; the rest is as in 5.
    elif (source := fetch_backbone(model)) is not None:
        averages_stored = False
    # 5. Scratch: the initial values that --seed draws.
    else:
        return None
    if averages is not None and not averages_stored:
        for average, weight in zip(averages.averages, averages.sources, strict=True):
            average.assign(weight)
    return source


def take_weights(run, model):
    """Weights alone, all of them."""
    if not run.folder.is_dir():
        raise UserError(f"--init_from {run.folder}: no such run")
    path = restore_weights(run, model)
    if path is None:
        raise UserError(f"--init_from {run.folder}: {run.checkpoints} holds no checkpoint")
    return path


def take_backbone(path, model):
    """Every variable of the backbone, from a .pth of a classifier."""
    arrays, notes = from_imagenet(read(path), path)
    unmatched = load(model, arrays, Framework.MMDET)
    wanted = [name for name in unmatched.missing if re.search(r"^backbone\.|/backbone/", name)]
    missing = [f"it lacks {name}" for name in wanted if not re.search(OUTPUT_NORMS, name)]
    bad = [*missing, *(f"not in the model: {name}" for name in unmatched.unexpected), *unmatched.misshapen]
    if bad:
        kind = type(model.backbone).__name__
        raise UserError(f"--backbone_weights {path} does not fit {kind} as configured: {listed(bad)}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return path


def fetch_backbone(model):
    """What a backbone such as KerasCVBackbone fetches, and is set to; None where there is nothing to fetch."""
    fetch = getattr(getattr(model, "backbone", None), "fetch_weights", None)
    return None if fetch is None else fetch()
