"""How many samples RoIAlign takes in a bin: shared by its two implementations and by the mask targets."""

import tensorflow as tf


def count_samples(extents, bins, finer=1):
    """Adaptive samples per bin, ceil(extent / bins), exactly.

    XLA turns the division into a product with a rounded reciprocal, so that 21 cells in 7 bins would be 3.0000002 and
    get 4 samples: the quotient is a first guess here, and the product, which is exact, decides.

    Args:
        extents: float32, in cells, of any shape.
        bins: int.
        finer: a bin is sampled as so many bins each way in its place would be.
    Returns:
        float32, whole numbers, of the same shape.
    """
    guess = tf.round(extents / (finer * bins))
    return finer * (guess + tf.cast(extents > guess * (finer * bins), tf.float32))
