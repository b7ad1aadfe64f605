"""RoI features: what a head sees of a box, pooled from the pyramid and from the semantic branch.

Comes after the neck and the semantic branch, before the box and mask heads. `prepare` runs once per image, `pool`
for every stage and branch.
"""

from typing import NamedTuple

import gin
import tensorflow as tf

from htc_tf.ops import roi_align as ops
from htc_tf.ranges import FLAG, check_ranges, choice, number, whole
from htc_tf.structures import RoIs

POOLED_LEVELS = (2, 3, 4, 5)
SEMANTIC_STRIDE = 8
IMPLEMENTATIONS = ("crop_and_resize", "xla")


class PreparedMaps(NamedTuple):
    pyramid: tuple
    semantic: tuple | None


@gin.register
@check_ranges(
    box_size=whole(1, 256),
    mask_size=whole(1, 256),
    sampling_ratio=whole(0, 64),
    semantic_oversampling=whole(1, 16),
    finest=number(above=0, most=10000),
    implementation=choice("auto", *IMPLEMENTATIONS),
    xla=FLAG,
)
class RoIPooler(tf.keras.layers.Layer):
    """RoIAlign (He et al., arXiv:1703.06870, aligned by half a pixel) of the pyramid plus the semantic embedding."""

    def __init__(
        self,
        box_size=7,
        mask_size=14,
        sampling_ratio=0,
        semantic_oversampling=2,
        finest=56.0,
        implementation="auto",
        xla=False,
        name="roi_pooler",
    ):
        """
        Args:
            box_size, mask_size: side of the grid that a box head and a mask head see.
            sampling_ratio: samples per bin and axis; 0 is adaptive, ceil(RoI size / grid size).
            semantic_oversampling: a box head's semantic features are pooled on a grid so many times as fine and then
                averaged; 2 is the authors', 1 is cheaper.
            finest: RoIs below twice this scale (root of the area, in pixels) are pooled from P2.
            implementation: "crop_and_resize" (graph mode, tf.image.crop_and_resize), "xla" (compiles under
                jit_compile), or "auto": "xla" where `xla` is set. The two give equal numbers.
            xla: whether the model will be compiled by XLA.
        """
        super().__init__(name=name)
        if implementation == "auto":
            implementation = "xla" if xla else "crop_and_resize"
        self.box_size, self.mask_size = box_size, mask_size
        self.sampling_ratio, self.semantic_oversampling = sampling_ratio, semantic_oversampling
        self.finest, self.implementation = finest, implementation

    def prepare(self, pyramid, embedding=None):
        """pyramid {2: P2 ...}, embedding [B, H / 8, W / 8, C] or None -> what all calls of `pool` share."""
        return PreparedMaps(
            ops.prepare([pyramid[level] for level in POOLED_LEVELS], self.implementation),
            None if embedding is None else ops.prepare([embedding], self.implementation),
        )

    def pool_boxes(self, prepared, rois: RoIs):
        """-> [B * N, 7, 7, C] float32, for a box head."""
        features = self._pyramid(prepared, rois.boxes, self.box_size)
        if prepared.semantic is not None:
            features += self._semantic(prepared, rois.boxes, self.box_size, self.semantic_oversampling)
        return features

    def pool_masks(self, prepared, rois: RoIs):
        """-> [B * N, 14, 14, C] float32, for a mask head. A row of a RoI that is not valid is not to be used."""
        # A box without area costs next to nothing.
        boxes = tf.where(rois.valid[..., tf.newaxis], rois.boxes, 0.0)
        features = self._pyramid(prepared, boxes, self.mask_size)
        if prepared.semantic is not None:
            features += self._semantic(prepared, boxes, self.mask_size)
        return features

    def _pyramid(self, prepared, boxes, size):
        levels = ops.levels(boxes, self.finest, len(POOLED_LEVELS))
        strides = [2**level for level in POOLED_LEVELS]
        return self._align(prepared.pyramid, strides, boxes, levels, size)

    def _semantic(self, prepared, boxes, size, finer=1):
        levels = tf.zeros(tf.shape(boxes)[:2], tf.int32)
        return self._align(prepared.semantic, [SEMANTIC_STRIDE], boxes, levels, size, finer)

    def _align(self, prepared, strides, boxes, levels, size, finer=1):
        how = self.sampling_ratio, self.implementation, finer
        features = ops.roi_align(prepared, strides, boxes, levels, size, *how)
        return tf.reshape(features, [-1, size, size, features.shape[-1]])
