"""Checks of image files that decode no pixels: parts and scans that no encoder writes, truncation, checksums.

Pillow is slow on each part of a file and on each scan of a JPEG, and a truncated JPEG or a PNG of wrong checksums would
fail only in training.
"""

import contextlib
import io
import itertools
import re
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

from htc_tf.errors import UserError

MAX_SCANS = 30  # of a progressive JPEG; encoders write about ten, and each costs a pass over all pixels
MAX_PARTS = 4096  # segments of a JPEG, chunks of a PNG or blocks of a GIF, plus one for each KiB of the file
END_OF_JPEG = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"
BARE_MARKERS = {bytes([marker]) for marker in (0x00, 0x01, *range(0xD0, 0xDA))}  # JPEG markers without a length
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # of a segment, or the end; compressed data contain none
LOCK = threading.Lock()  # Pillow's limit and Python's warnings are global


class ImageError(UserError):
    """An image that cannot be used. `kind` is "unreadable", "too_large" or "mode"; the message names no file."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


@contextlib.contextmanager
def quiet_and_unbounded() -> Iterator[None]:
    """Disables Pillow's warnings and its own limit on pixels; `image_io.open_image` has its own."""
    with LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = bound


def check_whole(image: Image.Image, encoded: bytes) -> None:
    """Checks that a JPEG has its end marker and that the checksums of a PNG match.

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
            with quiet_and_unbounded():
                Image.open(io.BytesIO(encoded), formats=("PNG",)).verify()
        except Exception as error:  # Pillow's readers raise any exception on damaged files
            raise ImageError(f"a PNG, but damaged or truncated ({error})") from None


def check_parts(encoded: bytes) -> None:
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


def check_scans(image: Image.Image, encoded: bytes) -> None:
    """Refuses a JPEG with more passes over its pixels than any encoder writes."""
    start = _first_scan(encoded)
    channels = encoded[start + 4] if len(encoded) > start + 4 else 0
    # If the first scan has all channels, the decoder stops after it.
    if "progressive" in image.info or channels < image.layers:  # type: ignore[attr-defined]
        markers = list(itertools.islice(_markers_from(encoded, start), MAX_PARTS + 1))
        if len(markers) > MAX_PARTS or markers.count(START_OF_SCAN) > MAX_SCANS:
            raise ImageError(
                f"a JPEG of more than {MAX_SCANS} scans or {MAX_PARTS} segments, which no encoder writes", "too_large"
            )


def _markers_from(encoded, position):
    """Yields the markers of a JPEG's segments from its first scan to its end; a phone's film may follow the end."""
    while (match := MARKER.search(encoded, position)) and match[0] != END_OF_JPEG:
        yield match[0]
        position = match.end() + int.from_bytes(encoded[match.end() : match.end() + 2], "big")
