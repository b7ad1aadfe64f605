"""The stuff map of an image: labels of one byte a pixel, 255 is ignored, stored as PNG.

Called by `pipelines.shards` where there is --stuff; what it refuses, it refuses by raising `checks.Rejected`. A map
lies as a PNG beside the image (COCO-stuff's stuff-thing maps), or is drawn from COCO's panoptic PNG, whose colours
number the segments (`pipelines.panoptic` says which label each of them has).
"""

import os
from typing import Any

import numpy as np
import PIL.Image

from htc_tf.data import image_io
from pipelines.checks import Rejected, Tally
from pipelines.images import encode_png, read_inside, rejecting
from pipelines.panoptic import IGNORED_LABEL

UNLISTED = 256  # no label has this value
PNG_BIT_DEPTH = 24  # the byte of the file that holds it


def load_map(root: str, file_name: str, height: int, width: int, labels: int | None, tally: Tally) -> tuple[bytes, int]:
    """The stuff map beside an image, as PNG bytes, and its largest label or -1. `labels` None: any label will do.

    A map with a palette is stored without it: training's decoder would give its colours, not its labels.

    Raises:
      Rejected: with the reason.
    """
    name = os.path.splitext(file_name)[0] + ".png"
    encoded, picture = _open(root, name, height, width)
    # Fewer bits than 8 without a palette are shades of grey: every decoder would scale them up to 0 ... 255.
    plain = picture.mode == "L" and encoded[PNG_BIT_DEPTH] == 8
    if not (plain or picture.mode == "P"):
        raise Rejected("stuff_unreadable", f"{name}: PNG of mode {picture.mode} is none of 8-bit labels")
    _load(picture, name)
    largest = _largest_label(picture, name, labels)
    if picture.mode == "P":
        tally.count("stuff_converted")
        encoded = encode_png(PIL.Image.fromarray(np.asarray(picture)))
    return encoded, largest


def draw_map(
    root: str, segments: dict[str, Any] | None, height: int, width: int, labels: int | None
) -> tuple[bytes, int]:
    """The stuff map from a panoptic PNG below `root`, as `load_map` gives it. Pixels of no segment are ignored.

    Args:
      segments: the image's entry of `panoptic.read`; None where it has none.

    Raises:
      Rejected: with the reason.
    """
    if segments is None:
        raise Rejected("stuff_missing", "the panoptic file does not list the image")
    if "error" in segments:
        raise Rejected("stuff_unreadable", segments["error"])
    name = segments["file_name"]
    _, picture = _open(root, name, height, width)
    if picture.mode != "RGB":
        raise Rejected("stuff_unreadable", f"{name}: PNG of mode {picture.mode} is none of panoptic segments (RGB)")
    _load(picture, name)
    numbers = np.asarray(picture, np.uint32) @ np.uint32([1, 1 << 8, 1 << 16])
    labels_of = np.full(1 << 24, UNLISTED, np.uint16)
    labels_of[0] = IGNORED_LABEL
    listed = segments["labels"]
    labels_of[np.fromiter(map(int, listed), np.int64, len(listed))] = list(listed.values())
    drawn = labels_of[numbers]
    if (drawn == UNLISTED).any():
        number = numbers[drawn == UNLISTED][0]
        raise Rejected("stuff_label_unknown", f"{name} holds segment {number}, which no segments_info lists")
    drawn = PIL.Image.fromarray(drawn.astype(np.uint8))
    return encode_png(drawn), _largest_label(drawn, name, labels)


def _open(root, name, height, width):
    """The file's bytes and the picture, its size checked by its header."""
    try:
        encoded = read_inside(root, name)
    except Rejected as error:
        reason = "stuff_missing" if error.reason == "image_missing" else "stuff_unreadable"
        raise Rejected(reason, error.detail) from None
    with rejecting(f"{name}: ", unreadable="stuff_unreadable", too_large="stuff_size_differs"):
        # Not decoded before its size is found to be the image's, which has been checked.
        picture = image_io.open_image(encoded, image_io.MAX_SIDE**2)
    if picture.format != "PNG":
        raise Rejected("stuff_unreadable", f"{name}: {picture.format} is no PNG")
    if picture.size != (width, height):
        raise Rejected("stuff_size_differs", f"{name} has {picture.width} x {picture.height}, image {width} x {height}")
    with rejecting(f"{name}: ", unreadable="stuff_unreadable"):
        image_io.check_whole(picture, encoded)  # training's decoder compares the checksums, too
    return encoded, picture


def _load(picture, name):
    try:
        picture.load()
    except Exception as error:  # Pillow's readers raise anything on damaged files.
        raise Rejected("stuff_unreadable", f"{name}: {error}") from None


def _largest_label(picture, name, labels):
    present = [label for label, number in enumerate(picture.histogram()) if number and label != IGNORED_LABEL]
    largest = present[-1] if present else -1
    if labels is not None and largest >= labels:
        raise Rejected("stuff_label_unknown", f"{name} holds label {largest}, labels are 0 ... {labels - 1}")
    return largest
