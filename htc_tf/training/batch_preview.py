"""Pictures of what training sees: the rows of its batches, with boxes, masks and classes of the truth.

Before it: `data.input` makes the batches. After it: `htc_tf.preview` puts the pictures on a sheet.
"""

import numpy as np
import tensorflow as tf

from htc_tf.data.input import named_errors
from htc_tf.ops.masks import paste
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import draw


def draw_training_images(settings, info, seed, count):
    """The first `count` images of a training with that seed, as pictures [H, W, 3] uint8.

    Args:
        settings: the Input.
        info: DatasetInfo of the records.
    """
    pictures, names = [], fonts.class_names(info.class_names, info.category_ids)
    with named_errors(info.folder):
        for batch in settings.dataset(info.folder, seed):
            for row in range(min(len(batch.images), count - len(pictures))):
                one = tf.nest.map_structure(lambda values, row=row: values[row], batch)
                pictures.append(draw_row(one, names))
            if len(pictures) == count:
                return pictures


def draw_row(row, class_names):
    """One row of a Batch, with its padding, as a picture [H, W, 3] uint8."""
    image, valid = row.images.numpy(), row.truth.valid.numpy()
    fields = ("boxes", "classes", "masks", "crop_boxes")
    boxes, classes, masks, frames = (getattr(row.truth, field).numpy()[valid] for field in fields)
    pixels = paste(tf.constant(masks / np.float32(255)), tf.constant(frames), *image.shape[:2]).numpy()
    height, width = row.sizes.numpy().astype(int)
    pixels[:, height:], pixels[:, :, width:] = False, False
    return draw(image, boxes, classes, class_names, masks=pixels)
