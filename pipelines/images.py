"""Image file to the bytes of a record: found inside its folder, of the annotated size, and certainly decodable.

A JPEG or PNG of RGB or 8-bit gray is stored unchanged, unless it has to be rotated; any other image that
`data.image_io` can read is stored as an 8-bit RGB PNG. Unusable images raise `checks.Rejected`.

Records hold pixels without an orientation. The annotated size tells whether the annotators saw the EXIF orientation
applied. If the size is the same both ways (half turns, mirrored images, quarter turns of a square), `exif` decides.
"""

import contextlib
import functools
import io
import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
import tensorflow as tf

from htc_tf.data import image_io
from htc_tf.data.image_io import ImageError
from htc_tf.errors import reason_of

from . import file_names, files
from .checks import Counters, Rejected

# --max_pixels replaces Pillow's own limit.
PIL.Image.MAX_IMAGE_PIXELS = None
STORED = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
REASONS = {"unreadable": "image_unreadable", "too_large": "image_too_large", "mode": "image_mode"}
JPEG_RATIO = 8  # JPEGs are decoded at an eighth of their size, for checking
DARK = 16  # above the high byte of any 12-bit value


def load_image(
    root: str,
    file_name: str,
    height: int,
    width: int,
    max_pixels: int,
    decode: str,
    exif: str,
    counters: Counters,
    link_folders: Sequence[str] | None = None,
) -> tuple[bytes, str]:
    """Loads and checks one image.

    Args:
        root: The image folder, a real path.
        file_name: The file's path relative to `root`.
        height, width: The annotated size in pixels.
        max_pixels: The largest image to decode.
        decode: "full" decodes the image as training does; "header" reads only the header and checks that the file has
            an end, so that a flipped bit is noticed only in training.
        exif: "apply" or "ignore" EXIF orientations that leave the size unchanged.
        counters: Counters.
        link_folders: As in `read_inside`.
    Returns:
        (encoded, format): the bytes to store, and "jpeg" or "png".
    Raises:
        Rejected: The image cannot be used.
    """
    encoded = read_inside(root, file_name, link_folders)
    with rejecting():
        image = image_io.open_image(encoded, max_pixels, f"--max_pixels {max_pixels}")
        orientation = image_io.orientation(image)
        turned = _is_turned(image_io.stored_size(image), (width, height), orientation, exif)
        stored = STORED.get(image.format)
        counters.count("exif_ignored", orientation != 1 and not turned)
        if turned or stored is None or image.mode not in ("RGB", "L"):
            image_io.check_whole(image, encoded)
            pixels = image_io.to_rgb(image, upright=turned)
            counters.count("images_turned" if turned else "images_converted")
            counters.count("images_dark", image.mode.startswith("I") and _is_dark(pixels, np.asarray(image)))
            counters.count("images_of_pages", image_io.has_pages(image))
            return encode_png(PIL.Image.fromarray(pixels)), "png"
        if decode == "full":
            _decode(encoded, stored, height, width)
        else:
            image_io.check_whole(image, encoded)
    return encoded, stored


def _is_turned(size, annotated, orientation, exif):
    """True if the orientation is to be applied. `size` and `annotated` are (width, height)."""
    upright = size[::-1] if orientation >= 5 else size  # 5 to 8 are quarter turns
    if annotated not in (size, upright):
        found = f"{size[0]} x {size[1]}" + (f" ({upright[0]} x {upright[1]} upright)" if upright != size else "")
        raise Rejected("image_size_differs", f"file {found}, annotated {annotated[0]} x {annotated[1]}")
    if size != upright:
        return annotated == upright
    return orientation != 1 and exif == "apply"


@contextlib.contextmanager
def rejecting(before: str = "", **reasons: str):
    """Turns an ImageError into Rejected.

    Args:
        before: Text before the error's message.
        **reasons: Replacements for entries of REASONS.
    """
    try:
        yield
    except ImageError as error:
        raise Rejected({**REASONS, **reasons}[error.kind], f"{before}{error}") from None


def read_inside(root: str, file_name: str, link_folders: Sequence[str] | None = None) -> bytes:
    """Reads a file below a folder.

    Args:
        root: The folder, a real path, or one with a scheme.
        file_name: The file's path relative to `root`, without parts "..".
        link_folders: Real paths of the folders in which links may end; empty allows all. None: `root`.
    Raises:
        Rejected: The file cannot be read, or a link leads elsewhere.
    """
    path = files.join(root, file_name)
    if files.is_remote(root):
        try:
            return files.read_bytes(path)
        except FileNotFoundError:
            raise Rejected("image_missing", f"{path}: no such file") from None
    folder, name = os.path.split(path)
    path = os.path.join(_real_folder(folder), name)
    if os.path.islink(path):
        path = os.path.realpath(path)
    allowed = (root,) if link_folders is None else link_folders
    if allowed and not any(os.path.commonpath((folder, path)) == folder for folder in allowed):
        raise Rejected("image_outside_root", f"{file_name} leads to {path}")
    try:
        with rejecting(f"{path}: "):
            return image_io.read_file(path)
    except Rejected:
        if os.path.exists(path):
            raise
        if os.path.islink(files.join(root, file_name)):
            raise Rejected("image_missing", f"{file_name} is a link to {path}, which does not exist") from None
        raise Rejected("image_missing", f"{path}: no such file{file_names.hint(root, file_name)}") from None


@functools.cache
def _real_folder(path):
    return os.path.realpath(path)


def encode_png(image: PIL.Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _is_dark(pixels, values):
    """True if the high bytes of 16-bit `values` are all near 0, or all 0: those of an image that is not plain black."""
    return pixels.max() < DARK and values.min() < values.max()


def _decode(encoded, stored, height, width):
    """Decodes the whole image with the decoder that training uses."""
    # A tensor, because TensorFlow converts bytes more slowly.
    contents = tf.constant(encoded)
    try:
        if stored == "jpeg":
            # At an eighth of the size, every bit of the file is read, but few pixels are computed.
            shape = tf.io.decode_jpeg(contents, ratio=JPEG_RATIO).shape
            expected = (-(-height // JPEG_RATIO), -(-width // JPEG_RATIO))
        else:
            shape = tf.io.decode_png(contents, channels=3).shape
            expected = (height, width)
    except tf.errors.OpError as error:
        reason = reason_of(error.message)
        raise Rejected("image_unreadable", f"a {stored.upper()}, but damaged or truncated ({reason})") from None
    if tuple(shape[:2]) != expected:
        raise Rejected("image_size_differs", f"the decoded size differs from that of the header, {width} x {height}")
