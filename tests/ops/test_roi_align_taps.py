"""Adaptive numbers of samples per bin are exact, compiled or not."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops.roi_align_taps import count_samples


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bins", [7, 14, 28])
def test_whole_numbers_of_cells_are_not_rounded_up(bins, compiled):
    whole = np.arange(0, 200, dtype=np.float32) * bins
    above = np.nextafter(whole, np.float32(np.inf))
    count = tf.function(lambda x: count_samples(x, bins), jit_compile=compiled, autograph=False)
    np.testing.assert_array_equal(count(whole), np.arange(200))
    np.testing.assert_array_equal(count(above)[1:], np.arange(200)[1:] + 1)
