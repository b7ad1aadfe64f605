"""A record becomes a sample: everything that is known of one image, decoded, at its original size.

Before it: `data.order`, which says whose turn it is. After it: `data.augment`, functions from sample to sample, and
`data.truth`. A sample is a dict, h x w the image's own size, G its number of objects, M the cells of a mask:

| key | | |
|---|---|---|
| image | [h, w, 3] uint8 | RGB |
| semantic | [h, w] uint8 | labels, 255 where there are none |
| boxes | [G, 4] float32 | [y1, x1, y2, x2] in pixels of `image` |
| classes | [G] int32 | 0 ... K - 1 |
| masks | [G, M, M] uint8 | coverage of the cell, 0 ... 255 |
| mask_frames | [G, 4] float32 | the box that the cells span, in pixels of `image` |
| image_id | [] int64 | COCO's id |
| original_size | [2] int32 | height, width |
| min_side, max_side | int, or [] int32 | what to resize to; `data.input` sets them, an augmentation may change them |
| seed | [2] int64 | of this sample in this epoch; `augment.draw` takes numbers from it |
"""

import logging
import threading

import numpy as np
import tensorflow as tf

from htc_tf.data import schema
from htc_tf.data.mask_cells import crop_masks
from htc_tf.data.python_op import python_op
from htc_tf.errors import UserError
from htc_tf.structures import IGNORED_LABEL

logger = logging.getLogger(__name__)


class SampleReader:
    """Decodes the records of one data set, and names the record that does not decode."""

    def __init__(self, info, max_objects, mask_size):
        """info: DatasetInfo; max_objects: the most objects of a sample; mask_size: M, cells along a mask's side."""
        self._paths = info.shard_paths
        self._classes = {category: index for index, category in enumerate(info.category_ids)}
        self._max_objects = max_objects
        self._mask_size = mask_size
        self._crowded_images = 0
        self._lock = threading.Lock()

    def read(self, shard, serialized):
        """The sample of a record, without `min_side`, `max_side` and `seed`, in a tf.data graph.

        Args:
          shard: [] int64, the number of the shard that the record is from.
          serialized: [] string.
        """
        record = schema.parse(serialized)
        keys = ("encoded", "semantic", "filename", "height", "width", "boxes", "categories", "is_crowd", "mask_rle")
        image, semantic, boxes, classes, masks, frames = python_op(
            self._decode,
            [shard, *(record[key] for key in keys)],
            [tf.uint8, tf.uint8, tf.float32, tf.int32, tf.uint8, tf.float32],
        )
        return {
            "image": tf.ensure_shape(image, [None, None, 3]),
            "semantic": tf.ensure_shape(semantic, [None, None]),
            "boxes": tf.ensure_shape(boxes, [None, 4]),
            "classes": tf.ensure_shape(classes, [None]),
            "masks": tf.ensure_shape(masks, [None, self._mask_size, self._mask_size]),
            "mask_frames": tf.ensure_shape(frames, [None, 4]),
            "image_id": record["image_id"],
            "original_size": tf.stack([record["height"], record["width"]]),
        }

    def _decode(self, shard, encoded, semantic, filename, height, width, boxes, categories, is_crowd, rles):
        name = f"{self._paths[shard]}: {filename.decode(errors='replace')}"
        image = _decode_pixels(encoded, 3, height, width, name)
        if semantic:
            labels = _decode_pixels(semantic, 1, height, width, f"{name}, semantic map")[..., 0]
        else:
            labels = np.full((height, width), IGNORED_LABEL, np.uint8)
        objects = np.flatnonzero(~is_crowd)
        if len(objects) > self._max_objects:
            self._warn_of_crowded_image(name, len(objects))
            objects = objects[: self._max_objects]
        unknown = set(categories[objects].tolist()) - set(self._classes)
        if unknown:
            raise UserError(f"{name}: dataset_info.json knows no category {sorted(unknown)}; prepare the data again")
        classes = np.array([self._classes[category] for category in categories[objects].tolist()], np.int32)
        try:
            masks, frames = crop_masks(rles[objects], height, width, self._mask_size)
        except ValueError as error:
            raise UserError(f"{name}: a mask's run lengths do not decode ({error}); prepare the data again") from None
        return image, labels, boxes[objects], classes, masks, frames

    def _warn_of_crowded_image(self, name, objects):
        with self._lock:
            self._crowded_images += 1
            count = self._crowded_images
        # At 1, 10, 100, ...: the log holds the count without being flooded.
        if str(count).strip("0") == "1":
            logger.warning(
                "%s has %d objects; its first %d are used (max_objects). %d such so far",
                *(name, objects, self._max_objects, count),
            )


def _decode_pixels(encoded, channels, height, width, name):
    """The decoded image [height, width, channels] uint8, or a UserError that names it."""
    try:
        with tf.device("CPU:0"):
            image = tf.io.decode_image(encoded, channels, expand_animations=False).numpy()
    except tf.errors.OpError as error:
        raise UserError(f"{name}: does not decode ({error.message}); prepare the data again") from None
    if image.shape != (height, width, channels):
        size = " x ".join(str(side) for side in image.shape[:2])
        raise UserError(f"{name}: is {size}, but its record says {height} x {width}; prepare the data again")
    return image
