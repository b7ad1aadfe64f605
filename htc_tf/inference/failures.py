"""A model that fails on one image, as a ModelFailed: one line, after which the next image has its turn.

Before: a run's model, or an exported one. After: `inference.batching` and `inference.predict_files` leave the image out.
"""

import contextlib

import tensorflow as tf

from htc_tf.errors import ModelFailed, reason_of


@contextlib.contextmanager
def model_errors():
    """What TensorFlow raises in this context is raised as ModelFailed."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ModelFailed(f"the model failed: {reason_of(error.message)}") from error
