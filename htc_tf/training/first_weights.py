"""First weights of a training: the newest checkpoint, another run, a backbone, or initial values."""

import re
import sys

from htc_tf.checkpoint import listed, restore_weights
from htc_tf.errors import UserError
from htc_tf.training.frozen import check_frozen
from htc_tf.weights.assign import load
from htc_tf.weights.files import read
from htc_tf.weights.names import SWIN_OUTPUT_NORMS, Framework
from htc_tf.weights.versions import from_imagenet


def initialize(checkpoints, model, averages=None, init_from=None, backbone_weights=None):
    """Initializes the model from the first available of five sources.

    Args:
        checkpoints: Checkpoints of the run: model, optimizer, step and averages.
        model: Keras layer with variables.
        averages: MovingAverages of the model, or None.
        init_from: Run, or None.
        backbone_weights: Path of torchvision's weights of a ResNet, or of the authors' weights of a Swin; or None.
    Returns:
        str, the source, or None if the values are initial ones.
    Raises:
        UserError: The source lacks variables, or has them in other shapes; names and shapes are listed. Or frozen parts
            would get no trained weights.
    """
    # 1. The run's own newest checkpoint: weights, optimizer, step, averages. A converted run has weights alone.
    path = checkpoints.restore_latest()
    if path is not None:
        source = path
        averages_stored = "averages" in checkpoints.stored
    # 2. --init_from RUN: the weights of another run, averaged if it averages; optimizer and step are new.
    elif init_from is not None:
        source, averages_stored = load_weights(init_from, model), False
    # 3. --backbone_weights FILE: a backbone trained on ImageNet; the rest as in 5.
    elif backbone_weights is not None:
        source, averages_stored = load_backbone(backbone_weights, model), False
        check_frozen(model, backbone=True)
    # 4. Weights that the backbone itself downloads: keras-cv's, trained on ImageNet; the rest as in 5.
    elif (source := fetch_backbone(model)) is not None:
        averages_stored = False
        check_frozen(model, backbone=True)
    # 5. Scratch: initial values, drawn by --seed.
    else:
        check_frozen(model, backbone=False)
        return None
    if averages is not None and not averages_stored:
        for average, weight in zip(averages.averages, averages.sources, strict=True):
            average.assign(weight)
    return source


def load_weights(run, model):
    """Restores all weights of a run, and nothing else."""
    run.check_exists()
    path = restore_weights(run, model)
    if path is None:
        raise UserError(f"--init_from {run.folder}: {run.checkpoints} holds no checkpoint")
    return path


def load_backbone(path, model):
    """Loads every variable of the backbone from the .pth file of a classifier."""
    arrays, notes = from_imagenet(read(path), path)
    unmatched = load(model, arrays, Framework.MMDET)
    wanted = [name for name in unmatched.missing if re.search(r"^backbone\.|/backbone/", name)]
    missing = [f"it lacks {name}" for name in wanted if not re.search(SWIN_OUTPUT_NORMS, name)]
    bad = [*missing, *(f"not in the model: {name}" for name in unmatched.unexpected), *unmatched.mismatched]
    if bad:
        kind = type(model.backbone).__name__
        raise UserError(f"--backbone_weights {path} does not fit {kind} as configured: {listed(bad)}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return path


def fetch_backbone(model):
    """Returns the source of the weights that a backbone such as KerasCVBackbone downloads and sets, or None."""
    fetch = getattr(getattr(model, "backbone", None), "fetch_weights", None)
    return None if fetch is None else fetch()
