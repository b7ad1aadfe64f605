"""Elementary losses, element by element and in float32.

`models.losses` and `models.htc_loss` decide which elements count, with which weight and normalizer.
"""

import tensorflow as tf

from htc_tf.ops.pooling import max_pool2d


def sigmoid_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the binary cross entropy of logits [...] with labels [...] in [0, 1]: [...] float32."""
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), tf.cast(logits, tf.float32))


def mask_cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Computes the mean `sigmoid_cross_entropy` of masks [..., h, w]: [...] float32."""
    return tf.reduce_mean(sigmoid_cross_entropy(logits, targets), [-2, -1])


def softmax_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the cross entropy of logits [..., K] with class labels [...] in 0 ... K - 1: [...] float32.

    A label outside that range is an error on a CPU and NaN elsewhere: replace ignored labels and give them no weight.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))


def softmax_focal(logits: tf.Tensor, labels: tf.Tensor, gamma: float) -> tf.Tensor:
    """Computes `softmax_cross_entropy` times (1 - p) ^ gamma, p the probability of the label: [...] float32.

    Source: focal loss, arXiv:1708.02002, equation 4, with softmax instead of sigmoid.
    """
    cross_entropy = softmax_cross_entropy(logits, labels)
    return power(-tf.math.expm1(-cross_entropy), gamma) * cross_entropy  # 1 - p = -expm1(log p)


def sigmoid_focal(logits: tf.Tensor, labels: tf.Tensor, alpha: float, gamma: float) -> tf.Tensor:
    """Computes `sigmoid_cross_entropy` times alpha_t * (1 - p_t) ^ gamma: [...] float32.

    p_t is the probability of the label, and alpha_t is alpha for the label 1 and 1 - alpha for the label 0. Source:
    focal loss, arXiv:1708.02002, equation 5.
    """
    # Cast once, so that the gradients of the two uses of the logits are added in float32.
    logits, positive, alpha = tf.cast(logits, tf.float32), tf.cast(labels, tf.float32), tf.constant(alpha, tf.float32)
    p = tf.sigmoid(logits)
    p_t = positive * p + (1.0 - positive) * (1.0 - p)
    alpha_t = positive * alpha + (1.0 - positive) * (1.0 - alpha)
    return alpha_t * power(1.0 - p_t, gamma) * sigmoid_cross_entropy(logits, labels)


def smooth_l1(prediction: tf.Tensor, target: tf.Tensor, beta: float) -> tf.Tensor:
    """Computes |d| - beta / 2, or d^2 / (2 beta) if |d| < beta, of each difference d: [...] float32.

    With beta 0 it is |d|. Source: Fast R-CNN (arXiv:1504.08083, equation 3), where beta is 1.
    """
    distance = tf.abs(tf.cast(prediction, tf.float32) - tf.cast(target, tf.float32))
    if beta == 0:
        return distance
    return tf.where(distance < beta, 0.5 * distance * distance / beta, distance - 0.5 * beta)


def boundary(logits: tf.Tensor, targets: tf.Tensor, tolerance: int) -> tf.Tensor:
    """Computes 1 - F1 of the boundaries of masks.

    A boundary consists of the mask's cells that touch a cell outside, weighted by the probabilities. Precision is the
    share of the predicted boundary with target boundary within `tolerance` cells, recall the reverse
    (arXiv:1905.07852, section 3).

    Args:
        logits: [..., h, w].
        targets: [..., h, w], 0 or 1.
        tolerance: int, cells along either axis.

    Returns:
        [...] float32 in [0, 1]; 0 if the target has no boundary.
    """
    shape = tf.shape(logits)
    grid = [-1, *logits.shape[-2:], 1]
    masks = (tf.sigmoid(tf.cast(logits, tf.float32)), tf.cast(targets, tf.float32))
    predicted, target = (_edge(tf.reshape(mask, grid)) for mask in masks)  # [n, h, w, 1] each
    precision = _covered_share(predicted, _dilate(target, tolerance))
    recall = _covered_share(target, _dilate(predicted, tolerance))
    loss = 1.0 - tf.math.divide_no_nan(2.0 * precision * recall, precision + recall)  # [n]
    return tf.reshape(tf.where(tf.reduce_any(target > 0, [1, 2, 3]), loss, 0.0), shape[:-2])


def power(x: tf.Tensor, exponent: float) -> tf.Tensor:
    """Computes x ^ exponent for a Python number; 0 ^ 0 is 1 and has the gradient 0, which TensorFlow's pow lacks."""
    return x**exponent if exponent else tf.ones_like(x)


def _edge(mask):
    """Returns the soft boundary of masks [n, h, w, 1]: the dilated background minus the background."""
    return _dilate(1.0 - mask, 1) - (1.0 - mask)


def _dilate(cells, reach):
    """Returns the maximum of the cells [n, h, w, 1] at most `reach` away along either axis."""
    return max_pool2d(cells, 2 * reach + 1, margin=reach)


def _covered_share(cells, cover):
    """Returns the share [n] of the cells [n, h, w, 1] where `cover` is 1."""
    axes = [1, 2, 3]
    return tf.math.divide_no_nan(tf.reduce_sum(cells * cover, axes), tf.reduce_sum(cells, axes))
