"""Names of weights: the table from our layers and variables to the names and layouts of mmdetection and of Paddle.

Names follow mmdetection 3 (https://github.com/open-mmlab/mmdetection; version 2 has the same) and the Paddle port
(https://github.com/laihuihui/htc). A row of `LAYERS` is: our path, mmdetection's module, Paddle's module or None, and
the layer's variables, a tuple of `tables.kinds`; the head of a block is the prefix of its names.

A placeholder stands for an index, and its format for the first value: {s} is 0, 1, 2, ...; {s:1} is 1, 2, 3, ...; {s:a}
is a, b, c, ...; {s:.} is .0, .1, .2, ..., or nothing if the model has only one.
"""

import enum
import re
from dataclasses import dataclass
from typing import Any

from htc_tf.weights.tables import composite, convnext, detector, hrnet, res2net, resnet, scnet, swin, switchable, vit


class Framework(enum.IntEnum):
    """A column of the tables."""

    MMDET = 0
    PADDLE = 1


@dataclass(frozen=True)
class Index:
    """Index of `count` layers, formatted as in a name."""

    i: int
    count: int

    def __format__(self, first: str) -> str:
        if first == ".":
            return f".{self.i}" if self.count > 1 else ""
        if not first.isalpha():
            return str(int(first or 0) + self.i)
        # Letters do not suffice for the long stage of a ResNet-101 or -152: a, b1, b2, ... as Caffe names its blocks.
        many = self.count > 10 and self.i > 0
        return f"b{self.i}" if many else chr(ord(first) + self.i)


LAYERS: tuple[Any, ...] = (
    *resnet.LAYERS,
    *res2net.LAYERS,
    *hrnet.LAYERS,
    *detector.LAYERS,
    *switchable.LAYERS,
    *scnet.LAYERS,
    *swin.LAYERS,
    *composite.LAYERS,
    *convnext.LAYERS,
    *vit.LAYERS,
)

COUNTER = "num_batches_tracked"  # in every batch norm of PyTorch
# Names in files without a variable here: counters, constants, and the 1x1 convolution of the information flow in the
# first mask head, which receives nothing (mmdetection 1 creates it nevertheless).
UNREAD = re.compile(rf"{COUNTER}$|{swin.CONSTANTS}|{composite.UNREAD}|^roi_head\.mask_head\.0\.conv_res\.")
