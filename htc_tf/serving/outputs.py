"""The answer: detections in each picture's own pixels, with names, and masks in the forms that were asked for.

Before: `serving.batching`. After: whoever asked. float32, int32 and strings only: TensorFlow Serving's JSON knows no
half precision. Rows from num_detections on are padding: zeros and empty strings.
"""

import tensorflow as tf

from htc_tf.ops.rle import encode_masks
from htc_tf.serving.masks_png import encode_pngs

# TensorFlow Serving writes outputs called *_bytes in base64, and other strings as text.
MASKS = ("masks_28", "masks_rle_bytes", "masks_png_bytes")
ENCODERS = {"masks_rle_bytes": encode_masks, "masks_png_bytes": encode_pngs}


def to_answer(found, prepared, class_names, forms):
    """
    Args:
        found: Detections of B pictures as a dict, in pixels of the padded pictures.
        prepared: Prepared.
        class_names: [K] string.
        forms: of MASKS.
    Returns:
        boxes [B, D, 4] float32 (y1, x1, y2, x2), scores [B, D] float32, classes [B, D] int32, class_names [B, D]
        string, num_detections [B] int32, sizes [B, 2] int32 (height, width), status [B] string, and of the masks those
        that `forms` names: masks_28 [B, D, 28, 28] float32, the others [B, D] string.
    """
    valid = found["valid"]
    # Operation by operation as `inference.results` does it: masks are pasted into these boxes, before they are cut.
    originals = tf.cast(tf.maximum(prepared.originals, 1), tf.float32)
    scale = tf.maximum(prepared.sizes, 1.0) / originals
    boxes = found["boxes"] / tf.tile(scale, [1, 2])[:, None]
    limits = tf.tile(tf.cast(prepared.originals, tf.float32), [1, 2])[:, None]
    answer = {
        "boxes": tf.where(valid[..., None], tf.clip_by_value(boxes, 0.0, limits), 0.0),
        "scores": tf.where(valid, found["scores"], 0.0),
        "classes": tf.where(valid, found["classes"], 0),
        "class_names": tf.where(valid, tf.gather(class_names, found["classes"]), ""),
        "num_detections": tf.reduce_sum(tf.cast(valid, tf.int32), axis=1),
        "sizes": prepared.originals,
        "status": prepared.status,
    }
    if "masks_28" in forms:
        answer["masks_28"] = tf.where(valid[..., None, None], found["masks"], 0.0)
    for form in forms:
        if form in ENCODERS:
            answer[form] = encode_rows(ENCODERS[form], found, boxes, prepared.originals)
    return answer


def encode_rows(encode, found, boxes, originals):
    """Each picture's masks as strings: [B, D], the padding empty. On the CPU, where strings are."""

    def encode_row(inputs):
        masks, boxes, valid, (height, width) = *inputs[:3], tf.unstack(inputs[3])
        kept = tf.where(valid)
        encoded = encode(tf.gather_nd(masks, kept), tf.gather_nd(boxes, kept), height, width)
        return tf.tensor_scatter_nd_update(tf.fill(tf.shape(valid), ""), kept, encoded)

    with tf.device("/device:CPU:0"):
        return tf.map_fn(
            encode_row,
            (found["masks"], boxes, found["valid"], originals),
            fn_output_signature=tf.TensorSpec(found["valid"].shape[1:], tf.string),
        )
