"""What training makes of one record: the very function that makes the rows of its batches, with one seed after another.

Before: `web.dataset_browser` has read the record. After: the page draws the row like any other image with its truth.
"""

import base64
import io
import re
import threading

import numpy as np
import tensorflow as tf
from PIL import Image

from htc_tf.data.record_order import Entry
from htc_tf.data.sample import SampleReader
from htc_tf.errors import UserError, reason_of
from htc_tf.ops.paste import encode_masks

JPEG_QUALITY = 88


class Augmenter:
    """A configuration's augmentations.

    Attributes:
        names: of the augmentations, in their order.
    """

    def __init__(self, settings, info):
        """
        Args:
            settings: the training's Input.
            info: DatasetInfo of the records.
        Raises:
            UserError: objects are to be pasted, and the records have no masks.
        """
        if settings.paste and not info.masks:
            raise UserError(f"{info.folder} has no masks, and Input.paste needs them: leave it out")
        self.info = info
        reader = SampleReader(info, settings.max_objects, settings.mask_size)
        self.make_row = tf.function(lambda entry: settings.make_row(reader, entry), autograph=False)
        changes = (*settings.augment, *([settings.paste] if settings.paste else ()))
        self.names = [getattr(change, "__name__", str(change)) for change in changes]
        self.lock = threading.Lock()

    def draw(self, record, partner, number):
        """One way in which training may see a record.

        Args:
            record: (number of its shard, its bytes), and
            partner: another, for what takes two images.
            number: which way; the same number gives the same one.
        Returns:
            {"picture": a JPEG as a data URL, "width", "height", "objects": COCO annotations}, without the padding.
        Raises:
            UserError: the record does not decode, or a box is not finite.
        """
        entry = Entry(
            shard=tf.constant(record[0], tf.int64),
            serialized=tf.constant(record[1]),
            seed=tf.constant([number, 0], tf.int64),
            valid=tf.constant(True),
            paste_source_shard=tf.constant(partner[0], tf.int64),
            paste_source=tf.constant(partner[1]),
        )
        try:
            with self.lock:
                row = self.make_row(entry)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            named = re.search(r"UserError: (.*)", str(error))
            raise UserError(named[1] if named else f"this record does not decode: {reason_of(str(error))}") from None
        height, width = row.sizes.numpy().astype(int).tolist()
        file = io.BytesIO()
        Image.fromarray(row.images.numpy()[:height, :width]).save(file, "JPEG", quality=JPEG_QUALITY)
        return {
            "picture": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}",
            "height": height,
            "width": width,
            "objects": self.annotate(row.truth, height, width),
        }

    def annotate(self, truth, height, width):
        valid = truth.valid.numpy()
        boxes, classes, masks, frames = (
            getattr(truth, field).numpy()[valid] for field in ("boxes", "classes", "masks", "crop_boxes")
        )
        if not np.isfinite(boxes).all():
            raise UserError("this record, or one whose objects are pasted into it, has a box that is not finite")
        y1, x1, y2, x2 = np.clip(boxes, 0, [height, width, height, width]).astype(np.float64).T
        sides = np.round(np.stack([x1, y1, x2 - x1, y2 - y1], axis=1), 2).tolist()
        objects = [
            {"category_id": self.info.category_ids[label], "bbox": box}
            for label, box in zip(classes.tolist(), sides, strict=True)
        ]
        if self.info.masks:
            runs = encode_masks(masks / np.float32(255), frames, height, width)
            objects = [dict(item, segmentation=run) for item, run in zip(objects, runs, strict=True)]
        return objects

    def finish(self):
        """Waits for the row at hand: TensorFlow must not be at work when the program ends."""
        self.lock.acquire()
