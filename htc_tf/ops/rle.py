"""COCO run lengths of pasted masks, in a TensorFlow graph: for an export, whose clients then need no pasting.

The strings equal the ones from `ops.paste` and pycocotools bit for bit; `ops.paste` says why evaluation uses NumPy.

COCO's runs go down the columns, and down a column an interpolated mask is a straight line from cell to cell. The cells'
values at a column show where that line may cross 0.5: a band of two or three pixel rows for each crossing, or the whole
cell if rounding could decide. In the bands, and only there, each pixel is computed as in `paste_columns`, operation by
operation; a run ends where two neighbors differ.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.ops.paste import CHUNK, MASK_THRESHOLD, MAX_COORDINATE, ROUNDING
from htc_tf.ops.rle_decoding import BITS, FIRST, MAX_CHARACTERS, MORE, SIGN


class Axis(NamedTuple):
    """The pixels of n masks along one axis, one mask after the other."""

    first: tf.Tensor  # [n] int64, the first pixel in the image whose center lies in the box
    count: tf.Tensor  # [n] int64, number of such pixels
    offset: tf.Tensor  # [n] int64, number of pixels of the masks before
    owner: tf.Tensor  # [pixels] int64, index of the mask
    lower: tf.Tensor  # [pixels] int64, the cell before the pixel's center, in the mask with a frame of zeros
    distance: tf.Tensor  # [pixels] float32, from that cell to the center, in cells


class Bands(NamedTuple):
    """Ranges of pixel rows in a column of a mask, in order, in which the mask may change."""

    column: tf.Tensor  # [b] int64, index in the columns' Axis
    start: tf.Tensor  # [b] int64, the first row of the box that may differ from the row before it
    end: tf.Tensor  # [b] int64, the last one


def encode_masks(masks: tf.Tensor, boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Pastes masks into their boxes, thresholds them at 0.5 and encodes them as run lengths of the whole image.

    Args:
        masks: [n, M, M] float32 probabilities; M is static.
        boxes: [n, 4] float32 in pixels of the image; may extend beyond it.
        height, width: [] int32, the image's size.

    Returns:
        [n] string: the `counts` of COCO's compressed run lengths, whose `size` is [height, width].
    """
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    # A box that has NaN, infinity or a coordinate beyond the limit is emptied.
    boxes = tf.where(tf.reduce_all(tf.abs(boxes) < MAX_COORDINATE, axis=1, keepdims=True), boxes, 0.0)
    widths = tf.minimum(boxes[:, 3], tf.cast(width, tf.float32)) - tf.maximum(boxes[:, 1], 0.0)  # [n]
    # Chunks of masks with a bounded number of columns, which bounds the memory: [n], ascending.
    parts = tf.cast(tf.cumsum(tf.maximum(widths, 0.0)) / CHUNK, tf.int32)

    def step(start, runs):
        end = tf.reduce_max(tf.where(parts == parts[start])) + 1
        encoded = encode_chunk(masks[start:end], boxes[start:end], height, width)
        return end, tf.concat([runs, encoded], 0)

    count = tf.shape(masks, out_type=tf.int64)[0]
    state = tf.constant(0, tf.int64), tf.zeros([0], tf.string)
    shapes = tf.TensorShape([]), tf.TensorShape([None])
    _, runs = tf.while_loop(lambda start, _: start < count, step, state, shapes, parallel_iterations=1)
    return runs


