"""Where a training's weights come from, and whether classes, records and weights are about the same things.

Called by `training.trainer` before step 1, once with the records and once with the model.
"""

import re
import sys

from htc_tf.checkpoint import listed, restore_weights
from htc_tf.errors import UserError
from htc_tf.evaluation.evaluator import FIGURES
from htc_tf.training.frozen import check_taught
from htc_tf.weights.assign import load
from htc_tf.weights.files import read
from htc_tf.weights.names import Framework
from htc_tf.weights.swin_names import OUTPUT_NORMS
from htc_tf.weights.versions import from_imagenet

# Share of the objects without a mask from which a training with masks warns.
FEW_MASKS = 0.1


def load_records(experiment, train_records, val_records):
    """-> (DatasetInfo of the training records, that of the validation records or None).

    Raises:
        UserError: their classes or labels are not those of the configuration, or not each other's; the records do not
            hold what the configuration would learn; evaluations are asked for without records.
    """
    train_info = experiment.load_info(train_records)
    model = experiment.build_model()
    check_labels(model, train_info)
    check_supervision(model, train_info)
    check_evaluations(experiment, model, val_records)
    if not val_records:
        return train_info, None
    val_info = experiment.load_info(val_records, f"prepare it with the classes of {train_records}")
    check_names(val_info.class_names, val_records, train_info)
    if (experiment.keep_best or "").startswith("segm") and not val_info.masks:
        raise UserError(f"Experiment.keep_best = {experiment.keep_best!r}, but {val_records} has no masks")
    return train_info, val_info


def check_supervision(model, info):
    """Refuses a branch that no record teaches: it would learn nothing, or to find nothing. Warns where few do.

    Args:
        model: HTC, without variables yet.
        info: DatasetInfo of the training records.
    """
    objects, empty = info.objects - info.crowd, info.counters.get("masks_empty", 0)
    if objects <= 0:
        what = f"all {info.crowd} annotations are crowd regions" if info.crowd else "no image has an annotation"
        raise UserError(f"{info.folder} holds no object to learn from: {what}")
    if model.semantic_head is not None and not info.stuff.present:
        raise UserError(
            f"{info.folder} has no stuff maps, and nothing else teaches the semantic branch (SEMANTIC = True): add "
            "--gin_file gin/options/no_semantic.gin, or prepare the data with --stuff"
        )
    if not model.masks:
        return
    if not info.masks or empty >= objects:
        what = f"only empty masks ({empty})" if info.masks else "no masks"
        raise UserError(
            f"{info.folder} has {what}, and nothing else teaches the mask heads (MASKS = True): add "
            "--gin_file gin/options/boxes_only.gin, or prepare the data with segmentations"
        )
    if empty >= FEW_MASKS * objects:
        print(
            f"warning: {empty} of {objects} objects of {info.folder} have an empty mask, and teach the mask heads to "
            "find nothing; gin/options/boxes_only.gin trains without masks",
            file=sys.stderr,
        )


def check_evaluations(experiment, model, val_records):
    """Evaluations need records, and `keep_best` one of the evaluation's metrics."""
    if experiment.evaluate_every and not val_records:
        raise UserError(
            f"EVALUATE_EVERY = {experiment.evaluate_every}, but there is nothing to evaluate on: give --val_records"
        )
    kinds = ("bbox", "segm") if model.masks else ("bbox",)
    known = [f"{kind}/{figure}" for kind in kinds for figure in FIGURES]
    if experiment.keep_best is not None and experiment.keep_best not in known:
        raise UserError(
            f"Experiment.keep_best = {experiment.keep_best!r} is no metric: choose one of {', '.join(known)}"
        )


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
        experiment.check_classes(categories, run.folder, "its weights have the former number; name another --workdir")
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
        UserError: what is there lacks variables, or has them in other shapes; names and shapes are listed. Or parts
            are frozen that get no trained weights.
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
        check_taught(model, backbone=True)
    # 4. The weights that the backbone itself can fetch: keras-cv's, trained on ImageNet; the rest is as in 5.
    elif (source := fetch_backbone(model)) is not None:
        averages_stored = False
        check_taught(model, backbone=True)
    # 5. Scratch: the initial values that --seed draws.
    else:
        check_taught(model, backbone=False)
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
