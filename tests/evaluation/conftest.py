"""The fixture `ground_truth`: three rectangles in two images."""

import pytest

from tests.evaluation.toy import ground_truth_of


@pytest.fixture
def ground_truth():
    return ground_truth_of([(1, 7, (10, 10, 40, 40), 0), (1, 7, (100, 100, 20, 20), 0), (2, 3, (0, 0, 120, 120), 0)])
