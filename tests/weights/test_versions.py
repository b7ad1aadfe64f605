"""Wrappers and older versions of checkpoints: all give the names of the tables."""

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.weights.versions import from_mmdet, from_paddle, from_torchvision


class Leaf:
    """A stored array of a checkpoint."""

    def __init__(self, *values):
        self.values = np.array(values, np.float32)

    def source(self):
        return self, self.values.nbytes

    def array(self):
        return self.values


def values(arrays):
    return {name: array.tolist() for name, array in arrays.items()}


PLAIN = {"backbone.conv1.weight": Leaf(1), "roi_head.bbox_head.0.fc_cls.weight": Leaf(2, 3)}
EXPECTED = {"backbone.conv1.weight": [1], "roi_head.bbox_head.0.fc_cls.weight": [2, 3]}
OTHER = {name: Leaf(9, 9) for name in PLAIN}


def prefixed(prefix, named):
    return {prefix + name: leaf for name, leaf in named.items()}


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"state_dict": PLAIN, "meta": {"epoch": 12}, "optimizer": {"state": {}}},
        {"model": PLAIN, "epoch": 12},
        {"state_dict": prefixed("module.", PLAIN)},
        # mmengine: the average is the state_dict, beside the last weights.
        {"state_dict": PLAIN, "ema_state_dict": {"steps": Leaf(7), **prefixed("module.", OTHER)}},
        {"ema_state_dict": {"steps": Leaf(7), **prefixed("module.", PLAIN)}},
        # mmcv: buffers beside the weights.
        {"state_dict": PLAIN | {f"ema_{name.replace('.', '_')}": leaf for name, leaf in OTHER.items()}},
        {"state_dict": prefixed("ema_", PLAIN)},
    ],
)
def test_wrappers(content):
    arrays, notes = from_mmdet(content, "x.pth")
    assert values(arrays) == EXPECTED and not notes


def test_mmdetection_1():
    old = {
        "backbone.conv1.weight": Leaf(1),
        "rpn_head.rpn_cls.bias": Leaf(5, 6, 7),
        "bbox_head.0.fc_cls.weight": Leaf([0, 0], [1, 1], [2, 2]),
        "bbox_head.2.fc_cls.bias": Leaf(0, 1, 2),
        "bbox_head.0.fc_reg.bias": Leaf(1, 2, 3, 4),
        "mask_head.1.convs.0.conv.bias": Leaf(1, 2),
        "mask_head.1.conv_logits.bias": Leaf(0, 1, 2),
        "semantic_head.conv_logits.bias": Leaf(0, 1, 2),
    }
    arrays, (note,) = from_mmdet({"state_dict": old}, "x.pth")
    assert values(arrays) == {
        "backbone.conv1.weight": [1],
        "rpn_head.rpn_cls.bias": [5, 6, 7],
        "roi_head.bbox_head.0.fc_cls.weight": [[1, 1], [2, 2], [0, 0]],
        "roi_head.bbox_head.2.fc_cls.bias": [1, 2, 0],
        "roi_head.bbox_head.0.fc_reg.bias": [1, 2, 3, 4],
        "roi_head.mask_head.1.convs.0.conv.bias": [1, 2],
        "roi_head.mask_head.1.conv_logits.bias": [1, 2],
        "roi_head.semantic_head.conv_logits.bias": [0, 1, 2],
    }
    assert "mmdetection 1" in note


def test_torchvision():
    content = {"conv1.weight": Leaf(1), "layer1.0.bn1.bias": Leaf(2), "fc.weight": Leaf(3), "fc.bias": Leaf(4)}
    arrays, _ = from_torchvision(content, "x.pth")
    assert values(arrays) == {"backbone.conv1.weight": [1], "backbone.layer1.0.bn1.bias": [2]}


def test_paddle():
    content = {"neck.a.weight": ("conv2d_0.w_0", Leaf(1)), "StructuredToParameterName@@": {"neck.a.weight": "x"}}
    arrays, _ = from_paddle(content, "x.pdparams")
    assert values(arrays) == {"neck.a.weight": [1]}


@pytest.mark.parametrize("content", [3, [1, 2], {}, {"state_dict": {}}, {1: Leaf(2)}])
def test_a_file_without_weights_is_refused(content):
    with pytest.raises(UserError, match=r"x\.pth holds no named weights"):
        from_mmdet(content, "x.pth")
