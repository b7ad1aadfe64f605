"""Backbones of keras-cv that have a feature pyramid, with its pretrained weights.

gin names their classes, and the arguments of these, directly:

    HTC.backbone = @KerasCVBackbone()
    KerasCVBackbone.network = @DenseNetBackbone
    DenseNetBackbone.stackwise_num_repeats = [6, 12, 24, 16]

keras-cv pads as TensorFlow's SAME does: where a stride of 2 meets an even side, at the bottom and the right alone. So a
cell of C5 sees pixels up to half a cell further down and to the right than in `models.backbones.resnet`. The weights
were trained like that.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.fpn import LEVELS
from htc_tf.models.htc import MEAN, PIXEL_MEAN, PIXEL_STD, STD
from htc_tf.ranges import FLAG, check_range, check_ranges, choice, number, optional, whole
from htc_tf.structures import FeatureMaps

MAX_STAGES = 100
# Classes of keras_cv.models that gin may name.
NETWORKS = (
    *("CSPDarkNetBackbone", "DenseNetBackbone", "EfficientNetLiteBackbone", "EfficientNetV1Backbone"),
    *("EfficientNetV2Backbone", "MobileNetV3Backbone", "ResNetBackbone", "ResNetV2Backbone", "YOLOV8Backbone"),
)


def import_models() -> ModuleType:
    """Returns keras_cv.models, imported only where a backbone is built, without the line that the import prints.

    Raises:
        UserError: keras-cv is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from keras_cv import models
    except ModuleNotFoundError as error:
        if error.name != "keras_cv":
            raise
        raise UserError(
            "KerasCVBackbone needs the package keras-cv: run `pip install 'htc_tf[train]'`, or `make env` in a checkout"
        ) from error
    return models


def check_argument(name: str, value: Any) -> None:
    """Checks the numbers in an argument of keras-cv, which has no limits: a network of them must come to an end.

    Args:
        name: "Class.argument", as a user writes it.
        value: A number, a string, a flag, a function or None, or a list of them.
    Raises:
        UserError: A number or the length of a list is out of range.
    """
    if isinstance(value, (list, tuple)):
        if len(value) > MAX_STAGES:
            raise UserError(f"{name} = a list of {len(value)} items: must be one of at most {MAX_STAGES}")
        for item in value:
            check_argument(name, item)
    elif isinstance(value, float):
        check_range(name, value, number(0, 16))
    elif not (value is None or isinstance(value, (str, bool)) or callable(value)):
        counts_blocks = any(word in name for word in ("depth", "blocks", "repeats"))
        check_range(name, value, whole(0, 100 if counts_blocks else 2**16))


def make_external(name: str) -> Callable[..., Any]:
    """Registers a class of keras_cv.models with gin, without importing it."""

    def create(**arguments):
        for argument, value in arguments.items():
            check_argument(f"{name}.{argument}", value)
        return getattr(import_models(), name)(**arguments)

    create.__name__ = create.__qualname__ = name
    return gin.external_configurable(create, name, module="keras_cv.models")


for network in NETWORKS:
    make_external(network)


