"""Stochastic depth: what it drops, and a seed that depends on the images and the weights alone."""

import numpy as np
import tensorflow as tf

from htc_tf.models.drop_path import draw_seed, drop_paths, fold_in


def test_dropped_paths():
    x = tf.ones([1000, 1, 1, 2])
    dropped = drop_paths(x, 0.25, tf.constant([1, 2]))
    np.testing.assert_array_equal(dropped, drop_paths(x, 0.25, tf.constant([1, 2])))
    assert np.any(dropped != drop_paths(x, 0.25, tf.constant([1, 3])))
    values, counts = np.unique(dropped, return_counts=True)
    np.testing.assert_allclose(values, [0, 4 / 3], rtol=1e-6)
    assert 2 * 200 < counts[0] < 2 * 300
    np.testing.assert_array_equal(dropped[..., 0], dropped[..., 1])


def test_maps_of_any_rank_and_dtype():
    x = tf.ones([50, 3, 2], tf.bfloat16)
    dropped = drop_paths(x, 0.5, tf.constant([1, 2]))
    assert dropped.dtype == tf.bfloat16 and dropped.shape == x.shape
    assert set(np.unique(tf.cast(dropped, tf.float32))) == {0.0, 2.0}


def test_no_seed_or_no_rate_drops_nothing():
    x = tf.ones([2, 1, 1, 1])
    assert drop_paths(x, 0.5, fold_in(None, 3)) is x
    assert drop_paths(x, 0.0, tf.constant([1, 2])) is x


def test_the_seed_depends_on_the_images_and_the_variable():
    images, variable = tf.random.stateless_normal([1, 8, 8, 3], [1, 2]), tf.Variable(tf.zeros([4]))
    seed = draw_seed(images, variable).numpy()
    np.testing.assert_array_equal(draw_seed(images, variable), seed)
    others = [draw_seed(images + 0.1, variable), fold_in(seed, 0), fold_in(seed, 1)]
    variable.assign_add(tf.fill([4], 1e-6))
    others.append(draw_seed(images, variable))
    assert len({tuple(np.array(other)) for other in [seed, *others]}) == 5
