"""Samples: a record decoded into a sample, and a sample laid out as one row of a batch.

A sample is a dict with everything known about one image of its original size h x w, with G objects and M x M mask
cells. `SampleReader` makes it, the functions of `data.augment` change it, `make_row` resizes and pads it:

| key | | |
|---|---|---|
| image | [h, w, 3] uint8 | RGB |
| semantic | [h, w] uint8 | labels, 255 if unlabeled |
| boxes | [G, 4] float32 | [y1, x1, y2, x2] in pixels of `image` |
| classes | [G] int32 | 0 ... K - 1 |
| masks | [G, M, M] uint8 | coverage of each cell, 0 ... 255 |
| crop_boxes | [G, 4] float32 | box that the cells cover, in pixels of `image` |
| image_id | [] int64 | COCO's id |
| original_size | [2] int32 | height, width |
| min_side, max_side | number or [] | sides after resizing; `data.input` sets them, augmentations may change them |
| canvas | (height, width), ints or [] tensors | padded shape that the resized image must fit into |
| seed | [2] int64 | random seed of this sample in this epoch, for `augment.draw` |
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from htc_tf.data import preprocessing, schema
from htc_tf.data.datasets import DatasetInfo
from htc_tf.data.mask_crops import crop_masks
from htc_tf.data.numpy_op import numpy_op
from htc_tf.errors import UserError
from htc_tf.structures import IGNORED_LABEL, Batch, GroundTruth

Sample: TypeAlias = dict[str, Any]  # with the keys above

logger = logging.getLogger(__name__)


class SampleReader:
    """Decodes the records of one dataset."""

    def __init__(self, info: DatasetInfo, max_objects: int, mask_size: int) -> None:
        """Initializes a reader.

        Args:
            info: DatasetInfo.
            max_objects: Int, limit on the objects of a sample.
            mask_size: Int, M, cells along a mask's side.
        """
        self._paths = info.shard_paths
        self._has_labels = info.stuff.present
        self._classes = {category: index for index, category in enumerate(info.category_ids)}
        self._max_objects = max_objects
        self._mask_size = mask_size
        self._crowded_images = 0
        self._lock = threading.Lock()

    def read(self, shard: tf.Tensor, serialized: tf.Tensor) -> Sample:
        """Decodes a record in a tf.data graph.

        Args:
            shard: [] int64, index of the record's shard.
            serialized: [] string.
        Returns:
            The sample without `min_side`, `max_side`, `canvas` and `seed`.
        """
        record = schema.parse(serialized)
        size = tf.stack([record["height"], record["width"]])
        image = preprocessing.decode_rgb(record["encoded"])
        semantic = self._decode_labels(record["semantic"], size)
        objects = tf.where(~record["is_crowd"])[:, 0]  # crowd regions are not ground truth
        kept = objects[: self._max_objects]
        arguments = {
            "shard": shard,
            "filename": record["filename"],
            "size": size,
            "decoded": tf.stack([tf.shape(image)[:2], tf.shape(semantic)]),  # [2, 2]
            "objects": tf.size(objects),
            "categories": tf.gather(record["categories"], kept),
            "rles": tf.gather(record["mask_rle"], kept),
        }
        classes, masks, crop_boxes = numpy_op(
            self._decode_objects, list(arguments.values()), [tf.int32, tf.uint8, tf.float32]
        )
        # numpy_op loses static shapes.
        return {
            "image": image,
            "semantic": tf.ensure_shape(semantic, [None, None]),
            "boxes": tf.ensure_shape(tf.gather(record["boxes"], kept), [None, 4]),
            "classes": tf.ensure_shape(classes, [None]),
            "masks": tf.ensure_shape(masks, [None, self._mask_size, self._mask_size]),
            "crop_boxes": tf.ensure_shape(crop_boxes, [None, 4]),
            "image_id": record["image_id"],
            "original_size": size,
        }

    def _decode_labels(self, encoded, size):
        def blank():
            return tf.fill(size, tf.constant(IGNORED_LABEL, tf.uint8))

        def decode():
            return tf.io.decode_png(encoded, channels=1)[..., 0]  # [h, w]

        return tf.cond(encoded == "", blank, decode) if self._has_labels else blank()

    def _decode_objects(self, shard, filename, size, decoded, objects, categories, rles):
        """Checks a record and returns its objects' classes [G], masks [G, M, M] and crop boxes [G, 4] as arrays."""
        name = f"{self._paths[shard]}: {filename.decode(errors='replace')}"
        if np.any(decoded != size):
            found = ", its semantic map ".join(f"{height} x {width}" for height, width in decoded)
            raise UserError(
                f"{name}: the image is {found}, but its record says {size[0]} x {size[1]}; prepare the data again"
            )
        if objects > self._max_objects:
            self._warn_of_crowded_image(name, objects)
        unknown = set(categories.tolist()) - set(self._classes)
        if unknown:
            raise UserError(
                f"{name}: dataset_info.json does not list category {sorted(unknown)}; prepare the data again"
            )
        classes = np.array([self._classes[category] for category in categories.tolist()], np.int32)
        try:
            return classes, *crop_masks(rles, *size.tolist(), self._mask_size)
        except ValueError as error:
            raise UserError(f"{name}: a mask's run lengths do not decode ({error}); prepare the data again") from None

    def _warn_of_crowded_image(self, name, objects):
        with self._lock:
            self._crowded_images += 1
            count = self._crowded_images
        # At 1, 10, 100, ...: the log shows the count without being flooded.
        if str(count).strip("0") == "1":
            logger.warning(
                "%s has %d objects, only the first %d are used (max_objects); %d such images so far",
                *(name, objects, self._max_objects, count),
            )


