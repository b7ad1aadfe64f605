"""An image file to a record's bytes: found inside its folder, of the size the annotations say, surely decodable.

Called by `pipelines.shards` for every image; what it refuses, it refuses by raising `checks.Rejected`. A file is
stored as it is on disk if it is a JPEG or PNG of 8-bit RGB or gray that needs no turn; anything else that
`data.image_io` reads becomes an RGB PNG.

Records hold pixels, not orientations. The annotated size says whether the annotators saw EXIF's orientation applied.
Where the size agrees both ways (half turns, mirrored images, quarter turns of a square), `exif` decides for the set.
"""

import contextlib
import functools
import io
import os

import PIL.Image
import tensorflow as tf

from htc_tf.data import image_io
from htc_tf.data.image_io import ImageError
from htc_tf.errors import reason_of
from pipelines import files, names
from pipelines.checks import Rejected, Tally

# --max_pixels takes the place of Pillow's own limit.
PIL.Image.MAX_IMAGE_PIXELS = None
STORED = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
REASONS = {"unreadable": "image_unreadable", "too_large": "image_too_large", "mode": "image_mode"}
JPEG_RATIO = 8
DARK = 16  # of 255: the high byte of 12-bit numbers stays below


def load_image(
    root: str, file_name: str, height: int, width: int, max_pixels: int, decode: str, exif: str, tally: Tally
) -> tuple[bytes, str]:
    """The bytes to store and their format, 'jpeg' or 'png'. `root` is a real path; sizes are in pixels.

    Args:
      decode: "full" reads the image to its end with what training decodes it with; "header" believes its header, and
        sees only that it has an end: a flipped bit shows in training.
      exif: "apply" or "ignore" an EXIF orientation with which the image has the annotated size, as it has without.

    Raises:
      Rejected: with the reason.
    """
    encoded = read_inside(root, file_name)
    with rejecting():
        image = image_io.open_image(encoded, max_pixels, f"--max_pixels {max_pixels}")
        orientation = image_io.orientation(image)
        turned = _is_turned(image_io.stored_size(image), (width, height), orientation, exif)
        stored = STORED.get(image.format)
        tally.count("exif_ignored", orientation != 1 and not turned)
        if turned or stored is None or image.mode not in ("RGB", "L"):
            image_io.check_whole(image, encoded)
            is_deep = image.mode.startswith("I")
            pixels = image_io.to_rgb(image, upright=turned)
            tally.count("images_turned" if turned else "images_converted")
            tally.count("images_dark", is_deep and bool(0 < pixels.max() < DARK))
            return encode_png(PIL.Image.fromarray(pixels)), "png"
        if decode == "full":
            _decode(encoded, stored, height, width)
        else:
            image_io.check_whole(image, encoded)
    return encoded, stored


def _is_turned(size, annotated, orientation, exif):
    """Whether the orientation is to be applied; `size` and `annotated` are (width, height)."""
    upright = size[::-1] if orientation >= 5 else size
    if annotated not in (size, upright):
        found = " x ".join(map(str, size)) + (f" ({upright[0]} x {upright[1]} upright)" if upright != size else "")
        raise Rejected("image_size_differs", f"file {found}, annotated {annotated[0]} x {annotated[1]}")
    if size != upright:
        return annotated == upright
    return orientation != 1 and exif == "apply"


@contextlib.contextmanager
def rejecting(before: str = "", **reasons: str):
    """Turns ImageError into Rejected, with `before` before its message; `reasons` replaces entries of REASONS."""
    try:
        yield
    except ImageError as error:
        raise Rejected({**REASONS, **reasons}[error.kind], f"{before}{error}") from None


def read_inside(root: str, file_name: str) -> bytes:
    """The bytes of a file below `root`, wherever links lead; `root` is a real path, or one with a scheme."""
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
    if os.path.commonpath((root, path)) != root:
        raise Rejected("image_outside_root", f"{file_name} leads to {path}")
    try:
        with rejecting(f"{path}: "):
            return image_io.read_file(path)
    except Rejected:
        if os.path.exists(path):
            raise
        raise Rejected("image_missing", f"{path}: no such file{names.hint(root, file_name)}") from None


@functools.cache
def _real_folder(path):
    return os.path.realpath(path)


def encode_png(picture: PIL.Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _decode(encoded, stored, height, width):
    """Reads the whole image with what training decodes it with."""
    # As a tensor: TensorFlow takes bytes too, by a slower way.
    contents = tf.constant(encoded)
    try:
        if stored == "jpeg":
            # An eighth of the size: every bit of the file is read, but the pixels are hardly computed.
            shape = tf.io.decode_jpeg(contents, ratio=JPEG_RATIO).shape
            expected = (-(-height // JPEG_RATIO), -(-width // JPEG_RATIO))
        else:
            shape = tf.io.decode_png(contents, channels=3).shape
            expected = (height, width)
    except tf.errors.OpError as error:
        reason = reason_of(error.message)
        raise Rejected("image_unreadable", f"a {stored.upper()}, but damaged or truncated ({reason})") from None
    if tuple(shape[:2]) != expected:
        raise Rejected("image_size_differs", f"decodes to another size than its header says, {width} x {height}")
