"""Augmented images of a dataset: the function that makes the rows of training batches, for one record and any seed."""

import base64
import io
import threading

import numpy as np
import tensorflow as tf
from PIL import Image

from htc_tf.data.record_order import Entry
from htc_tf.data.sample import SampleReader
from htc_tf.errors import UserError, reason_of, user_error_in
from htc_tf.ops.paste import encode_masks

JPEG_QUALITY = 88


class Augmenter:
    """The augmentations of a configuration.

    Attributes:
        names: Names of the augmentations, in their order.
    """

    def __init__(self, settings, info):
        """Initializes the augmenter.

        Args:
            settings: The training's Input.
            info: DatasetInfo of the records.
        Raises:
            UserError: Copy-paste is configured, but the records have no masks.
        """
        if settings.paste and not info.masks:
            raise UserError(f"{info.folder} has no masks, which Input.paste needs: leave Input.paste out")
        self.info = info
        reader = SampleReader(info, settings.max_objects, settings.mask_size)
        self.make_row = tf.function(lambda entry: settings.make_row(reader, entry), autograph=False)
        functions = (*settings.augment, *([settings.paste] if settings.paste else ()))
        self.names = [getattr(function, "__name__", str(function)) for function in functions]
        self.lock = threading.Lock()

    def draw(self, record, paste_source, number):
        """Augments a record.

        Args:
            record: (index of the shard, serialized record).
            paste_source: Another record, whose objects copy-paste uses.
            number: Int, the seed; the same arguments return the same image.
        Returns:
            {"image": a JPEG as a data URL, "width", "height", "objects": COCO annotations}, without padding.
        Raises:
            UserError: The record does not decode, or a box is not finite.
        """
        entry = Entry(
            shard=tf.constant(record[0], tf.int64),
            serialized=tf.constant(record[1]),
            seed=tf.constant([number, 0], tf.int64),
            valid=tf.constant(True),
            paste_source_shard=tf.constant(paste_source[0], tf.int64),
            paste_source=tf.constant(paste_source[1]),
        )
        try:
            with self.lock:
                row = self.make_row(entry)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            reason = user_error_in(str(error)) or f"this record does not decode: {reason_of(str(error))}"
            raise UserError(reason) from None
        height, width = row.sizes.numpy().astype(int).tolist()
        file = io.BytesIO()
        Image.fromarray(row.images.numpy()[:height, :width]).save(file, "JPEG", quality=JPEG_QUALITY)
        return {
            "image": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}",
            "height": height,
            "width": width,
            "objects": self.to_coco(row.truth, height, width),
        }

    def to_coco(self, truth, height, width):
        """Returns the ground truth of a row as COCO annotations of an image of height x width pixels."""
        valid = truth.valid.numpy()
        fields = ("boxes", "classes", "masks", "crop_boxes")
        boxes, classes, masks, crop_boxes = (getattr(truth, field).numpy()[valid] for field in fields)
        if not np.isfinite(boxes).all():
            raise UserError("this record, or one whose objects are pasted into it, has a box that is not finite")
        y1, x1, y2, x2 = np.clip(boxes, 0, [height, width, height, width]).astype(np.float64).T
        sides = np.round(np.stack([x1, y1, x2 - x1, y2 - y1], axis=1), 2).tolist()
        objects = [
            {"category_id": self.info.category_ids[label], "bbox": box}
            for label, box in zip(classes.tolist(), sides, strict=True)
        ]
        if self.info.masks:
            segmentations = encode_masks(masks / np.float32(255), crop_boxes, height, width)
            objects = [dict(item, segmentation=rle) for item, rle in zip(objects, segmentations, strict=True)]
        return objects

    def finish(self):
        """Waits for the current row: TensorFlow must not be running when the program ends."""
        self.lock.acquire()
