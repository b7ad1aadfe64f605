"""The region proposal network (arXiv:1506.01497): anchors, objectness, deltas and the proposals of the first stage."""

from collections.abc import Sequence

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.layers import Convolution
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.anchors import level_anchors
from htc_tf.ops.nms import select_proposals
from htc_tf.ranges import CHANNELS, FLAG, FRACTION, Each, check_ranges, choice, number, optional, whole
from htc_tf.structures import FeatureMaps, Proposals, RPNOutput

UNIT = (1.0, 1.0, 1.0, 1.0)  # target_stds of the RPN's deltas


@gin.register
@check_ranges(
    channels=CHANNELS,
    num_convs=whole(1, 100),
    anchor_scale=number(above=0, maximum=1000),
    anchor_ratios=Each(number(above=0, maximum=1000)),
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
    """A head shared by all levels of the pyramid, its anchors, and the selection of proposals."""

    def __init__(
        self,
        channels: int = 256,
        num_convs: int = 1,
        anchor_scale: float = 8.0,
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        training_proposals: int = 2000,
        inference_proposals: int = 1000,
        training_kept: int | None = None,
        inference_kept: int | None = None,
        minimum_size: float = 0.0,
        nms_threshold: float = 0.7,
        nms: str = "auto",
        xla: bool = False,
        name: str = "rpn",
    ) -> None:
        """
        Args:
            channels: int, output channels of each shared convolution.
            num_convs: int, number of shared 3x3 convolutions.
            anchor_scale: float, side of a square anchor in strides of its level.
            anchor_ratios: floats, height / width of the anchors of a cell.
            training_proposals, inference_proposals: int, pre-NMS top-k: boxes of each level that enter NMS.
            training_kept, inference_kept: int, post-NMS top-k: proposals of an image over all levels, at most as many
                as it has anchors; None for the pre-NMS top-k.
            minimum_size: float, pixels that a proposal's height and width exceed; Paddle has 1.
            nms_threshold: float, IoU with a better box above which a box is suppressed.
            nms: "combined", "xla", or "auto": "xla" where `xla` is set, else "combined".
            xla: If True, the model will be compiled by XLA, which has no combined NMS.
        """
        super().__init__(name=name)
        if xla and nms == "combined":
            raise UserError("RPN.nms = 'combined' has no kernel in XLA: with XLA = True, give 'auto' or 'xla'")

        def normal():  # as in both references
            return tf.keras.initializers.RandomNormal(stddev=0.01)

        self.anchor_scale, self.anchor_ratios = anchor_scale, tuple(anchor_ratios)
        self.proposals = {True: training_proposals, False: inference_proposals}
        self.kept = {True: training_kept, False: inference_kept}
        self.minimum_size, self.nms_threshold = minimum_size, nms_threshold
        self.nms = ("xla" if xla else "combined") if nms == "auto" else nms
        names = ["shared"] if num_convs == 1 else [f"conv{i + 1}" for i in range(num_convs)]
        convs = [Convolution(channels, 3, relu=True, initializer=normal(), name=name) for name in names]
        # A single convolution is not one of a list: checkpoints and other frameworks have another name for it.
        self.shared, self.convs = (convs[0], []) if num_convs == 1 else (None, convs)
        self.objectness = Convolution(len(self.anchor_ratios), 1, initializer=normal(), name="objectness")
        self.deltas = Convolution(4 * len(self.anchor_ratios), 1, initializer=normal(), name="deltas")

    def call(self, pyramid: FeatureMaps, sizes: tf.Tensor, training: bool) -> RPNOutput:
        """Runs the head on every level and selects proposals.

        Args:
            pyramid: {2: P2, ..., 6: P6}, each [B, H / 2^level, W / 2^level, C].
            sizes: [B, 2] float32, image sizes without padding.
            training: bool, a Python value.
        Returns:
            RPNOutput.
        """
        anchors, logits, deltas = [], [], []
        for level in sorted(pyramid):
            x = pyramid[level]
            height, width = x.shape[1:3]
            anchors.append(level_anchors(height, width, 2**level, self.anchor_scale, self.anchor_ratios))
            for conv in self.convs or [self.shared]:
                x = conv(x, training=training)  # [B, h, w, C]
            batch = tf.shape(x)[0]
            logits.append(tf.reshape(tf.cast(self.objectness(x), tf.float32), [batch, -1]))  # [B, h * w * ratios]
            deltas.append(tf.reshape(tf.cast(self.deltas(x), tf.float32), [batch, -1, 4]))  # [B, h * w * ratios, 4]
        proposals = self.propose(anchors, logits, deltas, sizes, self.proposals[training], self.kept[training])
        return RPNOutput(tf.concat(anchors, 0), tf.concat(logits, 1), tf.concat(deltas, 1), proposals)

    def propose(
        self,
        anchors: Sequence[tf.Tensor],
        logits: Sequence[tf.Tensor],
        deltas: Sequence[tf.Tensor],
        sizes: tf.Tensor,
        count: int,
        kept: int | None = None,
    ) -> Proposals:
        """Selects proposals by NMS. They have no gradient.

        Args:
            anchors: list of [A, 4] float32, one per level; A differs between levels.
            logits: list of [B, A] float32.
            deltas: list of [B, A, 4] float32.
            sizes: [B, 2] float32.
            count: int, pre-NMS top-k of each level.
            kept: int, post-NMS top-k; None for `count`.
        Returns:
            Proposals.
        """
        candidates = []
        for level, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
            available = min(count, level.shape[0])
            scores, order = tf.math.top_k(tf.sigmoid(tf.stop_gradient(level_logits)), available)  # [B, available]
            boxes = box_ops.decode(
                tf.gather(tf.stop_gradient(level_deltas), order, batch_dims=1),
                tf.gather(level, order),
                UNIT,
                sizes,
            )  # [B, available, 4]
            # Clipping leaves a box outside the image with zero area.
            valid = box_ops.exceeds(boxes, self.minimum_size)
            padding = count - available  # all levels have `count` candidates, so that they can be stacked
            candidates.append(
                (
                    tf.pad(boxes, [[0, 0], [0, padding], [0, 0]]),
                    tf.pad(scores, [[0, 0], [0, padding]]),
                    tf.pad(valid, [[0, 0], [0, padding]]),
                )
            )
        # [B, levels, count, 4], [B, levels, count], [B, levels, count]: NMS runs within each level.
        boxes, scores, valid = (tf.stack(parts, axis=1) for parts in zip(*candidates, strict=True))
        kept = min(count if kept is None else kept, sum(level.shape[0] for level in anchors))
        return select_proposals(boxes, scores, valid, self.nms_threshold, kept, self.nms)
