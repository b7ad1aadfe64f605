"""RoIAlign: a fixed-size piece of the pyramid for every RoI, by either of two equal implementations.

Before it: the pyramid (`models.fpn`) and the RoIs (`models.cascade`). After it: the box and mask heads.

The kernel is the "aligned" one of Mask R-CNN (arXiv:1703.06870, section 3) as mmcv has it: cell k of a map is centred
on k + 1/2 strides, a RoI has P x P bins, each the mean of g x g bilinear samples. A sample more than one cell outside
of the cells' centres counts 0, any other is taken from the map's edge. A RoI without area is 0 with adaptive sampling
(it has no samples) and its point's value with a fixed number of them.

| implementation | by | runs |
|---|---|---|
| "crop_and_resize" | `roi_align_crop` | anywhere but under XLA |
| "xla" | `roi_align_xla` | anywhere; inside and outside of jit_compile |
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import roi_align_crop, roi_align_xla


def levels(boxes, finest=56.0, count=4):
    """The pyramid level that each RoI is pooled from (FPN, arXiv:1612.03144, equation 1).

    Args:
      boxes: [..., 4] in pixels.
      finest: RoIs of less than twice this size (root of the area, in pixels) go to level 0.
      count: number of levels.

    Returns:
      [...] int32, 0 ... count - 1.
    """
    sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    size = tf.sqrt(sides[..., 0] * sides[..., 1])
    # floor(log2(...)), clipped, without a logarithm whose rounding could decide.
    reached = (size / finest + 1e-6)[..., None] >= [2.0**level for level in range(1, count)]
    return tf.reduce_sum(tf.cast(reached, tf.int32), axis=-1)


def prepare(maps, implementation):
    """What every `roi_align` on the same maps shares: do it once per image, not once per stage.

    Args:
      maps: list of [B, h_l, w_l, C], finest first, any float type.
      implementation: "crop_and_resize" or "xla".

    Returns:
      A tuple of tensors for `roi_align`, in float32.
    """
    return tuple(_choose(implementation).prepare(maps))


def roi_align(prepared, strides, boxes, levels, output_size, sampling_ratio, implementation, finer=1):
    """Pools every RoI from its level.

    Args:
      prepared: what `prepare` made of the maps with the same implementation.
      strides: the maps' strides in pixels.
      boxes: [B, N, 4] in pixels. They get no gradient.
      levels: [B, N] int32, an index into the maps.
      output_size: P.
      sampling_ratio: samples per bin and axis; 0: as many as a bin has cells, rounded up (adaptive).
      implementation: "crop_and_resize" or "xla".
      finer: a bin is the mean of so many bins each way, each with its own samples: pooling at `finer * P` and then
        averaging, without the larger result.

    Returns:
      [B, N, P, P, C] float32.
    """
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    batch, number = tf.unstack(tf.shape(boxes)[:2])
    cells = boxes / tf.gather(tf.constant(strides, tf.float32), levels)[..., None]
    # An inverted box is an empty one.
    cells = tf.concat([cells[..., :2], tf.maximum(cells[..., :2], cells[..., 2:])], axis=-1)
    images = tf.broadcast_to(tf.range(batch)[:, None], [batch, number])
    pooled = _choose(implementation).pool(
        prepared,
        tf.reshape(cells, [-1, 4]),
        tf.reshape(images, [-1]),
        tf.reshape(levels, [-1]),
        output_size,
        finer * sampling_ratio,
        finer,
    )
    static = [*boxes.shape[:2], output_size, output_size, pooled.shape[-1]]
    return tf.ensure_shape(tf.reshape(pooled, [batch, number, *pooled.shape[1:]]), static)


def _choose(implementation):
    """The module that has `prepare(maps)` and `pool(prepared, boxes, images, levels, size, sampling_ratio, finer)`."""
    implementations = {"crop_and_resize": roi_align_crop, "xla": roi_align_xla}
    if implementation not in implementations:
        raise UserError(f'RoIAlign: implementation {implementation!r} is unknown; use "crop_and_resize" or "xla"')
    return implementations[implementation]
