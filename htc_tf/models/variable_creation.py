"""The scope in which a model creates its variables, by a forward pass that runs only once."""

import contextlib
import functools
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def creating_variables(blank: bool = False) -> Iterator[None]:
    """Runs functions eagerly: one call of a function takes less time than its trace.

    Args:
        blank: If True, new variables are zero, for a checkpoint to replace: random initial values take seconds.
    """

    def create(next_creator, initial_value=None, shape=None, dtype=None, **options):
        if blank and callable(initial_value) and shape is not None:
            initial_value = functools.partial(tf.zeros, shape, dtype)
        return next_creator(initial_value=initial_value, shape=shape, dtype=dtype, **options)

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with tf.variable_creator_scope(create):
            yield
    finally:
        tf.config.run_functions_eagerly(before)
