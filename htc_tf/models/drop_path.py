"""Stochastic depth (Huang et al., arXiv:1603.09382) and the random seeds it uses, for any backbone."""

import tensorflow as tf


def draw_seed(images: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
    """Returns a random seed [2] int32, a function of the images and a trained variable.

    It differs between steps but is the same for every forward pass of one step (`training.gradients` may run two)
    and for a step repeated after a restart, which the state of a random generator would not be. Sums of integers do
    not depend on their order.

    Args:
        images: [B, H, W, 3], normalized.
        variable: A float32 variable that every step changes, of any shape.
    """
    pixels = tf.reduce_sum(tf.cast(64 * images, tf.int32))
    weights = tf.reduce_sum(tf.bitcast(tf.convert_to_tensor(variable), tf.int32))
    return tf.stack([pixels, weights])


def fold_in(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """Returns the seed of part `number`, for example a block or one of its paths; None if seed is None."""
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)


def drop_paths(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Zeroes images of x with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
        x: [B, ...], the output of a residual path.
        rate: float in [0, 1).
        seed: [2] int32, or None to drop no path.

    Returns:
        [B, ...] in x's dtype.
    """
    if seed is None or not rate:
        return x
    kept = tf.random.stateless_uniform([tf.shape(x)[0]] + [1] * (x.shape.rank - 1), seed) >= rate
    return x * tf.cast(tf.where(kept, 1 / (1 - rate), 0.0), x.dtype)
