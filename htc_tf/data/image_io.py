"""Opens image files: the one place that says what is read, how, and what is refused.

Preparation, prediction and the web pages come through here; the exported model reads its formats the same way, in
TensorFlow (`serving.decode`). Pillow alone: Beam's workers and the client load no more than this.

| | read as |
|---|---|
| formats | `FORMATS`, told by content, not by name; of an animation or a TIFF of several pages the first image |
| 8 bits: gray, RGB, palette, CMYK, YCbCr; 1 bit | RGB |
| alpha, transparency | dropped; the colors below it are kept, as OpenCV does |
| 16 bits a channel | the high byte |
| floating point, 32 bits, Lab, more than four channels | refused: nothing says which value is white |
| EXIF orientation 2 to 8, in JPEG, PNG (before the pixels), WebP and TIFF | applied; damaged EXIF counts as 1 |
| truncated, a PNG whose checksums differ | refused |
| more than `max_pixels`, a side over `MAX_SIDE`, a file over `MAX_BYTES`, more than `MAX_SCANS` scans | refused |
"""

import codecs
import io
import json
import os
import re
import stat
import warnings

import numpy as np
from PIL import ExifTags, Image

from htc_tf.errors import UserError

# Pillow knows more formats. Some of their readers start other programs (EPS), and none of them is common.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
MAX_PIXELS = 178_956_970  # Pillow's own bound
MAX_SIDE = 65_535  # the longest side of a JPEG
MAX_BYTES = 2**29
MAX_SCANS = 30  # of a progressive JPEG; encoders write about ten, and each is a pass over all pixels
END_OF_JPEG = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNDO = {6: 8, 8: 6}  # the others undo themselves
CONVERT = "convert it to JPEG or PNG"
# Offset and bytes that tell a file's kind, and what to say of it. The first that fits counts.
SIGNATURES = [
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the image: run git lfs pull"),
    (0, b"\xff\xd8", "a JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG"),
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS), which is not read"),
    (0, b"%!PS", "PostScript (EPS), which is not read"),
    (0, b"%PDF", f"a PDF document: {CONVERT}"),
    (0, b"8BPS", f"a Photoshop document: {CONVERT}"),
    (0, b"\0\0\0\x0cjP  ", f"JPEG 2000, which is not read: {CONVERT}"),
    (0, b"\xffO\xffQ", f"JPEG 2000, which is not read: {CONVERT}"),
    (0, b"\0\0\0\x0cJXL ", f"JPEG XL, which is not read: {CONVERT}"),
    (0, b"\xff\x0a", f"JPEG XL, which is not read: {CONVERT}"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"\0\0\x01\xba", "a video (MPEG)"),
    (0, b"\0\0\x01\xb3", "a video (MPEG)"),
    (128, b"DICM", f"a DICOM file: {CONVERT}"),
    (0, b"FUJIFILMCCD-RAW", f"a camera's raw file: {CONVERT}"),
    (0, b"IIU\0", f"a camera's raw file: {CONVERT}"),
    (0, b"IIRO", f"a camera's raw file: {CONVERT}"),
    (0, b"v/1\x01", f"OpenEXR, which is not read: {CONVERT}"),
    (0, b"#?RADIANCE", f"Radiance HDR, which is not read: {CONVERT}"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\0\5\x16\7", "a macOS resource file (._NAME), which holds no image"),
    (0, b"\0\0\1\0", f"an icon (ICO): {CONVERT}"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"II+\0", "a TIFF"),
    (0, b"MM\0+", "a TIFF"),
    (0, b"BM", "a BMP"),
]
# ISO media files have "ftyp" at byte 4 and then name their kind.
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), f"AVIF, which is not read: {CONVERT}"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"),
        f"HEIC (the iPhone's format), which is not read: {CONVERT}",
    ),
    b"crx ": f"a camera's raw file: {CONVERT}",
}


