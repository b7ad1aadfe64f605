"""Image files: which formats are read, how they become RGB, and which files are refused.

Preparation, prediction and the web pages share this module; the exported model decodes in TensorFlow to the same pixels
(`serving.decode`). It needs Pillow only, because Beam's workers and the client load nothing more.

| file | result |
|---|---|
| formats | `FORMATS`, recognized by content, not by name; the first image of an animation or a multipage TIFF |
| 8 bits: gray, RGB, palette, CMYK, YCbCr; 1 bit | RGB |
| alpha, transparency | dropped; the colors below are kept, as in OpenCV; a GIF, which has none there, becomes black |
| 16 bits per channel | the high byte, inverted in a TIFF with WhiteIsZero |
| floating point, 32 bits, Lab, more than four channels | refused: the value of white is unknown |
| EXIF orientation 2 to 8, in JPEG, PNG (before the pixels), WebP and TIFF | applied; damaged EXIF counts as 1 |
| truncated file, PNG with wrong checksums | refused |
| above `max_pixels`, `MAX_SIDE`, `MAX_BYTES`, `MAX_SCANS` or `MAX_PARTS` | refused |
"""

import contextlib
import io
import itertools
import os
import stat
import threading
import warnings

import numpy as np
from PIL import ExifTags, Image

from htc_tf.data.file_kinds import describe
from htc_tf.errors import UserError

# Pillow reads more formats, but none of them is common, and some readers start other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
MAX_PIXELS = 178_956_970  # Pillow's own limit
MAX_SIDE = 65_535  # the longest side of a JPEG
MAX_BYTES = 2**29
MAX_SCANS = 30  # of a progressive JPEG; encoders write about ten, and each costs a pass over all pixels
MAX_PARTS = 4096  # segments of a JPEG, chunks of a PNG or blocks of a GIF, plus one for each KiB of the file
END_OF_JPEG = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"
BARE_MARKERS = {bytes([marker]) for marker in (0x00, 0x01, *range(0xD0, 0xDA))}  # JPEG markers without a length
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNDO = {6: 8, 8: 6}  # the other orientations are their own inverse
LOCK = threading.Lock()  # Pillow's limit and Python's warnings are global


class ImageError(UserError):
    """An image that cannot be used. `kind` is "unreadable", "too_large" or "mode"; the message names no file."""

    def __init__(self, message: str, kind: str = "unreadable"):
        super().__init__(message)
        self.kind = kind


def read_file(path: str | os.PathLike) -> bytes:
    """Reads a regular file of at most `MAX_BYTES`.

    Raises:
        ImageError: The file does not exist or cannot be read.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is a device or pipe, not a file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"has {status.st_size} bytes, more than the {MAX_BYTES} that are read", "too_large")
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise ImageError(getattr(error, "strerror", None) or str(error)) from None


def open_image(encoded: bytes, max_pixels: int = MAX_PIXELS, limit: str = "") -> Image.Image:
    """Opens the first image of a file: reads its header and checks the limits, without decoding pixels.

    Args:
        encoded: Content of the file.
        max_pixels: Limit on height times width.
        limit: Name of that limit in messages, such as a flag.
    Raises:
        ImageError: The file is not an image, or too large.
    """
    _check_parts(encoded)
    try:
        with _quiet_and_unbounded():
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Exception:  # Pillow's readers raise any exception, even struct.error, on damaged files
        raise ImageError(describe(encoded)) from None
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels, more than {limit or f'the {max_pixels} that are read'}", "too_large"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels, and a side may have at most {MAX_SIDE}", "too_large")
    if image.format in ("JPEG", "MPO"):
        _check_scans(image, encoded)
    return image


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8, of an image before its pixels are decoded; 1 if it is absent or damaged."""
    try:
        with LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if image.format is None:  # created in memory
                tags = image.getexif()
            elif image.format == "TIFF":
                tags = image.tag_v2
            else:
                # Not `getexif`, which also reads XMP; browsers and OpenCV do not.
                tags = Image.Exif()
                tags.load(image.info.get("exif", b""))
            value = tags.get(ExifTags.Base.Orientation)
    except Exception:  # as in `open_image`
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height of an image as stored, before its pixels are decoded and without EXIF rotation."""
    # Pillow rotates a TIFF while loading it, and newer versions report its upright size before that.
    return (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size


def to_rgb(image: Image.Image, upright: bool = True) -> np.ndarray:
    """Decodes an image to [H, W, 3] uint8 RGB.

    Args:
        image: An image from `open_image`.
        upright: If True, the EXIF orientation is applied; otherwise the pixels stay as stored.
    Raises:
        ImageError: The pixels are damaged, or of a mode without a unique conversion to RGB.
    """
    turn = orientation(image)
    if image.format == "TIFF":  # as in `stored_size`
        turn = 1 if upright else UNDO.get(turn, turn)
    elif not upright:
        turn = 1
    try:
        covered = image.tile[0][1] if image.format == "GIF" and image.tile and image.tell() == 0 else None
        image.load()
        image = _on_black(image, covered) if image.format == "GIF" else _convert(image)
    except ImageError:
        raise
    except Exception as error:  # as in `open_image`
        kind = f"a {image.format}, but " if image.format else ""
        raise ImageError(f"{kind}damaged or truncated ({error})") from None
    return np.asarray(image.transpose(TURNS[turn]) if turn in TURNS else image)


def check_whole(image: Image.Image, encoded: bytes) -> None:
    """Checks that a JPEG has its end marker and that the checksums of a PNG match, without decoding pixels.

    Raises:
        ImageError: The file is truncated or damaged.
    """
    if image.format in ("JPEG", "MPO"):
        # A thumbnail before the pixels may contain an end marker, too. rfind: it is nearly always at the end.
        if encoded.rfind(END_OF_JPEG, _first_scan(encoded)) < 0:
            raise ImageError("a JPEG without an end marker: it is truncated")
    elif image.format == "PNG":
        try:
            # A second image, because an image cannot be decoded after `verify`.
            with _quiet_and_unbounded():
                Image.open(io.BytesIO(encoded), formats=("PNG",)).verify()
        except Exception as error:  # as in `open_image`
            raise ImageError(f"a PNG, but damaged or truncated ({error})") from None


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS, limit: str = "") -> np.ndarray:
    """Decodes a file to upright pixels, [H, W, 3] uint8 RGB. Arguments and errors as in `open_image`."""
    image = open_image(encoded, max_pixels, limit)
    check_whole(image, encoded)
    return to_rgb(image)


@contextlib.contextmanager
def _quiet_and_unbounded():
    """Disables Pillow's warnings and its own limit on pixels; `open_image` has its own."""
    with LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = bound


