"""Numbers of the RPN's proposals before and after NMS; test_parity_proposals.py compares their values."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.roi_pooler import RoIPooler
from htc_tf.models.rpn import RPN

SIZES = tf.constant([[64.0, 64.0]])
PYRAMID = {level: tf.random.stateless_normal([1, 64 >> level, 64 >> level, 4], seed=[level, 3]) for level in (2, 3, 4)}


def test_post_nms_topk():
    rpn = RPN(4, training_proposals=20, inference_proposals=30, training_kept=7)
    assert rpn(PYRAMID, SIZES, False).proposals.boxes.shape == (1, 30, 4)
    few = rpn(PYRAMID, SIZES, True).proposals
    rpn.kept[True] = None
    many = rpn(PYRAMID, SIZES, True).proposals
    assert few.boxes.shape == (1, 7, 4) and many.boxes.shape == (1, 20, 4)
    assert few.valid.numpy().all() and many.valid.numpy().sum() > 7
    for some, more in zip(few, many, strict=True):
        np.testing.assert_array_equal(some, more[:, :7])


def test_xla_selects_what_it_compiles():
    assert [RPN(xla=xla).nms for xla in (False, True)] == ["combined", "xla"]
    assert [RoIPooler(xla=xla).implementation for xla in (False, True)] == ["crop_and_resize", "xla"]
    with pytest.raises(UserError, match=r"^RPN\.nms = 'combined'.*XLA.*'auto'"):
        RPN(xla=True, nms="combined")
    with pytest.raises(UserError, match=r"^RoIPooler\.implementation = 'crop_and_resize'.*XLA.*'auto'"):
        RoIPooler(xla=True, implementation="crop_and_resize")