class ImageError(UserError):
    """An image that cannot be used. `kind` is "unreadable", "too_large" or "mode"; the message names no file."""

    def __init__(self, message: str, kind: str = "unreadable"):
        super().__init__(message)
        self.kind = kind


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a regular file of at most `MAX_BYTES`.

    Raises:
      ImageError: there is none, or it cannot be read.
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
    """The first image of a file, its header read and its bounds checked, its pixels not decoded yet.

    Args:
      encoded: the file's bytes.
      max_pixels: height times width may be as much.
      limit: the flag that sets `max_pixels`, for the message.

    Raises:
      ImageError: it is no image, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"more pixels than {_limit(max_pixels, limit)}", "too_large") from None
    except Exception:  # Pillow's readers raise anything, struct.error included, on damaged files.
        raise ImageError(describe(encoded)) from None
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels, more than {_limit(max_pixels, limit)}", "too_large")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels, and a side may have at most {MAX_SIDE}", "too_large")
    if image.format in ("JPEG", "MPO"):
        _check_scans(image, encoded)
    return image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an image whose pixels are not decoded yet; 1 where it is absent or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if image.format is None:  # made in memory
                tags = image.getexif()
            elif image.format == "TIFF":
                tags = image.tag_v2
            else:
                # Not `getexif`, which also believes XMP. Browsers and OpenCV do not.
                tags = Image.Exif()
                tags.load(image.info.get("exif", b""))
            value = tags.get(ExifTags.Base.Orientation)
    except Exception:  # as in `open_image`
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image as it lies in its file, not turned, before its pixels are decoded."""
    # Pillow turns a TIFF while it loads it, and newer ones tell its upright size before.
    return (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size


def to_rgb(image: Image.Image, upright: bool = True) -> np.ndarray:
    """The decoded pixels, [H, W, 3] uint8 RGB, turned as the EXIF orientation says or as they lie in the file.

    Raises:
      ImageError: the pixels are damaged, or of a kind that has no one reading as RGB.
    """
    turn = orientation(image)
    if image.format == "TIFF":  # as in `stored_size`
        turn = 1 if upright else UNDO.get(turn, turn)
    elif not upright:
        turn = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            image = _to_8_bits(image).convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # as in `open_image`
        kind = f"a {image.format}, but " if image.format else ""
        raise ImageError(f"{kind}damaged or truncated ({error})") from None
    return np.asarray(image.transpose(TURNS[turn]) if turn in TURNS else image)


def check_whole(image: Image.Image, encoded: bytes) -> None:
    """Looks for the mark behind a JPEG's pixels, and checks the sums of a PNG's parts; decodes nothing.

    Raises:
      ImageError: the file is truncated or damaged.
    """
    if image.format in ("JPEG", "MPO"):
        # Pillow has read up to the pixels; before them, a thumbnail may hold such a mark too.
        if encoded.find(END_OF_JPEG, image.fp.tell()) < 0:
            raise ImageError("a JPEG without an end: it is truncated")
    elif image.format == "PNG":
        try:
            # A second one, for `verify` leaves nothing that can be decoded.
            Image.open(io.BytesIO(encoded), formats=("PNG",)).verify()
        except Exception as error:  # as in `open_image`
            raise ImageError(f"a PNG, but damaged or truncated ({error})") from None


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS, limit: str = "") -> np.ndarray:
    """The upright pixels of a file's bytes, [H, W, 3] uint8 RGB. Arguments and errors as of `open_image`."""
    image = open_image(encoded, max_pixels, limit)
    check_whole(image, encoded)
    return to_rgb(image)


def describe(encoded: bytes) -> str:
    """What a file is that cannot be read as an image, by its first bytes, in words that follow the file's name."""
    if not encoded:
        return "an empty file"
    if encoded[4:8] == b"ftyp":
        # The first brand may be one that HEIC and AVIF share; the list of the others follows it.
        brands = [encoded[start : start + 4] for start in (*range(16, min(encoded[3], 64), 4), 8)]
        return next((BRANDS[brand] for brand in brands if brand in BRANDS), "a video (MP4 or QuickTime)")
    for offset, magic, words in SIGNATURES:
        if encoded[offset : offset + len(magic)] == magic:
            known = words.split()[-1].upper() in FORMATS
            return f"{words}, but damaged, truncated or of a variant that is not read" if known else words
    start = encoded[:1024]
    if not start.strip(b"\0"):
        return "no image: it begins with zero bytes, as after an interrupted copy"
    text = _as_text(start)
    if text is None:
        return f"no image of a known format ({', '.join(FORMATS)}); it begins with {start[:8].hex(' ')}"
    lower = text.lstrip().lower()
    if re.search(r"<!doctype html|<html|<head|<body", lower):
        return "an HTML page: the download gave an error or login page"
    if "<svg" in lower:
        return f"an SVG drawing: {CONVERT}"
    if lower.startswith("<?xml"):
        return "an XML file"
    if lower.startswith(("{", "[")):
        return "a JSON file"
    first = " ".join(text.split())[:40]
    return f"a text file, which begins {json.dumps(first, ensure_ascii=False)}"


def _limit(max_pixels, flag):
    return f"{flag} {max_pixels}".strip() if flag else f"the {max_pixels} that are read"


def _as_text(start):
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        # The end may cut a character: not final.
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else None


def _check_scans(image, encoded):
    """Refuses a JPEG that costs more passes over its pixels than any encoder asks for."""
    end = image.fp.tell()  # of the first scan's header
    channels = encoded[encoded.rfind(START_OF_SCAN, 0, end) + 4]
    # One scan of all channels is the only one that is decoded, whatever follows it.
    several = "progressive" in image.info or channels < image.layers
    if several and encoded.count(START_OF_SCAN, end) >= MAX_SCANS:
        raise ImageError(f"a JPEG of more than {MAX_SCANS} scans, which no encoder writes", "too_large")


def _to_8_bits(image):
    """An image that `convert` takes to RGB without a loss but of low bits."""
    if image.mode in MODES:
        return image
    # 16-bit gray is I;16 or, of signed numbers and in older Pillows, I; `convert` clips it to white.
    if image.mode.startswith("I;16") or (image.mode == "I" and _bits(image) == 16):
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 0xFFFF:
            return Image.fromarray((values >> 8).astype(np.uint8))
    kind = {"F": "floating-point pixels", "I": "32-bit or negative pixels"}.get(image.mode, f"{image.mode} pixels")
    raise ImageError(f"{kind}: nothing says which value is white; convert it to 8 or 16 bits", "mode")


def _bits(image):
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))  # BitsPerSample
    return 16 if image.format == "PNG" else 32
