"""Loss functions that gin may bind to `HTCLoss`: focal, smooth L1, GIoU and boundary losses, one value per element.

`models.htc_loss` decides which elements count. Its defaults are the paper's cross entropy and smooth L1.
"""

from collections.abc import Sequence

import gin
import tensorflow as tf

from htc_tf import addons
from htc_tf.ops import boxes as box_ops
from htc_tf.ops import losses
from htc_tf.ranges import AnyOf, check_ranges, choice, number, whole

# Between 0 and 1 the gradient of a well-classified example is unbounded; 0 is plain cross entropy.
GAMMA = AnyOf((number(1, 100), choice(0, 0.0)))
WEIGHT = number(above=0, maximum=1000)


@gin.register
@check_ranges(
    gamma=GAMMA,
    weight=WEIGHT,
)
class FocalLoss:
    """Focal loss (arXiv:1708.02002) of a stage's classes, over the softmax, so that scores keep their meaning."""

    def __init__(self, gamma: float = 2.0, weight: float = 1.0) -> None:
        """
        Args:
            gamma: float, exponent that lowers the loss of well-classified examples.
            weight: float, factor of the loss.
        """
        self.gamma, self.weight = gamma, weight

    def __call__(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the loss [...] of logits [..., K + 1] and labels [...] int32."""
        return self.weight * losses.softmax_focal(logits, labels, self.gamma)


@gin.register
@check_ranges(
    alpha=number(above=0, below=1),
    gamma=GAMMA,
    weight=WEIGHT,
)
class SigmoidFocalLoss:
    """Focal loss (arXiv:1708.02002) of the RPN's objectness, from tensorflow-addons if it is installed."""

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, weight: float = 1.0) -> None:
        """
        Args:
            alpha: float, weight of objects; background has 1 - alpha.
            gamma: float, exponent that lowers the loss of well-classified anchors.
            weight: float, factor of the loss.
        """
        self.alpha, self.gamma, self.weight = alpha, gamma, weight

    def __call__(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the loss [...] of logits [...] and labels [...], 0 or 1."""
        package = addons.load()
        if not package:
            return self.weight * losses.sigmoid_focal(logits, labels, self.alpha, self.gamma)
        # tensorflow-addons sums over the last axis, so each element gets an axis of length 1.
        logits, labels = tf.cast(logits, tf.float32)[..., tf.newaxis], tf.cast(labels, tf.float32)[..., tf.newaxis]
        focal = package.losses.sigmoid_focal_crossentropy
        return self.weight * focal(labels, logits, self.alpha, self.gamma, from_logits=True)


@gin.register
@check_ranges(
    beta=number(0, 1000),
)
class SmoothL1Loss:
    """Smooth L1 loss (arXiv:1504.08083), summed over the four deltas."""

    def __init__(self, beta: float = 1.0) -> None:
        """
        Args:
            beta: float, error at which the loss changes from quadratic to linear, in units of the deltas; 0 is L1.
        """
        self.beta = beta

    def __call__(
        self, deltas: tf.Tensor, reference: tf.Tensor, target_stds: Sequence[float], boxes: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss [...].

        Args:
            deltas: [..., 4] float32, predicted, in units of `target_stds`.
            reference: [..., 4] float32, anchors or RoIs.
            target_stds: 4 floats.
            boxes: [..., 4] float32, matched ground-truth boxes.
        """
        targets = box_ops.encode(boxes, reference, target_stds)
        return tf.reduce_sum(losses.smooth_l1(deltas, targets, self.beta), -1)


@gin.register
@check_ranges(
    weight=WEIGHT,
)
class GIoULoss:
    """GIoU loss (arXiv:1902.09630) of the decoded boxes: 1 - GIoU, 0 ... 2; from tensorflow-addons if installed."""

    def __init__(self, weight: float = 10.0) -> None:
        """
        Args:
            weight: float, factor of the loss; with 10 it is about as large as smooth L1 of four deltas (mmdetection).
        """
        self.weight = weight

    def __call__(
        self, deltas: tf.Tensor, reference: tf.Tensor, target_stds: Sequence[float], boxes: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss [...] of the same arguments as `SmoothL1Loss`."""
        decoded = box_ops.decode(deltas, reference, target_stds)
        package = addons.load()
        if not package:
            return self.weight * (1.0 - box_ops.generalized_iou(decoded, boxes))
        # tensorflow-addons drops axes of length 1: they are put back.
        return self.weight * tf.reshape(package.losses.giou_loss(boxes, decoded), tf.shape(decoded)[:-1])


@gin.register
@check_ranges(
    weight=number(0, 1000),
    tolerance=whole(1, 100),
)
class BoundaryLoss:
    """Mask cross entropy plus the boundary loss (arXiv:1905.07852): 1 - F1 of the predicted and the true boundary."""

    def __init__(self, weight: float = 0.5, tolerance: int = 2) -> None:
        """
        Args:
            weight: float, factor of the boundary loss.
            tolerance: int, distance in mask cells up to which two boundaries match.
        """
        self.weight, self.tolerance = weight, tolerance

    def __call__(self, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the loss [...] of logits [..., h, w] and targets [..., h, w], 0 or 1."""
        return losses.mask_cross_entropy(logits, targets) + self.weight * losses.boundary(
            logits, targets, self.tolerance
        )
