"""A sample becomes a row of a batch: resized, padded to static shapes, its truth with it.

Before it: `data.augment`. After it: `data.input` stacks the rows to a `structures.Batch`.
"""

import tensorflow as tf

from htc_tf.data import resize
from htc_tf.structures import IGNORED_LABEL, Batch, GroundTruth


def make_row(sample, shape, max_objects, semantic_stride):
    """One image's part of a batch: a Batch without its first axis.

    Args:
      sample: as `data.sample` lists it, at most max_objects objects.
      shape: (height, width) of the padded image, ints or [] tensors, multiples of semantic_stride.
      max_objects: G.
      semantic_stride: pixels from one semantic label to the next.
    """
    before = tf.shape(sample["image"])[:2]
    size = resize.fitted_size(*tf.unstack(before), sample["min_side"], sample["max_side"], shape)
    image, size = resize.resize(sample["image"], size), tf.cast(size, tf.float32)
    scale = tf.tile(size / tf.cast(before, tf.float32), [2])
    objects = tf.shape(sample["boxes"])[0]

    def pad(values):
        values = tf.pad(values, [[0, max_objects - objects]] + [[0, 0]] * (values.shape.rank - 1))
        return tf.ensure_shape(values, [max_objects, *values.shape[1:]])

    truth = GroundTruth(
        boxes=pad(sample["boxes"] * scale),
        classes=pad(sample["classes"]),
        valid=tf.range(max_objects) < objects,
        masks=pad(sample["masks"]),
        crop_boxes=pad(sample["crop_boxes"] * scale),
        semantic=_sample_labels(sample["semantic"], before, tf.cast(size, tf.int32), shape, semantic_stride),
    )
    return Batch(
        images=resize.pad_to(image, *shape),
        sizes=size,
        original_sizes=sample["original_size"],
        image_ids=sample["image_id"],
        truth=truth,
    )


def _sample_labels(labels, before, size, shape, stride):
    """The labels [shape / stride] int32 at every stride-th pixel of the resized, padded map; padding is ignored.

    Resizing is nearest as OpenCV does it (the pixel at floor(i * old / new)), of the wanted pixels alone.
    """
    ys, xs = (tf.range(0, side, stride) for side in shape)
    rows = tf.minimum(ys * before[0] // size[0], before[0] - 1)
    columns = tf.minimum(xs * before[1] // size[1], before[1] - 1)
    sampled = tf.cast(tf.gather(tf.gather(labels, rows), columns, axis=1), tf.int32)
    return tf.where((ys < size[0])[:, None] & (xs < size[1]), sampled, IGNORED_LABEL)
