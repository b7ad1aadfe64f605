"""Outputs of the exported model: detections in each image's own pixels, class names, masks and the semantic map.

Only float32, int32 and strings: TensorFlow Serving's JSON has no half precision. Rows from num_detections on are
padding: zeros and empty strings.
"""

import tensorflow as tf

from htc_tf.inference.semantic_map import enlarge_strip, repeat_border, rows_in_strip
from htc_tf.ops.rle import encode_masks

# TensorFlow Serving writes outputs whose names end in _bytes in base64, and other strings as text.
MASKS = ("masks_28", "masks_rle_bytes")


def make_outputs(detections, preprocessed, class_names, masks):
    """Converts detections to the outputs that a client sees.

    Args:
        detections: a dict with the fields of Detections for B images, in pixels of the padded images.
        preprocessed: Preprocessed.
        class_names: [K] string.
        masks: a subset of MASKS.

    Returns:
        A dict: boxes [B, D, 4] float32 (y1, x1, y2, x2), scores [B, D] float32, classes [B, D] int32, class_names
        [B, D] string, num_detections [B] int32, sizes [B, 2] int32 (height, width), status [B] string, and as in
        `masks`: masks_28 [B, D, 28, 28] float32, masks_rle_bytes [B, D] string.
    """
    valid = detections["valid"]
    # The same operations in the same order as in `inference.results`. Masks are pasted into the unclipped boxes.
    originals = tf.cast(tf.maximum(preprocessed.original_sizes, 1), tf.float32)
    scale = tf.maximum(preprocessed.sizes, 1.0) / originals
    boxes = detections["boxes"] / tf.tile(scale, [1, 2])[:, None]  # [B, D, 4] / [B, 1, 4]
    limits = tf.tile(tf.cast(preprocessed.original_sizes, tf.float32), [1, 2])[:, None]  # [B, 1, 4]
    outputs = {
        "boxes": tf.where(valid[..., None], tf.clip_by_value(boxes, 0.0, limits), 0.0),
        "scores": tf.where(valid, detections["scores"], 0.0),
        "classes": tf.where(valid, detections["classes"], 0),
        "class_names": tf.where(valid, tf.gather(class_names, detections["classes"]), ""),
        "num_detections": tf.reduce_sum(tf.cast(valid, tf.int32), axis=1),
        "sizes": preprocessed.original_sizes,
        "status": preprocessed.status,
    }
    if "masks_28" in masks:
        outputs["masks_28"] = tf.where(valid[..., None, None], detections["masks"], 0.0)
    if "masks_rle_bytes" in masks:
        outputs["masks_rle_bytes"] = encode_rows(detections["masks"], boxes, valid, preprocessed.original_sizes)
    return outputs


def encode_rows(masks, boxes, valid, original_sizes):
    """Encodes the valid masks of every image as run lengths: [B, D] string, empty where not valid."""

    def encode_row(inputs):
        masks, boxes, valid, size = inputs
        height, width = tf.unstack(size)
        kept = tf.where(valid)  # [d, 1]
        encoded = encode_masks(tf.gather_nd(masks, kept), tf.gather_nd(boxes, kept), height, width)  # [d]
        return tf.tensor_scatter_nd_update(tf.fill(tf.shape(valid), ""), kept, encoded)  # [D]

    # On the CPU, where strings are.
    with tf.device("/device:CPU:0"):
        return tf.map_fn(
            encode_row,
            (masks, boxes, valid, original_sizes),
            fn_output_signature=tf.TensorSpec(valid.shape[1:], tf.string),
        )


def encode_semantic_maps(logits, sizes, original_sizes):
    """Encodes semantic maps as PNG files of their labels; `inference.semantic_map.enlarge` gives the same pixels.

    Args:
        logits: [n, h, w, S] float32; cell [i, j] belongs to the center of pixel [8 i, 8 j] of the resized image.
        sizes: [n, 2] float32, height and width of the resized images.
        original_sizes: [n, 2] int32, height and width of the images.

    Returns:
        [n] string: gray PNG files of the images' sizes, each pixel its label.
    """
    signature = tf.TensorSpec([], tf.string)
    with tf.device("/device:CPU:0"):
        return tf.map_fn(
            lambda row: encode_semantic_map(*row), (logits, sizes, original_sizes), fn_output_signature=signature
        )


def encode_semantic_map(logits, size, original_size):
    scale = size / tf.cast(original_size, tf.float32)
    height, width = tf.unstack(original_size)
    logits, rows = repeat_border(logits), rows_in_strip(width, logits)

    def enlarge(top):
        return enlarge_strip(logits, top, tf.minimum(top + rows, height), width, scale)

    labels = tf.zeros(tf.stack([0, width]), tf.uint8)
    _, labels = tf.while_loop(
        lambda top, _: top < height,
        lambda top, labels: (top + rows, tf.concat([labels, enlarge(top)], 0)),
        (0, labels),
        (tf.TensorShape([]), tf.TensorShape([None, None])),
        parallel_iterations=1,
    )
    return tf.io.encode_png(labels[..., tf.newaxis])  # of [height, width, 1]
