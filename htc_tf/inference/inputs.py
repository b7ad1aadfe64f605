"""Inputs of prediction: paths and URLs from names, folders, globs and lists, and images as upright RGB arrays.

This module does not import TensorFlow, so a mistake in a path is reported at once.
"""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from htc_tf.data import image_io, image_pixels
from htc_tf.errors import UserError, printable
from htc_tf.path_patterns import matching

IMAGES = {*image_io.SUFFIXES}
# Formats that cannot be read. In a folder they are reported as skipped instead of being ignored silently.
UNSUPPORTED = {".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".psd", ".eps", ".svg"}
UNSUPPORTED |= {".dng", ".cr2", ".nef", ".arw", ".dcm"}
VIDEOS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"}
STANDARD_INPUT = "-"
EXPECTED = (
    "give a path, an https URL, a file's bytes, a binary file object, a PIL image or an array, [H, W, 3] or [H, W] of "
    "uint8 or uint16, or a list of them"
)
MAX_PIXELS = image_io.MAX_PIXELS
ImageSource: TypeAlias = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray


class Url(str):
    """The URL of an image file, with a path's `name`, `stem` and `suffix` for the outputs."""

    @property
    def name(self) -> str:
        try:
            last = unquote(urlsplit(self).path).rstrip("/").rpartition("/")[2]
        except ValueError:  # no valid URL, which `urls.fetch` reports
            last = ""
        return re.sub(r"[^\w.() -]+", "_", last).strip(". ") or "image"

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix


class Unreadable(UserError):
    """A file that is neither a readable image nor a readable video. `reason` is the message without the file's name."""

    def __init__(self, path: object, reason: object) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def find_inputs(names: Iterable[str], lines: Iterable[str] = ()) -> list[Path | Url]:
    """Returns the paths and Urls of images and videos that names stand for, in order and without duplicates.

    Args:
        names: Names of files, of folders (the images and videos directly inside, by suffix), globs (`**` matches nested
            folders), https URLs of images, or "-" for `lines`.
        lines: Iterable of paths and URLs, one per line, such as standard input. Blank lines are ignored. These need not
            exist: reading them reports that later.
    Raises:
        UserError: A name matches nothing.
    """
    found = {}
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT:
            matches = [as_location(line.strip()) for line in lines if line.strip()]
        elif isinstance(location := as_location(name), Url):
            if not location.startswith("https://"):
                raise UserError(f"--input {name}: of URLs only https is read; download it and give the file")
            matches = [location]
        elif path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES | UNSUPPORTED | VIDEOS)
        elif path.is_file():  # before the glob: a file's name may contain brackets
            matches = [path]
        else:
            matches = [p for p in map(Path, sorted(matching(name))) if p.is_file()]
        if not matches:
            raise UserError(f"--input {name}: no image there")
        found.update(dict.fromkeys(matches))
    return list(found)


def as_location(name: str) -> Path | Url:
    """Returns a name as a Url if it begins with a scheme, else as a Path."""
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name)
    return Url(scheme[0].lower() + name[scheme.end() :]) if scheme else Path(name)


def as_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns an image as [H, W, 3] uint8 RGB.

    Args:
        source: Path, https URL, content of a file (bytes), binary file object, PIL image, or array, [H, W, 3] RGB or
            [H, W] gray, uint8 or uint16. All but arrays are decoded by `data.image_io`, and 16 bits keep their high
            byte, so the same image has the same pixels in any of these forms.
        max_pixels: int, limit on the pixels of what is decoded here.
    Raises:
        UserError: It is none of these, has no pixels, or cannot be decoded; or the limit is no number of pixels.
    """
    if not isinstance(max_pixels, (int, np.integer)) or max_pixels < 1:
        raise UserError(f"max_pixels={max_pixels!r}: give a number of pixels, 1 or more")
    if isinstance(source, (str, os.PathLike)):
        return read_image(source, max_pixels)
    name = f"an image of type {type(source).__name__}"
    try:
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _decode(bytes(source), name, max_pixels)
        if isinstance(source, Image.Image):
            if getattr(source, "tile", None):  # not decoded yet
                image_io.check_pixels(source.size, max_pixels, raise_limit(max_pixels))
            if 0 in source.size:
                raise image_io.ImageError("an image without pixels, {} x {}".format(*source.size))
            return _open_pixels(source)
        if not isinstance(source, np.ndarray) and hasattr(source, "read"):
            name = str(getattr(source, "name", name))
            return _decode(image_io.read_stream(source), name, max_pixels)
    except image_io.ImageError as error:
        raise Unreadable(name, str(error)) from error
    array = np.asarray(source)
    try:
        pixels = image_pixels.array_to_rgb(array)
    except image_io.ImageError as error:
        raise UserError(f"{name}: {error}; {EXPECTED}") from None
    if not array.size:
        raise UserError(f"an image without pixels, {list(array.shape)}: {EXPECTED}")
    return pixels


def _open_pixels(image):
    """Returns a PIL image's pixels; the errors of one that was closed do not say so."""
    without_file = getattr(image, "fp", None) is None
    try:
        return image_io.to_rgb(image)
    except image_io.ImageError as error:
        if without_file and error.kind == "unreadable":
            raise image_io.ImageError("it is closed: give it before it is closed, or a copy of it") from None
        raise


def read_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS, limit: str = "max_pixels") -> np.ndarray:
    """Returns an image file as [H, W, 3] uint8 RGB, rotated by its EXIF orientation; the first frame of an animation.

    It is decoded by `data.image_io`, as the records are.

    Args:
        path: Path or https URL.
        max_pixels: int, limit on the pixels of the image.
        limit: Name of that limit in messages: the flag of a command; "" if the caller's user cannot raise it.
    Raises:
        Unreadable: The file is missing, damaged, too large, or no image.
    """
    path = as_location(os.fspath(path))
    try:
        return _decode(read_encoded(path), path, max_pixels, limit)
    except image_io.ImageError as error:
        raise Unreadable(path, str(error)) from error


def read_encoded(path: Path | Url) -> bytes:
    """Returns the content of an image file, given by its path or Url.

    Raises:
        ImageError: It cannot be read.
    """
    if isinstance(path, Url):
        from htc_tf.inference.urls import fetch  # with `requests`, for a URL alone

        return fetch(path)
    return image_io.read_file(path)


def _decode(encoded, name, max_pixels, limit="max_pixels"):
    image = image_io.open_image(encoded, max_pixels, raise_limit(max_pixels, limit))
    image_io.check_whole(image, encoded)
    pixels = image_io.to_rgb(image)
    if image_io.has_pages(image):
        print(printable(f"note: {name} has several pages, and only the first is read"), file=sys.stderr)
    return pixels


def raise_limit(max_pixels: int, limit: str = "max_pixels") -> str:
    """Returns the words of a message about more pixels than a limit of this name; "" without a name."""
    return limit and f"{limit} {max_pixels}: raise it to read the image"
