"""How an array lies in another framework's file and in our variable.

Comes before the tables of names, which say which layout a weight has.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Both directions. Both functions take the model too: it knows the size of a RoI's features."""

    ours: Callable  # (their array, model) -> ours
    theirs: Callable  # (our array, model) -> theirs


def permutation(*axes):
    """Our axis i is their axis axes[i]."""
    back = tuple(int(i) for i in np.argsort(axes))
    return Layout(lambda a, model: np.transpose(a, axes), lambda a, model: np.transpose(a, back))


def flattened(layout):
    """A kernel that covers a RoI's whole features, kept as a matrix: their [out, c y x], our [y x c, out]."""

    def ours(a, model):
        side = model.roi_pooler.box_size
        return np.reshape(layout.ours(np.reshape(a, (len(a), -1, side, side)), model), (-1, len(a)))

    def theirs(a, model):
        side, outputs = model.roi_pooler.box_size, a.shape[-1]
        return np.reshape(layout.theirs(np.reshape(a, (side, side, -1, outputs)), model), (outputs, -1))

    return Layout(ours, theirs)


def deltas(layout):
    """Outputs that are their dx, dy, dw, dh, our dy, dx, dh, dw, of every anchor."""

    def swap(a):
        return np.reshape(np.reshape(a, (-1, 4, *a.shape[1:]))[:, (1, 0, 3, 2)], a.shape)

    return Layout(lambda a, model: layout.ours(swap(a), model), lambda a, model: swap(layout.theirs(a, model)))


def transposed(layout):
    """Their matrix is [in, out], where that of `layout` is [out, in]."""
    return Layout(lambda a, model: layout.ours(a.T, model), lambda a, model: layout.theirs(a, model).T)


VECTOR = permutation(0)
MATRIX = permutation(1, 0)  # [out, in] -> [in, out]
KERNEL = permutation(2, 3, 1, 0)  # [out, in, y, x] -> [y, x, in, out]; transposed: [in, out, y, x] -> [y, x, out, in]
