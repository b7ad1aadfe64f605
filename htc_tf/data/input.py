"""Records become batches.

Before it: a data set as `pipelines.coco_to_tfrecord` writes it. After it: `training.trainer` and
`evaluation.evaluator`. The way of a record, one file each: `order` (whose turn it is), `sample` (decode), `augment`,
`truth` (resize, pad, lay out), `copy_paste`, and here the batch.
"""

import contextlib
import functools
import logging

import gin
import tensorflow as tf

# gin finds the augmentations, and callers find named_errors, through this module.
from htc_tf.data import augment as _augment  # noqa: F401
from htc_tf.data import class_balance as _class_balance  # noqa: F401
from htc_tf.data import copy_paste as _copy_paste  # noqa: F401
from htc_tf.data import datasets, ground_truth, record_order, resize
from htc_tf.data.integrity import check_counts
from htc_tf.data.integrity import named_errors as named_errors
from htc_tf.data.sample import SampleReader
from htc_tf.errors import UserError
from htc_tf.ranges import FLAG, SIDE, Each, check_bindings, check_ranges, number, whole

logger = logging.getLogger(__name__)


@gin.register
@check_ranges(
    batch_size=whole(1),
    min_side=SIDE,
    max_side=SIDE,
    max_objects=whole(1, 10**5),
    mask_size=whole(4, 1024),
    training=FLAG,
    shuffle_buffer=whole(),
    semantic_stride=whole(1, 1024),
    size_divisor=whole(1, 1024),
    aspects=Each(number(1, 1000), least=0),
)
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
        rescale=None,
        recolour=None,
        paste=None,
        balance=None,
        training=True,
        shuffle_buffer=2048,
        semantic_stride=8,
        size_divisor=32,
        aspects=resize.ASPECTS,
    ):
        """Reads nothing yet.

        Args:
          batch_size: images in a batch, over all replicas.
          min_side, max_side: pixels. Images are resized to `min_side`, or to `max_side` where that makes them
            smaller, and padded to one of `resize.padded_shapes`.
          max_objects: G. Of an image with more the first G are used, and a warning counts such images.
          mask_size: M, cells along a mask's side.
          augment: functions from sample to sample (`data.augment`), in their order; training only, as are the next
            three. Then come, where given:
          rescale: a change of size and place, such as `multi_scale` or `large_scale_jitter`, and
          recolour: a change of colours, such as `photometric`: two more such functions, each for an overlay to set.
          paste: `copy_paste`, which puts objects of the record before into an image, after all other changes of both.
          balance: a `ClassBalance`, by which images of rare classes come more often; training only.
          training: without end, shuffled and augmented; otherwise one pass in file order.
          shuffle_buffer: serialised records held in memory to shuffle; 0 for file order. Training only.
          semantic_stride: pixels from one semantic label to the next.
          size_divisor: padded sides are multiples of it.
          aspects: long side by short side; images up to each have padded shapes of their own (`resize.padded_shapes`).
        """
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
        self.augment = tuple(change for change in (*augment, rescale, recolour) if change) if training else ()
        self.paste = paste if training else None
        for change in (*self.augment, self.paste):
            # Called only when the first image comes: what gin says of it is checked now. gin does not find the bindings
            # of a scoped function, @scope/flip, which are checked when it is called.
            with contextlib.suppress(ValueError):
                check_bindings(change, gin.get_bindings(change))
        self.balance = balance if training else None
        self.training = training
        self.shuffle_buffer = shuffle_buffer
        self.semantic_stride = semantic_stride
        self.shapes = resize.padded_shapes(min_side, max_side, size_divisor, aspects)

    def dataset(self, folder, seed, start_step=0, worker=0, workers=1, replicas=1):
        """The batches of a data set.

        Training: without end; order and augmentation follow from (seed, epoch, index in the epoch), so
        `dataset(folder, seed, k)` goes on bit by bit as `dataset(folder, seed)` does after k batches. Evaluation: each
        image once; rows with image_id = -1 and no valid object fill up the last batch of each padded shape.

        A step's batch is the same however it is divided: worker w of W gets the w-th of W equal parts, in
        replicas / W elements one after the other, and decodes nothing else.

        Args:
          folder: of the records.
          seed: int.
          start_step: batches to leave out; they are read, not decoded.
          worker, workers: whose part, and of how many.
          replicas: over all workers; each gets one element a step.

        Returns:
          tf.data.Dataset of `structures.Batch`, batch_size / replicas rows each. Padded height and width are static
          where there is one padded shape; where there are several, each step's batch has one of them.

        Raises:
          UserError: the folder is no complete data set, a shard holds another number of records than it should, there
          are no records at all, or no masks to paste, or batch_size cannot be divided so. Damage that only reading
          finds is raised while the dataset is iterated: see `named_errors`.
        """
        if self.batch_size % replicas or replicas % workers or not 0 <= worker < workers:
            raise UserError(
                f"Input.batch_size = {self.batch_size} cannot be divided among {replicas} replicas of {workers} "
                f"workers (this is number {worker}): give a multiple"
            )
        info = datasets.load_info(folder)
        if info.records == 0:
            raise UserError(f"{info.folder} holds no images")
        check_counts(info)
        if self.paste and not info.masks:
            raise UserError(f"{info.folder} has no masks, and Input.paste needs them: leave it out")
        if info.crowd and self.training:
            logger.info("%s: %d crowd regions of %d objects are no truth", info.folder, info.crowd, info.objects)
        counts = [shard.records for shard in info.shards]
        if self.training:
            repeats = self.balance.repeats(info) if self.balance else None
            entries = record_order.training_entries(info.shard_paths, counts, seed, self.shuffle_buffer, repeats)
        else:
            entries = record_order.evaluation_entries(info.shard_paths, counts)
        if self.paste:
            entries = record_order.with_partners(entries)
        entries = record_order.group(entries, self._bucket_of, self.batch_size, start_step, worker, workers)
        reader = SampleReader(info, self.max_objects, self.mask_size)

        # AutoGraph has nothing to convert here, and would wrap a UserError in its own text.
        make_row = tf.autograph.experimental.do_not_convert(functools.partial(self.make_row, reader))
        rows = entries.map(make_row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = rows.batch(self.batch_size // replicas, drop_remainder=True)
        options = tf.data.Options()
        # Rows are written into their batch as they come: a tenth less CPU time.
        options.experimental_optimization.map_and_batch_fusion = True
        return batches.with_options(options).prefetch(2)

    def make_row(self, reader, entry):
        """One record becomes its row of a batch, augmented as its entry's seed says.

        Args:
          reader: SampleReader.
          entry: of `order`: the record and its shard, its seed, its partner where there is `paste`.
        """
        sample = reader.read(entry.shard, entry.serialized)
        shape = self._shape_for(sample["original_size"])
        row = self._finish(sample, entry.seed, shape)
        if self.paste:
            seeds = tf.random.experimental.stateless_split(entry.seed, 2)
            partner = self._finish(reader.read(entry.partner_shard, entry.partner), seeds[0], shape)
            row = self.paste(row, partner, seeds[1])
        return row._replace(
            image_ids=tf.where(entry.real, row.image_ids, -1),
            truth=row.truth._replace(valid=row.truth.valid & entry.real),
        )

    def _finish(self, sample, seed, shape):
        """A sample augmented, resized and laid out: a row of a batch."""
        sample |= {"min_side": self.min_side, "max_side": self.max_side, "canvas": shape, "seed": seed}
        for change in self.augment:
            sample = change(sample)
        return ground_truth.make_row(sample, shape, self.max_objects, self.semantic_stride)

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
