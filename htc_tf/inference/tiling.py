"""Tiled detection: an image of any size is detected in overlapping tiles, whose objects are merged over the seams.

All tiles have one size, so that one shape is compiled. The memory does not depend on the image's size: it holds a batch
of tiles, the objects found, and an overview of the image to draw on.
"""

from typing import NamedTuple

import numpy as np

from htc_tf.errors import UserError
from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.inputs import as_image
from htc_tf.inference.overview import Overview
from htc_tf.inference.seams import Seams
from htc_tf.inference.windows import open_windows

MIN_TILE = 32  # pixels
OVERLAP = 0.2  # by default
MAX_OVERLAP = 0.75  # with more, a pixel lies in more than 16 tiles


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def detect_tiled(detector, source, tile, overlap=OVERLAP, batch=1, read=as_image):
    """Detects objects in an image, tile by tile.

    Args:
        detector: `inference.detector.Detector` or `inference.exported.ExportedDetector`.
        source: Image as `read` takes it. A large TIFF, given by its path, is read in windows.
        tile: int, side of the tiles in pixels. An image that is no larger is detected as it is.
        overlap: float, lowest overlap of neighboring tiles, as a share of their side.
        batch: int, tiles that are detected at once.
        read: Function that decodes an image whole to [H, W, 3] uint8 RGB.
    Returns:
        (image, size, ImageResult): [H, W, 3] uint8 RGB, or an overview of a file that was not read whole; the image's
        (height, width); and the objects in its pixels.
    Raises:
        UserError: The image cannot be read, or the model fails on a tile.
    """
    check_tiles(tile, overlap)
    with open_windows(source, read) as windows:
        size = windows.height, windows.width
        overview = Overview(*size) if windows.image is None else None

        def read_tiles():
            for window in plan_tiles(*size, tile, overlap):
                pixels = windows.read(*window)
                if overview is not None:
                    overview.add(pixels, window.top, window.left)
                yield window, pixels

        seams = Seams(*size)
        for window, _, result in detect_in_batches(detector, read_tiles(), batch):
            seams.add(window, result)
        return windows.image if overview is None else overview.image, size, seams.merge()


def check_tiles(tile, overlap):
    """Raises UserError if the size or the overlap of tiles is out of range."""
    if isinstance(tile, bool) or not isinstance(tile, (int, np.integer)) or tile < MIN_TILE:
        raise UserError(f"tile={tile}: give the side of the tiles in pixels, a whole number, {MIN_TILE} or more")
    if not 0 <= overlap <= MAX_OVERLAP:
        raise UserError(f"overlap={overlap}: give a share of the tile from 0 to {MAX_OVERLAP}")


def plan_tiles(height, width, tile, overlap):
    """Yields the Window of each tile, row after row, with all tiles of one size."""
    for top in tile_starts(height, tile, overlap):
        for left in tile_starts(width, tile, overlap):
            yield Window(top, left, min(tile, height), min(tile, width))


def tile_starts(side, tile, overlap):
    """Returns the first pixel of each tile along a side: as few tiles as possible, evenly spaced, from end to end."""
    rest = max(side - tile, 0)  # pixels that the first tile does not cover
    step = max(tile - round(tile * overlap), 1)
    count = -(-rest // step)
    return [rest * index // max(count, 1) for index in range(count + 1)]
