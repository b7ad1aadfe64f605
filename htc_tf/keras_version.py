"""Keras 2 as `tf.keras`: TensorFlow 2.16 and later take it from the package tf_keras, if a variable says so in time.

TensorFlow reads TF_USE_LEGACY_KERAS as it is imported, for `import tensorflow.keras`, and at the first use of
`tf.keras`. Without it, both are Keras 3, which htc_tf is not written for. TensorFlow 2.15 has Keras 2 in any case.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from htc_tf.errors import UserError

VARIABLE = "TF_USE_LEGACY_KERAS"
ON = ("1", "true", "True")  # the values that TensorFlow accepts
KERAS_3 = "_tf_keras"  # the folder in Keras 3 that holds its `tf.keras`


def choose_keras_2():
    """Makes Keras 2 the `tf.keras` of this process and of those it starts; `htc_tf/__init__.py` calls it.

    It imports nothing, and leaves alone a variable that the user has set, and a `tf.keras` already in use.
    """
    tensorflow = sys.modules.get("tensorflow")
    if not _has_keras_3() or not find_spec("tf_keras") or _uses_keras_3(tensorflow):
        return
    if os.environ.setdefault(VARIABLE, "1") in ON and tensorflow is not None:
        # TensorFlow was imported without the variable: `import tensorflow.keras` would still find Keras 3.
        folder = str(Path(find_spec("tf_keras").origin).parent / "api" / "_v2")
        if folder not in tensorflow.__path__:
            tensorflow.__path__.insert(0, folder)


def check_keras_2():
    """Checks that `tf.keras` is Keras 2, before the first of our layers is made.

    Raises:
        UserError: It is Keras 3, or would be.
    """
    if not _has_keras_3():
        return
    if _uses_keras_3(sys.modules.get("tensorflow")):
        raise UserError(
            f"tf.keras is already in use as Keras 3, and htc_tf needs Keras 2: import htc_tf before the first use of "
            f"tf.keras, or set the environment variable {VARIABLE}=1 before Python starts"
        )
    if not find_spec("tf_keras"):
        raise UserError(f"htc_tf needs Keras 2, which is missing: pip install tf_keras=={_matching_version()}")
    if os.environ.get(VARIABLE) not in ON:
        raise UserError(
            f"{VARIABLE}={os.environ.get(VARIABLE, '')} makes tf.keras Keras 3, and htc_tf needs Keras 2: unset the "
            f"variable, or set it to 1"
        )


def _has_keras_3():
    """Says whether the installed package keras is Keras 3, without importing it."""
    spec = find_spec("keras")
    return any((Path(folder) / KERAS_3).is_dir() for folder in (spec and spec.submodule_search_locations) or ())


def _uses_keras_3(tensorflow):
    """Says whether this process has already used `tf.keras` as Keras 3."""
    keras = None if tensorflow is None else vars(tensorflow).get("keras")
    if keras is None:
        return False
    names = vars(keras)  # any other access to TensorFlow's lazy loader would be the first use
    loaded_from = Path(names.get("__file__") or "")
    return names.get("_tfll_keras_version") == "keras_3" or loaded_from.parent.parent.name == KERAS_3


def _matching_version():
    """Returns the version of tf_keras that belongs to the installed TensorFlow."""
    import importlib.metadata  # it costs more than the rest of `import htc_tf`

    name = importlib.metadata.packages_distributions().get("tensorflow", ["tensorflow"])[0]
    return ".".join([*importlib.metadata.version(name).split(".")[:2], "0"])
