"""One picture as upright pixels: from a file, a PIL image or an array.

Before: `inference.inputs` found the file. After: `inference.predictor` detects in the pixels.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from htc_tf.data import image_io
from htc_tf.errors import UserError
from htc_tf.inference.inputs import Unreadable

WANTED = "give a path, a PIL image or an array [H, W, 3] uint8 RGB, or a list of them"


def as_image(picture):
    """One picture as [H, W, 3] uint8 RGB.

    Raises:
        UserError: it is none of the forms that `Predictor` takes, or has no pixels.
    """
    if isinstance(picture, (str, os.PathLike)):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        return image_io.to_rgb(picture)
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(f"a picture of type {type(picture).__name__}, {array.dtype} {list(array.shape)}: {WANTED}")
    if not array.size:
        raise UserError(f"a picture without pixels, {list(array.shape)}: {WANTED}")
    return array


def read_picture(path):
    """A file as [H, W, 3] uint8 RGB, turned as its EXIF orientation says; of an animation the first frame.

    The formats and how each is read are those of `data.image_io`, and so of the records.

    Raises:
        Unreadable: it is missing, damaged, no image, or too large.
    """
    try:
        return image_io.decode(image_io.read_file(path))
    except image_io.ImageError as error:
        raise Unreadable(Path(path), str(error)) from error
