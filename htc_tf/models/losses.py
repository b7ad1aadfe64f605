"""What predictions are compared with the truth by, to be named in gin: focal, GIoU and boundary losses.

`models.htc_loss` calls them, element by element, and decides which elements count. One that is not named leaves the
paper's: cross entropy and smooth L1.
"""

import warnings

import gin
import tensorflow as tf

from htc_tf.ops import boxes as box_ops
from htc_tf.ops import losses
from htc_tf.ranges import AnyOf, check_ranges, choice, number, whole


def import_addons():
    """tensorflow-addons' losses, imported only where one is used, without its note on its end of life."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflow_addons import losses as addons
    return addons


# Between 0 and 1 the slope of a well-classified example has no bound; 0 is plain cross entropy.
GAMMA = AnyOf((number(1, 100), choice(0, 0.0)))
WEIGHT = number(above=0, most=1000)


@gin.register
@check_ranges(
    gamma=GAMMA,
    weight=WEIGHT,
)
class FocalLoss:
    """Focal loss (arXiv:1708.02002) of a stage's classes. It is softmax's: scores mean what they mean without it."""

    def __init__(self, gamma=2.0, weight=1.0):
        """
        Args:
            gamma: how much less an example counts the surer its class is.
            weight: of the loss.
        """
        self.gamma, self.weight = gamma, weight

    def __call__(self, logits, labels):
        """logits [..., K + 1], labels [...] -> [...]"""
        return self.weight * losses.softmax_focal(logits, labels, self.gamma)


@gin.register
@check_ranges(
    alpha=number(above=0, below=1),
    gamma=GAMMA,
    weight=WEIGHT,
)
class SigmoidFocalLoss:
    """tensorflow-addons' focal loss (arXiv:1708.02002) of the RPN's objectness."""

    def __init__(self, alpha=0.25, gamma=2.0, weight=1.0):
        """
        Args:
            alpha: weight of an object; that of background is 1 - alpha.
            gamma: how much less an anchor counts the surer its answer is.
            weight: of the loss.
        """
        self.alpha, self.gamma, self.weight = alpha, gamma, weight

    def __call__(self, logits, labels):
        """logits [...], labels [...], 0 or 1 -> [...]"""
        # It sums over the last axis.
        logits, labels = tf.cast(logits, tf.float32)[..., tf.newaxis], tf.cast(labels, tf.float32)[..., tf.newaxis]
        focal = import_addons().sigmoid_focal_crossentropy
        return self.weight * focal(labels, logits, self.alpha, self.gamma, from_logits=True)


@gin.register
@check_ranges(
    beta=number(0, 1000),
)
class SmoothL1Loss:
    """Smooth L1 of the deltas, all four summed (arXiv:1504.08083)."""

    def __init__(self, beta=1.0):
        """beta: where it turns from square to linear, in units of the deltas; 0 for plain L1."""
        self.beta = beta

    def __call__(self, deltas, reference, target_stds, boxes):
        """Deltas of the reference boxes, in units of stds, and the boxes that they are to lead to: [..., 4] -> [...]"""
        wanted = box_ops.encode(boxes, reference, target_stds)
        return tf.reduce_sum(losses.smooth_l1(deltas, wanted, self.beta), -1)


@gin.register
@check_ranges(
    weight=WEIGHT,
)
class GIoULoss:
    """tensorflow-addons' GIoU loss (arXiv:1902.09630) of the boxes that the deltas lead to: 1 - GIoU, 0 ... 2."""

    def __init__(self, weight=10.0):
        """weight: of the loss; a box's deltas, four numbers, weigh about as much with 10 (mmdetection)."""
        self.weight = weight

    def __call__(self, deltas, reference, target_stds, boxes):
        """Arguments as of SmoothL1."""
        decoded = box_ops.decode(deltas, reference, target_stds)
        # It drops axes of length 1.
        return self.weight * tf.reshape(import_addons().giou_loss(boxes, decoded), tf.shape(decoded)[:-1])


@gin.register
@check_ranges(
    weight=number(0, 1000),
    tolerance=whole(1, 100),
)
class BoundaryLoss:
    """A mask's cross entropy, and how far its boundary is from the object's (arXiv:1905.07852)."""

    def __init__(self, weight=0.5, tolerance=2):
        """
        Args:
            weight: of the boundary.
            tolerance: cells of the mask's grid that a boundary may be off.
        """
        self.weight, self.tolerance = weight, tolerance

    def __call__(self, logits, targets):
        """logits [..., h, w], targets [..., h, w], 0 or 1 -> [...]"""
        return losses.mask_cross_entropy(logits, targets) + self.weight * losses.boundary(
            logits, targets, self.tolerance
        )
