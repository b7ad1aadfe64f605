"""HRNet with its neck against the originals; XLA, precision and mistakes."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.hrnet import HRNet
from htc_tf.models.hrfpn import HRFPN
from tests.models.backbones.originals import DRAWN, check_bfloat16, compare_with_original, load_drawn
from tests.slow import slow


def make_network():
    """Returns a small HRNet and its neck with the weights of the reference arrays."""
    return load_drawn(HRNet(width=4, blocks=1, exchanges=(1, 2, 1)), HRFPN(channels=8))


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("compiled", [False, *slow(True)])
def test_features_and_gradients_are_the_originals(compiled, network, images, reference):
    def forward():
        features = network.backbone(images, training=True)
        pyramid = network.neck(features, training=True)
        assert (list(features), list(pyramid)) == ([2, 3, 4, 5], [2, 3, 4, 5, 6])
        branches = {f"branch{level - 2}": x for level, x in features.items()}
        return {f"level{level}": x for level, x in pyramid.items()}, branches

    compare_with_original(network, forward, reference("hrnet"), 12, compiled)


def test_bfloat16(images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = make_network()
        pyramid = network.neck(network.backbone(images))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    check_bfloat16({f"level{level}": x for level, x in pyramid.items()}, reference("hrnet"), 0.03)


def test_batch_norms_learn_statistics_if_asked(images):
    backbone = HRNet(width=2, blocks=1, exchanges=(1, 1, 1), norm="batch")
    backbone(images, training=True)
    moved = [np.any(v != 0) for v in backbone.non_trainable_variables if "moving_mean" in v.name]
    assert len(moved) == len(backbone.non_trainable_variables) / 2 and all(moved)


@pytest.mark.parametrize("side, rows", [(32, 1), (64, 1), (96, 1), (160, 2)])
def test_rows_of_p6(side, rows):
    """Those of whole windows alone, as in the original; it fails below 64 pixels."""
    features = {level: tf.ones([1, side >> level, side >> level, 2]) for level in (2, 3, 4, 5)}
    assert HRFPN(channels=2)(features)[6].shape[1:3] == [rows, rows]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_averages_of_half_precision_lose_no_cells(dtype):
    """P6 averages 16 x 16 cells; summed in their own type, the mean would be off by up to 0.2 here."""
    neck = HRFPN(channels=4)
    neck.reduction, neck.outputs = (lambda x, training: x[..., :4]), 5 * [lambda x, training: x]
    maps = {level: tf.random.stateless_normal([1, 128 >> level, 128 >> level, 4], [level, 0]) for level in (2, 3, 4, 5)}
    features = {level: tf.cast(x + 3, dtype) for level, x in maps.items()}
    expected = tf.nn.avg_pool2d(tf.cast(features[2], tf.float32), 16, 16, "VALID")
    np.testing.assert_array_equal(neck.call(features)[6], tf.cast(expected, dtype))


def test_mistakes():
    with pytest.raises(UserError, match=r"HRNet\.exchanges = .* 3 items"):
        HRNet(exchanges=(1, 4))
