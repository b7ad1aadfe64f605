"""Matrices that resize tables against golden numbers; PyTorch's interpolation itself is in vit.npz."""

import numpy as np
import pytest

from htc_tf.ops.table_resizing import cubic, linear, resizing_matrix


@pytest.mark.parametrize("kernel", [linear, cubic])
def test_a_table_of_its_own_size_stays(kernel):
    np.testing.assert_array_equal(resizing_matrix(5, 5, kernel), np.eye(5))


@pytest.mark.parametrize("kernel", [linear, cubic])
@pytest.mark.parametrize("size", [1, 3, 8, 21])
def test_a_constant_stays(kernel, size):
    np.testing.assert_allclose(resizing_matrix(size, 7, kernel).sum(1), 1, atol=1e-6)


def test_linear_kernel():
    """Centers of 4 rows in a table of 2 are at -0.25, 0.25, 0.75 and 1.25; outside it continues."""
    np.testing.assert_allclose(resizing_matrix(4, 2, linear), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])


def test_cubic_kernel():
    """Of half a row: A / 8 and 1/2 - A / 8 for A = -0.75. The center of the row is at 1.5."""
    np.testing.assert_allclose(resizing_matrix(1, 4, cubic), [[-0.09375, 0.59375, 0.59375, -0.09375]])
    # Three taps of the center at -0.25 are the first row.
    np.testing.assert_allclose(resizing_matrix(8, 4, cubic)[0], [1.10546875, -0.10546875, 0, 0])
