"""keras-cv's backbones under HTC: the same features as keras-cv's own, at the FPN's levels, and fetched weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError
from htc_tf.models.backbones.keras_cv import KerasCVBackbone, extract_levels, import_models
from htc_tf.models.backbones.keras_cv_presets import ARCHITECTURES, TRAINED, Architecture
from htc_tf.models.htc import PIXEL_MEAN, PIXEL_STD
from htc_tf.run import Run
from htc_tf.training.start import initialise

SMALL = "mobilenet_v3_small"


class Outer(tf.keras.layers.Layer):
    """In HTC's place."""

    def __init__(self, backbone):
        super().__init__(name="htc")
        self.backbone = backbone

    def call(self, images, training=None):
        return self.backbone(images, training=training)


def make_model(preset=SMALL, **arguments):
    model = Outer(KerasCVBackbone(preset, **arguments))
    model(tf.zeros([1, 64, 64, 3]))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def network():
    """keras-cv's own, which takes pixels of 0 ... 1."""
    kind, arguments = ARCHITECTURES[SMALL]
    return getattr(import_models(), kind)(include_rescaling=False, **arguments)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, [2, 64, 96, 3]).astype(np.float32)


@pytest.fixture(scope="module")
def images(pixels):
    return tf.constant((pixels - PIXEL_MEAN) / PIXEL_STD, tf.float32)


def values(layer):
    return [v.numpy() for v in layer.variables]


def test_features_are_those_of_keras_cv(model, network, pixels, images):
    features = model(images)
    theirs = extract_levels(network)
    theirs.set_weights(model.backbone.extractor.get_weights())
    expected = theirs(pixels / 255)
    assert {level: x.shape.as_list() for level, x in features.items()} == {
        2: [2, 16, 24, 16],
        3: [2, 8, 12, 24],
        4: [2, 4, 6, 48],
        5: [2, 2, 3, 96],
    }
    for level, x in features.items():
        assert np.std(x) > 0
        np.testing.assert_allclose(x, expected[level], atol=1e-4 * np.abs(expected[level]).max())


def test_variables_are_a_layers_like_any_other(model, tmp_path):
    assert all(v.name.startswith("htc/backbone/") for v in model.variables)
    for variable in model.variables:
        variable.assign_add(tf.ones_like(variable))
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    again = make_model()  # keras-cv numbers some of its layers through the whole process
    tf.train.Checkpoint(model=again).restore(path).assert_existing_objects_matched()
    for a, b in zip(values(model.backbone), values(again.backbone), strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_and_frozen_stages(images):
    model = make_model("resnet18_v2", frozen_stages=2)
    kept = values(model)
    np.testing.assert_array_equal(model(images, training=True)[5], model(images)[5])
    trained = {v.name.split("/")[2] for v in model.trainable_variables}
    assert not [name for name in trained if name.startswith(("conv1", "v2_stack_0", "v2_stack_1"))]
    assert {name[:10] for name in trained} == {"v2_stack_2", "v2_stack_3"}
    assert any(name.endswith("_bn") for name in trained)  # scale and offset learn
    assert all(np.array_equal(a, b) for a, b in zip(kept, values(model), strict=True))
    model.backbone.frozen_statistics = False  # norm="batch"
    model(images, training=True)
    changed = {v.name for v, a in zip(model.variables, kept, strict=True) if not np.array_equal(a, v)}
    assert changed and all("moving_" in name for name in changed)
    assert not [name for name in changed if "v2_stack_1" in name]  # does not train
    assert KerasCVBackbone("resnet18_v2", norm="batch").frozen_statistics is False


@pytest.fixture
def trained_model(model):
    """A preset that has weights, on the network that is there already."""
    backbone = KerasCVBackbone(f"{SMALL}_imagenet")
    backbone.extractor = model.backbone.extractor
    return SimpleNamespace(backbone=backbone)


@pytest.fixture
def kaggle(monkeypatch):
    """kaggle(function): what keras-cv's from_preset does."""

    def answer(function, kind=ARCHITECTURES[SMALL].kind):
        monkeypatch.setattr(getattr(import_models(), kind), "from_preset", function)

    return answer


def test_weights_are_fetched(monkeypatch, kaggle, pixels, images):
    """Of layers with layers in them, half of them frozen."""
    preset, kind = "csp_darknet_tiny_imagenet", "CSPDarkNetBackbone"
    arguments = {"stackwise_channels": [4] * 4, "stackwise_depth": [1] * 4}
    monkeypatch.setitem(ARCHITECTURES, TRAINED[preset], Architecture(kind, arguments))
    backbone = KerasCVBackbone(preset, frozen_stages=2)
    backbone(images)
    network = getattr(import_models(), kind)(include_rescaling=True, **arguments)
    random, asked = np.random.default_rng(1), []
    network.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in network.get_weights()])
    expected = extract_levels(network)(pixels)
    kaggle(lambda preset, load_weights: asked.append((preset, load_weights)) or network, kind)
    assert backbone.fetch_weights() == f"keras-cv's {preset}" and asked == [(preset, True)]
    for level, x in backbone(images).items():
        np.testing.assert_allclose(x, expected[level], rtol=1e-4, atol=1e-6)