@gin.register
@check_ranges(
    load_weights=FLAG,
    norm=choice("frozen_batch", "batch"),
    frozen_stages=whole(0, 4),
    pixel_mean=optional(MEAN),
    pixel_std=optional(STD),
)
class KerasCVBackbone(tf.keras.layers.Layer):
    """A backbone of keras-cv, as far as C5."""

    def __init__(
        self,
        network: Callable[..., tf.keras.Model] | None = None,
        preset: str | None = None,
        load_weights: bool = True,
        norm: str = "frozen_batch",
        frozen_stages: int = 0,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        name: str = "backbone",
    ) -> None:
        """
        Args:
            network: Function that creates a keras-cv backbone, such as @ResNetV2Backbone with its arguments bound; None
                for the architecture of `preset`, which keras-cv then reads from Kaggle or from kagglehub's cache.
            preset: str, keras-cv's name of pretrained weights, such as "resnet50_v2_imagenet", or None.
            load_weights: If True, a new training fetches the preset's weights. Everything else finds its
                weights in a checkpoint and fetches none.
            norm: "frozen_batch" for batch norm on stored statistics in training too (mmdetection's norm_eval), with a
                trained scale and offset; then keras-cv's dropout is off as well. Or "batch".
            frozen_stages: int, number of leading stages that are not trained: 1 is all layers up to C2, 0 nothing.
            pixel_mean, pixel_std: 3 floats each, the ones that HTC normalizes images with; None to take them from HTC.
        """
        super().__init__(autocast=False, name=name)  # mixed precision must not round the normalized pixels
        if network is None and preset is None:
            raise UserError("KerasCVBackbone.network is missing: give one, such as @ResNetV2Backbone, or give a preset")
        self.network, self.preset, self.load_weights = network, preset, load_weights
        self.frozen_stages, self.frozen_statistics = frozen_stages, norm == "frozen_batch"
        self.bound_mean, self.bound_std = pixel_mean, pixel_std
        self.set_pixels(pixel_mean or PIXEL_MEAN, pixel_std or PIXEL_STD)

    def set_pixels(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Sets the numbers that images are normalized with, from which `call` restores the pixels. HTC calls it.

        Raises:
            UserError: The configuration gives the backbone others.
        """
        for name, own, theirs in (("pixel_mean", self.bound_mean, mean), ("pixel_std", self.bound_std, std)):
            if own is not None and tuple(own) != tuple(theirs):
                raise UserError(
                    f"KerasCVBackbone.{name} = {tuple(own)}, but HTC.{name} = {tuple(theirs)}: bind that of HTC alone"
                )
        self.pixel_mean, self.pixel_std = tuple(mean), tuple(std)

    def build(self, shape: tf.TensorShape) -> None:
        with names_below(tf.get_current_name_scope()):
            # With rescaling it takes pixels of 0 ... 255, as all presets do, and divides them by 255 itself.
            if self.network is None:
                network = self.load_preset(load_weights=False)
            else:
                try:
                    network = self.network(include_rescaling=True)
                except (TypeError, ValueError) as error:  # an argument is unknown, missing or out of range
                    name = getattr(self.network, "__name__", self.network)
                    raise UserError(f"KerasCVBackbone.network = @{name}: {first_line(error)}") from error
        self.extractor = extract_levels(network, self.frozen_stages)

    def call(self, images: tf.Tensor, training: bool | None = None) -> FeatureMaps:
        """Returns {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32, of normalized images [B, H, W, 3].

        H and W are multiples of 32.
        """
        pixels = images * tf.constant(self.pixel_std, images.dtype) + tf.constant(self.pixel_mean, images.dtype)
        features = self.extractor(pixels, training=bool(training) and not self.frozen_statistics)
        for level, x in features.items():
            if x.shape[1:3] != [side // 2**level for side in images.shape[1:3]]:
                raise UserError(f"KerasCVBackbone.network: C{level} has a stride other than {2**level}")
        return features

    @property
    def trains_max_pooling(self) -> bool:
        """True if the gradient passes a max pooling, which is so if a layer before the last one is trained."""
        layers = self.extractor.layers
        last = max((i for i, layer in enumerate(layers) if isinstance(layer, tf.keras.layers.MaxPooling2D)), default=0)
        return any(layer.trainable_weights for layer in layers[:last])

    def fetch_weights(self) -> str | None:
        """Sets the preset's weights, from Kaggle or from kagglehub's cache. Called before a new training.

        Returns:
            A text that names the source of the weights, or None if the backbone has none to fetch.
        Raises:
            UserError: The weights cannot be fetched, or belong to another architecture.
        """
        if self.preset is None or not self.load_weights or self.preset not in self.find_class().presets_with_weights:
            return None
        network = self.load_preset(load_weights=True)
        # With the same stages frozen, because Keras lists trained weights before frozen ones.
        fetched = extract_levels(network, self.frozen_stages).get_weights()
        if [weight.shape for weight in fetched] != [tuple(weight.shape) for weight in self.extractor.weights]:
            raise UserError(
                f"KerasCVBackbone.preset = {self.preset!r} is of another architecture than KerasCVBackbone.network; "
                "bind the network to that one, or to None"
            )
        self.extractor.set_weights(fetched)
        return f"keras-cv's {self.preset}"

    def find_class(self) -> type[tf.keras.Model]:
        """Returns the class of keras_cv.models that has the preset."""
        classes = [getattr(import_models(), name) for name in NETWORKS]
        for kind in classes:
            if self.preset in kind.presets:
                return kind
        presets = ", ".join(sorted(preset for kind in classes for preset in kind.presets))
        raise UserError(f"KerasCVBackbone.preset = {self.preset!r} is unknown; choose one of {presets}")

    def load_preset(self, load_weights: bool) -> tf.keras.Model:
        """Returns the preset's keras-cv backbone, which takes pixels of 0 ... 255."""
        kind = self.find_class()
        try:
            return kind.from_preset(self.preset, load_weights=load_weights, include_rescaling=True)
        except Exception as error:  # whatever the network, Kaggle's client or the file's reader raise
            remedy = "bind KerasCVBackbone.network to its class and arguments"
            if load_weights:
                remedy = "train from scratch, with load_weights = False, norm = 'batch' and frozen_stages = 0"
            raise UserError(
                f"KerasCVBackbone.preset = {self.preset!r} cannot be fetched ({type(error).__name__}: "
                f"{first_line(error)}). Use a machine that reaches Kaggle, or copy the folder that KAGGLEHUB_CACHE "
                f"names from one; or {remedy}"
            ) from error


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


def extract_levels(network: tf.keras.Model, frozen_stages: int = 0) -> tf.keras.Model:
    """Returns a Keras model of a keras-cv backbone's layers as far as C5: pixels to {2: C2, ..., 5: C5}."""
    names = network.pyramid_level_inputs
    outputs = {level: network.get_layer(names[f"P{level}"]).output for level in LEVELS}
    if frozen_stages:
        # A model of the leading layers shares them with the network.
        tf.keras.Model(network.inputs, outputs[frozen_stages + 1]).trainable = False
    return tf.keras.Model(network.inputs, outputs)


@contextlib.contextmanager
def names_below(scope: str) -> Iterator[None]:
    """Names variables below `scope`, as other layers' are: Keras ignores it while it builds a functional model."""

    def create(next_creator, **variable):
        own = "/".join(filter(None, (scope, tf.get_current_name_scope(), variable["name"])))
        return next_creator(**{**variable, "name": f"{own}/"})  # the slash makes the name absolute

    with tf.variable_creator_scope(create):
        yield
