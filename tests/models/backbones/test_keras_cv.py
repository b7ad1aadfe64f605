"""keras-cv backbones in HTC: keras-cv's own features, at the levels of the FPN, and fetched weights."""

import math
import sys
from types import SimpleNamespace

import gin
import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError
from htc_tf.models.backbones.keras_cv import NETWORKS, KerasCVBackbone, extract_levels, import_models
from htc_tf.models.htc import PIXEL_MEAN, PIXEL_STD
from htc_tf.run import Run
from htc_tf.training.first_weights import initialize

PRESET = "resnet50_v2_imagenet"
# {class of keras-cv: arguments of a small network}
RESNET = {"stackwise_filters": [4, 6, 12, 24], "stackwise_blocks": [2] * 4, "stackwise_strides": [1, 2, 2, 2]}
DARKNET = {"stackwise_channels": [4] * 4, "stackwise_depth": [1] * 4}
EFFICIENTNET = {
    **{"width_coefficient": 1.0, "depth_coefficient": 1.0, "stackwise_kernel_sizes": [3] * 5},
    **{"stackwise_num_repeats": [1] * 5, "stackwise_input_filters": [32] * 5, "stackwise_output_filters": [32] * 5},
    **{"stackwise_expansion_ratios": [1] + [2] * 4, "stackwise_strides": [1, 2, 2, 2, 2]},
}
SQUEEZED = {**EFFICIENTNET, "stackwise_squeeze_and_excite_ratios": [0.25] * 5}
MOBILENET = {
    **{"stackwise_expansion": [1, 2, 2, 2], "stackwise_filters": [8] * 4, "stackwise_kernel_size": [3] * 4},
    **{"stackwise_stride": [2] * 4, "stackwise_se_ratio": [None] * 4, "stackwise_activation": ["relu"] * 4},
}
ARGUMENTS = {
    "CSPDarkNetBackbone": DARKNET,
    "DenseNetBackbone": {"stackwise_num_repeats": [1] * 4},
    "EfficientNetLiteBackbone": EFFICIENTNET,
    "EfficientNetV1Backbone": SQUEEZED,
    "EfficientNetV2Backbone": {**SQUEEZED, "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 2},
    "MobileNetV3Backbone": MOBILENET,
    "ResNetBackbone": RESNET,
    "ResNetV2Backbone": RESNET,
    "YOLOV8Backbone": DARKNET,
}


def make_network(name="ResNetV2Backbone"):
    """Returns a function that creates a small network, as gin passes one."""
    return lambda **options: getattr(import_models(), name)(**{**ARGUMENTS[name], **options})


class Outer(tf.keras.layers.Layer):
    """Stands for HTC."""

    def __init__(self, backbone):
        super().__init__(name="htc")
        self.backbone = backbone

    def call(self, images, training=None):
        return self.backbone(images, training=training)


def make_model(**arguments):
    model = Outer(KerasCVBackbone(**{"network": make_network(), **arguments}))
    model(tf.zeros([1, 64, 64, 3]))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, [2, 64, 96, 3]).astype(np.float32)


@pytest.fixture(scope="module")
def images(pixels):
    return tf.constant((pixels - PIXEL_MEAN) / PIXEL_STD, tf.float32)


def values(layer):
    return [v.numpy() for v in layer.variables]


def test_features_are_those_of_keras_cv(model, pixels, images):
    features = model(images)
    theirs = extract_levels(make_network()(include_rescaling=False))  # takes pixels of 0 ... 1
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


