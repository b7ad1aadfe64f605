"""One picture as upright pixels: from a file, a PIL image or an array.

Before: `prediction.inputs` found the file. After: `prediction.predictor` detects in the pixels.
"""

import os
import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from htc_tf.engine.prediction.inputs import Unreadable
from htc_tf.errors import UserError

WANTED = "give a path, a PIL image or an array [H, W, 3] uint8 RGB, or a list of them"


def as_image(picture):
    """One picture as [H, W, 3] uint8 RGB.

    Raises:
        UserError: it is none of the forms that `Predictor` takes, or has no pixels.
    """
    if isinstance(picture, (str, os.PathLike)):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        return upright(picture)
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(f"a picture of type {type(picture).__name__}, {array.dtype} {list(array.shape)}: {WANTED}")
    if not array.size:
        raise UserError(f"a picture without pixels, {list(array.shape)}: {WANTED}")
    return array


def read_picture(path):
    """A file as [H, W, 3] uint8 RGB, turned as its EXIF orientation says; of an animation the first frame.

    TensorFlow decodes JPEG, PNG, GIF and BMP, as in training and in the exported model: other decoders differ by a few
    grey levels. Pillow decodes what it knows besides, such as WebP and TIFF.

    Raises:
        Unreadable: it is missing, damaged, no picture, or of more pixels than Pillow takes for harmless.
    """
    path = Path(path)
    try:
        with Image.open(path) as picture:
            if picture.format not in ("JPEG", "PNG", "GIF", "BMP"):
                return upright(picture)
            orientation = picture.getexif().get(ExifTags.Base.Orientation)
        decoded = Image.fromarray(tf.io.decode_image(path.read_bytes(), 3, expand_animations=False).numpy())
    except UnidentifiedImageError as error:
        raise Unreadable(path, "no picture, or of a format that Pillow does not know") from error
    except (OSError, ValueError, SyntaxError, tf.errors.OpError, Image.DecompressionBombError) as error:
        # Of TensorFlow's message the sentence, without the name of the operation before and after it.
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", getattr(error, "strerror", None) or str(error)).strip()
        raise Unreadable(path, reason) from error
    if orientation is not None:
        decoded.getexif()[ExifTags.Base.Orientation] = orientation
    return upright(decoded)


def upright(picture):
    """A PIL image as [H, W, 3] uint8 RGB, turned as its EXIF orientation says."""
    return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