def _check_parts(encoded):
    """Refuses a file of very many parts: Pillow is slow on each, and keeps some in memory."""
    walks = {b"\xff\xd8": _jpeg_segments, b"\x89P": _png_chunks, b"GI": _gif_blocks}
    walk = walks.get(encoded[:2])
    most = MAX_PARTS + len(encoded) // 1024
    if walk and next(itertools.islice(walk(encoded), most, None), None) is not None:
        raise ImageError(f"more than {most} segments, chunks or comments, which no encoder writes", "too_large")


def _jpeg_segments(encoded):
    """Yields the position of each JPEG segment up to the first scan."""
    position = 2
    while encoded[position : position + 1] == b"\xff":
        yield position
        marker = encoded[position + 1 : position + 2]
        if marker == START_OF_SCAN[1:]:
            return
        if marker == b"\xff":
            position += 1
        elif marker in BARE_MARKERS:
            position += 2
        else:
            position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")


def _first_scan(encoded):
    """Returns the position of a JPEG's first scan."""
    return max(_jpeg_segments(encoded), default=0)


def _png_chunks(encoded):
    """Yields the position of each PNG chunk."""
    position = 8
    while position < len(encoded):
        yield position
        position += 12 + int.from_bytes(encoded[position : position + 4], "big")


def _gif_blocks(encoded):
    """Yields the position of each GIF extension before the first frame, and of each block in it."""
    position = 13 + (3 * (2 << (encoded[10] & 7)) if encoded[10:11] >= b"\x80" else 0)
    while encoded[position : position + 1] == b"!":
        yield position
        position += 2
        while encoded[position : position + 1] > b"\0":
            yield position
            position += 1 + encoded[position]
        position += 1


def _check_scans(image, encoded):
    """Refuses a JPEG with more passes over its pixels than any encoder writes."""
    start = _first_scan(encoded)
    channels = encoded[start + 4] if len(encoded) > start + 4 else 0
    # If the first scan has all channels, the decoder stops after it.
    several = "progressive" in image.info or channels < image.layers
    if several and encoded.count(START_OF_SCAN, start) > MAX_SCANS:
        raise ImageError(f"a JPEG of more than {MAX_SCANS} scans, which no encoder writes", "too_large")


def _on_black(image, covered):
    """Fills a GIF with black where it is transparent and around its first frame, as TensorFlow and OpenCV do."""
    color = image.convert("RGBA").crop(covered)
    black = Image.new("RGB", image.size)
    black.paste(color, covered[:2] if covered else None, color)
    return black


def _convert(image):
    """Converts an image of any mode to 8-bit RGB."""
    if image.mode in MODES:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the same colors; Pillow warns when it converts directly to RGB
        return image.convert("RGB")
    # 16-bit gray has mode I;16 or, if signed or in older versions of Pillow, I; `convert` would clip it to white.
    if image.mode.startswith("I;16") or (image.mode == "I" and _bits(image) == 16):
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 0xFFFF:
            # PhotometricInterpretation (tag 262) 0 is WhiteIsZero, which Pillow applies to 8 bits only.
            if image.format == "TIFF" and image.tag_v2.get(262) == 0:
                values = 0xFFFF - values
            return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    kind = {"F": "floating-point pixels", "I": "32-bit or negative pixels"}.get(image.mode)
    if kind is None:
        raise ImageError(f"unsupported {image.mode} pixels: convert it to RGB", "mode")
    raise ImageError(f"{kind}: the value of white is unknown; convert it to 8 or 16 bits", "mode")


def _bits(image):
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))  # BitsPerSample
    return 16 if image.format == "PNG" else 32