def test_weights_that_cannot_be_had_are_a_users_matter(trained_model, kaggle):
    def refuse(preset, load_weights):
        raise ConnectionError("no such host\nand more")

    kaggle(refuse)
    with pytest.raises(
        UserError, match=rf"'{SMALL}_imagenet'.*ConnectionError: no such host\).*with load_weights = False"
    ):
        trained_model.backbone.fetch_weights()
    other = KerasCVBackbone("resnet18_v2")
    other.build([None, 64, 64, 3])
    kaggle(lambda preset, load_weights: SimpleNamespace(inputs=other.extractor.inputs, **pyramid(other.extractor)))
    with pytest.raises(UserError, match="another architecture"):
        trained_model.backbone.fetch_weights()


def pyramid(extractor):
    names = {f"P{level}": output.node.layer.name for level, output in extractor.output.items()}
    return {"pyramid_level_inputs": names, "get_layer": extractor.get_layer}


def test_nothing_is_fetched_where_there_are_weights_already(tmp_path):
    assert KerasCVBackbone(SMALL).fetch_weights() is None
    assert KerasCVBackbone(f"{SMALL}_imagenet", load_weights=False).fetch_weights() is None
    model = tf.keras.Sequential([tf.keras.layers.Dense(2)])
    model.build([None, 3])
    model.backbone = SimpleNamespace(fetch_weights=lambda: "fetched", submodules=())
    checkpoints = Checkpoints(Run(tmp_path), model)
    assert initialise(checkpoints, model) == "fetched"
    checkpoints.save(1)
    assert initialise(Checkpoints(Run(tmp_path), model), model).endswith("ckpt-1")


def test_presets_are_keras_cvs():
    from keras_cv.src.models.backbones import backbone_presets as presets

    assert set(ARCHITECTURES) <= set(presets.backbone_presets_no_weights)
    kinds = {ARCHITECTURES[name].kind for name in ARCHITECTURES}
    assert len(kinds) == 9 and all(hasattr(import_models(), kind) for kind in kinds)
    assert set(TRAINED) == {
        name for name in presets.backbone_presets_with_weights if "vit" not in name and "video" not in name
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"preset": "resnet18_v3"}, r"preset = 'resnet18_v3' is unknown; choose one of csp_darknet_l, "),
        ({"preset": SMALL, "norm": "group"}, "norm = 'group'"),
        ({"preset": SMALL, "frozen_stages": 5}, "frozen_stages = 5"),
    ],
)
def test_mistakes_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        KerasCVBackbone(**arguments)
