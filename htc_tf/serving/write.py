"""Export folders: a model version is written aside and renamed in one step, so that a server never sees half a model.

TensorFlow Serving, `htc_tf.client` and `inference.exported` read EXPORT/1, EXPORT/2, ...
"""

import contextlib
import json
import shutil

import tensorflow as tf

from htc_tf import formats, lock
from htc_tf.errors import UserError, reason_of
from htc_tf.inference.exported import CLASSES
from htc_tf.serving.module import Options, ServingModule
from htc_tf.serving.outputs import MASKS
from htc_tf.serving.warmup import WARMUP, write_warmup

LOCK = ".lock"


def export(detector, categories, folder, options=None):
    """Writes folder/1, or the next version if there are some.

    Args:
        detector: an inference.Detector; its model may have been built under a tf.distribute strategy.
        categories: [{"id", "name"}, ...] by class index; written to assets.extra/classes.json beside the model.
        folder: a Path.
        options: Options; by default without masks if the model has none.

    Returns:
        The version's folder.

    Raises:
        UserError: the model lacks something that the options ask for, another export writes into the folder, or the
            folder cannot be written.
    """
    model = detector.model
    options = options or Options(masks=Options().masks if model.masks else ())
    check_options(options, model)
    with hold_folder(folder):
        return _write_version(detector, categories, folder, options)


@contextlib.contextmanager
def hold_folder(folder):
    """Makes the folder, if it does not exist, and a context in which no other export may write into it.

    Raises:
        UserError: another export writes into it, or it cannot be written.
    """
    busy = f"--output {folder} is being written by {{holder}}: wait until that export ends, or name another --output"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock.hold(folder / LOCK, busy):
            yield
    except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:  # such as a full disk
        reason = getattr(error, "strerror", None) or reason_of(str(error))
        raise UserError(f"--output {folder} cannot be written ({reason})") from error


def _write_version(detector, categories, folder, options):
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    version = folder / str(max(versions, default=0) + 1)
    aside = folder / ".unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    module = ServingModule(detector, [category["name"] for category in categories], options)
    # An export is not trained, and its gradients may be compiled by XLA, which a server need not have.
    settings = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    signatures = module.signatures
    tf.saved_model.save(module, str(aside), signatures=signatures, options=settings)
    classes = aside / CLASSES
    classes.parent.mkdir()
    classes.write_text(json.dumps({"format": formats.EXPORT, "categories": categories}, indent=1) + "\n")
    write_warmup(aside / WARMUP, detector.input, options.batch_sizes, options.max_pixels)
    aside.rename(version)
    return version


def check_options(options, model):
    """Checks the options of an export.

    Raises:
        UserError: the options are out of range, or the model lacks something that they ask for.
    """
    unknown = [name for name in options.masks if name not in MASKS]
    if unknown:
        raise UserError(f"--masks {unknown[0]}: choose from {', '.join(MASKS)}, or none")
    if options.masks and not model.masks:
        raise UserError("--masks: the model has no mask branches (MASKS = False); give --masks none")
    if options.semantic and model.semantic_head is None:
        raise UserError("--semantic: the model has no semantic branch (SEMANTIC = False)")
    if options.xla and any(isinstance(variable, tf.distribute.DistributedValues) for variable in model.variables):
        raise UserError("--xla: XLA cannot compile a model that was built under a tf.distribute strategy; leave it out")
    sizes = options.batch_sizes
    if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
        raise UserError(f"--batch_sizes {','.join(map(str, sizes))}: give whole numbers from 1 on, ascending")
    if options.max_pixels < 1:
        raise UserError(f"--max_pixels {options.max_pixels}: give 1 or more")
