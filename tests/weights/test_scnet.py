"""Names and shapes of SCNet's RoI head at full size are the original's, in both directions."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.weights import entries

LISTING = Path(__file__).resolve().parents[1] / "reference" / "scnet_state_dict.txt.gz"


@pytest.fixture(scope="module")
def scnet():
    """The experiment config's SCNet with all that follows the pyramid; its variables are zero."""
    experiment, _ = config.load(["gin/scnet/scnet_r50_fpn_1x_coco.gin"], ["RPN.inference_proposals=1"])
    model = experiment.build_model()
    pyramid = {level: tf.zeros([1, 64 >> level, 64 >> level, 256]) for level in range(2, 7)}
    model.backbone, model.neck = (lambda *_, **__: None), (lambda *_, **__: pyramid)
    model.build_variables(blank=True)
    model.built = True  # in part
    return model


def test_every_name_and_every_shape(scnet):
    found = {name: layout.theirs(np.empty(v.shape, np.bool_), scnet).shape for name, v, layout in entries(scnet)}
    assert len(found) == len(scnet.variables)
    rows = [line.split("\t") for line in gzip.decompress(LISTING.read_bytes()).decode().splitlines()]
    expected = {name: tuple(map(int, sides.split(","))) for name, sides in rows}
    assert {name: shape for name, shape in found.items() if not name.startswith("rpn_head.")} == expected


def test_the_cells_of_the_relay(scnet):
    """The original's outputs are ordered (channel, row, column), ours (row, column, channel)."""
    layout = next(entry.layout for entry in entries(scnet) if entry.name == "roi_head.feat_relay_head.fc.weight")
    theirs = np.arange(256 * 49 * 3).reshape(256, 7, 7, 3)  # [c, y, x, in]
    ours = layout.ours(theirs.reshape(-1, 3), scnet)
    np.testing.assert_array_equal(ours.reshape(3, 7, 7, 256), theirs.transpose(3, 1, 2, 0))
    np.testing.assert_array_equal(layout.theirs(ours, scnet), theirs.reshape(-1, 3))
