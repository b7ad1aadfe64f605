"""How many samples RoIAlign takes in a bin: shared by its two implementations and by the mask targets."""

import tensorflow as tf


def count_samples(extents, bins):
    """Adaptive samples per bin, ceil(extent / bins), exactly.

    XLA turns the division into a product with a rounded reciprocal, so that 21 cells in 7 bins would be 3.0000002 and
    get 4 samples: the quotient is a first guess here, and the product, which is exact, decides.

    Args:
        extents: float32, in cells, of any shape.
        bins: int.
    Returns:
        float32, whole numbers, of the same shape.
    """
    guess = tf.round(extents / bins)
    return guess + tf.cast(extents > guess * bins, tf.float32)
