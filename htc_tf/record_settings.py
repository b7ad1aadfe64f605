"""Settings that the training records decide: the length in steps, the epoch, the classes, and which branches train.

`config.load` binds them as macros before anything is built, so that a run's config.gin holds plain numbers.
"""

import math

EPOCH = "epoch"  # CHECKPOINT_EVERY and EVALUATE_EVERY: once an epoch
BATCH_SIZE = "Experiment.batch_size"
# What `decide` reads: macros, and parameters of the Experiment.
NAMES = ("EPOCHS", "STEPS", "CHECKPOINT_EVERY", "EVALUATE_EVERY", "NUM_CLASSES", "NUM_LABELS", "SEMANTIC", "MASKS")
NAMES += (BATCH_SIZE, "Experiment.fit_to_records", "Experiment.keep_best")  # type: ignore[assignment]  # a longer tuple


def steps_per_epoch(records, batch_size):
    """Returns the steps in which a training reads as many images as the records hold, rounded up.

    An option that repeats some of the images, such as ClassBalance, does not lengthen an epoch.
    """
    return max(1, math.ceil(records / batch_size))


def decide(bound, info, validates):
    """Decides settings from the records.

    Args:
        bound: {name: value} of the names in `NAMES` that the configuration binds; others are not bound.
        info: DatasetInfo of the training records.
        validates: If True, there are records to evaluate on.
    Returns:
        (values, remarks): {name: value} of the settings that change, and {name: text} of those whose value needs a
        remark, such as "12 epochs of 75 steps".
    """
    values, remarks = {}, {}
    epoch = steps_per_epoch(info.records, bound[BATCH_SIZE])
    if info.categories and ("NUM_CLASSES" not in bound or bound.get("Experiment.fit_to_records")):
        values["NUM_CLASSES"] = info.num_classes
    if bound.get("EPOCHS") is not None:
        epochs = bound["EPOCHS"]
        values |= {"EPOCHS": None, "STEPS": max(1, round(epochs * epoch))}
        remarks["STEPS"] = f"{epochs:g} epoch{'s' * (epochs != 1)} of {epoch} step{'s' * (epoch != 1)}"
    for name in ("CHECKPOINT_EVERY", "EVALUATE_EVERY"):
        if bound.get(name) == EPOCH:
            values[name] = epoch
    if bound.get("EVALUATE_EVERY", 0) is None:
        values["EVALUATE_EVERY"] = epoch if validates else 0
    if bound.get("Experiment.fit_to_records"):
        fitted, reasons = fit_branches(bound, info)
        values, remarks = values | fitted, remarks | reasons
    return {name: value for name, value in values.items() if name not in bound or bound[name] != value}, remarks


def fit_branches(bound, info):
    """Returns (values, remarks) that turn off the branches that the records have no annotations for."""
    values, remarks = {}, {}
    if info.stuff.present and "NUM_LABELS" in bound:
        values["NUM_LABELS"] = info.stuff.labels
    if not info.stuff.present and bound.get("SEMANTIC"):
        values["SEMANTIC"], remarks["SEMANTIC"] = False, "no stuff maps"
    if not info.masks and bound.get("MASKS"):
        values["MASKS"], remarks["MASKS"] = False, "no masks"
        best = bound.get("Experiment.keep_best")
        if isinstance(best, str):
            values["Experiment.keep_best"] = best.replace("segm/", "bbox/")
    return values, remarks


def describe(values, remarks, folder):
    """Returns "from records/train: NUM_CLASSES = 3, STEPS = 900 (12 epochs of 75 steps)"."""
    shown = [
        f"{name} = {value!r}" + (f" ({remarks[name]})" if name in remarks else "")
        for name, value in values.items()
        if value is not None and (name, value) != ("EVALUATE_EVERY", 0)
    ]
    return f"from {folder}: {', '.join(shown)}" if shown else ""
