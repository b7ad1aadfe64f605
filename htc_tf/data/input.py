"""Input pipeline: records to batches, ordered, decoded, augmented, resized and padded.

Each step is one file: `data.record_order` (order and buckets), `data.sample` (decoding and, after `data.augment`,
resizing and padding), `data.copy_paste`, and here the batch.
"""

import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Callable, Sequence

import gin
import tensorflow as tf

# gin finds the augmentations, and callers find named_errors, through this module.
from htc_tf.data import augment as _augment  # noqa: F401
from htc_tf.data import class_balance as _class_balance
from htc_tf.data import copy_paste as _copy_paste  # noqa: F401
from htc_tf.data import datasets, preprocessing, record_order
from htc_tf.data.integrity import check_counts
from htc_tf.data.integrity import named_errors as named_errors
from htc_tf.data.sample import Sample, SampleReader, make_row
from htc_tf.errors import UserError
from htc_tf.ranges import FLAG, SIDE, Each, check_bindings, check_ranges, choice, number, whole
from htc_tf.structures import LARGEST_STRIDE, SEMANTIC_STRIDE, Batch

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
    semantic_stride=choice(SEMANTIC_STRIDE),
    size_divisor=whole(1, 1024),
    aspects=Each(number(1, 1000), minimum=0),
)
class Input:
    """Settings of an input pipeline; `dataset` builds it for a folder of records."""

    def __init__(
        self,
        batch_size: int,
        min_side: int,
        max_side: int,
        max_objects: int,
        mask_size: int = 112,
        augment: Sequence[Callable[[Sample], Sample]] = (),
        resize: Callable[[Sample], Sample] | None = None,
        color_jitter: Callable[[Sample], Sample] | None = None,
        paste: Callable[[Batch, Batch, tf.Tensor], Batch] | None = None,
        balance: _class_balance.ClassBalance | None = None,
        training: bool = True,
        shuffle_buffer: int = 2048,
        semantic_stride: int = SEMANTIC_STRIDE,
        size_divisor: int = LARGEST_STRIDE,
        aspects: Sequence[float] = preprocessing.ASPECTS,
    ) -> None:
        """Checks the settings; reads nothing yet.

        Args:
            batch_size: Images per step, over all replicas.
            min_side, max_side: Pixels. Images are resized to the short side `min_side`, or to the long side `max_side`
                if that makes them smaller, and padded to one of `preprocessing.padded_shapes`.
            max_objects: G. Only the first G objects of an image are used; a warning counts images with more.
            mask_size: M, cells along a mask's side.
            augment: Functions from sample to sample (`data.augment`), in their order. Used in training only, as are the
                next four.
            resize: Augmentation of scale and position, such as `multi_scale` or `large_scale_jitter`; applied after
                `augment`. A slot of its own, so that a gin file can set it without repeating the list.
            color_jitter: Augmentation of colors, such as `photometric`; applied after `resize`.
            paste: `copy_paste`, which pastes objects of the previous record, after all other augmentations of both.
            balance: `ClassBalance`, which repeats images of rare classes.
            training: If True, the dataset is endless, shuffled and augmented; otherwise it is one pass in file order.
            shuffle_buffer: Serialized records in the shuffle buffer; 0 for file order. Training only.
            semantic_stride: Pixels between semantic labels, 8: that of the semantic branch.
            size_divisor: Padded sides are multiples of it; a multiple of 32 itself.
            aspects: Aspect ratios (long side / short side) that have padded shapes of their own.
        Raises:
            UserError: Two settings contradict each other, or a binding of an augmentation is out of range.
        """
        if max_side < min_side:
            raise UserError(f"Input.max_side = {max_side} is less than Input.min_side = {min_side}")
        if size_divisor % LARGEST_STRIDE:
            raise UserError(
                f"Input.size_divisor = {size_divisor} is not a multiple of {LARGEST_STRIDE}, the network's last stride"
            )
        self.batch_size = batch_size
        self.min_side = min_side
        self.max_side = max_side
        self.max_objects = max_objects
        self.mask_size = mask_size
        if not isinstance(augment, (list, tuple)):
            raise UserError(f"Input.augment = {_name(augment)}: give a list of functions, such as [@flip]")
        named = [*(("augment", change) for change in augment), ("resize", resize), ("color_jitter", color_jitter)]
        for name, change in (*named, ("paste", paste)):
            _check_change(f"Input.{name}", change, given=3 if name == "paste" else 1)
        self.augment = tuple(change for _, change in named if change) if training else ()
        self.paste = paste if training else None
        self.balance = balance if training else None
        self.training = training
        self.shuffle_buffer = shuffle_buffer
        self.shapes = preprocessing.padded_shapes(min_side, max_side, size_divisor, aspects)

    def dataset(
        self,
        folder: str | os.PathLike,
        seed: int,
        start_step: int = 0,
        worker: int = 0,
        workers: int = 1,
        replicas: int = 1,
    ) -> tf.data.Dataset:
        """Builds the batches of a dataset.

        Training is endless. Order and augmentation depend only on (seed, epoch, index in the epoch), so
        `dataset(folder, seed, k)` is bit for bit the rest of `dataset(folder, seed)` after k batches. Evaluation yields
        each image once; rows with image_id = -1 and without valid objects pad the last batch of each padded shape.

        A step's batch does not depend on its division: worker w of W gets the w-th of W equal parts, in replicas / W
        elements one after the other, and decodes nothing else.

        Args:
            folder: Folder of the records.
            seed: Int.
            start_step: Batches to skip; they are read but not decoded.
            worker, workers: Index of this worker and number of workers.
            replicas: Number of replicas over all workers; each gets one element per step.
        Returns:
            tf.data.Dataset of `structures.Batch` with batch_size / replicas rows. Padded height and width are static if
            there is one padded shape; otherwise the batch of each step has one of the shapes.
        Raises:
            UserError: The folder is not a complete dataset, a shard holds a wrong number of records, there are no
                records or no masks to paste, or batch_size is not divisible. Damage that only reading finds is raised
                during iteration: see `named_errors`.
        """
        if self.batch_size % replicas or replicas % workers or not 0 <= worker < workers:
            raise UserError(
                f"Input.batch_size = {self.batch_size} cannot be divided among {replicas} replicas of {workers} "
                f"workers (this is worker {worker}): give a multiple"
            )
        info = datasets.load_info(folder)
        if info.records == 0:
            raise UserError(f"{info.folder} contains no images")
        check_counts(info)
        if self.paste and not info.masks:
            raise UserError(f"{info.folder} has no masks, which Input.paste needs: leave Input.paste out")
        if info.crowd and self.training:
            logger.info("%s: %d crowd regions of %d objects are ignored", info.folder, info.crowd, info.objects)
        counts = [shard.records for shard in info.shards]
        if self.training:
            repeats = self.balance.repeats(info) if self.balance else None
            entries = record_order.training_entries(info.shard_paths, counts, seed, self.shuffle_buffer, repeats)
        else:
            entries = record_order.evaluation_entries(info.shard_paths, counts)
        if self.paste:
            entries = record_order.with_paste_sources(entries)
        entries = record_order.group_by_bucket(entries, self._bucket_of, self.batch_size, start_step, worker, workers)
        reader = SampleReader(info, self.max_objects, self.mask_size)

        # AutoGraph has nothing to convert here, and would wrap a UserError in its own text.
        read_row = tf.autograph.experimental.do_not_convert(functools.partial(self.make_row, reader))
        rows = entries.map(read_row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = rows.batch(self.batch_size // replicas, drop_remainder=True)
        options = tf.data.Options()
        # Rows are written directly into their batch: a tenth less CPU time.
        options.experimental_optimization.map_and_batch_fusion = True
        return datasets.without_autotune(batches.with_options(options).prefetch(2))

    def make_row(self, reader: SampleReader, entry: record_order.Entry) -> Batch:
        """Decodes and augments one record.

        Args:
            reader: SampleReader.
            entry: `record_order.Entry`.
        Returns:
            A `structures.Batch` without its first axis.
        """
        sample = reader.read(entry.shard, entry.serialized)
        shape = self._shape_for(sample["original_size"])
        row = self._augment(sample, entry.seed, shape)
        if self.paste:
            seeds = tf.random.experimental.stateless_split(entry.seed, 2)
            source = reader.read(entry.paste_source_shard, entry.paste_source)
            row = self.paste(row, self._augment(source, seeds[0], shape), seeds[1])
        return row._replace(
            image_ids=tf.where(entry.valid, row.image_ids, -1),
            truth=row.truth._replace(valid=row.truth.valid & entry.valid),
        )

    def _augment(self, sample, seed, shape):
        """Augments, resizes and pads a sample, and returns it as a row of a batch."""
        sample |= {"min_side": self.min_side, "max_side": self.max_side, "canvas": shape, "seed": seed}
        for change in self.augment:
            sample = change(sample)
        return make_row(sample, shape, self.max_objects, SEMANTIC_STRIDE)

    def _bucket_of(self, serialized):
        sides = ("image/height", "image/width")
        header = tf.io.parse_single_example(serialized, {side: tf.io.FixedLenFeature([], tf.int64) for side in sides})
        return self._choose_shape(*(header[side] for side in sides))

    def _choose_shape(self, height, width):
        size = preprocessing.fitted_size(height, width, self.min_side, self.max_side)
        return preprocessing.choose_shape(size, self.shapes)

    def _shape_for(self, original_size):
        """Returns the padded (height, width): ints if there is only one padded shape, so that it is static."""
        if len(self.shapes) == 1:
            return self.shapes[0]
        return tf.unstack(tf.gather(tf.constant(self.shapes), self._choose_shape(*tf.unstack(original_size))))


def _check_change(parameter, change, given):
    """Checks an augmentation, which is called for the first image, and its gin bindings.

    Args:
        parameter: Str, that of Input, for messages.
        change: A function, or None.
        given: Int, arguments that the input gives to it.
    """
    if change is None:
        return
    if not callable(change):
        raise UserError(f"{parameter} = {_name(change)}: give a function, such as @flip, or None")
    # gin does not return the bindings of a scoped function, @scope/flip; those are checked when it is called.
    with contextlib.suppress(ValueError):
        bindings = gin.get_bindings(change)
        check_bindings(change, bindings)
        for argument in list(inspect.signature(change).parameters.values())[given:]:
            required = argument.default is argument.empty and argument.kind is argument.POSITIONAL_OR_KEYWORD
            if required and argument.name not in bindings:
                raise UserError(f"{parameter} = {_name(change)}: bind {_name(change)[1:]}.{argument.name}")


def _name(value):
    """Returns a binding's value as gin files write it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_name, value))}]"
    return f"@{value.__name__}" if hasattr(value, "__name__") else f"{value!r:.80}"
