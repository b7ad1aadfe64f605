"""The backbone: any of keras-cv's that has a feature pyramid, from normalised images to C2 ... C5 that the FPN takes.

In the place of `models.backbones.resnet`; `models.backbones.keras_cv_presets` has the names. keras-cv pads as TensorFlow's SAME does: where
a stride of 2 meets an even side, at the bottom and the right alone. So a cell of C5 looks at pixels up to half a cell
further down and right than a ResNet's of ours; the weights were trained like that, and the heads learn it.

keras-cv is imported only where such a backbone is built.
"""

import contextlib
import io

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.keras_cv_presets import ARCHITECTURES, TRAINED
from htc_tf.models.htc import MEAN, PIXEL_MEAN, PIXEL_STD, STD
from htc_tf.ranges import FLAG, check_ranges, whole

LEVELS = (2, 3, 4, 5)


@gin.register
@check_ranges(
    load_weights=FLAG,
    frozen_stages=whole(0, 4),
    pixel_mean=MEAN,
    pixel_std=STD,
)
class KerasCVBackbone(tf.keras.layers.Layer):
    """images [B, H, W, 3] -> {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32; H and W are multiples of 32."""

    def __init__(
        self,
        preset,
        load_weights=True,
        norm="frozen_batch",
        frozen_stages=0,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        name="backbone",
    ):
        """
        Args:
            preset: keras-cv's name of an architecture, such as "resnet50_v2", or of one with weights, such as
                "resnet50_v2_imagenet".
            load_weights: whether a training that starts from nothing fetches the weights of a preset that has some. Any
                other, evaluation and prediction find theirs in a checkpoint, and fetch nothing.
            norm: "frozen_batch", on stored statistics in training too (mmdetection's norm_eval), where scale and offset
                still learn; what keras-cv drops at random in training then stays. Or "batch".
            frozen_stages: how many leading stages do not train: 1 is all that C2 is made of; 0 trains all.
            pixel_mean, pixel_std: with which the images come normalised, that is HTC's.
        """
        # Nothing is rounded before the pixels are whole numbers again.
        super().__init__(autocast=False, name=name)
        architecture = TRAINED.get(preset, preset)
        if architecture not in ARCHITECTURES:
            names = ", ".join(sorted([*ARCHITECTURES, *TRAINED]))
            raise UserError(f"KerasCVBackbone.preset = {preset!r} is unknown; choose one of {names}")
        if norm not in ("frozen_batch", "batch"):
            raise UserError(f"KerasCVBackbone.norm = {norm!r} is unknown; choose 'frozen_batch' or 'batch'")
        self.architecture = ARCHITECTURES[architecture]
        self.preset = preset if load_weights and preset in TRAINED else None
        self.frozen_stages, self.frozen_statistics = frozen_stages, norm == "frozen_batch"
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)

    def build(self, shape):
        models = import_models()
        with names_below(tf.get_current_name_scope()):
            # Takes pixels of 0 ... 255, as every preset was trained, and divides them by 255 itself.
            network = getattr(models, self.architecture.kind)(include_rescaling=True, **self.architecture.arguments)
        self.extractor = extract_levels(network, self.frozen_stages)

    def call(self, images, training=None):
        pixels = images * tf.constant(self.pixel_std, images.dtype) + tf.constant(self.pixel_mean, images.dtype)
        return self.extractor(pixels, training=bool(training) and not self.frozen_statistics)

    def fetch_weights(self):
        """Sets the weights of the preset, from Kaggle or from what was fetched before. Before training.

        Returns:
            A line that says where they come from; None where there is nothing to fetch.
        Raises:
            UserError: they cannot be had here, or are those of another architecture.
        """
        if self.preset is None:
            return None
        setting = f"KerasCVBackbone.preset = {self.preset!r}"
        try:
            network = getattr(import_models(), self.architecture.kind).from_preset(self.preset, load_weights=True)
        except Exception as error:  # whatever the network, Kaggle's client or the file's reader raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UserError(
                f"{setting}: its weights cannot be fetched ({reason}). Train where Kaggle can be reached, or copy the "
                "folder that KAGGLEHUB_CACHE names from such a machine; or from scratch, with load_weights = False, "
                "norm = 'batch' and frozen_stages = 0"
            ) from error
        # With the same stages frozen: Keras lists the weights of a layer that is in another order.
        fetched = extract_levels(network, self.frozen_stages).get_weights()
        if [weight.shape for weight in fetched] != [tuple(weight.shape) for weight in self.extractor.weights]:
            raise UserError(f"{setting}: what was fetched is of another architecture than keras-cv 0.9's")
        self.extractor.set_weights(fetched)
        return f"keras-cv's {self.preset}"


def import_models():
    """keras_cv.models, without the line that its import prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        from keras_cv import models
    return models


def extract_levels(network, frozen_stages=0):
    """A keras-cv backbone -> a Keras model of its layers as far as C5: pixels -> {2: C2 ... 5: C5}."""
    names = network.pyramid_level_inputs
    outputs = {level: network.get_layer(names[f"P{level}"]).output for level in LEVELS}
    if frozen_stages:
        # A model of the layers that lead there; they are the network's own.
        tf.keras.Model(network.inputs, outputs[frozen_stages + 1]).trainable = False
    return tf.keras.Model(network.inputs, outputs)


@contextlib.contextmanager
def names_below(scope):
    """Variables are named below `scope`, as other layers' are: Keras forgets it where it builds a model of symbols."""

    def create(next_creator, **variable):
        own = "/".join(filter(None, (scope, tf.get_current_name_scope(), variable["name"])))
        return next_creator(**{**variable, "name": f"{own}/"})  # the slash makes it absolute

    with tf.variable_creator_scope(create):
        yield
