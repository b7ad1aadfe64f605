"""TIFF files read in windows by rasterio: GeoTIFF, BigTIFF and slides, with the memory of a window and GDAL's cache.

The pixels equal those of `data.image_io` wherever both read a file. Only GDAL's reader of TIFF is used, without files
beside the image, because the path of an input may come from a stranger.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from htc_tf.errors import printable
from htc_tf.inference.inputs import Unreadable
from htc_tf.ops.rle_decoding import MAX_PIXELS

# The cache holds the strips or tiles of a row of windows, which are decoded again otherwise, for each window.
SETTINGS = {"GDAL_CACHEMAX": 256, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
MAX_BLOCK = 2**28  # bytes of a strip or tile, the unit that is decoded at once
ORIENTATION, SHORT = 274, 3  # a tag of TIFF and its type
MAX_TAGS = 4096
ADVICE = "write it as tiled 8-bit RGB with gdal_translate -of GTiff -co TILED=YES"


class Raster:
    """Windows of an open TIFF as it is stored, [h, w, 3] uint8 RGB."""

    image = None

    def __init__(self, path: Path, dataset: rasterio.DatasetReader) -> None:
        self.path, self.dataset = path, dataset
        self.orientation = read_orientation(path)
        self.height, self.width = dataset.height, dataset.width
        self._check_size()
        if dataset.subdatasets:
            print(printable(f"note: {path} has several pages, and only the first is read"), file=sys.stderr)
        self.bands, self.to_rgb = find_colors(path, dataset)

    def _check_size(self):
        size = f"{self.width} x {self.height} pixels"
        if self.height * self.width >= MAX_PIXELS:
            raise Unreadable(self.path, f"{size}, and COCO's run lengths count up to {MAX_PIXELS}: cut it")
        rows, columns = max(self.dataset.block_shapes, key=lambda shape: shape[0] * shape[1])
        bytes_of_pixel = sum(np.dtype(dtype).itemsize for dtype in self.dataset.dtypes)
        if rows * columns * bytes_of_pixel > MAX_BLOCK:
            raise Unreadable(self.path, f"{size} in pieces of {columns} x {rows}, too large to decode: {ADVICE}")

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns [height, width, 3] uint8 RGB.

        Raises:
            Unreadable: This part of the file is damaged.
        """
        try:
            pixels = self.dataset.read(self.bands, window=Window(left, top, width, height))  # [bands, h, w]
        except Exception as error:  # as in `open_raster`
            reason = in_one_line(error.__cause__ or error)  # rasterio's own message points to GDAL's
            raise Unreadable(self.path, f"damaged or truncated near row {top}, column {left} ({reason})") from error
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        return self.to_rgb(pixels)


@contextlib.contextmanager
def open_raster(path: Path, larger_than: int) -> Iterator[Raster | None]:
    """Opens a TIFF.

    Yields:
        Raster; None if the image has no more than `larger_than` pixels.
    Raises:
        Unreadable: It is damaged, too large, or its pixels have no unique conversion to RGB.
    """
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what fails is raised, too
    with contextlib.ExitStack() as stack:
        stack.enter_context(rasterio.Env(**SETTINGS))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            # An absolute path cannot be one of GDAL's URLs.
            dataset = stack.enter_context(rasterio.open(os.path.abspath(path), driver="GTiff"))
            raster = Raster(path, dataset) if dataset.height * dataset.width > larger_than else None
        except Unreadable:
            raise
        except Exception as error:  # rasterio lets GDAL's own exceptions through
            raise Unreadable(path, f"a TIFF, but damaged or truncated ({in_one_line(error)})") from error
        yield raster


def find_colors(path: Path, dataset: rasterio.DatasetReader) -> tuple[list[int], Callable[[np.ndarray], np.ndarray]]:
    """Finds out how the bands of a TIFF become RGB.

    Returns:
        (numbers of the bands to read, function from [bands, h, w] uint8 to [h, w, 3] uint8 RGB).
    Raises:
        Unreadable: They have no unique conversion.
    """
    dtype, names = dataset.dtypes[0], [color.name for color in dataset.colorinterp]
    structure = dataset.tags(ns="IMAGE_STRUCTURE") | dataset.tags(1, ns="IMAGE_STRUCTURE")
    bits = int(structure.get("NBITS", 8 * np.dtype(dtype).itemsize))
    if dtype not in ("uint8", "uint16") or 8 < bits < 16:
        raise Unreadable(path, f"{bits}-bit {dtype} pixels: the value of white is unknown; {ADVICE}")
    if {"red", "green", "blue"} <= set(names):
        return [names.index(name) + 1 for name in ("red", "green", "blue")], lambda bands: bands.transpose(1, 2, 0)
    if names[:4] == ["cyan", "magenta", "yellow", "black"]:
        return [1, 2, 3, 4], cmyk_to_rgb
    if names[0] == "palette" and dtype == "uint8":
        palette = dataset.colormap(1)
        table = np.array([palette.get(value, (0, 0, 0))[:3] for value in range(256)], np.uint8)
    elif names[0] == "gray" and names[1:] in ([], ["alpha"], ["undefined"]):
        values = np.arange(256) * 255 // (2 ** min(bits, 8) - 1)
        values = 255 - values if structure.get("MINISWHITE") == "YES" else values
        table = np.repeat(np.clip(values, 0, 255).astype(np.uint8)[:, None], 3, axis=1)
    else:
        raise Unreadable(path, f"bands of {', '.join(names)}, none of them red, green and blue; {ADVICE} -b 1 ...")
    return [1], lambda bands: table[bands[0]]


def in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def cmyk_to_rgb(bands: np.ndarray) -> np.ndarray:
    """Converts [4, h, w] uint8 to [h, w, 3] uint8 as Pillow does."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(bands.transpose(1, 2, 0)), "CMYK").convert("RGB"))


def read_orientation(path: Path) -> int:
    """Returns the orientation tag of a TIFF's first image, 1 if there is none; GDAL does not report it."""
    with open(path, "rb") as file:
        header = file.read(16)
        order = "<" if header[:2] == b"II" else ">"
        big = header[2:4] in (b"+\0", b"\0+")
        # Classic TIFF counts in 16 and points in 32 bits, BigTIFF uses 64 bits for both.
        start, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
        file.seek(struct.unpack_from(order + start, header, 8 if big else 4)[0])
        (tags,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
        size = struct.calcsize(order + entry)
        for _ in range(min(tags, MAX_TAGS)):
            tag, kind, _, value = struct.unpack(order + entry, file.read(size))
            if (tag, kind) == (ORIENTATION, SHORT):
                (orientation,) = struct.unpack_from(order + "H", value)
                return orientation if 1 <= orientation <= 8 else 1
    return 1
