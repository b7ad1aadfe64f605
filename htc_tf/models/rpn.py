"""The region proposal network (arXiv:1506.01497): from the pyramid to the boxes that stage 1 starts with."""

import gin
import tensorflow as tf

from htc_tf.models.layers import Convolution
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.anchors import pyramid_anchors
from htc_tf.ops.nms import select_proposals
from htc_tf.ranges import CHANNELS, FLAG, FRACTION, Each, check_ranges, choice, number, optional, whole
from htc_tf.structures import RPNOutput

UNIT = (1.0, 1.0, 1.0, 1.0)


@gin.register
@check_ranges(
    channels=CHANNELS,
    anchor_scale=number(above=0, most=1000),
    anchor_ratios=Each(number(above=0, most=1000)),
    training_proposals=whole(1),
    inference_proposals=whole(1),
    training_kept=optional(whole(1)),
    inference_kept=optional(whole(1)),
    minimum_size=number(0, 10000),
    nms_threshold=FRACTION,
    nms=choice("auto", "combined", "xla"),
    xla=FLAG,
)
class RPN(tf.keras.layers.Layer):
    """A head shared by all levels of the pyramid, its anchors, and the choice of proposals."""

    def __init__(
        self,
        channels=256,
        anchor_scale=8.0,
        anchor_ratios=(0.5, 1.0, 2.0),
        training_proposals=2000,
        inference_proposals=1000,
        training_kept=None,
        inference_kept=None,
        minimum_size=0.0,
        nms_threshold=0.7,
        nms="auto",
        xla=False,
        name="rpn",
    ):
        """
        Args:
            channels: of the shared convolution.
            anchor_scale: side of a square anchor, in strides of its level.
            anchor_ratios: height / width.
            training_proposals, inference_proposals: the best so many of each level go into NMS.
            training_kept, inference_kept: of what NMS leaves, the best so many over all levels come out; None for as
                many as went in of each level. Of a small image there are as few as it has anchors.
            minimum_size: pixels that a proposal's height and width exceed; Paddle has 1.
            nms_threshold: IoU above which the lower box goes.
            nms: "combined", "xla", or "auto": "xla" where `xla` is set.
            xla: whether the model will be compiled by XLA, which has no combined NMS.
        """
        super().__init__(name=name)

        def normal():
            return tf.keras.initializers.RandomNormal(stddev=0.01)

        self.anchor_scale, self.anchor_ratios = anchor_scale, tuple(anchor_ratios)
        self.proposals = {True: training_proposals, False: inference_proposals}
        self.kept = {True: training_kept, False: inference_kept}
        self.minimum_size, self.nms_threshold = minimum_size, nms_threshold
        self.nms = ("xla" if xla else "combined") if nms == "auto" else nms
        self.shared = Convolution(channels, 3, relu=True, initializer=normal(), name="shared")
        self.objectness = Convolution(len(self.anchor_ratios), 1, initializer=normal(), name="objectness")
        self.deltas = Convolution(4 * len(self.anchor_ratios), 1, initializer=normal(), name="deltas")

    def call(self, pyramid, sizes, training):
        """pyramid {2: P2 ... 6: P6}, sizes [B, 2], training (a Python bool) -> RPNOutput."""
        levels = sorted(pyramid)
        logits, deltas = [], []
        for level in levels:
            x = self.shared(pyramid[level], training=training)
            batch = tf.shape(x)[0]
            logits.append(tf.reshape(tf.cast(self.objectness(x), tf.float32), [batch, -1]))
            deltas.append(tf.reshape(tf.cast(self.deltas(x), tf.float32), [batch, -1, 4]))
        anchors = [
            pyramid_anchors([pyramid[level].shape[1:3]], [2**level], self.anchor_scale, self.anchor_ratios)
            for level in levels
        ]
        proposals = self.propose(anchors, logits, deltas, sizes, self.proposals[training], self.kept[training])
        return RPNOutput(tf.concat(anchors, 0), tf.concat(logits, 1), tf.concat(deltas, 1), proposals)

    def propose(self, anchors, logits, deltas, sizes, count, kept=None):
        """Lists over levels of [A, 4], [B, A], [B, A, 4] -> Proposals, without gradient.

        The best `count` of each level go into NMS, and `kept` come out.
        """
        candidates = []
        for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
            available = min(count, level_anchors.shape[0])
            scores, order = tf.math.top_k(tf.sigmoid(tf.stop_gradient(level_logits)), available)
            boxes = box_ops.decode(
                tf.gather(tf.stop_gradient(level_deltas), order, batch_dims=1),
                tf.gather(level_anchors, order),
                UNIT,
                sizes,
            )
            # A box that lies outside the image has been clipped to nothing.
            valid = box_ops.exceeds(boxes, self.minimum_size)
            padding = count - available
            candidates.append(
                (
                    tf.pad(boxes, [[0, 0], [0, padding], [0, 0]]),
                    tf.pad(scores, [[0, 0], [0, padding]]),
                    tf.pad(valid, [[0, 0], [0, padding]]),
                )
            )
        boxes, scores, valid = (tf.stack(parts, axis=1) for parts in zip(*candidates, strict=True))
        kept = min(count if kept is None else kept, sum(level_anchors.shape[0] for level_anchors in anchors))
        return select_proposals(boxes, scores, valid, self.nms_threshold, kept, self.nms)
