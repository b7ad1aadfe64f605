"""Array layouts: the permutation of axes between another framework's array and our variable, in both directions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Both directions. The functions also take the model, which knows the size of the pooled features."""

    ours: Callable[[np.ndarray, Any], np.ndarray]  # (their array, model) -> our array
    theirs: Callable[[np.ndarray, Any], np.ndarray]  # (our array, model) -> their array


def permutation(*axes: int) -> Layout:
    """Our axis i is their axis axes[i]."""
    back = tuple(int(i) for i in np.argsort(axes))
    return Layout(lambda a, model: np.transpose(a, axes), lambda a, model: np.transpose(a, back))


def flattened(layout: Layout) -> Layout:
    """A kernel over all pooled features of an RoI, kept as a matrix: their [out, c y x] is our [y x c, out]."""

    def ours(a, model):
        side = model.roi_pooler.box_size
        kernel = layout.ours(np.reshape(a, (len(a), -1, side, side)), model)  # [out, c, y, x] -> [y, x, c, out]
        return np.reshape(kernel, (-1, len(a)))

    def theirs(a, model):
        side, outputs = model.roi_pooler.box_size, a.shape[-1]
        kernel = layout.theirs(np.reshape(a, (side, side, -1, outputs)), model)  # [y, x, c, out] -> [out, c, y, x]
        return np.reshape(kernel, (outputs, -1))

    return Layout(ours, theirs)


def deltas(layout: Layout) -> Layout:
    """Outputs in groups of four, one group per anchor or class: their dx, dy, dw, dh are our dy, dx, dh, dw."""

    def swap(a):
        return np.reshape(np.reshape(a, (-1, 4, *a.shape[1:]))[:, (1, 0, 3, 2)], a.shape)

    return Layout(lambda a, model: layout.ours(swap(a), model), lambda a, model: swap(layout.theirs(a, model)))


def transposed(layout: Layout) -> Layout:
    """Their matrix is [in, out]; in `layout` it is [out, in]."""
    return Layout(lambda a, model: layout.ours(a.T, model), lambda a, model: layout.theirs(a, model).T)


def merged_first(a: np.ndarray, cells: int = 4) -> np.ndarray:
    """Reorders the input channels of a Swin's patch merging, 2 x 2 cells: [(c y x), ...] becomes [(y x c), ...].

    mmdetection orders them (c, y, x), our variables (y, x, c), and the authors of Swin (x, y, c): see `swin_names`.
    The outputs of SCNet's feature relay have the same two orders.
    """
    parts = np.reshape(a, (-1, cells, *a.shape[1:]))  # [c, y x, ...]
    return np.reshape(np.moveaxis(parts, 0, 1), a.shape)


def merged_last(a: np.ndarray, cells: int = 4) -> np.ndarray:
    """Inverse of `merged_first`."""
    parts = np.reshape(a, (cells, -1, *a.shape[1:]))  # [y x, c, ...]
    return np.reshape(np.moveaxis(parts, 0, 1), a.shape)


def relayed(layout: Layout) -> Layout:
    """Outputs of the feature relay, the cells of a map: their [c y x, in] is our [in, y x c]."""

    def ours(a, model):
        return layout.ours(merged_first(a, model.relay.size**2), model)

    def theirs(a, model):
        return merged_last(layout.theirs(a, model), model.relay.size**2)

    return Layout(ours, theirs)


VECTOR = permutation(0)
MATRIX = permutation(1, 0)  # [out, in] -> [in, out]
KERNEL = permutation(2, 3, 1, 0)  # [out, in, y, x] -> [y, x, in, out]; transposed: [in, out, y, x] -> [y, x, out, in]
TABLE = Layout(lambda a, model: a, lambda a, model: a)  # biases of relative positions, [offsets, ...]
MERGED_VECTOR = Layout(lambda a, model: merged_first(a), lambda a, model: merged_last(a))
MERGED_MATRIX = Layout(lambda a, model: merged_first(a.T), lambda a, model: merged_last(a).T)
# A ViT's [side, side, C] absolute positions; their [1, 1 + side^2, C] begin with the classifier's, which is zero.
POSITIONS = Layout(
    lambda a, model: np.reshape(a[0, 1:], (math.isqrt(a.shape[1] - 1), -1, a.shape[2])),
    lambda a, model: np.pad(np.reshape(a, (1, -1, a.shape[2])), ((0, 0), (1, 0), (0, 0))),
)