def encode_chunk(masks: tf.Tensor, boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    framed = tf.pad(masks, [[0, 0], [1, 1], [1, 1]])  # [n, M + 2, M + 2]
    rows = interpolate(boxes[:, 0], boxes[:, 2], height, masks.shape[1])
    # A box between two rows of pixel centers gets no columns either: they would have no rows to gather from.
    right = tf.where(rows.count > 0, boxes[:, 3], boxes[:, 1])
    columns = interpolate(boxes[:, 1], right, width, masks.shape[2])
    bands = find_bands(framed, boxes, rows, columns)
    column, row = find_changes(framed, rows, columns, bands)  # [c] each
    owner = tf.gather(columns.owner, column)
    # In COCO's order, column after column: [c].
    position = (column - tf.gather(columns.offset - columns.first, owner)) * height
    position += tf.gather(rows.first, owner) + row
    return compress(owner, position, tf.shape(masks, out_type=tf.int64)[0], height * width)


def interpolate(start: tf.Tensor, end: tf.Tensor, size: tf.Tensor, cells: int) -> Axis:
    """Computes the Axis of boxes that extend from start [n] to end [n], in an image of that size."""
    some = end > start
    limits = tf.stack([tf.math.ceil(tf.cast(start, tf.float64) - 0.5), tf.floor(tf.cast(end, tf.float64) + 0.5)])
    limits = tf.where(some, tf.clip_by_value(limits, 0.0, tf.cast(size, tf.float64)), 0.0)  # [2, n]
    first, last = tf.unstack(tf.cast(limits, tf.int64))
    count = tf.maximum(last - first, 0)
    offset = tf.cumsum(count, exclusive=True)
    owner = tf.repeat(tf.range(tf.size(start, tf.int64)), count)  # [pixels]
    position = tf.cast(tf.range(tf.reduce_sum(count)) - tf.gather(offset - first, owner), tf.float32)  # in the image
    # mmdetection's order of operations, via [-1, 1], so that float32 rounds in the same way. The one that is subtracted
    # and added again is a tensor, because a graph optimizer would drop two constants.
    one = tf.ones_like(position)
    position = (position + 0.5 - tf.gather(start, owner)) / tf.gather(end - start, owner)
    position = ((position * 2.0 - one + one) * float(cells) - 1.0) / 2.0  # in cells; 0 is the first cell's center
    lower = tf.floor(position)
    cell = tf.cast(tf.clip_by_value(lower, -1.0, cells - 1.0), tf.int64) + 1
    return Axis(first, count, offset, owner, cell, position - lower)


def blend(lower: tf.Tensor, upper: tf.Tensor, distance: tf.Tensor) -> tf.Tensor:
    return lower * (1.0 - distance) + upper * distance


def find_bands(framed: tf.Tensor, boxes: tf.Tensor, rows: Axis, columns: Axis) -> Bands:
    """Finds the Bands of all masks.

    Args:
        framed: [n, M + 2, M + 2] float32, masks with a frame of zeros.
        boxes: [n, 4] float32.
        rows, columns: Axis.
    """
    count, side = tf.shape(framed)[0], framed.shape[1]  # n, M + 2
    # Masks at their own rows but the image's columns, relative to the threshold; the outermost rows are zeros.
    stretched = tf.reshape(tf.transpose(framed, [0, 2, 1]), [-1, side])  # [n side, side], the masks' columns as rows
    at = columns.owner * side + columns.lower  # [columns]
    knots = blend(tf.gather(stretched, at), tf.gather(stretched, at + 1), columns.distance[:, None]) - MASK_THRESHOLD
    inside, unsure = knots >= 0.0, ~(tf.abs(knots) >= ROUNDING)  # [columns, side]
    crosses = (inside[:, 1:] != inside[:, :-1]) | unsure[:, 1:] | unsure[:, :-1]  # [columns, side - 1]
    # The mask may also change before the first row and after the last one: cells -1 and side - 1.
    edge = tf.ones_like(crosses[:, :1])
    found = tf.where(tf.concat([edge, crosses, edge], 1))  # [b, 2]
    column, cell = found[:, 0], found[:, 1] - 1
    owner = tf.gather(columns.owner, column)

    # The number of pixel rows of a mask before each cell: [n, side + 1], flattened.
    pixels = tf.math.unsorted_segment_sum(tf.ones_like(rows.owner), rows.owner * side + rows.lower, count * side)
    starts = tf.cumsum(tf.pad(tf.reshape(pixels, [count, side]), [[0, 0], [1, 0]]), axis=1)
    starts = tf.reshape(starts, [-1])
    base = owner * (side + 1)
    low, high = (
        tf.gather(starts, base + tf.maximum(cell, 0)),
        tf.gather(starts, base + cell + 1),
    )  # [b], rows of the cell
    low = tf.where(cell == side - 1, high, low)  # after the last row

    # Between two knots that are certainly on different sides, and steep enough, the line itself shows the row.
    flat = column * side + tf.clip_by_value(cell, 0, side - 2)
    knots, unsure = tf.reshape(knots, [-1]), tf.reshape(unsure, [-1])
    above, below = tf.gather(knots, flat), tf.gather(knots, flat + 1)  # [b]
    pixels_per_cell = tf.gather((boxes[:, 2] - boxes[:, 0]) / (side - 2), owner)
    sure = tf.abs(below - above) > 4 * ROUNDING * pixels_per_cell
    sure &= ~tf.gather(unsure, flat) & ~tf.gather(unsure, flat + 1)
    share = tf.cast(above / (above - below), tf.float64)  # position of the crossing between the two cells, 0 ... 1
    top = tf.gather(tf.cast(boxes[:, 0], tf.float64), owner)
    length = tf.gather(tf.cast(boxes[:, 2], tf.float64), owner) - top
    exact = (tf.cast(cell, tf.float64) + share - 0.5) * length / (side - 2) + top - 0.5
    exact -= tf.cast(tf.gather(rows.first, owner), tf.float64)
    exact = tf.where(sure, exact, 0.0)
    guess = tf.clip_by_value(tf.cast(tf.math.ceil(exact), tf.int64), low, high)
    # Rounding moves the crossing by at most one row.
    start = tf.where(sure, tf.maximum(guess - 1, low), low)
    end = tf.where(sure, tf.minimum(guess + 1, high), high)
    # A row that two bands share belongs to the first one.
    shared = (column[1:] == column[:-1]) & (start[1:] == end[:-1])
    start += tf.pad(tf.cast(shared, tf.int64), [[tf.minimum(tf.size(start), 1), 0]])
    return Bands(column, start, end)


def find_changes(framed: tf.Tensor, rows: Axis, columns: Axis, bands: Bands) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the pixels that differ from the one before in their column (or from the background, at its ends).

    Args:
        framed: [n, M + 2, M + 2] float32, masks with a frame of zeros.
        rows, columns: Axis.
        bands: Bands.

    Returns:
        column, row: [c] int64 each, in order; the index in the columns' Axis, and the row of the box.
    """
    side = framed.shape[1]
    # All p pixels of the bands, each band with the row before it.
    lengths = bands.end - bands.start + 2  # [b]
    band = tf.repeat(tf.range(tf.size(lengths, tf.int64)), lengths)  # [p]
    row = tf.range(tf.reduce_sum(lengths)) + tf.gather(bands.start - 1 - tf.cumsum(lengths, exclusive=True), band)
    column = tf.gather(bands.column, band)
    owner = tf.gather(columns.owner, column)
    count = tf.gather(rows.count, owner)
    at = tf.gather(rows.offset, owner) + tf.clip_by_value(row, 0, count - 1)  # [p], index in the rows' Axis
    down, across = tf.gather(rows.distance, at), tf.gather(columns.distance, column)
    # The four cells around each pixel, blended in the order of `paste_columns`: first down, then across.
    corner = (owner * side + tf.gather(rows.lower, at)) * side + tf.gather(columns.lower, column)
    values = tf.reshape(framed, [-1])
    left = blend(tf.gather(values, corner), tf.gather(values, corner + side), down)
    right = blend(tf.gather(values, corner + 1), tf.gather(values, corner + side + 1), down)
    inside = (blend(left, right, across) >= MASK_THRESHOLD) & (row >= 0) & (row < count)
    changes = tf.where((inside[1:] != inside[:-1]) & (band[1:] == band[:-1]))[:, 0] + 1  # [c]
    return tf.gather(column, changes), tf.gather(row, changes)


def compress(owner: tf.Tensor, position: tf.Tensor, count: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Encodes masks by the pixels where they change (rleToString in cocoapi's common/maskApi.c).

    Args:
        owner: [c] int64, the mask that changes, ascending.
        position: [c] int64, the pixel in COCO's order, ascending within a mask.
        count: [] int64, number of masks.
        size: [] int64, pixels of the image.

    Returns:
        [count] string, COCO's compressed run lengths.
    """
    # Two changes at the same pixel cancel: a column ends at the image's bottom and the next begins at its top.
    key = owner * (size + 1) + position
    same = key[1:] == key[:-1]
    one = tf.minimum(tf.size(key), 1)
    single = tf.where(~(tf.pad(same, [[one, 0]]) | tf.pad(same, [[0, one]])))[:, 0]
    owner, position = tf.gather(owner, single), tf.gather(position, single)
    # A change at the end of the image does not count.
    within = tf.where(position < size)[:, 0]
    owner, position = tf.gather(owner, within), tf.gather(position, within)

    # The r runs of all masks, each by the pixel after its last one.
    ends = tf.RaggedTensor.from_value_rowids(position, owner, count, validate=False)  # [count, (runs)]
    ends = tf.concat([ends, tf.fill([count, 1], size)], 1)
    mask, end = ends.value_rowids(), ends.values  # [r]
    index = tf.range(tf.size(end, tf.int64)) - tf.gather(ends.row_starts(), mask)  # [r], number of the run in its mask

    def previous(values, steps):
        """Returns the value [r] of the run `steps` before in the same mask; 0 if there is none."""
        return tf.where(index >= steps, tf.roll(values, steps, 0), 0)

    length = end - previous(end, 1)
    # From the fourth run on, the difference to the run before the previous one is written.
    value = length - tf.where(index > 2, previous(length, 2), 0)
    # Five bits per character, the lowest first, up to the character after which only sign bits follow: [r, 7].
    shifted = tf.bitwise.right_shift(value[:, None], tf.range(0, BITS * MAX_CHARACTERS, BITS, tf.int64))
    bits = shifted & (MORE - 1)
    rest = tf.bitwise.right_shift(shifted, tf.constant(BITS, tf.int64))
    more = tf.where(bits & SIGN > 0, rest != -1, rest != 0)
    used = tf.math.cumprod(tf.cast(more, tf.int32), axis=1, exclusive=True) > 0
    characters = tf.where(more, bits | MORE, bits) + FIRST
    lengths = tf.math.unsorted_segment_sum(tf.reduce_sum(tf.cast(used, tf.int64), 1), mask, count)  # [count]
    text = tf.RaggedTensor.from_row_lengths(tf.cast(characters[used], tf.int32), lengths, validate=False)
    return tf.strings.unicode_encode(text, "UTF-8")
