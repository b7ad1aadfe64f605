"""Versions of checkpoints: all give the names of the tables."""

import numpy as np

from htc_tf.weights.versions import from_mmdet, from_paddle, from_torchvision


def test_mmdetection_3():
    plain = {"backbone.conv1.weight": np.ones(1), "roi_head.bbox_head.0.fc_cls.weight": np.ones(2)}
    assert from_mmdet(plain, "x.pth") == (plain, [])


def values(arrays):
    return {name: array.tolist() for name, array in arrays.items()}


def test_mmdetection_1():
    old = {
        "backbone.conv1.weight": np.array([1]),
        "rpn_head.rpn_cls.bias": np.array([5, 6, 7]),
        "bbox_head.0.fc_cls.weight": np.array([[0, 0], [1, 1], [2, 2]]),
        "bbox_head.2.fc_cls.bias": np.array([0, 1, 2]),
        "bbox_head.0.fc_reg.bias": np.array([1, 2, 3, 4]),
        "mask_head.1.convs.0.conv.bias": np.array([1, 2]),
        "mask_head.1.conv_logits.bias": np.array([0, 1, 2]),
        "semantic_head.conv_logits.bias": np.array([0, 1, 2]),
    }
    arrays, (note,) = from_mmdet(old, "x.pth")
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
    arrays = {
        "conv1.weight": np.array([1]),
        "layer1.0.bn1.bias": np.array([2]),
        "fc.weight": np.array([3]),
        "fc.bias": np.array([4]),
    }
    arrays, _ = from_torchvision(arrays, "x.pth")
    assert values(arrays) == {"backbone.conv1.weight": [1], "backbone.layer1.0.bn1.bias": [2]}


def test_paddle():
    arrays = {"neck.a.weight": np.ones(1)}
    assert from_paddle(arrays, "x.pdparams") == (arrays, [])
