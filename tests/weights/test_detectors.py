"""Names of DetectoRS against the original's, both directions; files of ordinary ResNets as first weights."""

import gzip
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.models.backbones import resnet
from htc_tf.training.first_weights import load_backbone
from htc_tf.weights import entries, mmdet_arrays
from htc_tf.weights.assign import NamedWeights
from htc_tf.weights.names import COUNTER, Framework
from htc_tf.weights.tables.switchable import ADDED
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
WEIGHTS = runpy.run_path(str(REFERENCE / "detectors_weights.py"))
FILES = {"sac": "htc_r50_sac_1x_coco", "rfp": "htc_r50_rfp_1x_coco", "both": "detectors_htc_r50_1x_coco"}
SMALL = ("ResNet.width=8", "FPN.channels=16", "SEMANTIC=False", "MASKS=False")


def listing(case):
    """Returns {name: shape} of the original's backbone and neck at full size; a neck without recursion is not in it."""
    lines = gzip.decompress((REFERENCE / f"detectors_{case}_state_dict.txt.gz").read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines]
    return {name: tuple(int(side) for side in sides.split(",") if side) for name, sides in rows}


@pytest.fixture
def blank(monkeypatch):
    """Initializes variables with zeros: random values take seconds."""
    for kind in (tf.keras.initializers.VarianceScaling, tf.keras.initializers.RandomNormal):
        monkeypatch.setattr(kind, "__call__", lambda self, shape, dtype=None, **_: tf.zeros(shape, dtype))


class Network(tf.keras.layers.Layer):
    """Backbone and neck of an experiment config."""

    def __init__(self, name, *params):
        super().__init__(name="htc")
        model = config.load([f"gin/{name}.gin"], params)[0].build_model()
        self.backbone, self.neck = model.backbone, model.neck

    def call(self, images, training=None):
        return self.neck(self.backbone(images, training=training), training=training)


@pytest.mark.parametrize("case", ["both", *slow("sac", "rfp")])
def test_names_and_shapes_of_the_full_size(blank, case):
    network = Network(f"detectors/{FILES[case]}")
    network(tf.zeros([1, 32, 32, 3]))
    found = {entry.name: entry.their_shape(network) for entry in entries(network)}
    assert len(found) == len(network.variables)
    known = {name: shape for name, shape in listing(case).items() if not name.endswith(COUNTER)}
    if case == "sac":
        found = {name: shape for name, shape in found.items() if not name.startswith("neck.")}
    assert found == known


@pytest.fixture
def small(monkeypatch):
    """small("both") returns the Network of a case with few blocks and channels."""
    monkeypatch.setitem(resnet.BLOCKS, 50, WEIGHTS["BLOCKS"])

    def small(case):
        network = Network(f"detectors/{FILES[case]}", *SMALL, "ResNet.norm='frozen_batch'")
        network(tf.zeros([1, 96, 96, 3]))
        return network

    return small


@pytest.fixture
def classifier(write, tmp_path):
    """The path of torchvision's ResNet of that size, and its arrays, with which the original loaded it."""
    plain = {name: shape for name, shape in toy_listing().items() if not name.startswith("fc.")}
    arrays = {name.removeprefix("backbone."): a for name, a in WEIGHTS["state_dict"](plain).items()}
    write.pytorch_zip(tmp_path / "resnet.pth", arrays)
    return tmp_path / "resnet.pth", arrays


def toy_listing():
    backbone = resnet.ResNet(width=8)
    backbone(tf.zeros([1, 32, 32, 3]))
    holder = tf.keras.layers.Layer(name="htc")
    holder.backbone, holder.built = backbone, True
    return {entry.name: entry.their_shape(holder) for entry in entries(holder)}


def test_a_classifier_initializes_both_backbones(small, classifier, reference):
    path, arrays = classifier
    network = small("both")
    assert load_backbone(path, network) == str(path)
    found = mmdet_arrays(network)
    for name, array in arrays.items():
        for prefix in ("backbone.", "neck.rfp_modules.0."):
            np.testing.assert_array_equal(found[prefix + name], array, err_msg=name)
    # The original derives the statistics from the kernels.
    derived = {
        k.removeprefix("classifier_"): v for k, v in reference("detectors").items() if k.startswith("classifier_")
    }
    assert len(derived) == 8
    for name, array in derived.items():
        for key in (name, name.replace("backbone.", "neck.rfp_modules.0.")):
            np.testing.assert_allclose(found[key], array, rtol=1e-5, atol=1e-7, err_msg=key)


def test_an_ordinary_detector_is_a_source(small, classifier):
    """Its backbone is in both places; what it lacks has no effect at first."""
    network = small("both")
    arrays = {f"backbone.{name}": array for name, array in classifier[1].items()}
    source = NamedWeights("file", network, arrays, Framework.MMDET, None)
    for variable in (*network.backbone.weights, *network.neck.backbone.weights):
        absent = source.mismatch(variable) is not None
        assert absent == bool(re.search(ADDED, source.entries[id(variable)].name))


def test_it_then_equals_the_ordinary_network(small, classifier):
    """Switches, offsets and feedback have no effect at first; the pyramid is the mean of two equal ones."""
    path, _ = classifier
    image = tf.constant(WEIGHTS["images"]())
    ordinary, network = small("rfp"), small("both")
    plain = resnet.ResNet(width=8)
    plain(image)
    ordinary.backbone, ordinary.neck = plain, ordinary.neck.fpn
    for one in (ordinary, network):
        load_backbone(path, one)
    for mine, theirs in zip(network.neck.fpn.weights, ordinary.neck.weights, strict=True):
        mine.assign(theirs)
    expected = ordinary(image)
    for level, found in network(image).items():
        np.testing.assert_allclose(found, expected[level], atol=1e-4 * np.abs(expected[level]).max())
