"""Checks before the first step: classes, records, configuration and evaluations must fit together."""

import difflib
import sys

from htc_tf.errors import UserError
from htc_tf.evaluation.evaluator import METRICS

MANY_EMPTY_MASKS = 0.1  # share of the objects with an empty mask at which a training with masks warns


def load_records(experiment, train_records, val_records):
    """Returns the DatasetInfos of the training and the validation records; the second is None without any.

    Raises:
        UserError: Classes or labels differ from the configuration or from each other; the records lack the annotations
            that the configuration needs; evaluations are configured without records.
    """
    check_length(experiment)
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
    if experiment.keep_best and val_info.objects <= val_info.crowd:  # COCO's metrics would be -1 throughout
        raise UserError(
            f"Experiment.keep_best = {experiment.keep_best!r}, but {val_records} holds no object to detect: give "
            "--val_records with objects, or leave keep_best out"
        )
    return train_info, val_info


def check_length(experiment):
    """Refuses a training whose length is unknown."""
    if experiment.steps is None and experiment.epochs is None:
        raise UserError("nothing sets the length of the training: add --gin_param EPOCHS=12, or STEPS")
    in_epochs = [f"EPOCHS = {experiment.epochs}"] if experiment.epochs is not None else []
    intervals = {"CHECKPOINT_EVERY": experiment.checkpoint_every, "EVALUATE_EVERY": experiment.evaluate_every}
    in_epochs += [f"{name} = 'epoch'" for name, every in intervals.items() if every == "epoch"]
    if in_epochs:
        raise UserError(
            f"{in_epochs[0]} needs the size of the records: set the macro, and give config.load the train_records"
        )


def check_supervision(model, info):
    """Refuses records without annotations for a branch of the model; warns if many objects have an empty mask.

    Args:
        model: HTC, without variables yet.
        info: DatasetInfo of the training records.
    """
    objects, empty = info.objects - info.crowd, info.counters.get("masks_empty", 0)
    if objects <= 0:
        what = f"all {info.crowd} annotations are crowd regions" if info.crowd else "no image has an annotation"
        raise UserError(f"{info.folder} holds no object to train on: {what}")
    if model.semantic_head is not None and not info.stuff.present:
        raise UserError(
            f"{info.folder} has no stuff maps, which the semantic branch is trained on (SEMANTIC = True): add "
            "--gin_file gin/options/no_semantic.gin, or prepare the data with --stuff"
        )
    if not model.masks:
        return
    if not info.masks or empty >= objects:
        what = f"only empty masks ({empty})" if info.masks else "no masks"
        raise UserError(
            f"{info.folder} has {what}, which the mask heads are trained on (MASKS = True): add "
            "--gin_file gin/options/boxes_only.gin, or prepare the data with segmentations"
        )
    if empty >= MANY_EMPTY_MASKS * objects:
        print(
            f"warning: {empty} of {objects} objects of {info.folder} have an empty mask, which trains the mask heads "
            "to predict nothing; gin/options/boxes_only.gin trains without masks",
            file=sys.stderr,
        )


def check_evaluations(experiment, model, val_records):
    """Checks that evaluations have records, and that `keep_best` is one of their metrics; `patience` needs it."""
    best = experiment.keep_best
    if experiment.evaluate_every and not val_records:
        raise UserError(
            f"EVALUATE_EVERY = {experiment.evaluate_every}, but there are no records to evaluate on: give --val_records"
        )
    kinds = ("bbox", "segm") if model.masks else ("bbox",)
    known = [f"{kind}/{figure}" for kind in kinds for figure in METRICS]
    if best is not None and best not in known:
        (nearest,) = difflib.get_close_matches(str(best), known, n=1, cutoff=0)
        raise UserError(
            f"Experiment.keep_best = {best!r} is not a metric: did you mean {nearest!r}? There are {', '.join(known)}"
        )
    if best is not None and not experiment.evaluate_every:
        remedy = "set EVALUATE_EVERY, such as 'epoch'" if val_records else "give --val_records"
        raise UserError(f"Experiment.keep_best = {best!r} needs evaluations: {remedy}")
    if experiment.patience is not None and best is None:
        raise UserError(
            f"Experiment.patience = {experiment.patience} counts evaluations without a better keep_best: set "
            "Experiment.keep_best, such as 'segm/AP'"
        )


def check_labels(model, info):
    """Refuses labels that the semantic branch does not have, which would stop a step or make it NaN."""
    head = model.semantic_head
    if head is not None and info.stuff.present and info.stuff.labels > head.num_labels:
        raise UserError(
            f"{info.folder} has {info.stuff.labels} semantic labels, but NUM_LABELS = {head.num_labels}: "
            f"add --gin_param NUM_LABELS={info.stuff.labels}"
        )


def check_names(names, where, info):
    """Refuses other classes, or another order, in the same number: they would train without any error."""
    for number, (theirs, ours) in enumerate(zip(names, info.class_names, strict=False), start=1):
        if theirs != ours:
            raise UserError(f"class {number} is {theirs!r} in {where}, but {ours!r} in {info.folder}")


def check_run(experiment, run, info):
    """Checks that the classes of a run's checkpoints, if it has any, equal the records' classes."""
    if run.classes.exists():
        categories = run.read_categories()
        experiment.check_classes(categories, run.folder, "its weights are for its own classes; name another --workdir")
        check_names([category["name"] for category in categories], run.classes, info)


def check_continues(run, checkpoints):
    """Refuses to continue RUN/best, whose weights have the number of a step, but no step and no optimizer.

    The checkpoints of the new steps would have lower numbers, and so be older than those weights.
    """
    if checkpoints.held and "step" not in checkpoints.stored:
        raise UserError(
            f"{run.folder} holds weights alone, of step {checkpoints.held}, and no training to continue: give "
            f"--init_from {run.folder} and another --workdir"
        )


def check_determinism(experiment, model):
    """Refuses XLA with determinism if layers before a max pooling are trained: XLA has no deterministic gradient of it.

    Backbones with max pooling have a property `trains_max_pooling`.
    """
    if not (experiment.xla and experiment.deterministic):
        return
    if any(getattr(layer, "trains_max_pooling", False) for layer in model.submodules):
        raise UserError(
            "XLA has no deterministic gradient of the backbone's max pooling: turn off XLA or DETERMINISTIC, or freeze "
            "the layers before it (ResNet.frozen_stages = 0 or more, KerasCVBackbone.frozen_stages = 1 or more)"
        )


def check_profile(profile, step, steps):
    """Prints a note if none of the steps to profile, (first, last), is among those left, `step` + 1 to `steps`."""
    if profile is not None and max(profile[0], step + 1) > min(profile[1], steps):
        span = ":".join(map(str, profile))
        print(f"note: --profile {span} profiles nothing: the training is at step {step} of {steps}", file=sys.stderr)
