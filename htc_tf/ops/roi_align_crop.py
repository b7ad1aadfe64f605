"""RoIAlign by `tf.image.crop_and_resize`: for graph mode and TensorFlow Serving, needs no XLA.

`roi_align` comes before it, with RoIs in cells of their own level; the heads come after it.

The idea. RoIAlign averages gy x gx samples in each of the P x P bins of a RoI. Where their number is fixed, one crop
holds all samples of a RoI. Where it is adaptive, crops would be of many sizes; but sample (i, j) of every bin, taken
together, is a regular grid again, so a RoI is gy * gx interleaved crops of P x P. All crops have one size, no RoI is
too large, and the mean over a RoI's crops is its answer.

crop_and_resize counts what lies outside of the map as 0 where RoIAlign repeats the edge for one more cell; on a map
that was padded by one cell of its own edge the two are equal.

The gradient is `roi_align_xla`'s, a compiled island in the graph, the same from run to run on a CPU. The one of
crop_and_resize itself has a data race there: threads add to the same cell without a lock, so that it differs from run
to run and now and then loses a contribution (https://github.com/tensorflow/tensorflow/issues/42033). That one costs
no less, and adds to the padding too, which would have to be folded back.

TensorFlow logs "Error in PredictCost() for the op: CropAndResize" once per call and graph, since the number of crops
is not known beforehand (https://github.com/tensorflow/tensorflow/issues/56904). It concerns an estimate of cost only.
"""

import tensorflow as tf

from htc_tf.ops import roi_align_xla
from htc_tf.ops.sampling import count_samples

# How many float32 the crops of one piece of the RoIs may have (16 MB): what bounds the memory.
_PIECE = 2**22
# Cell k's centre is at k + 1/2 in cells, and at k + 1 among the padded map's rows and columns.
_CENTRE = 0.5


def prepare(maps):
    """Maps [B, h_l, w_l, C] of any float type -> a tuple of [B, h_l + 2, w_l + 2, C] float32, edges repeated once."""
    return tuple(_repeat_edge(tf.cast(m, tf.float32)) for m in maps)


