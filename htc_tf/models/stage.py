"""A stage of the cascade."""

from collections.abc import Sequence

import gin
import tensorflow as tf

from htc_tf.models.mask_head import MaskHead
from htc_tf.models.targets import RoISampler
from htc_tf.ranges import Each, check_ranges, number


@gin.register
@check_ranges(
    iou_threshold=number(above=0, maximum=1),
    target_stds=Each(number(above=0, maximum=1000), 4),
)
class Stage(tf.keras.layers.Layer):
    """One stage of the cascade: its heads, its IoU threshold and the units of its deltas."""

    def __init__(
        self,
        box_head: tf.keras.layers.Layer,
        mask_head: MaskHead | None = None,
        iou_threshold: float = 0.5,
        target_stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        roi_sampler: RoISampler | None = None,
        name: str = "stage",
    ) -> None:
        """
        Args:
            box_head: BoxHead, or a layer with the same inputs and outputs.
            mask_head: MaskHead, or None for a stage without a mask branch.
            iou_threshold: Smallest IoU with an object at which a RoI is positive; below it a RoI is negative.
            target_stds: 4 floats, units of the deltas (y, x, height, width).
            roi_sampler: RoISampler of this stage, or None for the one of all stages.
        """
        super().__init__(name=name)
        self.box_head, self.mask_head = box_head, mask_head
        self.iou_threshold, self.target_stds = iou_threshold, tuple(target_stds)
        self.roi_sampler = roi_sampler
