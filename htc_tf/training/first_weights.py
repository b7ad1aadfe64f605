"""First weights of a training: the newest checkpoint, another run or file, a backbone, or initial values."""

import os
import re
import sys
from pathlib import Path

from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError, listed
from htc_tf.run import Run
from htc_tf.training.adoption import adopt
from htc_tf.training.frozen import check_frozen
from htc_tf.training.stored_weights import StoredWeights
from htc_tf.weights.assign import NamedWeights, load
from htc_tf.weights.model_zoo import find, locate
from htc_tf.weights.public_weights import IMAGENET_STD
from htc_tf.weights.sources import read_weights
from htc_tf.weights.tables import vit
from htc_tf.weights.tables.composite import LINK_NAMES
from htc_tf.weights.tables.swin import OUTPUT_NORMS
from htc_tf.weights.tables.switchable import ADDED, SECOND

NOTHING = "none"  # --backbone_weights none: initial values
MAX_SCALE = 2.0  # between the pixels of weights and those of the model that takes them
OPTIONAL = rf"{OUTPUT_NORMS}|{LINK_NAMES}|{ADDED}|{vit.ADDED}"  # names that the weights of a backbone may lack


def initialize(
    checkpoints, model, averages=None, init_from=None, backbone_weights=None, configured=None, class_names=()
):
    """Initializes the model from the first available of five sources.

    Args:
        checkpoints: Checkpoints of the run: model, optimizer, step and averages.
        model: Keras layer with variables.
        averages: MovingAverages of the model, or None.
        init_from: Run; or str or path, the folder of one, a name of `model_zoo.WEIGHTS`, or a checkpoint file of
            another framework; or None.
        backbone_weights: str, a name of `model_zoo.WEIGHTS` or a checkpoint file with the weights of the backbone; or
            "none" for no weights, or None for `configured`.
        configured: str, `experiment.backbone_weights`, or None.
        class_names: list of str, the model's classes.
    Returns:
        str, the source, or None if the values are initial ones.
    Raises:
        UserError: The source does not fit; names and shapes are listed. Or frozen parts would get no trained weights.
    """
    # 1. The run's own newest checkpoint: weights, optimizer, step, averages. A converted run has weights alone.
    path = checkpoints.restore_latest()
    if path is not None:
        source = path
        averages_stored = "averages" in checkpoints.stored
    # 2. --init_from SOURCE: what fits of the weights of another run, averaged if it averages, or of a file.
    elif init_from is not None:
        source, averages_stored = load_weights(init_from, model, class_names), False
    # 3. --backbone_weights, or the configuration's: a backbone trained on ImageNet; the rest as in 5.
    elif (backbone_weights or configured or NOTHING) != NOTHING:
        source, averages_stored = load_backbone(backbone_weights or configured, model), False
        second = getattr(model.neck, "backbone", None)  # RecursiveFPN's
        check_frozen(model, map(id, [*model.backbone.weights, *(second.weights if second else ())]))
    # 4. Weights that the backbone itself downloads: keras-cv's, trained on ImageNet; the rest as in 5.
    elif backbone_weights != NOTHING and (source := fetch_backbone(model)) is not None:
        averages_stored = False
        check_frozen(model, map(id, model.backbone.weights))
    # 5. Scratch: initial values, drawn by --seed.
    else:
        check_frozen(model, backbone=configured)
        return None
    if averages is not None and not averages_stored:
        for average, weight in zip(averages.averages, averages.sources, strict=True):
            average.assign(weight)
    return source


def load_weights(init_from, model, class_names):
    """Sets the weights of a model that a run, public weights or a file have, and prints which ones if some are new."""
    optional = ()
    if isinstance(init_from, os.PathLike):
        init_from = os.fspath(init_from)
    check_whole(init_from)
    if is_run(init_from):
        run = init_from if isinstance(init_from, Run) else Run(init_from)
        source, gin_files = read_run(run, model), [run.config]
    else:
        named = find(str(init_from), "--init_from")
        if named is not None:
            check_pixels(init_from, named.pixel_std, model)
        path, kind = locate(str(init_from), "--init_from")
        weights = read_weights(path, kind)
        print_notes(weights.notes)
        source = NamedWeights(str(init_from), model, weights.arrays, weights.framework, weights.class_names)
        gin_files = () if named is None else named.gin_files
        optional = {key for key, entry in source.entries.items() if re.search(OPTIONAL, entry.name)}
    adopted = adopt(model, source, class_names, gin_files, optional)
    check_frozen(model, {*adopted.variables, *optional})
    for line in adopted.table:
        print(line, flush=True)
    return source.name


