"""RoIAlign by `tf.image.crop_and_resize`: for graph mode and TensorFlow Serving, needs no XLA.

`roi_align` comes before it, with RoIs in cells of their own level; the heads come after it.

The idea. RoIAlign averages gy x gx samples in each of the P x P bins of a RoI. Where their number is fixed, one crop
holds all samples of a RoI. Where it is adaptive, crops would be of many sizes; but sample (i, j) of every bin, taken
together, is a regular grid again, so a RoI is gy * gx interleaved crops of P x P. All crops have one size, no RoI is
too large, and the mean over a RoI's crops is its answer.

crop_and_resize counts what lies outside of the map as 0 where RoIAlign repeats the edge for one more cell; on a map
that was padded by one cell of its own edge the two are equal.

On a CPU the gradient of crop_and_resize has a data race: threads add to the same cell without a lock, so that it
differs from run to run and now and then loses a contribution
(https://github.com/tensorflow/tensorflow/issues/42033).
`tf.config.experimental.enable_op_determinism()` makes it single-threaded and right. On a GPU the kernel adds
atomically, and the same switch makes this gradient raise UnimplementedError.

TensorFlow logs "Error in PredictCost() for the op: CropAndResize" once per call and graph, since the number of crops
is not known beforehand (https://github.com/tensorflow/tensorflow/issues/56904). It concerns an estimate of cost only.
"""

import tensorflow as tf

from htc_tf.ops.sampling import count_samples

# How many float32 the crops of one piece of the RoIs may have (128 MB): what bounds the memory.
_PIECE = 2**25
# Cell k's centre is at k + 1/2 in cells, and at k + 1 among the padded map's rows and columns.
_CENTRE = 0.5


def prepare(maps):
    """Maps [B, h_l, w_l, C] of any float type -> a tuple of [B, h_l + 2, w_l + 2, C] float32, edges repeated once."""
    return tuple(tf.pad(tf.cast(m, tf.float32), [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC") for m in maps)


def pool(padded_maps, boxes, images, levels, output_size, sampling_ratio):
    """RoIAlign of a flat list of RoIs. The maps get a gradient, the boxes none.

    Args:
      padded_maps: what `prepare` returns.
      boxes: [R, 4] in cells of the RoI's level.
      images: [R] int32, the RoI's image.
      levels: [R] int32, the RoI's map.
      output_size: P.
      sampling_ratio: samples per bin and axis; 0: as many as a bin has cells, rounded up.

    Returns:
      [R, P, P, C] float32.
    """
    rows, pooled = [], []
    for level, padded in enumerate(padded_maps):
        chosen = tf.where(levels == level)[:, 0]
        rows.append(tf.cast(chosen, tf.int32))
        level_boxes, level_images = tf.gather(boxes, chosen), tf.gather(images, chosen)
        if sampling_ratio:
            pooled.append(_pool_fixed(padded, level_boxes, level_images, output_size, sampling_ratio))
        else:
            pooled.append(_pool_adaptive(padded, level_boxes, level_images, output_size))
    return tf.dynamic_stitch(rows, pooled)


def _pool_fixed(padded, boxes, images, output_size, samples):
    """RoIAlign on one map with samples x samples of them in every bin: [R, P, P, C]."""
    side = output_size * samples
    step = (boxes[:, 2:] - boxes[:, :2]) / side
    first = boxes[:, :2] + _CENTRE + 0.5 * step
    corners = _normalize(tf.concat([first, first + (side - 1) * step], axis=-1), padded)
    crops = tf.image.crop_and_resize(padded, corners, images, [side, side])
    return tf.nn.avg_pool2d(crops, samples, samples, "VALID") if samples > 1 else crops


def _pool_adaptive(padded, boxes, images, output_size):
    """RoIAlign on one map with as many samples as a bin has cells, rounded up: [R, P, P, C]."""
    shape = tf.shape(padded)
    # An empty RoI has none.
    samples = tf.cast(count_samples(boxes[:, 2:] - boxes[:, :2], output_size), tf.int32)
    bounds = _cut(samples, tf.maximum(_PIECE // (output_size**2 * shape[-1]), 1))
    pieces = tf.size(bounds) - 1

    def crops(piece):
        rois = tf.range(bounds[piece], bounds[piece + 1])
        owners, corners = _interleaved_crops(tf.gather(boxes, rois), tf.gather(samples, rois), output_size)
        return tf.size(rois), owners, _normalize(corners, padded), tf.gather(tf.gather(images, rois), owners)

    def shares(piece):
        """What one crop counts in its RoI's mean: [rois of the piece, 1, 1, 1]."""
        count = tf.reduce_prod(samples[bounds[piece] : bounds[piece + 1]], axis=-1)
        return tf.math.reciprocal_no_nan(tf.cast(count, tf.float32))[:, None, None, None]

    @tf.custom_gradient
    def pooled(padded):
        def forward(piece):
            rois, owners, corners, crop_images = crops(piece)
            values = tf.image.crop_and_resize(padded, corners, crop_images, [output_size, output_size])
            return tf.math.unsorted_segment_sum(values, owners, rois) * shares(piece)

        def gradient(upstream):
            def backward(piece):
                _, owners, corners, crop_images = crops(piece)
                part = upstream[bounds[piece] : bounds[piece + 1]] * shares(piece)
                summed = tf.raw_ops.CropAndResizeGradImage(
                    grads=tf.gather(part, owners), boxes=corners, box_ind=crop_images, image_size=shape, T=tf.float32
                )
                return tf.ensure_shape(summed, padded.shape)

            return tf.while_loop(
                lambda piece, _: piece < pieces,
                lambda piece, total: (piece + 1, total + backward(piece)),
                (1, backward(0)),
                parallel_iterations=1,
            )[1]

        element_shape = [None, output_size, output_size, padded.shape[-1]]
        parts = tf.TensorArray(tf.float32, pieces, infer_shape=False, element_shape=element_shape)
        parts = tf.while_loop(
            lambda piece, _: piece < pieces,
            lambda piece, parts: (piece + 1, parts.write(piece, forward(piece))),
            (0, parts),
            parallel_iterations=1,
        )[1]
        return parts.concat(), gradient

    return pooled(padded)


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

    Returns:
      The crops' RoIs [M] int32 and their first and last sample's positions [M, 4] in cells of the padded map.
    """
    count = tf.reduce_prod(samples, axis=-1)
    owners = tf.repeat(tf.range(tf.size(count)), count)
    number = tf.range(tf.size(owners)) - tf.gather(tf.cumsum(count, exclusive=True), owners)
    samples = tf.gather(samples, owners)
    sample = tf.stack([number // samples[:, 1], number % samples[:, 1]], axis=-1)

    boxes = tf.gather(boxes, owners)
    bins = (boxes[:, 2:] - boxes[:, :2]) / output_size
    first = boxes[:, :2] + _CENTRE + (tf.cast(sample, tf.float32) + 0.5) / tf.cast(samples, tf.float32) * bins
    return owners, tf.concat([first, first + (output_size - 1) * bins], axis=-1)


def _normalize(corners, padded):
    """Rows and columns of the padded map -> crop_and_resize's coordinates, in which the last one is 1."""
    return corners / tf.cast(tf.tile(tf.shape(padded)[1:3] - 1, [2]), tf.float32)