def make_row(sample: Sample, shape: Sequence[int | tf.Tensor], max_objects: int, semantic_stride: int) -> Batch:
    """Resizes a sample and pads it to static shapes.

    Args:
        sample: A sample with at most max_objects objects.
        shape: (height, width) of the padded image, ints or [] tensors, multiples of semantic_stride.
        max_objects: Int, G of the batch.
        semantic_stride: Int, pixels between semantic labels.
    Returns:
        A `structures.Batch` without its first axis.
    """
    before = tf.shape(sample["image"])[:2]
    height, width = tf.unstack(before)
    size = preprocessing.fitted_size(height, width, sample["min_side"], sample["max_side"], shape)
    image, size = preprocessing.resize(sample["image"], size), tf.cast(size, tf.float32)
    scale = tf.tile(size / tf.cast(before, tf.float32), [2])  # [4], of the axes y, x, y, x
    objects = tf.shape(sample["boxes"])[0]

    def pad(values):  # [objects, ...] to [max_objects, ...]
        values = tf.pad(values, [[0, max_objects - objects]] + [[0, 0]] * (values.shape.rank - 1))
        return tf.ensure_shape(values, [max_objects, *values.shape[1:]])

    truth = GroundTruth(
        boxes=pad(sample["boxes"] * scale),
        classes=pad(sample["classes"]),
        valid=tf.range(max_objects) < objects,
        masks=pad(sample["masks"]),
        crop_boxes=pad(sample["crop_boxes"] * scale),
        semantic=_resize_labels(sample["semantic"], before, tf.cast(size, tf.int32), shape, semantic_stride),
    )
    return Batch(
        images=preprocessing.pad_to(image, *shape),
        sizes=size,
        original_sizes=sample["original_size"],
        image_ids=sample["image_id"],
        truth=truth,
    )


def _resize_labels(labels, before, size, shape, stride):
    """Returns every stride-th label of the resized, padded map, [shape / stride] int32; padding is ignored.

    Resizing is nearest as in OpenCV (the pixel at floor(i * old / new)) and computes only the pixels that are kept.
    """
    ys, xs = (tf.range(0, side, stride) for side in shape)
    rows = tf.minimum(ys * before[0] // size[0], before[0] - 1)
    columns = tf.minimum(xs * before[1] // size[1], before[1] - 1)
    sampled = tf.cast(tf.gather(tf.gather(labels, rows), columns, axis=1), tf.int32)  # [shape / stride]
    return tf.where((ys < size[0])[:, None] & (xs < size[1]), sampled, IGNORED_LABEL)
