"""The ways to run a function of tensors, by name: eagerly, as a graph, and compiled by XLA."""

import functools

import tensorflow as tf

# AutoGraph would convert the functions for up to a second, and they have no statements that it changes.
MODES = {
    "eager": lambda function: function,
    "graph": functools.partial(tf.function, autograph=False),
    "xla": functools.partial(tf.function, autograph=False, jit_compile=True),
}
