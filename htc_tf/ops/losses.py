"""The elementary losses, element by element and in float32.

The model's outputs and `models.targets` come before; `models.htc_loss` decides which elements count, how much,
and what the sum is divided by.
"""

import tensorflow as tf


def sigmoid_cross_entropy(logits, labels):
    """Binary cross entropy of each logit [...] with its label [...], 0 ... 1: [...] float32."""
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), tf.cast(logits, tf.float32))


def mask_cross_entropy(logits, targets):
    """The mean of `sigmoid_cross_entropy` over masks: [..., h, w] -> [...] float32."""
    return tf.reduce_mean(sigmoid_cross_entropy(logits, targets), [-2, -1])


def softmax_cross_entropy(logits, labels):
    """Cross entropy of logits [..., K] with class labels [...], 0 ... K - 1: [...] float32.

    A label outside that range is an error on a CPU and NaN elsewhere: replace an ignored one and give it no weight.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))


def softmax_focal(logits, labels, gamma):
    """`softmax_cross_entropy` times (1 - p) ^ gamma, p the probability of the label: [...] float32.

    Source: focal loss, arXiv:1708.02002, equation 4, with softmax in place of sigmoid.
    """
    cross_entropy = softmax_cross_entropy(logits, labels)
    return (-tf.math.expm1(-cross_entropy)) ** gamma * cross_entropy


def smooth_l1(prediction, target, beta):
    """|d| - beta / 2, and d^2 / (2 beta) where |d| < beta, of each difference d: [...] float32.

    A beta of 0 leaves |d|. Source: Fast R-CNN (arXiv:1504.08083, equation 3), which has beta = 1.
    """
    distance = tf.abs(tf.cast(prediction, tf.float32) - tf.cast(target, tf.float32))
    if beta == 0:
        return distance
    return tf.where(distance < beta, 0.5 * distance * distance / beta, distance - 0.5 * beta)


def boundary(logits, targets, tolerance):
    """1 - F1 of the boundaries of masks: [..., h, w] -> [...] float32, 0 ... 1; 0 where the target has no boundary.

    A boundary is the mask's cells that touch one outside, as far as the probabilities say so. Precision is how much of
    the predicted one has the true one within `tolerance` cells, recall the reverse (arXiv:1905.07852, section 3).

    Args:
        logits: [..., h, w].
        targets: [..., h, w], 0 or 1.
        tolerance: cells along either axis.
    """
    shape = tf.shape(logits)
    grid = [-1, *logits.shape[-2:], 1]
    masks = (tf.sigmoid(tf.cast(logits, tf.float32)), tf.cast(targets, tf.float32))
    found, true = (_edge(tf.reshape(mask, grid)) for mask in masks)
    precision = _share(found, _widen(true, tolerance))
    recall = _share(true, _widen(found, tolerance))
    loss = 1.0 - tf.math.divide_no_nan(2.0 * precision * recall, precision + recall)
    return tf.reshape(tf.where(tf.reduce_any(true > 0, [1, 2, 3]), loss, 0.0), shape[:-2])


def _edge(mask):
    """How much each cell of masks [n, h, w, 1] is inside and has a neighbour that is less so."""
    return _widen(1.0 - mask, 1) - (1.0 - mask)


def _widen(cells, reach):
    """The largest of the cells [n, h, w, 1] at most `reach` away along either axis."""
    return tf.nn.max_pool2d(cells, 2 * reach + 1, 1, "SAME")


def _share(cells, near):
    """How much of the cells [n, h, w, 1] lies where `near` says 1: [n]."""
    axes = [1, 2, 3]
    return tf.math.divide_no_nan(tf.reduce_sum(cells * near, axes), tf.reduce_sum(cells, axes))
