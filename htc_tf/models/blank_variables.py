"""A scope in which new variables are zero, for a checkpoint to replace: random initial values take seconds."""

import contextlib
import functools

import tensorflow as tf


@contextlib.contextmanager
def blank_variables(blank=True):
    """Replaces the initial values of the variables that are created in its scope by zeros, if `blank` is True."""

    def create(next_creator, initial_value=None, shape=None, dtype=None, **options):
        if blank and callable(initial_value) and shape is not None:
            initial_value = functools.partial(tf.zeros, shape, dtype)
        return next_creator(initial_value=initial_value, shape=shape, dtype=dtype, **options)

    with tf.variable_creator_scope(create):
        yield
