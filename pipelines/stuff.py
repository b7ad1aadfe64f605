"""Stuff map of an image: a PNG of one label byte per pixel, 255 is ignored.

The map is a PNG named as the image (COCO-stuff's stuff-thing maps), or is drawn from COCO's panoptic PNG, whose colors
number the segments (`pipelines.panoptic` reads their labels). Unusable maps raise `checks.Rejected`.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from htc_tf.data import image_io

from .checks import Counters, Rejected
from .images import encode_png, read_inside, rejecting
from .panoptic import IGNORED_LABEL

UNLISTED = 256  # no label has this value
PNG_BIT_DEPTH = 24  # its position in the file


def load_map(
    root: str,
    file_name: str,
    height: int,
    width: int,
    labels: int | None,
    counters: Counters,
    link_folders: Sequence[str] | None = None,
) -> tuple[bytes, int]:
    """Loads the stuff map named as an image.

    Args:
        root: The folder of maps, a real path.
        file_name: The image's path relative to its folder.
        height, width: The image's size in pixels.
        labels: Number of labels; None allows any.
        counters: Counters.
        link_folders: As in `images.read_inside`.
    Returns:
        (PNG bytes, largest label or -1). A palette is removed, because training's decoder would return its colors.
    Raises:
        Rejected: The map cannot be used.
    """
    name = os.path.splitext(file_name)[0] + ".png"
    encoded, image = _open(root, name, height, width, link_folders)
    # Without a palette, fewer than 8 bits are shades of gray, which every decoder scales to 0 ... 255.
    plain = image.mode == "L" and encoded[PNG_BIT_DEPTH] == 8
    if not (plain or image.mode == "P"):
        raise Rejected("stuff_unreadable", f"{name}: a PNG of mode {image.mode}, not of 8-bit labels")
    _load(image, name)
    largest = _largest_label(image, name, labels)
    if image.mode == "P":
        counters.count("stuff_converted")
        encoded = encode_png(PIL.Image.fromarray(np.asarray(image)))
    return encoded, largest


def draw_map(
    root: str,
    segments: dict[str, Any] | None,
    height: int,
    width: int,
    labels: int | None,
    link_folders: Sequence[str] | None = None,
) -> tuple[bytes, int]:
    """Draws the stuff map of a panoptic PNG. Pixels without a segment are ignored.

    Args:
        root: The folder of panoptic PNGs, a real path.
        segments: The image's entry of `panoptic.read`; None if it has none.
        height, width, labels, link_folders: As in `load_map`.
    Returns:
        (PNG bytes, largest label or -1).
    Raises:
        Rejected: The PNG cannot be used.
    """
    if segments is None:
        raise Rejected("stuff_missing", "the panoptic file does not list the image")
    if "error" in segments:
        raise Rejected("stuff_unreadable", segments["error"])
    name = segments["file_name"]
    _, image = _open(root, name, height, width, link_folders)
    if image.mode != "RGB":
        raise Rejected("stuff_unreadable", f"{name}: a PNG of mode {image.mode}, not of panoptic segments (RGB)")
    _load(image, name)
    numbers = np.asarray(image, np.uint32) @ np.uint32([1, 1 << 8, 1 << 16])  # [H, W], red is the lowest byte
    labels_of = np.full(1 << 24, UNLISTED, np.uint16)  # a label for each segment number
    labels_of[0] = IGNORED_LABEL
    listed = segments["labels"]
    labels_of[np.fromiter(map(int, listed), np.int64, len(listed))] = list(listed.values())
    drawn = labels_of[numbers]
    if (drawn == UNLISTED).any():
        number = numbers[drawn == UNLISTED][0]
        raise Rejected("stuff_label_unknown", f"{name} contains segment {number}, which segments_info does not list")
    drawn = PIL.Image.fromarray(drawn.astype(np.uint8))
    return encode_png(drawn), _largest_label(drawn, name, labels)


def _open(root, name, height, width, link_folders):
    """Returns the file's bytes and the image, with the size in its header checked."""
    try:
        encoded = read_inside(root, name, link_folders)
    except Rejected as error:
        reason = "stuff_missing" if error.reason == "image_missing" else "stuff_unreadable"
        raise Rejected(reason, error.detail) from None
    with rejecting(f"{name}: ", unreadable="stuff_unreadable", too_large="stuff_size_differs"):
        # Any size may be opened: it is decoded only if it has the image's size, which is checked already.
        image = image_io.open_image(encoded, image_io.MAX_SIDE**2)
    if image.format != "PNG":
        raise Rejected("stuff_unreadable", f"{name}: a {image.format} file, not a PNG")
    if image.size != (width, height):
        raise Rejected("stuff_size_differs", f"{name} has {image.width} x {image.height}, image {width} x {height}")
    with rejecting(f"{name}: ", unreadable="stuff_unreadable"):
        image_io.check_whole(image, encoded)  # training's decoder compares the checksums too
    return encoded, image


def _load(image, name):
    try:
        image.load()
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        raise Rejected("stuff_unreadable", f"{name}: {error}") from None


def _largest_label(image, name, labels):
    present = [label for label, number in enumerate(image.histogram()) if number and label != IGNORED_LABEL]
    largest = present[-1] if present else -1
    if labels is not None and largest >= labels:
        raise Rejected("stuff_label_unknown", f"{name} contains label {largest}, but labels are 0 ... {labels - 1}")
    return largest