def is_run(source):
    """Returns True for a Run or a folder, also for a missing one: a path with a slash and without a suffix."""
    if isinstance(source, Run):
        return True
    return source != "" and (Path(source).is_dir() or ("/" in str(source) and not Path(source).suffix))


def check_whole(source):
    """Refuses RUN/checkpoints and what is in it: the run's other files say what the checkpoints are."""
    path = source.folder if isinstance(source, Run) else Path(source)
    for folder in (path, path.parent):
        run = Run(folder.parent)
        if folder == run.checkpoints and run.config.exists():
            raise UserError(f"--init_from {path} is a part of a run: give the run's folder, {run.folder}")


def read_run(run, model):
    """Returns the StoredWeights of a run's newest intact checkpoint."""
    run.check_exists()
    checkpoints = Checkpoints(run, model)
    number = checkpoints.find_latest()
    if number is None:
        raise UserError(f"--init_from {run.folder}: {run.checkpoints} holds no checkpoint; give the folder of a run")
    if run.config.exists():
        check_pixels(f"the run {run.folder}", read_pixel_std(run), model)
    return StoredWeights(str(checkpoints.files.prefix(number)), model, [row["name"] for row in run.read_categories()])


def load_backbone(text, model):
    """Loads every variable of the backbone from a checkpoint file or public weights, and returns the file's path."""
    named = find(str(text), "--backbone_weights")
    if named is not None:
        check_pixels(text, named.pixel_std, model)
    try:
        path, kind = locate(str(text), "--backbone_weights")
    except UserError as error:
        if named is None:
            raise
        raise UserError(
            f"{error}. To start without: --backbone_weights {NOTHING} --gin_file gin/options/from_scratch.gin"
        ) from error
    weights = read_weights(path, kind)
    arrays = {name: array for name, array in weights.arrays.items() if name.startswith("backbone.")}
    unmatched = load(model, arrays, weights.framework)
    wanted = [name for name in unmatched.missing if re.search(rf"^(backbone|{SECOND})\.|/backbone/", name)]
    missing = [f"it lacks {name}" for name in wanted if not re.search(OPTIONAL, name)]
    bad = [*missing, *(f"not in the model: {name}" for name in unmatched.unexpected), *unmatched.mismatched]
    if bad:
        kind = type(model.backbone).__name__
        raise UserError(f"--backbone_weights {path} does not fit {kind} as configured: {listed(bad)}")
    print_notes(weights.notes)
    return str(path)


def check_pixels(source, theirs, model):
    """Refuses weights of pixels in another scale: names and shapes fit, but the first convolution expects others.

    Args:
        source: str, for the message.
        theirs: 3 floats, what the source's pixels were divided by; None if unknown.
        model: Keras layer; an HTC has `pixel_std`.
    """
    ours = getattr(model, "pixel_std", None)
    if ours is None or theirs is None:
        return
    if any(max(own, their) > MAX_SCALE * min(own, their) for own, their in zip(ours, theirs, strict=True)):
        raise UserError(
            f"HTC.pixel_std = {ours}, but {source} was trained with {theirs}: bind that, or choose weights "
            "that fit the configuration"
        )


def read_pixel_std(run):
    """Returns HTC.pixel_std of a run's configuration; None if it is not three plain numbers there."""
    bound = re.search(r"^HTC\.pixel_std = (.*)$", run.read_config(), re.MULTILINE)
    numbers = re.fullmatch(r"\((\d+\.?\d*), (\d+\.?\d*), (\d+\.?\d*)\)", bound[1]) if bound else None
    return IMAGENET_STD if bound is None else numbers and tuple(map(float, numbers.groups()))


def fetch_backbone(model):
    """Returns the source of the weights that a backbone such as KerasCVBackbone downloads and sets, or None."""
    fetch = getattr(getattr(model, "backbone", None), "fetch_weights", None)
    return None if fetch is None else fetch()


def print_notes(notes):
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
