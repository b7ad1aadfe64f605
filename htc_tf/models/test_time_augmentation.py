"""Test-time augmentation: detections from several resized and flipped views of each image.

The boxes of all views are mapped to the frame of the image, where one NMS merges them. The masks of the boxes kept are
predicted in every view and averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gin
import tensorflow as tf

from htc_tf.ops import boxes as box_ops
from htc_tf.ranges import FLAG, Each, check_ranges, number
from htc_tf.structures import LARGEST_STRIDE, Detections

if TYPE_CHECKING:
    from htc_tf.models.htc import HTC


@gin.register
@check_ranges(
    scales=Each(number(above=0, maximum=16), maximum=32),  # each is a pass of the network in the graph
    flip=FLAG,
)
class TestTimeAugmentation:
    """Detects objects with a model in several views of a batch."""

    def __init__(self, scales: Sequence[float] = (0.75, 1.0, 1.25), flip: bool = True) -> None:
        """
        Args:
            scales: floats, sizes of the views relative to the input.
            flip: If True, each view is also flipped horizontally, which doubles the number of views.
        """
        self.views = [(scale, flipped) for scale in scales for flipped in ((False, True) if flip else (False,))]

    def __call__(self, model: HTC, images: tf.Tensor, sizes: tf.Tensor) -> Detections:
        """Returns Detections in the frame of the images.

        Args:
            model: HTC.
            images: [B, H, W, 3] uint8, padded at the bottom and the right; H and W are static.
            sizes: [B, 2] float32, height and width without padding.
        """
        features, boxes, scores, valid = [], [], [], []
        for scale, flipped in self.views:
            view, ratio = make_view(images, sizes, scale, flipped)
            outputs = model(view, sizes * ratio)
            features.append(outputs.features)
            boxes.append(to_image_frame(outputs.stages[-1].candidates, sizes, ratio, flipped))
            scores.append(model.postprocess.scores(outputs.stages))
            valid.append(outputs.valid)
        # The N boxes of each of V views become V * N candidates: [B, V * N, ...].
        detections = model.postprocess.select(*(tf.concat(parts, axis=1) for parts in (boxes, scores, valid)))
        if not model.masks:
            return detections
        masks = []
        for view_features, (scale, flipped) in zip(features, self.views, strict=True):
            _, ratio = scaled_shape(images, scale)
            in_view = detections._replace(boxes=to_view_frame(detections.boxes, sizes, ratio, flipped))
            mask = model.stage_masks(view_features, in_view)  # [B, D, heads, 28, 28]
            masks.append(mask[..., ::-1] if flipped else mask)
        return model.add_masks(detections, tf.add_n(masks) / len(masks))


def scaled_shape(images: tf.Tensor, scale: float) -> tuple[list[int], tf.Tensor]:
    """Returns [height, width] of the batch at a scale, and [2] float32, the exact scale of each after rounding."""
    shape = [max(1, round(side * scale)) for side in images.shape[1:3]]
    return shape, tf.constant([new / old for new, old in zip(shape, images.shape[1:3], strict=True)], tf.float32)


def make_view(images: tf.Tensor, sizes: tf.Tensor, scale: float, flipped: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes and optionally flips a batch of images.

    Args:
        images: [B, H, W, 3] uint8, padded at the bottom and the right.
        sizes: [B, 2] float32, height and width without padding.
        scale: float.
        flipped: If True, the image is flipped horizontally within its padding.
    Returns:
        ([B, H', W', 3] float32, H' and W' multiples of 32, padded at the bottom and the right; [2] float32, the ratio
        of the view's sizes to the given ones).
    """
    shape, ratio = scaled_shape(images, scale)
    height, width = images.shape[1:3]
    last = tf.maximum(tf.cast(sizes, tf.int32) - 1, 0)
    # The padding repeats the border, so that resizing does not darken it.
    rows = tf.minimum(tf.range(height), last[:, :1])  # [B, H]
    columns = tf.minimum(tf.range(width), last[:, 1:])  # [B, W]
    if flipped:
        columns = tf.maximum(last[:, 1:] - tf.range(width), 0)
    view = tf.gather(tf.gather(images, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    view = tf.image.resize(view, shape) if shape != [height, width] else tf.cast(view, tf.float32)
    bottom, right = (-side % LARGEST_STRIDE for side in shape)
    return tf.pad(view, [[0, 0], [0, bottom], [0, right], [0, 0]]), ratio


def to_image_frame(boxes: tf.Tensor, sizes: tf.Tensor, ratio: tf.Tensor, flipped: bool) -> tf.Tensor:
    """Returns boxes [B, n, ..., 4] of a view in the frame of the images."""
    boxes = boxes / tf.tile(ratio, [2])
    return flip_boxes(boxes, sizes) if flipped else boxes


def to_view_frame(boxes: tf.Tensor, sizes: tf.Tensor, ratio: tf.Tensor, flipped: bool) -> tf.Tensor:
    """Returns boxes [B, n, 4] of the images in the frame of a view."""
    return (flip_boxes(boxes, sizes) if flipped else boxes) * tf.tile(ratio, [2])


def flip_boxes(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Returns boxes [B, n, ..., 4], flipped horizontally in images of sizes [B, 2]."""
    return box_ops.flip(boxes, tf.reshape(sizes[:, 1], [-1] + [1] * (boxes.shape.rank - 2)))
