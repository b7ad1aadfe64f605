"""Fixtures of the data preparation's tests."""

import pytest

from tests.pipelines import tiny_coco


@pytest.fixture
def tiny(tmp_path):
    """The folder of a tiny COCO dataset."""
    return tiny_coco.make(tmp_path)
