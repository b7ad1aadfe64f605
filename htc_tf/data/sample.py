"""A record becomes a sample: everything that is known of one image, decoded, at its original size.

Before it: `data.record_order`, which says whose turn it is. After it: `data.augment`, functions from sample to sample, and
`data.ground_truth`. A sample is a dict, h x w the image's own size, G its number of objects, M the cells of a mask:

| key | | |
|---|---|---|
| image | [h, w, 3] uint8 | RGB |
| semantic | [h, w] uint8 | labels, 255 where there are none |
| boxes | [G, 4] float32 | [y1, x1, y2, x2] in pixels of `image` |
| classes | [G] int32 | 0 ... K - 1 |
| masks | [G, M, M] uint8 | coverage of the cell, 0 ... 255 |
| crop_boxes | [G, 4] float32 | the box that the cells span, in pixels of `image` |
| image_id | [] int64 | COCO's id |
| original_size | [2] int32 | height, width |
| min_side, max_side | a number, or [] | what to resize to; `data.input` sets them, an augmentation may change them |
| canvas | (height, width), ints or [] tensors | the padded shape that the result must fit into |
| seed | [2] int64 | of this sample in this epoch; `augment.draw` takes numbers from it |
"""

import logging
import threading

import numpy as np
import tensorflow as tf

from htc_tf.data import schema
from htc_tf.data.decode import decode_rgb
from htc_tf.data.mask_crops import crop_masks
from htc_tf.data.numpy_op import numpy_op
from htc_tf.errors import UserError
from htc_tf.structures import IGNORED_LABEL

logger = logging.getLogger(__name__)


class SampleReader:
    """Decodes the records of one data set."""

    def __init__(self, info, max_objects, mask_size):
        """info: DatasetInfo; max_objects: the most objects of a sample; mask_size: M, cells along a mask's side."""
        self._paths = info.shard_paths
        self._has_labels = info.stuff.present
        self._classes = {category: index for index, category in enumerate(info.category_ids)}
        self._max_objects = max_objects
        self._mask_size = mask_size
        self._crowded_images = 0
        self._lock = threading.Lock()

    def read(self, shard, serialized):
        """The sample of a record, without `min_side`, `max_side`, `canvas` and `seed`, in a tf.data graph.

        Args:
          shard: [] int64, the number of the shard that the record is from.
          serialized: [] string.
        """
        record = schema.parse(serialized)
        size = tf.stack([record["height"], record["width"]])
        image = decode_rgb(record["encoded"])
        semantic = self._decode_labels(record["semantic"], size)
        objects = tf.where(~record["is_crowd"])[:, 0]
        kept = objects[: self._max_objects]
        arguments = {
            "shard": shard,
            "filename": record["filename"],
            "size": size,
            "decoded": tf.stack([tf.shape(image)[:2], tf.shape(semantic)]),
            "objects": tf.size(objects),
            "categories": tf.gather(record["categories"], kept),
            "rles": tf.gather(record["mask_rle"], kept),
        }
        classes, masks, frames = numpy_op(self._describe, list(arguments.values()), [tf.int32, tf.uint8, tf.float32])
        return {
            "image": image,
            "semantic": tf.ensure_shape(semantic, [None, None]),
            "boxes": tf.ensure_shape(tf.gather(record["boxes"], kept), [None, 4]),
            "classes": tf.ensure_shape(classes, [None]),
            "masks": tf.ensure_shape(masks, [None, self._mask_size, self._mask_size]),
            "crop_boxes": tf.ensure_shape(frames, [None, 4]),
            "image_id": record["image_id"],
            "original_size": size,
        }

    def _decode_labels(self, encoded, size):
        def blank():
            return tf.fill(size, tf.constant(IGNORED_LABEL, tf.uint8))

        def decode():
            return tf.io.decode_png(encoded, channels=1)[..., 0]

        return tf.cond(encoded == "", blank, decode) if self._has_labels else blank()

    def _describe(self, shard, filename, size, decoded, objects, categories, rles):
        """The classes [G], masks [G, M, M] and mask frames [G, 4] of the objects that are used, as arrays."""
        name = f"{self._paths[shard]}: {filename.decode(errors='replace')}"
        if np.any(decoded != size):
            found = ", its semantic map ".join(f"{height} x {width}" for height, width in decoded)
            raise UserError(f"{name}: is {found}, but its record says {size[0]} x {size[1]}; prepare the data again")
        if objects > self._max_objects:
            self._warn_of_crowded_image(name, objects)
        unknown = set(categories.tolist()) - set(self._classes)
        if unknown:
            raise UserError(f"{name}: dataset_info.json knows no category {sorted(unknown)}; prepare the data again")
        classes = np.array([self._classes[category] for category in categories.tolist()], np.int32)
        try:
            return classes, *crop_masks(rles, *size.tolist(), self._mask_size)
        except ValueError as error:
            raise UserError(f"{name}: a mask's run lengths do not decode ({error}); prepare the data again") from None

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
