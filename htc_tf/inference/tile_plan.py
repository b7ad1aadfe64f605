"""Plan of the tiles of an image: overlapping squares of one size, so that one shape is compiled."""

from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple

import numpy as np

from htc_tf.errors import UserError

MIN_TILE = 32  # pixels
OVERLAP = 0.2  # by default
MAX_OVERLAP = 0.75  # with more, a pixel lies in more than 16 tiles


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def check_tiles(tile: int, overlap: float) -> None:
    """Raises UserError if the size or the overlap of tiles is out of range."""
    if isinstance(tile, bool) or not isinstance(tile, (int, np.integer)) or tile < MIN_TILE:
        raise UserError(f"tile={tile}: give the side of the tiles in pixels, a whole number, {MIN_TILE} or more")
    if not isinstance(overlap, Real) or not 0 <= overlap <= MAX_OVERLAP:
        raise UserError(f"overlap={overlap}: give a share of the tile from 0 to {MAX_OVERLAP}")


def plan_tiles(height: int, width: int, tile: int, overlap: float) -> Iterator[Window]:
    """Yields the Window of each tile, row after row, with all tiles of one size."""
    for top in tile_starts(height, tile, overlap):
        for left in tile_starts(width, tile, overlap):
            yield Window(top, left, min(tile, height), min(tile, width))


def tile_starts(side: int, tile: int, overlap: float) -> list[int]:
    """Returns the first pixel of each tile along a side: as few tiles as possible, evenly spaced, from end to end."""
    rest = max(side - tile, 0)  # pixels that the first tile does not cover
    step = max(tile - round(tile * overlap), 1)
    count = -(-rest // step)
    return [rest * index // max(count, 1) for index in range(count + 1)]
