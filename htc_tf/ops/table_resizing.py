"""Matrices that resize learned tables by interpolation, as PyTorch's `interpolate` without `align_corners`.

A product with a constant matrix has a deterministic gradient, which gathers do not have, and XLA compiles it.
"""

from collections.abc import Callable

import numpy as np

SHARPNESS = -0.75  # A of the cubic kernel (Keys, 1981), PyTorch's


def linear(distance: np.ndarray) -> np.ndarray:
    """Returns the weight of a value at a distance in rows, 0 or more."""
    return np.maximum(1 - distance, 0)


def cubic(distance: np.ndarray) -> np.ndarray:
    """Returns the weight of a value at a distance in rows, 0 or more."""
    near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
    far = SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def resizing_matrix(size: int, rows: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns [size, rows] float32: multiplied by a table [rows, C], it gives the table resized to [size, C].

    Args:
        size: int.
        rows: int.
        kernel: `linear` or `cubic`.
    """
    centers = (np.arange(size)[:, np.newaxis] + 0.5) * rows / size - 0.5  # [size, 1], in rows of the table
    taps = np.floor(centers) + np.arange(-1, 3)  # [size, 4]
    matrix = np.zeros([size, rows])
    inside = np.clip(taps, 0, rows - 1).astype(int)  # the first and the last row continue beyond the table
    np.add.at(matrix, (np.arange(size)[:, np.newaxis], inside), kernel(abs(centers - taps)))
    return matrix.astype(np.float32)