def test_variables_are_named_and_saved_as_those_of_other_layers(model, tmp_path):
    assert all(v.name.startswith("htc/backbone/") for v in model.variables)
    for variable in model.variables:
        variable.assign_add(tf.ones_like(variable))
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    again = make_model()  # keras-cv numbers some of its layers through the whole process
    tf.train.Checkpoint(model=again).restore(path).assert_existing_objects_matched()
    for a, b in zip(values(model.backbone), values(again.backbone), strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_and_frozen_stages(images):
    model = make_model(frozen_stages=2)
    kept = values(model)
    np.testing.assert_array_equal(model(images, training=True)[5], model(images)[5])
    trained = {v.name.split("/")[2] for v in model.trainable_variables}
    assert not [name for name in trained if name.startswith(("conv1", "v2_stack_0", "v2_stack_1"))]
    assert {name[:10] for name in trained} == {"v2_stack_2", "v2_stack_3"}
    assert any(name.endswith("_bn") for name in trained)  # scale and offset are trained
    assert all(np.array_equal(a, b) for a, b in zip(kept, values(model), strict=True))
    model.backbone.frozen_statistics = False  # norm="batch"
    model(images, training=True)
    changed = {v.name for v, a in zip(model.variables, kept, strict=True) if not np.array_equal(a, v)}
    assert changed and all("moving_" in name for name in changed)
    assert not [name for name in changed if "v2_stack_1" in name]  # is not trained
    assert KerasCVBackbone(make_network(), norm="batch").frozen_statistics is False


@pytest.mark.parametrize("name", NETWORKS)
def test_gin_names_the_classes_and_their_arguments(name, images):
    config.import_gin()
    gin.parse_config([f"{name}.{key} = {value!r}" for key, value in ARGUMENTS[name].items()])
    gin.parse_config(["KerasCVBackbone.network = @" + name])
    backbone = gin.get_configurable("KerasCVBackbone")()
    features = backbone(images)  # checks the strides
    assert [x.shape[0] for x in features.values()] == [2] * 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"stackwise_num_repeats": [101, 1, 1, 1]},
        {"stackwise_blocks": (1, 10**9)},
        {"depth_coefficient": 17.0},
        {"depth_coefficient": 101},
        {"growth_rate": 2**16 + 1},
        {"growth_rate": -1},
        {"alpha": math.nan},
        {"stackwise_filters": [[2**16 + 1]]},
        {"stackwise_filters": [1] * 101},
        {"stackwise_conv_types": {"unet": 10**9}},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    """A run may come from a stranger, and its network must end."""
    config.import_gin()
    ((name, _),) = arguments.items()
    with pytest.raises(UserError, match=rf"^DenseNetBackbone\.{name} = .*must be "):
        gin.get_configurable("DenseNetBackbone")(**arguments)


def test_pixels_are_those_that_htc_normalizes():
    params = ["KerasCVBackbone.preset=None", "HTC.pixel_std=(1.0, 2.0, 3.0)", "HTC.pixel_mean=(4.0, 5.0, 6.0)"]
    files = ["tests/tiny.gin", "gin/options/keras_cv_backbone.gin"]
    experiment, _ = config.load(files, params)
    backbone = experiment.build_model().backbone
    assert tuple(backbone.pixel_std) == (1.0, 2.0, 3.0) and tuple(backbone.pixel_mean) == (4.0, 5.0, 6.0)
    with pytest.raises(UserError, match=r"^KerasCVBackbone\.pixel_std = .*, but HTC\.pixel_std = \(1\.0, 2\.0, 3\.0\)"):
        config.load(files, [*params, f"KerasCVBackbone.pixel_std={PIXEL_STD}"])
    config.load(files, [*params, "KerasCVBackbone.pixel_std=[1, 2, 3]"])


@pytest.fixture
def trained_model(model):
    """A backbone that has pretrained weights to fetch, on the network that is there already."""
    backbone = KerasCVBackbone(make_network(), PRESET)
    backbone.extractor = model.backbone.extractor
    return SimpleNamespace(backbone=backbone)


@pytest.fixture
def kaggle(monkeypatch):
    """kaggle(function): replaces keras-cv's from_preset."""

    def answer(function, name="ResNetV2Backbone"):
        monkeypatch.setattr(getattr(import_models(), name), "from_preset", function)

    return answer


