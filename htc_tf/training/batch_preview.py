"""Preview of training batches: their images drawn with the boxes, masks and classes of the ground truth."""

import numpy as np
import tensorflow as tf

from htc_tf.data.input import named_errors
from htc_tf.ops.masks import paste
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import draw


def draw_training_images(settings, info, seed, count):
    """Returns drawings, [H, W, 3] uint8, of the first images of a training.

    Args:
        settings: Input of the training.
        info: DatasetInfo of the records.
        seed: int, seed of the training.
        count: int, number of images.
    """
    drawings, names = [], fonts.class_names(info.class_names, info.category_ids)
    with named_errors(info.folder):
        for batch in settings.dataset(info.folder, seed):
            for row in range(min(len(batch.images), count - len(drawings))):
                one = tf.nest.map_structure(lambda values, row=row: values[row], batch)
                drawings.append(draw_row(one, names))
            if len(drawings) == count:
                return drawings


def draw_row(row, class_names):
    """Returns a drawing, [H, W, 3] uint8, of one row of a Batch, including its padding."""
    image, valid = row.images.numpy(), row.truth.valid.numpy()
    fields = ("boxes", "classes", "masks", "crop_boxes")
    boxes, classes, masks, crop_boxes = (getattr(row.truth, field).numpy()[valid] for field in fields)
    pixels = paste(tf.constant(masks / np.float32(255)), tf.constant(crop_boxes), *image.shape[:2]).numpy()
    # A mask may reach into the padding, where there is no image.
    height, width = row.sizes.numpy().astype(int)
    pixels[:, height:], pixels[:, :, width:] = False, False
    return draw(image, boxes, classes, class_names, masks=pixels)