@tf.custom_gradient
def _repeat_edge(feature_map):
    """The padded map. `pool` gives the edge's gradient to the map's own cells, so the padding has none to give back."""
    padded = tf.pad(feature_map, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    return padded, lambda upstream: upstream[:, 1:-1, 1:-1]


def pool(padded_maps, boxes, images, levels, output_size, sampling_ratio, finer=1):
    """RoIAlign of a flat list of RoIs. The maps get a gradient, the boxes none.

    Args:
      padded_maps: what `prepare` returns.
      boxes: [R, 4] in cells of the RoI's level.
      images: [R] int32, the RoI's image.
      levels: [R] int32, the RoI's map.
      output_size: P.
      sampling_ratio: samples per bin and axis; 0: as many as a bin has cells, rounded up.
      finer: as of `sampling.count_samples`.

    Returns:
      [R, P, P, C] float32.
    """

    @tf.custom_gradient
    def pooled(*padded_maps):
        rows, parts = [], []
        for level, padded in enumerate(padded_maps):
            chosen = tf.where(levels == level)[:, 0]
            rows.append(tf.cast(chosen, tf.int32))
            level_boxes, level_images = tf.gather(boxes, chosen), tf.gather(images, chosen)
            if sampling_ratio:
                parts.append(_pool_fixed(padded, level_boxes, level_images, output_size, sampling_ratio))
            else:
                # An empty RoI has none.
                samples = count_samples(level_boxes[:, 2:] - level_boxes[:, :2], output_size, finer)
                part = _pool_adaptive(padded, level_boxes, level_images, tf.cast(samples, tf.int32), output_size)
                parts.append(tf.ensure_shape(part, [None, output_size, output_size, padded.shape[-1]]))
        shapes = tf.stack([tf.shape(padded) for padded in padded_maps])

        def gradient(upstream):
            parts = _gradients(upstream, shapes, boxes, images, levels, sampling_ratio, finer)
            return [tf.ensure_shape(part, padded.shape) for part, padded in zip(parts, padded_maps, strict=True)]

        return tf.dynamic_stitch(rows, parts), gradient

    return pooled(*padded_maps)


def _gradients(upstream, shapes, boxes, images, levels, sampling_ratio, finer):
    """The gradients of padded maps of these shapes [L, 4] under that of the pooled, [R, P, P, C]: 0 in the padding."""
    counts = tf.reduce_prod(shapes[:, :3], axis=-1)
    of_level, width = tf.gather(shapes, levels), tf.gather(shapes[:, 2], levels)
    # Where a RoI's own map begins, inside of the padding.
    starts = tf.gather(tf.cumsum(counts, exclusive=True), levels) + images * of_level[:, 1] * width + width + 1
    rois = roi_align_xla.RoIs(boxes, of_level[:, 1:3] - 2, starts, width)
    summed = roi_align_xla.scatter(upstream, tf.reduce_sum(counts), rois, sampling_ratio, finer)
    parts = tf.split(summed, counts, num=shapes.shape[0])
    return [tf.reshape(part, shape) for part, shape in zip(parts, tf.unstack(shapes), strict=True)]


def _pool_fixed(padded, boxes, images, output_size, samples):
    """RoIAlign on one map with samples x samples of them in every bin: [R, P, P, C]."""
    side = output_size * samples
    step = (boxes[:, 2:] - boxes[:, :2]) / side
    first = boxes[:, :2] + _CENTRE + 0.5 * step
    corners = _normalize(tf.concat([first, first + (side - 1) * step], axis=-1), padded)
    crops = tf.image.crop_and_resize(padded, corners, images, [side, side])
    return tf.nn.avg_pool2d(crops, samples, samples, "VALID") if samples > 1 else crops


# Traced once, for all levels, stages, maps and sizes: most of what tracing a whole network takes otherwise.
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
    """RoIAlign on one map with so many samples [R, 2] int32 in a RoI's bins: [R, P, P, C]."""
    bounds = _cut(samples, tf.maximum(_PIECE // (output_size**2 * tf.shape(padded)[-1]), 1))
    pieces = tf.size(bounds) - 1

    def crop(piece):
        rois = tf.range(bounds[piece], bounds[piece + 1])
        piece_samples = tf.gather(samples, rois)
        owners, corners = _interleaved_crops(tf.gather(boxes, rois), piece_samples, output_size)
        crop_images = tf.gather(tf.gather(images, rois), owners)
        size = [output_size, output_size]
        values = tf.image.crop_and_resize(padded, _normalize(corners, padded), crop_images, size)
        share = tf.math.reciprocal_no_nan(tf.cast(tf.reduce_prod(piece_samples, axis=-1), tf.float32))
        return tf.math.unsorted_segment_sum(values, owners, tf.size(rois)) * share[:, None, None, None]

    parts = tf.TensorArray(tf.float32, pieces, infer_shape=False, element_shape=[None, None, None, None])
    parts = tf.while_loop(
        lambda piece, _: piece < pieces,
        lambda piece, parts: (piece + 1, parts.write(piece, crop(piece))),
        (0, parts),
        parallel_iterations=1,
    )[1]
    return parts.concat()


def _cut(samples, crops_per_piece):
    """Cuts the list of RoIs into pieces of about as many crops: the first RoI of each piece, and R. [pieces + 1]"""
    before = tf.cumsum(tf.reduce_prod(samples, axis=-1), exclusive=True)
    starts = tf.range(0, tf.reduce_max(tf.concat([before, [0]], 0)) + 1, crops_per_piece)
    return tf.concat([tf.searchsorted(before, starts), [tf.shape(before)[0]]], 0)


def _interleaved_crops(boxes, samples, output_size):
    """The crops of P x P of which the RoIs consist, in RoI order.

    Args:
      boxes: [R, 4] in cells.
      samples: [R, 2] int32, gy and gx.
      output_size: P, int32.

    Returns:
      The crops' RoIs [M] int32 and their first and last sample's positions [M, 4] in cells of the padded map.
    """
    count = tf.reduce_prod(samples, axis=-1)
    owners = tf.repeat(tf.range(tf.size(count)), count)
    number = tf.range(tf.size(owners)) - tf.gather(tf.cumsum(count, exclusive=True), owners)
    samples = tf.gather(samples, owners)
    sample = tf.stack([number // samples[:, 1], number % samples[:, 1]], axis=-1)

    boxes, output_size = tf.gather(boxes, owners), tf.cast(output_size, tf.float32)
    bins = (boxes[:, 2:] - boxes[:, :2]) / output_size
    first = boxes[:, :2] + _CENTRE + (tf.cast(sample, tf.float32) + 0.5) / tf.cast(samples, tf.float32) * bins
    return owners, tf.concat([first, first + (output_size - 1) * bins], axis=-1)


def _normalize(corners, padded):
    """Rows and columns of the padded map -> crop_and_resize's coordinates, in which the last one is 1."""
    return corners / tf.cast(tf.tile(tf.shape(padded)[1:3] - 1, [2]), tf.float32)
