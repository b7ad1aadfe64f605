"""Class columns: the outputs of a layer that belong to a class, and those that a class of the same name may keep.

The classifier of a box head, its regressor if it has deltas per class, the predictor of a mask head and the classifier
of a global context head have an axis of classes, always the last one.
"""

from typing import NamedTuple

import numpy as np


class ClassColumns(NamedTuple):
    """Layout of the last axis of a variable: `width` columns per class, then the background's."""

    width: int
    background: int  # 0 or 1

    def count(self, classes):
        """Returns the number of columns for a number of classes."""
        return self.width * classes + self.background

    def of(self, classes, total):
        """Returns the columns of some classes and of the background, given the total number of classes."""
        columns = self.width * np.asarray(classes, np.int64)[:, np.newaxis] + np.arange(self.width)
        return [*columns.flatten(), *range(self.width * total, self.count(total))]


def find_columns(model):
    """Returns {id of a variable: ClassColumns} of the layers of an HTC with an axis of classes."""
    context = getattr(getattr(model, "context_head", None), "classifier", None)
    found = {} if context is None else {id(v): ClassColumns(1, 0) for v in context.weights}
    for stage in getattr(model, "stages", ()):
        box_head = stage.box_head
        layers = [(getattr(box_head, "classifier", None), ClassColumns(1, 1))]
        if not getattr(box_head, "class_agnostic", True):
            layers.append((getattr(box_head, "regressor", None), ClassColumns(4, 0)))
        predict = getattr(stage.mask_head, "predict", None)
        layers.append((getattr(predict, "convolution", None), ClassColumns(1, 0)))
        found |= {id(v): columns for layer, columns in layers if layer is not None for v in layer.weights}
    return found


def shared_classes(theirs, ours):
    """Returns [(index there, index here)] of the classes with the same name, apart from case and blanks around it."""
    there = {}
    for index, name in enumerate(theirs):
        there.setdefault(normalize(name), index)
    return [(there[normalize(name)], here) for here, name in enumerate(ours) if normalize(name) in there]


def normalize(name):
    return name.strip().casefold()
