"""Mask resampling between the image and the grid inside a box: mask targets for training, pasting for inference.

Sampling a mask is separable: each axis has a matrix of interpolation weights, so that a mask is resampled by two small
matrix products, whatever the sizes.
"""

import tensorflow as tf

from htc_tf.ops.roi_align_taps import count_samples


@tf.function(autograph=False)  # traced once for all stages
def mask_targets(
    masks: tf.Tensor, crop_boxes: tf.Tensor, boxes: tf.Tensor, matches: tf.Tensor, size: int = 28
) -> tf.Tensor:
    """Computes the mask head's targets: the matched ground-truth mask, pooled by RoIAlign and thresholded at 0.5.

    As in mmdetection (aligned RoIAlign, adaptive number of samples), on the cells of the mask's own crop.

    Args:
        masks: [B, G, Mh, Mw] uint8, coverage of each cell, 0 ... 255; Mh and Mw are static.
        crop_boxes: [B, G, 4] float32, the box in the image that the cells span.
        boxes: [B, N, 4] float32.
        matches: [B, N] int32, the object that each box is matched to.
        size: int, cells of the target along each axis.

    Returns:
        [B, N, size, size] float32, 0 or 1; all 0 if the box or the crop is empty.
    """
    crop_boxes = tf.gather(crop_boxes, matches, batch_dims=1)  # [B, N, 4]
    rows = _pooling_weights(boxes[..., 0::2], crop_boxes[..., 0::2], masks.shape[-2], size)  # [B, N, size, Mh]
    columns = _pooling_weights(boxes[..., 1::2], crop_boxes[..., 1::2], masks.shape[-1], size)  # [B, N, size, Mw]
    coverage = tf.cast(tf.gather(masks, matches, batch_dims=1), tf.float32) / 255.0  # [B, N, Mh, Mw]
    pooled = tf.matmul(tf.matmul(rows, coverage), columns, transpose_b=True)  # [B, N, size, size]
    return tf.cast(pooled >= 0.5, tf.float32)


def _pooling_weights(box, crop_box, cells, size):
    """Computes RoIAlign's weight of each cell in each bin, along one axis.

    A bin averages evenly spaced samples, as many as it spans cells, rounded up. A sample is interpolated between the
    two nearest cell centers; beyond the outer centers it takes the outermost cell, and more than one cell beyond it
    counts 0. If a bin has several samples, they are more than half a cell apart, so that at most five of them reach a
    cell: the work is bounded by looking at those alone, however large the box.

    Args:
        box: [B, N, 2] float32, start and end of the box.
        crop_box: [B, N, 2] float32, start and end of the box that the cells span.
        cells: int, number of cells.
        size: int, number of bins.

    Returns:
        [B, N, size, cells] float32.
    """
    extent = crop_box[..., 1:] - crop_box[..., :1]  # [B, N, 1]
    scale = tf.math.divide_no_nan(float(cells), tf.maximum(extent, 0.0))
    edges = (box - crop_box[..., :1]) * scale - 0.5  # [B, N, 2] in units of cells; 0 is the first cell's center
    length = (edges[..., 1:] - edges[..., :1])[..., None]  # [B, N, 1, 1]
    bin_length, samples = length / size, count_samples(length, size)
    step = bin_length / tf.maximum(samples, 1.0)  # between samples
    starts = edges[..., :1, None] + tf.range(size, dtype=tf.float32)[:, None] * bin_length  # [B, N, size, 1]
    centers = tf.range(cells, dtype=tf.float32)
    # For each bin and cell, the first sample within one cell of the cell's center: [B, N, size, cells].
    first = tf.math.floor(tf.math.divide_no_nan(centers - 1.0 - starts, step) - 0.5)
    first = tf.clip_by_value(first, 0.0, tf.maximum(samples - 1.0, 0.0))
    weights = 0.0
    for offset in range(5):
        sample = first + offset
        at = starts + (sample + 0.5) * step
        counts = (sample < samples) & (at >= -1.0) & (at <= cells)
        weights += tf.where(counts, _hat(tf.clip_by_value(at, 0.0, cells - 1.0) - centers), 0.0)
    return weights / tf.maximum(samples, 1.0)


def _hat(distance):
    """Returns the weight of a cell in linear interpolation, by its distance in cells."""
    return tf.nn.relu(1.0 - tf.abs(distance))


def paste(
    masks: tf.Tensor, boxes: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, threshold: float = 0.5
) -> tf.Tensor:
    """Pastes each mask into its box in an otherwise empty image.

    As in mmdetection: bilinear between cell centers, zero outside the mask, sampled at pixel centers.

    Args:
        masks: [D, h, w] float32 probabilities.
        boxes: [D, 4] float32 in pixels of the image.
        height, width: ints or [] tensors, the image's size.
        threshold: the lowest probability inside the mask.

    Returns:
        [D, height, width] bool; all False if the box is empty.
    """
    rows = _pasting_weights(boxes[:, 0::2], height, masks.shape[1])  # [D, height, h]
    columns = _pasting_weights(boxes[:, 1::2], width, masks.shape[2])  # [D, width, w]
    return tf.matmul(tf.matmul(rows, masks), columns, transpose_b=True) >= threshold


def _pasting_weights(box, pixels, cells):
    """Computes the weight of each cell in each pixel along one axis, [D, pixels, cells], of box [D, 2]."""
    pixel_centers = tf.range(pixels, dtype=tf.float32) + 0.5
    start, extent = box[:, :1], box[:, 1:] - box[:, :1]
    at = tf.math.divide_no_nan(pixel_centers - start, extent) * cells - 0.5  # [D, pixels] in units of cells
    weights = _hat(at[..., None] - tf.range(cells, dtype=tf.float32))
    return tf.where(extent[..., None] > 0.0, weights, 0.0)


def select_class(mask_logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Selects the mask of each object's own class.

    Args:
        mask_logits: [..., h, w, K].
        classes: [...] int32 below K.

    Returns:
        [..., h, w].
    """
    # A positive axis: tf2onnx converts a negative one wrongly.
    return tf.gather(mask_logits, classes, axis=mask_logits.shape.rank - 1, batch_dims=classes.shape.rank)
