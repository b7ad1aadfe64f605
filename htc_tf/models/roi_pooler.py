"""RoI features: RoIAlign over the levels of the pyramid plus RoIAlign of the semantic embedding.

`RoIPooler.prepare` runs once per batch; `RoIPooler.pool_boxes` and `RoIPooler.pool_masks` run in every stage.
"""

from typing import NamedTuple

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import roi_align as ops
from htc_tf.ranges import FLAG, check_ranges, choice, number, whole
from htc_tf.structures import SEMANTIC_STRIDE, FeatureMaps, RoIs

POOLED_LEVELS = (2, 3, 4, 5)
IMPLEMENTATIONS = ("crop_and_resize", "xla")


class PreparedMaps(NamedTuple):
    """Feature maps in the layout that `ops.roi_align` reads."""

    pyramid: tuple[tf.Tensor, ...]
    semantic: tuple[tf.Tensor, ...] | None
    context: tf.Tensor | None = None  # [B, C] float32


@gin.register
@check_ranges(
    box_size=whole(1, 256),
    mask_size=whole(1, 256),
    sampling_ratio=whole(0, 64),
    semantic_oversampling=whole(1, 16),
    canonical_scale=number(above=0, maximum=10000),
    implementation=choice("auto", *IMPLEMENTATIONS),
    xla=FLAG,
)
class RoIPooler(tf.keras.layers.Layer):
    """Pools RoIs from the pyramid and the semantic embedding (RoIAlign, arXiv:1703.06870, with half-pixel offsets)."""

    def __init__(
        self,
        box_size: int = 7,
        mask_size: int = 14,
        sampling_ratio: int = 0,
        semantic_oversampling: int = 2,
        canonical_scale: float = 56.0,
        implementation: str = "auto",
        xla: bool = False,
        name: str = "roi_pooler",
    ) -> None:
        """
        Args:
            box_size, mask_size: int, cells along each side of the features of a box head and of a mask head.
            sampling_ratio: int, samples per cell and axis; 0 is adaptive, ceil(RoI size / grid size).
            semantic_oversampling: int, factor by which the grid of a box head's semantic features is finer before it
                is averaged to `box_size`; 2 is the authors' choice, 1 is cheaper.
            canonical_scale: float, scale (square root of the area, in pixels) of RoIs on P2; RoIs of twice this scale
                and more are pooled from coarser levels. 56 at P2 is the FPN paper's 224 at P4.
            implementation: "crop_and_resize" (graph mode, tf.image.crop_and_resize), "xla" (compiles under
                jit_compile), or "auto": "xla" where `xla` is set. The two give equal numbers.
            xla: If True, the model will be compiled by XLA.
        """
        super().__init__(name=name)
        if xla and implementation == "crop_and_resize":
            raise UserError(
                "RoIPooler.implementation = 'crop_and_resize' has no kernel in XLA: with XLA = True, give 'auto' or "
                "'xla'"
            )
        if implementation == "auto":
            implementation = "xla" if xla else "crop_and_resize"
        self.box_size, self.mask_size = box_size, mask_size
        self.sampling_ratio, self.semantic_oversampling = sampling_ratio, semantic_oversampling
        self.canonical_scale, self.implementation = canonical_scale, implementation

    def prepare(
        self, pyramid: FeatureMaps, embedding: tf.Tensor | None = None, context: tf.Tensor | None = None
    ) -> PreparedMaps:
        """Returns the PreparedMaps of a pyramid and of what is added to the features of its RoIs.

        Args:
            pyramid: {level: [B, H / 2^level, W / 2^level, C]}.
            embedding: [B, H / 8, W / 8, C], from the semantic head, or None.
            context: [B, C], one vector for all RoIs of an image, or None.
        """
        return PreparedMaps(
            ops.prepare([pyramid[level] for level in POOLED_LEVELS], self.implementation),
            None if embedding is None else ops.prepare([embedding], self.implementation),
            context,
        )

    def pool_boxes(self, prepared: PreparedMaps, rois: RoIs) -> tf.Tensor:
        """Returns a box head's features of RoIs, [B * N, 7, 7, C] float32."""
        features = self._pyramid(prepared, rois.boxes, self.box_size)
        if prepared.semantic is not None:
            features += self._semantic(prepared, rois.boxes, self.box_size, self.semantic_oversampling)
        return self._add_context(prepared, features, rois)

    def pool_masks(self, prepared: PreparedMaps, rois: RoIs) -> tf.Tensor:
        """Returns a mask head's features of RoIs, [B * N, 14, 14, C] float32; rows that are not valid are undefined."""
        # Padded rows become boxes of zero area, which cost almost nothing to pool.
        boxes = tf.where(rois.valid[..., tf.newaxis], rois.boxes, 0.0)
        features = self._pyramid(prepared, boxes, self.mask_size)
        if prepared.semantic is not None:
            features += self._semantic(prepared, boxes, self.mask_size)
        return self._add_context(prepared, features, rois)

    def _pyramid(self, prepared, boxes, size):
        levels = ops.levels(boxes, self.canonical_scale, len(POOLED_LEVELS))  # [B, N] int32, 0 is P2
        strides = [2**level for level in POOLED_LEVELS]
        return self._align(prepared.pyramid, strides, boxes, levels, size)

    def _semantic(self, prepared, boxes, size, oversampling=1):
        levels = tf.zeros(tf.shape(boxes)[:2], tf.int32)  # all from the one map
        return self._align(prepared.semantic, [SEMANTIC_STRIDE], boxes, levels, size, oversampling)

    def _add_context(self, prepared, features, rois):
        if prepared.context is None:
            return features
        rows = tf.repeat(prepared.context, rois.boxes.shape[1], axis=0)  # [B * N, C]
        return features + rows[:, tf.newaxis, tf.newaxis]

    def _align(self, prepared, strides, boxes, levels, size, oversampling=1):
        options = self.sampling_ratio, self.implementation, oversampling
        features = ops.roi_align(prepared, strides, boxes, levels, size, *options)  # [B, N, size, size, C]
        return tf.reshape(features, [-1, size, size, features.shape[-1]])  # [B * N, size, size, C]
