"""Image windows: rectangles of an image in memory or of a TIFF file, upright, so that no image must be read whole.

A TIFF of more than `WHOLE` pixels is read by rasterio, one window at a time; any other image is decoded first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from htc_tf.data.file_kinds import TIFF
from htc_tf.inference.inputs import ImageSource, Unreadable, as_image

if TYPE_CHECKING:
    from htc_tf.inference.raster import Raster


WHOLE = 2**25  # pixels; a TIFF up to this size is decoded whole, as all other images are
# EXIF orientation: the stored image is transposed or not, then its rows and its columns are reversed or not.
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class ArrayWindows:
    """Windows of an image in memory. `image` is [H, W, 3] uint8 RGB."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns [height, width, 3] uint8 RGB, a part of the image."""
        return self.image[top : top + height, left : left + width]


class TurnedWindows:
    """Windows of the upright image, read from one that is stored with an EXIF orientation."""

    image = None

    def __init__(self, stored: ArrayWindows | Raster, orientation: int) -> None:
        """
        Args:
            stored: Windows of the image as stored.
            orientation: int, EXIF orientation, 1 to 8.
        """
        self.stored = stored
        self.transposed, self.rows_reversed, self.columns_reversed = TURNS[orientation]
        sides = stored.height, stored.width
        self.height, self.width = sides[::-1] if self.transposed else sides

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns [height, width, 3] uint8 RGB, a part of the upright image."""
        if self.rows_reversed:
            top = self.height - top - height
        if self.columns_reversed:
            left = self.width - left - width
        if self.transposed:
            pixels = self.stored.read(left, top, width, height).swapaxes(0, 1)
        else:
            pixels = self.stored.read(top, left, height, width)
        return pixels[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


@contextlib.contextmanager
def open_windows(
    source: ImageSource, read: Callable[[Any], np.ndarray] = as_image
) -> Iterator[ArrayWindows | TurnedWindows]:
    """Opens an image for reading in windows.

    Args:
        source: What `read` takes.
        read: Function that decodes an image whole to [H, W, 3] uint8 RGB, such as `inference.inputs.as_image`.
    Yields:
        Windows: an object with `height`, `width`, `read(top, left, height, width)` and `image`, the whole image
        [H, W, 3] uint8 RGB if it is in memory, else None.
    Raises:
        UserError: As for `read`; or a large TIFF cannot be read in windows.
    """
    if not is_tiff(source):
        yield ArrayWindows(read(source))
        return
    try:
        from htc_tf.inference.raster import open_raster
    except ImportError:
        yield ArrayWindows(_read_without_rasterio(source, read))
        return
    with open_raster(Path(source), WHOLE) as raster:
        if raster is not None:
            yield TurnedWindows(raster, raster.orientation)
            return
    yield ArrayWindows(read(source))


def is_tiff(source: object) -> TypeGuard[str | os.PathLike]:
    """Returns True if the source is the path of a TIFF file."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    with contextlib.suppress(OSError, ValueError):  # reading it as an image reports why
        if Path(source).is_file():
            with open(source, "rb") as file:
                return file.read(4) in TIFF
    return False


def _read_without_rasterio(path, read):
    try:
        return read(path)
    except Unreadable as error:
        advice = "a large TIFF is read in windows by rasterio: pip install rasterio (the extra htc_tf[geotiff])"
        raise Unreadable(Path(path), f"{error.reason}; {advice}") from error
