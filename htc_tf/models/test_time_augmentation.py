"""Test-time augmentation: the model looks at an image several times, resized and mirrored, and gives one answer.

In place of one walk through `models.htc`. Each view is walked as far as the refined boxes; the boxes of all views meet
in the frame of the image that was given, where NMS merges them; the masks of what is left are pooled from every view's
features, and averaged.
"""

import gin
import tensorflow as tf

from htc_tf.ops import boxes as box_ops
from htc_tf.ranges import FLAG, Each, check_ranges, number

DIVISOR = 32  # the sides of what the backbone sees


@gin.register
@check_ranges(
    scales=Each(number(above=0, most=16)),
    flip=FLAG,
)
class TestTimeAugmentation:
    """A model and a batch of images -> Detections, as the model gives them of one view."""

    def __init__(self, scales=(0.75, 1.0, 1.25), flip=True):
        """
        Args:
            scales: sizes of the views, relative to the input's.
            flip: whether each is also looked at from left to right mirrored.

        Raises:
            UserError: there is no scale, or one that is not positive.
        """
        self.views = [(scale, flipped) for scale in scales for flipped in ((False, True) if flip else (False,))]

    def __call__(self, model, images, sizes):
        """
        Args:
            model: an HTC.
            images: [B, H, W, 3] uint8, padded at the bottom and the right; H and W are static.
            sizes: [B, 2] float32, height and width without padding.
        """
        features, boxes, scores, valid = [], [], [], []
        for scale, flipped in self.views:
            view, ratio = look(images, sizes, scale, flipped)
            outputs = model(view, sizes * ratio)
            features.append(outputs.features)
            boxes.append(bring_back(outputs.stages[-1].candidates, sizes, ratio, flipped))
            scores.append(model.postprocess.scores(outputs.stages))
            valid.append(outputs.valid)
        detections = model.postprocess.select(*(tf.concat(parts, axis=1) for parts in (boxes, scores, valid)))
        if not model.masks:
            return detections
        masks = []
        for pooled, (scale, flipped) in zip(features, self.views, strict=True):
            _, ratio = scaled_shape(images, scale)
            seen = detections._replace(boxes=take_along(detections.boxes, sizes, ratio, flipped))
            mask = model.stage_masks(pooled, seen)
            masks.append(mask[..., ::-1] if flipped else mask)
        return model.add_masks(detections, tf.add_n(masks) / len(masks))


def scaled_shape(images, scale):
    """-> (height, width) of the batch at that scale, and [2] float32, what rounding made of the scale."""
    shape = [max(1, round(side * scale)) for side in images.shape[1:3]]
    return shape, tf.constant([new / old for new, old in zip(shape, images.shape[1:3], strict=True)], tf.float32)


def look(images, sizes, scale, flipped):
    """A view of images [B, H, W, 3] whose content has the sizes [B, 2].

    Returns:
        ([B, H', W', 3] float32, H' and W' multiples of 32, the content at the top left, mirrored if `flipped`;
        [2] float32, the ratio of its sizes to the given ones).
    """
    shape, ratio = scaled_shape(images, scale)
    height, width = images.shape[1:3]
    last = tf.maximum(tf.cast(sizes, tf.int32) - 1, 0)
    # The padding repeats the border, so that resizing does not darken it.
    rows = tf.minimum(tf.range(height), last[:, :1])
    columns = tf.minimum(tf.range(width), last[:, 1:])
    if flipped:
        columns = tf.maximum(last[:, 1:] - tf.range(width), 0)
    view = tf.gather(tf.gather(images, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    view = tf.image.resize(view, shape) if shape != [height, width] else tf.cast(view, tf.float32)
    bottom, right = (-side % DIVISOR for side in shape)
    return tf.pad(view, [[0, 0], [0, bottom], [0, right], [0, 0]]), ratio


def bring_back(boxes, sizes, ratio, flipped):
    """Boxes [B, n, ..., 4] of a view, in the frame of the images that it was made of."""
    boxes = boxes / tf.tile(ratio, [2])
    return mirror(boxes, sizes) if flipped else boxes


def take_along(boxes, sizes, ratio, flipped):
    """Boxes [B, n, 4] of the images, in the frame of a view."""
    return (mirror(boxes, sizes) if flipped else boxes) * tf.tile(ratio, [2])


def mirror(boxes, sizes):
    """Boxes [B, n, ..., 4], from right to left in images of the sizes [B, 2]."""
    return box_ops.flip(boxes, tf.reshape(sizes[:, 1], [-1] + [1] * (boxes.shape.rank - 2)))
