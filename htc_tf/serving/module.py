"""What is exported: the model with its signatures. Read this file first.

A request: bytes, pixels or records -> `serving.decode` -> `serving.preprocess` -> `serving.batching` -> the model ->
`serving.outputs`. Comes after training; `serving.write` saves it, `htc_tf.client` and TensorFlow Serving ask it.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.data.schema import IMAGE_FIELDS
from htc_tf.serving.attempt import attempt
from htc_tf.serving.batching import detect
from htc_tf.serving.decode import decode
from htc_tf.serving.orientation import orientation, turn
from htc_tf.serving.outputs import to_answer
from htc_tf.serving.preprocess import ROW, Prepared, prepare
from htc_tf.serving.semantic_png import encode_labels

ENCODED = IMAGE_FIELDS[0].key  # image/encoded
NO_RECORD = f"not a tf.train.Example with {ENCODED}"
NO_SIZE = "sizes: not within images"
RECORD = {ENCODED: tf.io.FixedLenFeature([], tf.string)}


class Options(NamedTuple):
    """What of an export is not the run's."""

    masks: tuple = ("masks_rle_bytes",)  # of answer.MASKS, () for none
    semantic: bool = False  # whether the answer has semantic_png_bytes
    batch_sizes: tuple = (1, 4)  # ascending; the last is the most pictures at a time
    max_pixels: int = 50_000_000  # a file whose header promises more is refused
    xla: bool = False  # the model is compiled as a whole, for each padded shape and batch size


class ServingModule(tf.Module):
    """The model, its weights and its signatures."""

    def __init__(self, detector, class_names, options):
        """
        Args:
            detector: an inference.Detector.
            class_names: by class index.
            options: Options.
        """
        super().__init__()
        # Only the weights are tracked. A tracked Keras model would be saved once more, layer by layer, and Keras
        # cannot save layers that pass the pyramid on as a dict of levels.
        self.weights = detector.model.variables
        self.input = detector.input
        self.class_names = tf.constant(list(class_names))
        self.options = options
        # One for each padded shape; their weights are shared.
        ways = [make_way(detector.model, shape, options) for shape in detector.input.shapes]
        self.ways = lambda: ways
        # Traced once, for all signatures.
        batch = [tf.TensorSpec([None, *row.shape], row.dtype) for row in ROW]
        read = tf.function(self.read_file, [tf.TensorSpec([], tf.string)], autograph=False)
        detect_prepared = tf.function(self.detect_prepared, batch, autograph=False)
        self.read = lambda encoded: read(encoded)
        self.detect = lambda prepared: detect_prepared(*prepared)

    @property
    def signatures(self):
        """{name: ConcreteFunction}: what is no tf.function any more is not traced a second time when it is saved."""
        names = ("predict_bytes", "predict_image", "predict_example")
        traced = {name: getattr(self, name).get_concrete_function() for name in names}
        return {"serving_default": traced["predict_bytes"], **traced}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def predict_bytes(self, image_bytes):
        """A batch of JPEG, PNG, GIF or BMP files, of any sizes. A JPEG's EXIF orientation is heeded: boxes and masks
        are those of the upright picture, and so is `sizes`.

        Returns:
            As `answer.to_answer` says, and semantic_png_bytes [B] string where the export has it.
        """
        return self.answer(lambda row: self.read(image_bytes[row]), tf.size(image_bytes))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, name="images"),
            tf.TensorSpec([None, 2], tf.int32, name="sizes"),
        ],
        autograph=False,
    )
    def predict_image(self, images, sizes):
        """Pixels [B, H, W, 3] uint8 RGB, upright, each picture at the top left, its height and width in sizes [B, 2]
        int32."""

        def read(row):
            size = sizes[row]
            fits = tf.reduce_all((size > 0) & (size <= tf.shape(images)[1:3]))
            height, width = tf.unstack(tf.where(fits, size, 0))
            return images[row, :height, :width], tf.where(fits, "", NO_SIZE)

        return self.answer(read, tf.shape(images)[0])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def predict_example(self, examples):
        """A batch of serialised tf.train.Examples as `data.schema` has them; of their keys only image/encoded is
        read."""

        def parse(serialized):
            return tf.io.parse_single_example(serialized, RECORD)[ENCODED], tf.constant("")

        def read(row):
            encoded, status = attempt(parse, examples[row], (tf.constant(""), tf.constant(NO_RECORD)))
            image, reason = self.read(encoded)
            return image, tf.where(status == "", reason, status)

        return self.answer(read, tf.size(examples))

    def read_file(self, encoded):
        """[] string -> the upright picture [h, w, 3] uint8, or nothing; [] string, empty or the reason."""
        image, status = decode(encoded, self.options.max_pixels)
        return turn(image, orientation(encoded)), status

    def answer(self, read, count):
        """What `prepare` takes -> what the signatures give."""
        with tf.device("/device:CPU:0"):
            prepared = prepare(read, count, self.input)
        return self.detect(prepared)

    def detect_prepared(self, *prepared):
        prepared, options = Prepared(*prepared), self.options

        def finish(found, rows):
            logits = found.pop("semantic", None)
            if logits is not None:
                inputs = logits, tf.gather(prepared.sizes, rows), tf.gather(prepared.originals, rows)
                signature = tf.TensorSpec([], tf.string)
                with tf.device("/device:CPU:0"):
                    found["labels"] = tf.map_fn(lambda row: encode_labels(*row), inputs, fn_output_signature=signature)
            return found

        found = detect(self.ways(), prepared, options.batch_sizes, options.xla, finish)
        answer = to_answer(found, prepared, self.class_names, options.masks)
        return {**answer, "semantic_png_bytes": found["labels"]} if options.semantic else answer


def make_way(model, shape, options):
    """A tf.function: images [n, *shape, 3] uint8, sizes [n, 2] float32 -> a dict of what the answer is made of."""

    def look(images, sizes):
        outputs = model(images, sizes)
        found = model.detect(outputs) if model.test_time is None else model.infer(images, sizes)
        found = found._replace(stage_masks=None, masks=found.masks if options.masks else None)._asdict()
        if options.semantic:
            found["semantic"] = outputs.semantic.logits
        # The traced graph computes only what is returned.
        return {name: value for name, value in found.items() if value is not None}

    signature = [tf.TensorSpec([None, *shape, 3], tf.uint8), tf.TensorSpec([None, 2], tf.float32)]
    return tf.function(look, input_signature=signature, jit_compile=options.xla or None, autograph=False)
