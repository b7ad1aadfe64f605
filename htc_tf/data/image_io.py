"""Image files: which formats are read, how they become RGB, and which files are refused.

Preparation, prediction and the web pages share this module, so a file has the same pixels in all of them; the exported
model decodes in TensorFlow to the same pixels (`serving.decode`). It needs Pillow only, because Beam's workers and the
client load nothing more.

| file | result |
|---|---|
| formats | `FORMATS` and, with the extra `heic`, HEIC; recognized by content, not by name |
| several images: animation, multipage TIFF | the first |
| 8 bits: gray, RGB, palette, CMYK, YCbCr; 1 bit | RGB |
| alpha, transparency | dropped; the colors below are kept, as in OpenCV; a GIF, which has none there, becomes black |
| 16 bits per channel | the high byte, inverted in a TIFF with WhiteIsZero |
| 10 and 12 bits per channel of AVIF and HEIC | 8 bits by their decoders |
| floating point, 32 bits, Lab, more than four channels | refused: the value of white is unknown |
| EXIF orientation 2 to 8, in JPEG, PNG (before the pixels), WebP and TIFF | applied; damaged EXIF counts as 1 |
| rotation and mirroring in the container of AVIF and HEIC | applied |
| truncated file, PNG with wrong checksums | refused |
| above `max_pixels`, `MAX_SIDE`, `MAX_BYTES`, `MAX_SCANS` or `MAX_PARTS` | refused |
"""

import contextlib
import io
import os
import stat
import warnings
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from htc_tf.data.file_kinds import AVIF, HEIC, brand_kind, describe
from htc_tf.data.image_checks import LOCK, ImageError, check_parts, check_scans, check_whole, quiet_and_unbounded
from htc_tf.data.image_pixels import image_to_rgb

try:
    from PIL import AvifImagePlugin  # since Pillow 11.3

    HAS_AVIF = AvifImagePlugin.SUPPORTED  # False in a Pillow that was built without libavif
except ImportError:
    HAS_AVIF = False

# Pillow reads more formats. JPEG 2000 and others are left out because they are rare and each decoder is one more that a
# hostile file reaches; EPS because its reader starts another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(("AVIF",) if HAS_AVIF else ()))
# The suffixes by which folders are searched for images, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff")
SUFFIXES += (".avif", ".heic", ".heif", ".hif")  # type: ignore[assignment]  # a longer tuple
MAX_PIXELS = 178_956_970  # Pillow's own limit
MAX_SIDE = 65_535  # the longest side that a JPEG's header can state; libjpeg reads and writes up to 65,500
MAX_BYTES = 2**29
HEAD = 1024  # bytes by which `file_kinds` recognizes a file
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


def read_file(path: str | os.PathLike) -> bytes:
    """Reads a regular file of at most `MAX_BYTES`.

    Raises:
        ImageError: The file does not exist or cannot be read.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ImageError(f"has {size} bytes, more than the {MAX_BYTES} that are read", "too_large")
        return file.read()


def read_stream(file: BinaryIO) -> bytes:
    """Reads a binary file object of at most `MAX_BYTES` from its start or, if it cannot be rewound, from where it is.

    Raises:
        ImageError: The file is opened as text, or cannot be read.
    """
    content = bytearray()
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)  # as Pillow does: a BytesIO is at its end after an image has been saved to it
        # A pipe may give less than is asked for.
        while isinstance(part := file.read(MAX_BYTES + 1 - len(content)), (bytes, bytearray, memoryview)) and len(part):
            content += part
            if len(content) > MAX_BYTES:
                raise ImageError(f"has more than the {MAX_BYTES} bytes that are read", "too_large")
        if isinstance(part, str):
            raise ImageError('is opened as text: open it with mode "rb"')
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise ImageError(getattr(error, "strerror", None) or str(error)) from None
    return bytes(content)


def open_image(encoded: bytes, max_pixels: int = MAX_PIXELS, limit: str = "") -> Image.Image:
    """Opens the first image of a file: reads its header and checks the limits, without decoding pixels.

    Args:
        encoded: Content of the file.
        max_pixels: Limit on height times width.
        limit: Name of that limit in messages, such as a flag.
    Raises:
        ImageError: The file is not an image, or too large.
    """
    check_parts(encoded)
    image = _open(io.BytesIO(encoded), encoded)
    check_pixels(image.size, max_pixels, limit)
    if image.format in ("JPEG", "MPO"):
        check_scans(image, encoded)
    return image


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Reads the height and width of an image file, with its orientation applied, from its header alone.

    Raises:
        ImageError: The file cannot be read, or is no image.
    """
    with _opened(path) as file:
        image = _open(file, file.read(HEAD))
        width, height = stored_size(image)
        return (width, height) if orientation(image) >= 5 else (height, width)  # 5 to 8 are quarter turns


def check_pixels(size: tuple[int, int], max_pixels: int = MAX_PIXELS, limit: str = "") -> None:
    """Raises ImageError if an image of this width and height is larger than `max_pixels`, or than `MAX_SIDE`."""
    width, height = size
    if width * height > max_pixels:
        limit = limit or f"the {max_pixels} that are read"
        raise ImageError(f"{width} x {height} pixels, more than {limit}", "too_large")
    if max(size) > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels, and a side may have at most {MAX_SIDE}", "too_large")


def has_pages(image: Image.Image) -> bool:
    """True for a TIFF with several pages or smaller copies of its image; `open_image` opens the first."""
    return image.format == "TIFF" and image.is_animated  # type: ignore[attr-defined]


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8, of an image before its pixels are decoded; 1 if it is absent or damaged."""
    try:
        with LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if image.format is None:  # created in memory
                tags = image.getexif()
            elif image.format == "TIFF":
                tags = image.tag_v2  # type: ignore[attr-defined]
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
    if image.format == "TIFF":
        return image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
    return image.size


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
        image.load()
        image = image_to_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # as in `open_image`
        kind = f"a {image.format}, but " if image.format else ""
        raise ImageError(f"{kind}damaged or truncated ({error})") from None
    return np.asarray(image.transpose(TURNS[turn]) if turn in TURNS else image)


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS, limit: str = "") -> np.ndarray:
    """Decodes a file to upright pixels, [H, W, 3] uint8 RGB. Arguments and errors as in `open_image`."""
    image = open_image(encoded, max_pixels, limit)
    check_whole(image, encoded)
    return to_rgb(image)


@contextlib.contextmanager
def _opened(path):
    """Opens a regular file to read; turns the system's errors into ImageErrors."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError("is a folder, not a file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait
            raise ImageError("is a device or pipe, not a file")
        with open(path, "rb") as file:
            yield file
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise ImageError(getattr(error, "strerror", None) or str(error)) from None


def _open(file, start):
    """Opens a file with Pillow; `start` has at least its first HEAD bytes."""
    is_heic = brand_kind(start) == HEIC and _has_heic()
    try:
        with quiet_and_unbounded():
            return Image.open(file, formats=("HEIF",) if is_heic else FORMATS)
    except Exception:  # Pillow's readers raise any exception, even struct.error, on damaged files
        raise ImageError(describe(start, (HEIC,) * is_heic + (AVIF,) * HAS_AVIF)) from None


def _has_heic():
    """True if pillow-heif is installed, which is imported when the first HEIC file comes."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
