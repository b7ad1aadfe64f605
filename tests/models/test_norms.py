"""Group norm against its definition, in all precisions; `test_parity_*` and `test_scnet` compare batch norms."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.models.norms import GroupNormalization


@pytest.mark.parametrize("dtype, rounding", [("float32", 1e-6), ("float16", 2**-11), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("shape", [(2, 5, 7, 8), (3, 8)])
@pytest.mark.parametrize("groups", [1, 4])
def test_group_norm_rounds_its_result_only(groups, shape, dtype, rounding):
    """Also where the mean of a group is large beside its deviation."""
    draw = np.random.default_rng(0)
    x = tf.cast(draw.standard_normal(shape) + 8, dtype)
    layer = GroupNormalization(groups)
    layer.build(x.shape)
    layer.gamma.assign(draw.uniform(0.5, 2, shape[-1]))
    layer.beta.assign(draw.standard_normal(shape[-1]))
    cells = tf.cast(x, tf.float64).numpy().reshape([shape[0], -1, groups, shape[-1] // groups])
    mean, variance = cells.mean((1, 3), keepdims=True), cells.var((1, 3), keepdims=True)
    expected = ((cells - mean) / np.sqrt(variance + 1e-5)).reshape(shape) * layer.gamma + layer.beta
    found = layer.call(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(tf.cast(found, tf.float64), expected, rtol=rounding, atol=1e-4)
