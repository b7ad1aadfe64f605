"""Masks of label files: cut out of the image, from run lengths alone, and their runs along the rows."""

from typing import Any

import numpy as np

from htc_tf.ops.runs import place_runs


def crop_mask(run_lengths: dict[str, Any]) -> tuple[int, int, np.ndarray]:
    """Returns (top, left, [h, w] bool): a mask that is not empty, within its bounding box.

    Args:
        run_lengths: COCO run lengths {"size": [height, width], "counts": str}.
    """
    height = run_lengths["size"][0]
    runs = place_runs(run_lengths, 0, 0, height)
    x = runs[:, 0] // height
    start, end = (runs - (x * height)[:, None]).T
    top, left = int(start.min()), int(x[0])
    steps = np.zeros((int(x[-1]) - left + 1, int(end.max()) - top + 1), np.int8)
    steps[x - left, start - top] = 1
    steps[x - left, end - top] -= 1
    return top, left, np.cumsum(steps, axis=1)[:, :-1].T.astype(bool)


def count_runs(mask: np.ndarray) -> list[int]:
    """Returns the lengths of a mask's runs along its rows, one row after the other: background and mask in turn."""
    edges = np.flatnonzero(np.diff(mask.ravel(), prepend=False))
    return np.diff(edges, prepend=0, append=mask.size).tolist()
