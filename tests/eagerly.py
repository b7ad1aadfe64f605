"""A scope in which tf.functions run eagerly, for a few steps of a small network, which take less time than a trace."""

import contextlib

import pytest
import tensorflow as tf

from htc_tf.ops import roi_align_crop


def compiled(function):
    """Returns a tf.function that stays one in the scope."""

    def call(*arguments):
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(False)
        try:
            return function(*arguments)
        finally:
            tf.config.run_functions_eagerly(before)

    return call


@contextlib.contextmanager
def run_eagerly():
    """Runs tf.functions eagerly, except RoIAlign: its loops in Python would take longer than the rest of a network."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in list(vars(roi_align_crop).items()):
            if isinstance(value, tf.types.experimental.PolymorphicFunction):
                patch.setattr(roi_align_crop, name, compiled(value))
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(False)
