"""Records become batches.

Before it: a data set as `pipelines.coco_to_tfrecord` writes it. After it: `engine.trainer` and `engine.evaluator`.
The way of a record, one file each: `order` (whose turn it is), `sample` (decode), `augment`, `truth` (resize, pad,
lay out), and here the batch.
"""

import contextlib
import logging
import re

import gin
import tensorflow as tf
from google.protobuf.message import DecodeError

from htc_tf.data import datasets, order, resize, schema, truth
from htc_tf.data.sample import SampleReader
from htc_tf.errors import UserError

logger = logging.getLogger(__name__)

# What reading a damaged or foreign shard raises.
_DAMAGE = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError, UnicodeDecodeError)


@gin.register
class Input:
    """How records become batches; `dataset` does it for a folder of them."""

    def __init__(
        self,
        batch_size,
        min_side,
        max_side,
        max_objects,
        mask_size=112,
        augment=(),
        training=True,
        shuffle_buffer=2048,
        semantic_stride=8,
        size_divisor=32,
    ):
        """Reads nothing yet.

        Args:
          batch_size: images in a batch, over all replicas.
          min_side, max_side: pixels. Images are resized to `min_side`, or to `max_side` where that makes them
            smaller, and padded to one of `resize.padded_shapes`.
          max_objects: G. Of an image with more the first G are used, and a warning counts such images.
          mask_size: M, cells along a mask's side.
          augment: functions from sample to sample (`data.augment`), in their order; training only.
          training: without end, shuffled and augmented; otherwise one pass in file order.
          shuffle_buffer: serialised records held in memory to shuffle; 0 for file order. Training only.
          semantic_stride: pixels from one semantic label to the next.
          size_divisor: padded sides are multiples of it.
        """
        positive = {"batch_size": batch_size, "min_side": min_side, "max_objects": max_objects}
        for name, value in positive.items():
            if value < 1:
                raise UserError(f"Input.{name} = {value}: give 1 or more")
        if mask_size < 4:
            raise UserError(f"Input.mask_size = {mask_size}: give 4 or more")
        if max_side < min_side:
            raise UserError(f"Input.max_side = {max_side} is less than Input.min_side = {min_side}")
        if size_divisor % semantic_stride:
            raise UserError(
                f"Input.size_divisor = {size_divisor} is no multiple of its semantic_stride {semantic_stride}"
            )
        self.batch_size = batch_size
        self.min_side = min_side
        self.max_side = max_side
        self.max_objects = max_objects
        self.mask_size = mask_size
        self.augment = tuple(augment) if training else ()
        self.training = training
        self.shuffle_buffer = shuffle_buffer
        self.semantic_stride = semantic_stride
        self.shapes = resize.padded_shapes(min_side, max_side, size_divisor)

    def dataset(self, folder, seed, start_step=0):
        """The batches of a data set.

        Training: without end; order and augmentation follow from (seed, epoch, index in the epoch), so
        `dataset(folder, seed, k)` goes on bit by bit as `dataset(folder, seed)` does after k batches. Evaluation: each
        image once; rows with image_id = -1 and no valid object fill up the last batch of each padded shape.

        Args:
          folder: of the records.
          seed: int.
          start_step: batches to leave out; they are read, not decoded.

        Returns:
          tf.data.Dataset of `structures.Batch`, batch_size rows each. Padded height and width are static where there
          is one padded shape; where there are two, each batch has one of them.

        Raises:
          UserError: the folder is no complete data set, or is empty. Damage that only reading finds is raised while
          the dataset is iterated: see `named_errors`.
        """
        info = datasets.load_info(folder)
        if info.records == 0:
            raise UserError(f"{info.folder} holds no images")
        if info.crowd and self.training:
            logger.info("%s: %d crowd regions of %d objects are no truth", info.folder, info.crowd, info.objects)
        if self.training:
            entries = order.training_entries(info.shard_paths, seed, self.shuffle_buffer)
        else:
            entries = order.evaluation_entries(info.shard_paths)
        entries = order.group(entries, self._bucket_of, self.batch_size, start_step)
        reader = SampleReader(info, self.max_objects, self.mask_size)

        # AutoGraph has nothing to convert here, and would wrap a UserError in its own text.
        @tf.autograph.experimental.do_not_convert
        def make_row(entry):
            return self._make_row(reader, entry)

        rows = entries.map(make_row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return rows.batch(self.batch_size, drop_remainder=True).prefetch(2)

    def _make_row(self, reader, entry):
        sample = reader.read(entry.shard, entry.serialized)
        shape = self._shape_for(sample["original_size"])
        sample |= {"min_side": self.min_side, "max_side": self.max_side, "seed": entry.seed}
        for change in self.augment:
            sample = change(sample)
        row = truth.make_row(sample, shape, self.max_objects, self.semantic_stride)
        return row._replace(
            image_ids=tf.where(entry.real, row.image_ids, -1),
            truth=row.truth._replace(valid=row.truth.valid & entry.real),
        )

    def _bucket_of(self, serialized):
        sides = ("image/height", "image/width")
        header = tf.io.parse_single_example(serialized, {side: tf.io.FixedLenFeature([], tf.int64) for side in sides})
        return self._choose_shape(*(header[side] for side in sides))

    def _choose_shape(self, height, width):
        return resize.choose_shape(resize.fitted_size(height, width, self.min_side, self.max_side), self.shapes)

    def _shape_for(self, original_size):
        """(height, width) to pad to: ints where there is one padded shape only, so that it is static."""
        if len(self.shapes) == 1:
            return self.shapes[0]
        return tf.unstack(tf.gather(tf.constant(self.shapes), self._choose_shape(*tf.unstack(original_size))))


@contextlib.contextmanager
def named_errors(folder):
    """Turns TensorFlow's error about a record of the folder, raised while a dataset is iterated, into a UserError.

    TensorFlow tells neither which shard nor which image is damaged. It is looked for here, by decoding record after
    record until one fails.
    """
    try:
        yield
    # TensorFlow quotes a record that it cannot parse, and Python may be unable to decode the quotation.
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        named = re.search(r"UserError: (.*)", str(error))
        if named:
            raise UserError(named[1]) from None
        if isinstance(error, _DAMAGE):
            _find_damage(datasets.load_info(folder))
        raise


def _find_damage(info):
    reader = SampleReader(info, max_objects=1, mask_size=4)
    for number, path in enumerate(info.shard_paths):

        @tf.autograph.experimental.do_not_convert
        def decode(serialized, number=number):
            sample = reader.read(tf.constant(number, tf.int64), serialized)
            return tf.size(sample["image"]) + tf.size(sample["semantic"]) + tf.size(sample["masks"])

        count = 0
        try:
            for _ in tf.data.TFRecordDataset(path).map(decode, tf.data.AUTOTUNE, deterministic=True):
                count += 1
        except tf.errors.OpError as error:
            reason = re.sub(r"\{\{.*?\}\}", "", error.message).strip().partition("\n")[0]
            raise UserError(f"{_name(path, count)} does not decode ({reason}); prepare the data again") from None
        except UnicodeDecodeError:
            raise UserError(f"{_name(path, count)} is none of ours; prepare the data again") from None


def _name(path, index):
    """The image of a record by its name, or by its number if the record cannot be read."""
    record = tf.data.TFRecordDataset(path).skip(index).take(1)
    try:
        (serialized,) = record.as_numpy_iterator()
        return f"{path}: {schema.unpack(serialized).image.filename}"
    except (tf.errors.OpError, DecodeError, IndexError, ValueError):
        return f"{path}: record {index}"
