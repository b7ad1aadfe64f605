"""Inputs of prediction: paths from file names, folders, globs and lists, and images as upright RGB arrays.

This module does not import TensorFlow, so a mistake in a path is reported at once.
"""

import glob
import os
from pathlib import Path

import numpy as np
from PIL import Image

from htc_tf.data import image_io
from htc_tf.errors import UserError

IMAGES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"}
# Formats that cannot be read. In a folder they are reported as skipped instead of being ignored silently.
UNSUPPORTED = {".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".eps", ".svg"}
UNSUPPORTED |= {".dng", ".cr2", ".nef", ".arw", ".dcm"}
VIDEOS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"}
STANDARD_INPUT = "-"
EXPECTED = "give a path, a PIL image or an array [H, W, 3] uint8 RGB, or a list of them"


class Unreadable(UserError):
    """A file that is neither a readable image nor a readable video. `reason` is the message without the file's name."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def find_inputs(names, lines=()):
    """Returns the paths of images and videos that names stand for, in order and without duplicates.

    Args:
        names: Names of files, of folders (the images and videos directly inside, by suffix), globs (`**` matches nested
            folders), or "-" for `lines`.
        lines: Iterable of paths, one per line, such as standard input. Blank lines are ignored. These paths need not
            exist: reading them reports that later.
    Raises:
        UserError: A name matches nothing.
    """
    found = {}
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT:
            matches = [Path(line.strip()) for line in lines if line.strip()]
        elif path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES | UNSUPPORTED | VIDEOS)
        elif path.is_file():  # before the glob: a file's name may contain brackets
            matches = [path]
        else:
            matches = [p for p in map(Path, sorted(glob.glob(name, recursive=True))) if p.is_file()]
        if not matches:
            raise UserError(f"--input {name}: no image there")
        found.update(dict.fromkeys(matches))
    return list(found)


def as_image(source):
    """Returns an image as [H, W, 3] uint8 RGB.

    Args:
        source: Path, PIL image, or array [H, W, 3] uint8 RGB.
    Raises:
        UserError: It is none of these, or has no pixels.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    if isinstance(source, Image.Image):
        return image_io.to_rgb(source)
    array = np.asarray(source)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(f"an image of type {type(source).__name__}, {array.dtype} {list(array.shape)}: {EXPECTED}")
    if not array.size:
        raise UserError(f"an image without pixels, {list(array.shape)}: {EXPECTED}")
    return array


def read_image(path):
    """Returns an image file as [H, W, 3] uint8 RGB, rotated by its EXIF orientation; the first frame of an animation.

    It is decoded by `data.image_io`, as the records are.

    Raises:
        Unreadable: The file is missing, damaged, too large, or no image.
    """
    try:
        return image_io.decode(image_io.read_file(path))
    except image_io.ImageError as error:
        raise Unreadable(Path(path), str(error)) from error
