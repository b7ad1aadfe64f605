"""An image file to a record's bytes: found inside its folder, of the size the annotations say, surely decodable.

Called by `pipelines.shards` for every image; what it refuses, it refuses by raising `checks.Rejected`. A file is
stored as it is on disk if it is a JPEG or PNG of 8-bit RGB or grey; anything else becomes an RGB PNG (alpha is
dropped, as OpenCV drops it). The pixels count as stored: EXIF's rotation is applied only where the annotated
size says that the annotators saw it applied.
"""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import tensorflow as tf

from pipelines.checks import Rejected, Tally

# --max_pixels takes the place of Pillow's own limit.
PIL.Image.MAX_IMAGE_PIXELS = None
# Not every format that Pillow knows: EPS and the like start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# MPO is a camera's JPEG with a preview behind it; Pillow finds it by JPEG's reader.
STORED = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
EXIF_ORIENTATION = 0x0112
PNG_BIT_DEPTH = 24  # the byte of the file that holds it
IGNORED_LABEL = 255


def load_image(root: str, file_name: str, height: int, width: int, max_pixels: int, tally: Tally) -> tuple[bytes, str]:
    """The bytes to store and their format, 'jpeg' or 'png'. `root` is a real path; sizes are in pixels.

    Raises:
      Rejected: with the reason.
    """
    encoded = read_inside(root, file_name)
    picture = _open(encoded, "image_unreadable")
    if picture.width * picture.height > max_pixels:
        raise Rejected("image_too_large", f"{picture.width} x {picture.height} pixels, the limit is {max_pixels}")
    orientation = _orientation(picture)
    turned = picture.size != (width, height)
    if turned and not (orientation in (5, 6, 7, 8) and picture.size == (height, width)):
        raise Rejected("image_size_differs", f"file {picture.width} x {picture.height}, annotated {width} x {height}")
    stored = STORED.get(picture.format)
    if turned or stored is None or picture.mode not in ("RGB", "L"):
        tally.count("images_turned" if turned else "images_converted")
        encoded, stored = _to_png(picture, turned), "png"
    elif orientation != 1:
        tally.count("exif_ignored")
    _decode(encoded, height, width)
    return encoded, stored


def load_stuff(
    root: str, file_name: str, height: int, width: int, labels: int | None, tally: Tally
) -> tuple[bytes, int]:
    """The stuff map beside an image, as PNG bytes, and its largest label or -1. `labels` None: any label will do.

    A map with a palette is stored without it: training's decoder would give its colours, not its labels.

    Raises:
      Rejected: with the reason.
    """
    name = os.path.splitext(file_name)[0] + ".png"
    try:
        encoded = read_inside(root, name)
    except Rejected as error:
        reason = "stuff_missing" if error.reason == "image_missing" else "stuff_unreadable"
        raise Rejected(reason, error.detail) from None
    picture = _open(encoded, "stuff_unreadable")
    # Fewer bits than 8 without a palette are shades of grey: every decoder would scale them up to 0 ... 255.
    plain = picture.mode == "L" and encoded[PNG_BIT_DEPTH] == 8
    if picture.format != "PNG" or not (plain or picture.mode == "P"):
        raise Rejected("stuff_unreadable", f"{name}: {picture.format}, mode {picture.mode}, is no PNG of 8-bit labels")
    if picture.size != (width, height):
        raise Rejected("stuff_size_differs", f"{name} has {picture.width} x {picture.height}, image {width} x {height}")
    try:
        present = [label for label, number in enumerate(picture.histogram()) if number and label != IGNORED_LABEL]
    except Exception as error:
        raise Rejected("stuff_unreadable", f"{name}: {error}") from None
    largest = present[-1] if present else -1
    if labels is not None and largest >= labels:
        raise Rejected("stuff_label_unknown", f"{name} holds label {largest}, labels are 0 ... {labels - 1}")
    if picture.mode == "P":
        tally.count("stuff_converted")
        encoded = _encode_png(PIL.Image.fromarray(np.asarray(picture)))
    return encoded, largest


def read_inside(root: str, file_name: str) -> bytes:
    """The bytes of a file below `root`, a real path, wherever its links lead."""
    path = os.path.realpath(os.path.join(root, file_name))
    if os.path.commonpath((root, path)) != root:
        raise Rejected("image_outside_root", f"{file_name} leads to {path}")
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Rejected("image_missing", f"{path}: no such file") from None
    except OSError as error:
        raise Rejected("image_unreadable", f"{path}: {error.strerror}") from None


def _open(encoded, reason):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Exception as error:  # Pillow's readers raise anything, struct.error included, on damaged files.
        raise Rejected(reason, f"no image: {type(error).__name__}: {error}") from None


def _orientation(picture):
    if picture.format not in ("JPEG", "MPO"):
        return 1
    try:
        return picture.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # Damaged EXIF asks for nothing.
        return 1


def _to_png(picture, turned):
    try:
        picture.load()
        if turned:
            picture = PIL.ImageOps.exif_transpose(picture)
        if picture.mode[0] in "IF":
            picture = PIL.Image.fromarray(_high_byte(np.asarray(picture), picture.mode))
        return _encode_png(picture.convert("RGB"))
    except Rejected:
        raise
    except Exception as error:  # As in _open.
        raise Rejected("image_unreadable", f"{type(error).__name__}: {error}") from None


def _high_byte(values, mode):
    """16-bit grey, which Pillow calls I or I;16, to 8 bits; `convert` would clip it to white."""
    if mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise Rejected("image_mode", f"pixels of mode {mode}")
    return (values >> 8).astype(np.uint8)


def _encode_png(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _decode(encoded, height, width):
    """Decodes the whole image with what training decodes it with."""
    try:
        shape = tf.io.decode_image(encoded, channels=3, expand_animations=False).shape
    except tf.errors.OpError as error:
        raise Rejected("image_unreadable", error.message.rpartition("}} ")[2]) from None
    if tuple(shape) != (height, width, 3):
        raise Rejected("image_size_differs", f"decodes to {shape[1]} x {shape[0]}, annotated {width} x {height}")
