"""RoIAlign: features of fixed size for every RoI, by one of two equal implementations.

The kernel is the "aligned" one of Mask R-CNN (arXiv:1703.06870, section 3) as in mmcv: cell k of a map is centered at
k + 1/2 strides, a RoI has P x P bins, each the mean of g x g bilinear samples. A sample more than one cell outside the
outermost cell centers counts 0, any other one is clamped to the map's edge. A RoI without area gives 0 with adaptive
sampling (it has no samples) and the value at its point with a fixed number of samples.

| implementation | module | runs |
|---|---|---|
| "crop_and_resize" | `ops.roi_align_crop` | everywhere except under XLA |
| "xla" | `ops.roi_align_xla` | everywhere, inside and outside of jit_compile |
"""

from collections.abc import Sequence

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import roi_align_crop, roi_align_xla


@tf.function(autograph=False)  # traced once for all stages
def levels(boxes: tf.Tensor, canonical_scale: float = 56.0, count: int = 4) -> tf.Tensor:
    """Chooses the pyramid level that each RoI is pooled from (FPN, arXiv:1612.03144, equation 1).

    Args:
        boxes: [..., 4] in pixels.
        canonical_scale: scale of level 0; RoIs below twice this scale (root of the area, in pixels) go to level 0.
        count: int, number of levels.

    Returns:
        [...] int32 in 0 ... count - 1.
    """
    sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    scale = tf.sqrt(sides[..., 0] * sides[..., 1])
    # floor(log2(scale / canonical_scale)), clipped, by comparisons: the rounding of a logarithm could change the level.
    # 1e-6 is mmdetection's.
    reached = (scale / canonical_scale + 1e-6)[..., None] >= [2.0**level for level in range(1, count)]
    return tf.reduce_sum(tf.cast(reached, tf.int32), axis=-1)


def prepare(maps: Sequence[tf.Tensor], implementation: str) -> tuple[tf.Tensor, ...]:
    """Prepares feature maps for `roi_align`: once per batch, for all stages.

    Args:
        maps: list of [B, h_l, w_l, C], finest first, of any float type.
        implementation: "crop_and_resize" or "xla".

    Returns:
        A tuple of float32 tensors for `roi_align` with the same implementation.
    """
    return tuple(_implementation(implementation).prepare(maps))


def roi_align(
    prepared: Sequence[tf.Tensor],
    strides: Sequence[int],
    boxes: tf.Tensor,
    levels: tf.Tensor,
    output_size: int,
    sampling_ratio: int,
    implementation: str,
    oversampling: int = 1,
) -> tf.Tensor:
    """Pools every RoI from its level.

    Args:
        prepared: the result of `prepare` with the same implementation.
        strides: the maps' strides in pixels.
        boxes: [B, N, 4] in pixels, without gradient.
        levels: [B, N] int32, index of each RoI's map.
        output_size: P.
        sampling_ratio: int, samples per bin and axis; 0 is adaptive, the number of cells in a bin, rounded up.
        implementation: "crop_and_resize" or "xla".
        oversampling: int; each bin is the mean of oversampling x oversampling smaller bins, each with its own samples.
            The same as pooling at oversampling * P and averaging, without the larger intermediate result.

    Returns:
        [B, N, P, P, C] float32.
    """
    pool, samples = _implementation(implementation).pool, oversampling * sampling_ratio
    pooled = pool(prepared, *_flatten(boxes, levels, strides), output_size, samples, oversampling)  # [B N, P, P, C]
    shape = [*boxes.shape[:2], output_size, output_size, pooled.shape[-1]]
    return tf.ensure_shape(tf.reshape(pooled, tf.concat([tf.shape(boxes)[:2], shape[2:]], axis=0)), shape)


@tf.function(autograph=False)  # traced once for all stages
def _flatten(boxes, levels, strides):
    """Returns the RoIs of a batch as a flat list: boxes [B N, 4] in cells of their level, images and levels [B N]."""
    boxes = tf.cast(boxes, tf.float32)
    batch, number = tf.unstack(tf.shape(boxes)[:2])
    cells = boxes / tf.gather(tf.constant(strides, tf.float32), levels)[..., None]  # [B, N, 4]
    # An inverted box becomes an empty one.
    cells = tf.concat([cells[..., :2], tf.maximum(cells[..., :2], cells[..., 2:])], axis=-1)
    images = tf.broadcast_to(tf.range(batch)[:, None], [batch, number])  # index of each RoI's image
    return tf.reshape(cells, [-1, 4]), tf.reshape(images, [-1]), tf.reshape(levels, [-1])


def _implementation(name):
    """Returns the module with that implementation's `prepare` and `pool`."""
    implementations = {"crop_and_resize": roi_align_crop, "xla": roi_align_xla}
    if name not in implementations:
        raise UserError(f'RoIAlign: implementation {name!r} is unknown; use "crop_and_resize" or "xla"')
    return implementations[name]
