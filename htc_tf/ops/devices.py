"""What devices there are: operations choose by it, when they are traced, their form and the size of their pieces.

A CPU is fastest with pieces of work that stay in a core's cache. A GPU needs pieces that fill it: each step of a loop
launches its kernels anew, and under XLA waits for the host, which decides whether there is a next step.
"""

import tensorflow as tf


def has_gpu() -> bool:
    """Returns True if TensorFlow sees a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))