@pytest.mark.parametrize("named", [True, False])
def test_weights_are_fetched(kaggle, pixels, images, named):
    """Weights of nested layers, half of them frozen; the architecture is bound or the preset's own."""
    preset, name, asked = "csp_darknet_tiny_imagenet", "CSPDarkNetBackbone", []
    networks = [make_network(name)(include_rescaling=True) for _ in range(2)]
    random = np.random.default_rng(1)
    networks[1].set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in networks[1].get_weights()])

    def from_preset(preset, load_weights, include_rescaling):
        asked.append((preset, load_weights, include_rescaling))
        return networks[load_weights]

    kaggle(from_preset, name)
    backbone = KerasCVBackbone(make_network(name) if named else None, preset, frozen_stages=2)
    backbone(images)
    expected = extract_levels(networks[1])(pixels)
    assert backbone.fetch_weights() == f"keras-cv's {preset}"
    assert asked == [(preset, False, True)] * (not named) + [(preset, True, True)]
    for level, x in backbone(images).items():
        np.testing.assert_allclose(x, expected[level], rtol=1e-4, atol=1e-6)


def test_weights_that_cannot_be_fetched_are_one_line(trained_model, kaggle, images):
    def refuse(preset, **options):
        raise ConnectionError("no such host\nand more")

    kaggle(refuse)
    reason = rf"'{PRESET}'.*ConnectionError: no such host\)"
    with pytest.raises(UserError, match=rf"{reason}.*with load_weights = False") as refused:
        trained_model.backbone.fetch_weights()
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=rf"{reason}.*bind KerasCVBackbone.network") as refused:
        make_model(network=None, preset=PRESET)
    assert "\n" not in str(refused.value)
    other = {**ARGUMENTS["ResNetV2Backbone"], "stackwise_filters": [2] * 4}
    kaggle(lambda preset, **options: import_models().ResNetV2Backbone(include_rescaling=True, **other))
    with pytest.raises(UserError, match="another architecture"):
        trained_model.backbone.fetch_weights()


@pytest.mark.parametrize("arguments", [{}, {"network": None, "preset": PRESET}])
def test_a_missing_keras_cv_is_one_line_that_says_how_to_install_it(monkeypatch, arguments):
    monkeypatch.setitem(sys.modules, "keras_cv", None)  # imports as if it were not installed
    advice = r"^KerasCVBackbone needs the package keras-cv: .*'htc_tf\[train\]'.*make env"
    with pytest.raises(UserError, match=advice) as refused:
        make_model(**arguments)
    assert "\n" not in str(refused.value)


def test_another_package_that_keras_cv_lacks_is_named(monkeypatch, tmp_path):
    (tmp_path / "keras_cv.py").write_text("import no_such_package\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "keras_cv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        import_models()


def test_nothing_is_fetched_where_weights_are_there(tmp_path):
    assert KerasCVBackbone(make_network()).fetch_weights() is None
    assert KerasCVBackbone(make_network(), "resnet50_v2").fetch_weights() is None  # a preset without weights
    assert KerasCVBackbone(make_network(), PRESET, load_weights=False).fetch_weights() is None
    model = tf.keras.Sequential([tf.keras.layers.Dense(2)])
    model.build([None, 3])
    model.backbone = SimpleNamespace(fetch_weights=lambda: "fetched", submodules=(), weights=[])
    checkpoints = Checkpoints(Run(tmp_path), model)
    assert initialize(checkpoints, model) == "fetched"
    checkpoints.save(1)
    assert initialize(Checkpoints(Run(tmp_path), model), model).endswith("ckpt-1")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"network": None}, r"network is missing: give one, such as @ResNetV2Backbone"),
        ({"network": None, "preset": "resnet18_v3"}, r"'resnet18_v3' is unknown; choose one of csp_darknet_l, "),
        ({"norm": "group"}, "norm = 'group'"),
        ({"frozen_stages": 5}, "frozen_stages = 5"),
        ({"network": import_models}, r"network = @import_models: .* unexpected keyword argument 'include_rescaling'"),
        (
            {"network": lambda **options: make_network()(**options, stackwise_strides=[1, 2, 2, 1])},
            "C5 has a stride other than 32",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(arguments, named):
    with pytest.raises(UserError, match=named) as refused:
        make_model(**arguments)
    assert "\n" not in str(refused.value)
