"""Tiled detection: an image of any size is detected in overlapping tiles, whose objects are merged over the seams.

The memory does not depend on the size of a file that is read in windows: it holds a batch of tiles, the objects found,
and an overview of the image to draw on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.inputs import ImageSource, as_image
from htc_tf.inference.overview import Overview
from htc_tf.inference.results import ImageDetector, ImageResult
from htc_tf.inference.seams import Seams
from htc_tf.inference.tile_plan import OVERLAP, check_tiles, plan_tiles
from htc_tf.inference.windows import open_windows


def detect_tiled(
    detector: ImageDetector,
    source: ImageSource,
    tile: int,
    overlap: float = OVERLAP,
    batch: int = 1,
    read: Callable[[Any], np.ndarray] = as_image,
) -> tuple[np.ndarray, tuple[int, int], ImageResult]:
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
        image = windows.image if overview is None else overview.image
        return image, size, seams.merge()  # type: ignore[return-value]  # one of the two is an image
