"""The three elementary losses, element by element and in float32.

The model's outputs and `models.targets` come before; `models.objective` decides which elements count, how much,
and what the sum is divided by.
"""

import tensorflow as tf


def sigmoid_cross_entropy(logits, labels):
    """Binary cross entropy of each logit [...] with its label [...], 0 ... 1: [...] float32."""
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), tf.cast(logits, tf.float32))


def softmax_cross_entropy(logits, labels):
    """Cross entropy of logits [..., K] with class labels [...], 0 ... K - 1: [...] float32.

    A label outside that range is an error on a CPU and NaN elsewhere: replace an ignored one and give it no weight.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))


def smooth_l1(prediction, target, beta):
    """|d| - beta / 2, and d^2 / (2 beta) where |d| < beta, of each difference d: [...] float32.

    beta > 0. Source: Fast R-CNN (arXiv:1504.08083, equation 3), which has beta = 1.
    """
    distance = tf.abs(tf.cast(prediction, tf.float32) - tf.cast(target, tf.float32))
    return tf.where(distance < beta, 0.5 * distance * distance / beta, distance - 0.5 * beta)
