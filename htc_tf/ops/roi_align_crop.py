"""RoIAlign by `tf.image.crop_and_resize`: for graph mode and TensorFlow Serving, without XLA in the forward pass.

RoIAlign averages gy x gx samples in each of a RoI's P x P bins. With a fixed number of samples, one crop holds all
samples of a RoI. With an adaptive number, crops would have many sizes; but sample (i, j) of every bin, taken together,
is a regular grid again: a RoI consists of gy * gx interleaved crops of P x P. All crops have the same size, no RoI is
too large, and the mean over its crops is its result.

crop_and_resize counts everything outside the map as 0, where RoIAlign repeats the edge for one more cell; on a map
padded by one cell of its own edge the two are equal.

The gradient is that of `ops.roi_align_xla`, a compiled island in the graph, and on a CPU the same from run to run.
crop_and_resize's own gradient has a data race there: threads add to the same cell without a lock, so that it differs
from run to run and sometimes loses a contribution (https://github.com/tensorflow/tensorflow/issues/42033). It is not
cheaper either, and also adds to the padding, which would have to be folded back.

TensorFlow logs "Error in PredictCost() for the op: CropAndResize" once per call and graph, since the number of crops is
dynamic (https://github.com/tensorflow/tensorflow/issues/56904). It concerns a cost estimate only.
"""

from collections.abc import Sequence

import tensorflow as tf

from htc_tf.ops import roi_align_xla
from htc_tf.ops.devices import has_gpu
from htc_tf.ops.roi_align_taps import FlatRoIs, count_samples

# float32 numbers in the crops that are computed together, which bounds the memory: 16 MB, on a GPU 256 MB.
_CHUNK, _GPU_CHUNK = 2**22, 2**26
# In cells, cell k's center is at k + 1/2; among the rows and columns of the padded map it is at k + 1.
_CENTER = 0.5


