"""mmdetection 3.3.0, the RPN's proposals from given logits and deltas, by both implementations of NMS."""

import pytest
import tensorflow as tf

from htc_tf.models.rpn import RPN
from htc_tf.ops.anchors import level_anchors

SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2
STRIDES = (4, 8, 16, 32, 64)
# Pre-NMS and post-NMS top-k; `small` has 100 of each level and keeps 50 in all.
SETTINGS = {"test": 1000, "train": 2000, "small": 100}


@pytest.mark.parametrize("nms", ["combined", "xla"])
def test_proposals(reference, compare, nms):
    arrays = reference("op_rpn_proposals")
    anchors, logits, deltas = [], [], []
    for level, stride in enumerate(STRIDES):
        scores, shifts = (arrays[f"{kind}_{level}"].transpose(0, 2, 3, 1) for kind in ("cls", "reg"))
        anchors.append(level_anchors(*scores.shape[1:3], stride))
        logits.append(tf.constant(scores.reshape(1, -1)))
        deltas.append(tf.constant(shifts.reshape(1, -1, 4)[..., SWAP]))
    propose = tf.function(RPN(nms=nms).propose, jit_compile=nms == "xla", autograph=False)
    for name, keep in SETTINGS.items():
        boxes, scores, valid = propose(anchors, logits, deltas, tf.constant([[120.0, 150.0]]), keep)
        expected = arrays[f"boxes_{name}"]
        count = min(len(expected), int(tf.math.count_nonzero(valid)))
        assert count == len(expected) and (name == "small" or not valid[0, count:].numpy().any())
        compare(f"{name}, {nms}: scores", scores[0, :count], arrays[f"scores_{name}"], atol=1e-6)
        compare(f"{name}, {nms}: boxes, pixels", boxes[0, :count].numpy()[:, SWAP], expected, atol=1e-3)
