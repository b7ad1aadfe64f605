"""Overview of a large image: reduced by a whole factor to a size that can be drawn, made from the image's windows."""

import math
from typing import Any

import numpy as np

from htc_tf.ops.paste import encode_columns
from htc_tf.ops.rle_decoding import find_edges

MAX_PIXELS, MAX_SIDE = 2**22, 16_000  # of an overview; a thin image would have far more pixels, or too long a side


class Overview:
    """`image` is [ceil(H / f), ceil(W / f), 3] uint8 RGB, the means of f x f pixels."""

    def __init__(self, height: int, width: int) -> None:
        self.factor = reduction(height, width)
        self.image = np.zeros([-(-height // self.factor), -(-width // self.factor), 3], np.uint8)

    def add(self, pixels: np.ndarray, top: int, left: int) -> None:
        """Adds a window [h, w, 3] of the image; windows come row after row.

        A cell that the window's end cuts is completed by the next window, if the two overlap by a cell.
        """
        rows, columns = (
            np.arange(-start % self.factor, length, self.factor)  # where the cells start in the window
            for start, length in zip((top, left), pixels.shape, strict=False)
        )
        sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32), columns, axis=1)
        counts = np.diff(rows, append=pixels.shape[0])[:, None] * np.diff(columns, append=pixels.shape[1])
        first, second = -(-top // self.factor), -(-left // self.factor)
        self.image[first : first + len(rows), second : second + len(columns)] = sums // counts[..., None]


def reduction(height: int, width: int) -> int:
    """Returns the smallest whole factor that reduces an image to about `MAX_PIXELS` pixels and `MAX_SIDE` on a side."""
    return max(math.ceil(math.sqrt(height * width / MAX_PIXELS)), -(-max(height, width) // MAX_SIDE))


def shrink_mask(mask: dict[str, Any], factor: int) -> dict[str, Any]:
    """Reduces a mask by sampling one pixel of each cell, without decoding the rest.

    Args:
        mask: COCO run lengths {"size": [height, width], "counts": str}.
        factor: int.
    Returns:
        COCO run lengths of [ceil(height / factor), ceil(width / factor)].
    """
    height, width = mask["size"]
    edges = find_edges(mask)[:-1]  # the pixels at which the mask changes
    size = -(-height // factor), -(-width // factor)
    if not len(edges):
        return encode_columns(np.zeros([0, 0], bool), 0, 0, *size)
    # Only the columns that the mask touches are sampled; after an odd number of changes it extends to the end.
    end = edges[-1] if len(edges) % 2 == 0 else height * width
    first, last = edges[0] // height // factor, (end - 1) // height // factor + 1
    columns = np.minimum(np.arange(first, last) * factor + factor // 2, width - 1)
    rows = np.minimum(np.arange(size[0]) * factor + factor // 2, height - 1)
    inside = np.searchsorted(edges, columns[:, None] * height + rows, side="right") % 2 == 1  # [w, h]
    return encode_columns(inside, 0, int(first), *size)
