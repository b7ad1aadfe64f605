"""State of the caller's process that the Python interface leaves as it was: random generators and the Keras policy."""

import contextlib
import importlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context  # the only way to read TensorFlow's seed


@contextlib.contextmanager
def preserve_caller_state() -> Iterator[None]:
    """Restores the state after a "with" block, in which `Experiment.prepare_runtime` may set it."""
    ours, numbers = random.getstate(), np.random.get_state()
    policy = tf.keras.mixed_precision.global_policy()
    eager = context.context()
    seed, operation_seeds = eager._seed, getattr(eager, "_rng", random.Random())  # without a seed there are none
    keras = vars(_keras_seeds())
    keras_seeds = dict(keras)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numbers)
        tf.keras.mixed_precision.set_global_policy(policy)
        tf.random.set_seed(seed)  # makes TensorFlow forget the seeds of its operations, which then continue
        eager._rng = operation_seeds
        keras.clear()
        keras.update(keras_seeds)


def _keras_seeds() -> Any:
    """Returns the object whose attribute `generator` draws the seeds of Keras' initial values."""
    package = tf.keras.Model.__module__.partition(".")[0]  # keras or tf_keras
    return importlib.import_module(f"{package}.src.backend")._SEED_GENERATOR
