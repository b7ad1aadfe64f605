"""Masks of a large image as runs, in NumPy: placed, clipped, united and encoded without an array of the image.

A mask's runs are [k, 2] int64, the first pixel of each run and the one after its last, counted down the columns of the
image as COCO does; each run lies within one column, and they are sorted and disjoint.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from htc_tf.ops.paste import encode_changes
from htc_tf.ops.rle_decoding import find_edges


def place_runs(mask: dict[str, Any], top: int, left: int, height: int) -> np.ndarray:
    """Places the mask of a part of the image in the whole image.

    Args:
        mask: COCO run lengths {"size": [h, w], "counts": str} of the part.
        top, left: ints, row and column of the part's first pixel in the image.
        height: int, the image's.
    Returns:
        [k, 2] int64, the runs in the image.
    """
    side = mask["size"][0]
    edges = find_edges(mask)
    # Runs may have no pixels: changes at the same pixel cancel in pairs.
    changes, counts = np.unique(edges[:-1], return_counts=True)
    edges = np.append(changes[counts % 2 == 1], edges[-1])
    starts, ends = edges[:-1:2], edges[1::2]
    # A run of the part may extend over several of its columns, whose pixels are apart in the whole image.
    first = starts // side
    columns = (ends - 1) // side - first + 1  # [runs]
    owner = np.repeat(np.arange(len(starts)), columns)
    column = np.arange(len(owner)) - np.repeat(np.cumsum(columns) - columns, columns) + first[owner]
    starts = np.maximum(starts[owner], column * side)
    ends = np.minimum(ends[owner], (column + 1) * side)
    return np.stack([starts, ends], axis=1) + ((column + left) * height + top - column * side)[:, None]


def clip_runs(runs: np.ndarray, window: tuple[int, int, int, int], height: int) -> np.ndarray:
    """Returns the runs [k', 2] inside a window (top, left, height, width) of an image of that height."""
    top, left, window_height, window_width = window
    column = runs[:, 0] // height
    inside = (column >= left) & (column < left + window_width)
    runs, start = runs[inside], (column[inside] * height + top)[:, None]
    clipped = np.clip(runs, start, start + window_height)
    return clipped[clipped[:, 0] < clipped[:, 1]]


def unite_runs(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the runs [k, 2] of the union of several masks' runs."""
    if len(masks) == 1:
        return masks[0]
    edges = np.concatenate(masks).ravel()
    steps = np.tile([1, -1], len(edges) // 2)
    order = np.lexsort((steps, edges))  # at one pixel the ends come first: a run never extends over two columns
    edges, steps = edges[order], steps[order]
    depth = np.cumsum(steps)
    return np.stack([edges[(depth == 1) & (steps == 1)], edges[depth == 0]], axis=1)


def count_pixels(runs: np.ndarray) -> int:
    return int((runs[:, 1] - runs[:, 0]).sum())


def count_common_pixels(runs: np.ndarray, others: np.ndarray) -> int:
    """Returns the number of pixels in both of two masks."""
    return count_pixels(runs) + count_pixels(others) - count_pixels(unite_runs([runs, others]))


def encode_runs(masks: Sequence[np.ndarray], height: int, width: int) -> list[dict[str, Any]]:
    """Encodes masks, a list of runs [k, 2], as n COCO run lengths {"size": [height, width], "counts": str}."""
    edges = [runs.ravel() for runs in masks]
    owner = np.repeat(np.arange(len(masks)), [len(positions) for positions in edges])
    return encode_changes(owner, np.concatenate([*edges, np.zeros(0, np.int64)]), len(masks), height, width)