def prepare(maps: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Pads maps [B, h_l, w_l, C] of any float type to a tuple of [B, h_l + 2, w_l + 2, C] float32, edges repeated."""
    return tuple(_repeat_edge(tf.cast(m, tf.float32)) for m in maps)


@tf.custom_gradient
def _repeat_edge(feature_map):
    """Pads a map by its edge. `pool` gives the gradient to the map's own cells, and none to the padding."""
    padded = tf.pad(feature_map, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    return padded, lambda upstream: upstream[:, 1:-1, 1:-1]


def pool(
    padded_maps: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    images: tf.Tensor,
    levels: tf.Tensor,
    output_size: int,
    sampling_ratio: int,
    oversampling: int = 1,
) -> tf.Tensor:
    """Computes RoIAlign of a flat list of RoIs, with a gradient to the maps and none to the boxes.

    Args:
        padded_maps: the result of `prepare`.
        boxes: [R, 4] in cells of the RoI's level.
        images: [R] int32, index of the RoI's image.
        levels: [R] int32, index of the RoI's map.
        output_size: P.
        sampling_ratio: int, samples per bin and axis; 0 is adaptive, the number of cells in a bin, rounded up.
        oversampling: as in `roi_align_taps.count_samples`.

    Returns:
        [R, P, P, C] float32.
    """
    rois = boxes, images, levels

    @tf.custom_gradient
    def pooled(*padded_maps):
        shapes = [tuple(m.shape) if m.shape.is_fully_defined() else tf.shape(m) for m in padded_maps]

        def gradient(upstream):
            return _gradients(upstream, shapes, *rois, sampling_ratio, oversampling)

        return _pool_levels(padded_maps, *rois, output_size, sampling_ratio, oversampling), gradient

    return pooled(*padded_maps)


# These functions are traced, and the second compiled, once for all stages and branches that pool equal shapes.
@tf.function(autograph=False)
def _pool_levels(padded_maps, boxes, images, levels, output_size, sampling_ratio, oversampling):
    """Computes the forward pass; arguments and result as in `pool`."""
    indices, parts = [], []
    for level, padded in enumerate(padded_maps):
        chosen = tf.where(levels == level)[:, 0]  # [r], the RoIs of this level
        indices.append(tf.cast(chosen, tf.int32))
        level_boxes, level_images = tf.gather(boxes, chosen), tf.gather(images, chosen)  # [r, 4], [r]
        if sampling_ratio:
            parts.append(_pool_fixed(padded, level_boxes, level_images, output_size, sampling_ratio))
        else:
            # [r, 2]; an empty RoI has no samples.
            samples = count_samples(level_boxes[:, 2:] - level_boxes[:, :2], output_size, oversampling)
            part = _pool_adaptive(padded, level_boxes, level_images, tf.cast(samples, tf.int32), output_size)
            parts.append(tf.ensure_shape(part, [None, output_size, output_size, padded.shape[-1]]))
    return tf.dynamic_stitch(indices, parts)  # [R, P, P, C], in the order of the RoIs


@tf.function(jit_compile=True, autograph=False)
def _gradients(upstream, shapes, boxes, images, levels, sampling_ratio, oversampling):
    """Computes the gradients of the padded maps; they are 0 in the padding.

    Args:
        upstream: [R, P, P, C], gradient of the pooled features.
        shapes: list of L shapes of the padded maps: tuples of 4 ints, or [4] int32.
        boxes, images, levels, sampling_ratio, oversampling: as in `pool`.

    Returns:
        List of L tensors of these shapes.
    """
    sizes = tf.stack(shapes)  # [L, 4]
    counts = tf.reduce_prod(sizes[:, :3], axis=-1)  # [L], cells of each level
    of_level, width = tf.gather(sizes, levels), tf.gather(sizes[:, 2], levels)  # [R, 4], [R]
    # The first cell of a RoI's own map inside the padding: after its level's and its image's predecessors, one row and
    # one column.
    starts = tf.gather(tf.cumsum(counts, exclusive=True), levels) + images * of_level[:, 1] * width + width + 1
    rois = FlatRoIs(boxes, of_level[:, 1:3] - 2, starts, width)
    summed = roi_align_xla.scatter(upstream, tf.reduce_sum(counts), rois, sampling_ratio, oversampling)  # [cells, C]
    parts = tf.split(summed, counts, num=len(shapes))
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def _pool_fixed(padded, boxes, images, output_size, samples):
    """Computes RoIAlign on one map with samples x samples in every bin: [R, P, P, C]."""
    side = output_size * samples
    step = (boxes[:, 2:] - boxes[:, :2]) / side  # [R, 2]
    first = boxes[:, :2] + _CENTER + 0.5 * step  # [R, 2], position of the first sample
    corners = _normalize(tf.concat([first, first + (side - 1) * step], axis=-1), padded)  # [R, 4]
    crops = tf.image.crop_and_resize(padded, corners, images, [side, side])  # [R, P samples, P samples, C]
    return tf.nn.avg_pool2d(crops, samples, samples, "VALID") if samples > 1 else crops


# Traced once for all levels, stages, maps and sizes: this is what otherwise dominates the time to trace a network.
@tf.function(
    autograph=False,
    input_signature=[
        tf.TensorSpec([None, None, None, None]),
        tf.TensorSpec([None, 4]),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([], tf.int32),
    ],
)
def _pool_adaptive(padded, boxes, images, samples, output_size):
    """Computes RoIAlign on one map with samples [R, 2] int32 (rows, columns) in each RoI's bins: [R, P, P, C]."""
    numbers = _GPU_CHUNK if has_gpu() else _CHUNK
    bounds = _chunk_bounds(samples, tf.maximum(numbers // (output_size**2 * tf.shape(padded)[-1]), 1))
    chunks = tf.size(bounds) - 1

    def pool_chunk(chunk):
        rois = tf.range(bounds[chunk], bounds[chunk + 1])  # [r]
        chunk_samples = tf.gather(samples, rois)  # [r, 2]
        owners, corners = _interleaved_crops(tf.gather(boxes, rois), chunk_samples, output_size)  # [m], [m, 4]
        crop_images = tf.gather(tf.gather(images, rois), owners)  # [m]
        size = [output_size, output_size]
        crops = tf.image.crop_and_resize(padded, _normalize(corners, padded), crop_images, size)  # [m, P, P, C]
        share = tf.math.reciprocal_no_nan(tf.cast(tf.reduce_prod(chunk_samples, axis=-1), tf.float32))  # [r]
        # The mean over each RoI's crops: [r, P, P, C].
        return tf.math.unsorted_segment_sum(crops, owners, tf.size(rois)) * share[:, None, None, None]

    parts = tf.TensorArray(tf.float32, chunks, infer_shape=False, element_shape=[None, None, None, None])
    parts = tf.while_loop(
        lambda chunk, _: chunk < chunks,
        lambda chunk, parts: (chunk + 1, parts.write(chunk, pool_chunk(chunk))),
        (0, parts),
        parallel_iterations=1,
    )[1]
    return parts.concat()


def _chunk_bounds(samples, crops_per_chunk):
    """Splits the RoIs into chunks of about the same number of crops.

    Returns:
        [chunks + 1] int32, the first RoI of each chunk, and R.
    """
    before = tf.cumsum(tf.reduce_prod(samples, axis=-1), exclusive=True)  # [R], crops of the RoIs before
    starts = tf.range(0, tf.reduce_max(tf.concat([before, [0]], 0)) + 1, crops_per_chunk)
    return tf.concat([tf.searchsorted(before, starts), [tf.shape(before)[0]]], 0)


def _interleaved_crops(boxes, samples, output_size):
    """Computes the crops of P x P that make up the RoIs, in the order of the RoIs.

    Args:
        boxes: [R, 4] in cells.
        samples: [R, 2] int32, gy and gx.
        output_size: [] int32, P.

    Returns:
        owners: [M] int32, each crop's RoI.
        corners: [M, 4], positions of its first and last sample among the rows and columns of the padded map.
    """
    count = tf.reduce_prod(samples, axis=-1)  # [R], gy gx
    owners = tf.repeat(tf.range(tf.size(count)), count)  # [M]
    number = tf.range(tf.size(owners)) - tf.gather(tf.cumsum(count, exclusive=True), owners)  # [M], in its RoI
    samples = tf.gather(samples, owners)  # [M, 2]
    sample = tf.stack([number // samples[:, 1], number % samples[:, 1]], axis=-1)  # [M, 2], i and j

    boxes, output_size = tf.gather(boxes, owners), tf.cast(output_size, tf.float32)  # [M, 4]
    bins = (boxes[:, 2:] - boxes[:, :2]) / output_size  # [M, 2], a bin's size
    first = boxes[:, :2] + _CENTER + (tf.cast(sample, tf.float32) + 0.5) / tf.cast(samples, tf.float32) * bins
    return owners, tf.concat([first, first + (output_size - 1) * bins], axis=-1)


def _normalize(corners, padded):
    """Scales rows and columns of the padded map to crop_and_resize's coordinates, where the last one is 1."""
    return corners / tf.cast(tf.tile(tf.shape(padded)[1:3] - 1, [2]), tf.float32)
