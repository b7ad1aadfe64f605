"""Shared fixtures: the reference arrays, the COCO sample where there is one."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def reference():
    """reference("op_nms") -> the arrays of tests/reference/op_nms.npz."""

    def load(name):
        return np.load(HERE / "reference" / f"{name}.npz", allow_pickle=False)

    return load


@pytest.fixture(scope="session")
def coco_sample():
    """The folder of real COCO images that may lie beside the project; the test skips where it does not."""
    folder = HERE.parent.parent / "shared" / "data" / "coco_sample"
    if not folder.is_dir():
        pytest.skip("the COCO sample is not beside this checkout")
    return folder
