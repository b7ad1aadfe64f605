"""Typical load for benchmarks: an untrained network that proposes and samples as many boxes as a trained one.

The cost of a forward pass depends on the size of its proposals, that of a training step on its positives. An untrained
network proposes its anchors, most of them small, and finds no positives.
"""

import tensorflow as tf

from htc_tf.data.synthetic import draw_boxes
from htc_tf.models.targets import RoISampler
from htc_tf.ops import boxes as box_ops

FAR = 1e6  # pixels, outside of any image
# Positives per stage as a share of the sampler's maximum: mmdetection had 128, 76 and 44 of 512 RoIs at 8 objects.
SHARES = (1, 76 / 128, 44 / 128)


def propose_typical_boxes(rpn, height, width):
    """Makes an RPN propose synthetic boxes of typical sizes, as many and as valid as those that it predicts."""
    propose = rpn.propose

    def propose_drawn(*arguments):
        found = propose(*arguments)
        boxes = draw_boxes(found.boxes.shape[1], height, width)
        # The minimum is always the synthetic box, but depends on the predicted one, as a trained network's RoIs do.
        return found._replace(boxes=tf.minimum(found.boxes + FAR, boxes))

    rpn.propose = propose_drawn


class OfferedPositives(RoISampler):
    """A RoISampler that is offered, in each stage, a typical number of boxes near the ground truth.

    Every other box that would be positive is shrunk until it is not, so that the number of RoIs stays the same.
    """

    def __init__(self, sampler, stages, objects):
        """
        Args:
            sampler: The model's own RoISampler, which samples.
            stages: The model's Stages; their IoU thresholds differ.
            objects: Objects per image; their own boxes are positive too.
        """
        vars(self).update(vars(sampler))
        self.objects, most = objects, int(sampler.limit * sampler.positive_fraction)
        wanted = [round(most * share) for share in SHARES[: len(stages)]]
        thresholds = [stage.iou_threshold for stage in stages]
        self.offered = {t: max(0, number - objects) for t, number in zip(thresholds, wanted, strict=True)}

    def __call__(self, boxes, valid, truth, iou_threshold, seed):
        offered = min(self.offered[iou_threshold], boxes.shape[1])
        near = tf.gather(truth.boxes, tf.range(offered) % self.objects, axis=1)  # [B, offered, 4]
        sides = tf.tile(near[..., 2:] - near[..., :2], [1, 1, 2])
        # An edge moves by at most a 25th of the side, which keeps the IoU above 0.7. Random bits, unlike random floats,
        # are the same with and without XLA.
        bits = tf.random.stateless_uniform(tf.shape(near), seed, None, None, tf.uint32, alg="philox")
        near += sides * 0.08 * (tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) / 2**24 - 0.5)
        boxes, valid = boxes[:, offered:], valid[:, offered:]
        overlap = tf.reduce_max(tf.where(truth.valid[:, tf.newaxis], box_ops.iou(boxes, truth.boxes), 0.0), axis=-1)
        small = tf.concat([boxes[..., :2], boxes[..., :2] + (boxes[..., 2:] - boxes[..., :2]) / 4], axis=-1)
        boxes = tf.where(overlap[..., tf.newaxis] < iou_threshold, boxes, small)
        boxes, valid = tf.concat([near, boxes], axis=1), tf.concat([tf.ones_like(near[..., 0], tf.bool), valid], axis=1)
        return super().__call__(boxes, valid, truth, iou_threshold, seed)

    def expected_positives(self, images):
        """Returns the positives of each stage's mask head in a batch, where there are enough boxes."""
        return [images * min(number + self.objects, self.mask_limit) for number in self.offered.values()]
