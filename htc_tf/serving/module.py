"""The exported tf.Module: the model, its weights and its signatures. Start reading the serving code here.

A request of bytes, pixels or records runs through `serving.decode`, `serving.preprocess`, `serving.batching`, the model
and `serving.outputs`. `serving.write` saves the module; `htc_tf.client` and TensorFlow Serving call it.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.data.schema import IMAGE_FIELDS
from htc_tf.ops.deformable import without_islands
from htc_tf.serving.batching import detect
from htc_tf.serving.decode import decode, try_or_default
from htc_tf.serving.orientation import apply_orientation, read_orientation
from htc_tf.serving.outputs import encode_semantic_maps, make_outputs
from htc_tf.serving.preprocess import ROW_SPEC, Preprocessed, preprocess

ENCODED = IMAGE_FIELDS[0].key  # image/encoded
NO_RECORD = f"not a tf.train.Example with {ENCODED}"
NO_SIZE = "sizes: not within images"
RECORD = {ENCODED: tf.io.FixedLenFeature([], tf.string)}


class Options(NamedTuple):
    """Settings of an export that are not part of the run's configuration."""

    masks: tuple = ("masks_rle_bytes",)  # a subset of `outputs.MASKS`, () for none
    semantic: bool = False  # If True, semantic_png_bytes is among the outputs.
    batch_sizes: tuple = (1, 4)  # ascending; the last one is the largest number of images at a time
    max_pixels: int = 50_000_000  # a file whose header announces more is refused
    xla: bool = False  # If True, the model is compiled as a whole, for each padded shape and batch size.


class ServingModule(tf.Module):
    """The model, its weights and its signatures."""

    def __init__(self, detector, class_names, options):
        """
        Args:
            detector: an inference.Detector.
            class_names: class names by class index.
            options: Options.
        """
        super().__init__()
        # Only the weights are tracked. A tracked Keras model would be saved once more, layer by layer, and Keras
        # cannot save layers that pass the pyramid on as a dict of levels.
        self.weights = detector.model.variables
        self.input = detector.input
        self.class_names = tf.constant(list(class_names))
        self.options = options
        # One function per padded shape; they share the weights. In a closure, so that tf.Module does not track them.
        predict_fns = [make_predict_fn(detector.model, shape, options) for shape in detector.input.shapes]
        self.predict_fns = lambda: predict_fns
        # Traced once for all signatures.
        batch = [tf.TensorSpec([None, *row.shape], row.dtype) for row in ROW_SPEC]
        read = tf.function(self.read_file, [tf.TensorSpec([], tf.string)], autograph=False)
        detect_batch = tf.function(self.detect_batch, batch, autograph=False)
        self.read = lambda encoded: read(encoded)
        self.detect = lambda preprocessed: detect_batch(*preprocessed)

    @property
    def signatures(self):
        """{name: ConcreteFunction}. A tf.function would be traced a second time when the module is saved."""
        names = ("predict_bytes", "predict_image", "predict_example")
        traced = {name: getattr(self, name).get_concrete_function() for name in names}
        return {"serving_default": traced["predict_bytes"], **traced}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def predict_bytes(self, image_bytes):
        """Detects in a batch of JPEG, PNG or BMP files of any sizes.

        An EXIF orientation is applied: boxes, masks and `sizes` refer to the upright image.

        Returns:
            The outputs of `outputs.make_outputs`, and semantic_png_bytes [B] string if the export has it.
        """
        return self.predict(lambda row: self.read(image_bytes[row]), tf.size(image_bytes))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, name="images"),
            tf.TensorSpec([None, 2], tf.int32, name="sizes"),
        ],
        autograph=False,
    )
    def predict_image(self, images, sizes):
        """Detects in pixels.

        Args:
            images: [B, H, W, 3] uint8 RGB, each image upright and at the top left.
            sizes: [B, 2] int32, height and width of each image.
        """

        def read(row):
            size = sizes[row]
            fits = tf.reduce_all((size > 0) & (size <= tf.shape(images)[1:3]))
            height, width = tf.unstack(tf.where(fits, size, 0))
            return images[row, :height, :width], tf.where(fits, "", NO_SIZE)

        return self.predict(read, tf.shape(images)[0])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def predict_example(self, examples):
        """Detects in serialized tf.train.Examples as in `data.schema`; only their image/encoded is read."""

        def parse(serialized):
            return tf.io.parse_single_example(serialized, RECORD)[ENCODED], tf.constant("")

        def read(row):
            encoded, status = try_or_default(parse, examples[row], (tf.constant(""), tf.constant(NO_RECORD)))
            image, reason = self.read(encoded)
            return image, tf.where(status == "", reason, status)

        return self.predict(read, tf.size(examples))

    def read_file(self, encoded):
        """Decodes a file [] string: the upright image [h, w, 3] uint8 and its status, as in `decode`."""
        image, status = decode(encoded, self.options.max_pixels)
        return apply_orientation(image, read_orientation(encoded)), status

    def predict(self, read, count):
        """Maps the `read` and `count` of `preprocess` to the outputs of the signatures."""
        with tf.device("/device:CPU:0"):
            preprocessed = preprocess(read, count, self.input)
        return self.detect(preprocessed)

    def detect_batch(self, *preprocessed):
        """Maps the fields of Preprocessed to the outputs of the signatures."""
        preprocessed, options = Preprocessed(*preprocessed), self.options

        def finish(found, rows):
            """Encodes the semantic logits, whose shape differs between padded shapes."""
            if options.semantic:
                sizes = tf.gather(preprocessed.sizes, rows), tf.gather(preprocessed.original_sizes, rows)
                found["semantic_png_bytes"] = encode_semantic_maps(found.pop("semantic"), *sizes)
            return found

        found = detect(self.predict_fns(), preprocessed, options.batch_sizes, options.xla, finish)
        outputs = make_outputs(found, preprocessed, self.class_names, options.masks)
        return outputs | ({"semantic_png_bytes": found["semantic_png_bytes"]} if options.semantic else {})


def make_predict_fn(model, shape, options):
    """Returns a tf.function from images [n, *shape, 3] uint8 and sizes [n, 2] float32 to the fields of Detections.

    With options.semantic the dict also has the logits `semantic` [n, h, w, S], of the same pass as the detections. With
    test-time augmentation the detections come from its views, the semantic logits from a pass of the image itself.
    """

    def predict(images, sizes):
        single_pass = model.test_time is None
        with without_islands():
            outputs = model(images, sizes) if single_pass or options.semantic else None
            found = model.detect(outputs) if single_pass else model.infer(images, sizes)
        found = found._replace(stage_masks=None, masks=found.masks if options.masks else None)._asdict()
        if options.semantic:
            found["semantic"] = outputs.semantic.logits
        # The traced graph computes only the returned outputs.
        return {name: value for name, value in found.items() if value is not None}

    signature = [tf.TensorSpec([None, *shape, 3], tf.uint8), tf.TensorSpec([None, 2], tf.float32)]
    return tf.function(predict, input_signature=signature, jit_compile=options.xla or None, autograph=False)
