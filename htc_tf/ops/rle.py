"""Masks as COCO run lengths of the whole picture, in the graph, so that a client needs no paste: equal bit for bit to
those of `ops.paste` and of pycocotools.

Before: detections in the picture's pixels, with 28 x 28 probabilities. After: `serving.outputs`.

The idea is that of `ops.paste`: COCO counts runs down the columns, and down a column an interpolated mask is a
straight line from cell to cell. The cells' values at a column tell where the line may cross 0.5: a band of two or three
pixel rows for each crossing, or of the whole cell where rounding could decide. In the bands, and only there, each
pixel is computed as `paste_columns` computes it, operation by operation; where two neighbours differ, a run ends.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.ops.paste import CHUNK, FARTHEST, MASK_THRESHOLD, ROUNDING

GROUP = 5  # bits in a character of COCO's run lengths
GROUPS = 7  # characters that the longest number may need: 35 bits
FIRST = 48  # character of zero


class Axis(NamedTuple):
    """Every mask's pixels along one axis, one mask after the other."""

    first: tf.Tensor  # [n] int64, the first pixel in the picture whose centre lies in the box
    count: tf.Tensor  # [n] int64, how many do
    before: tf.Tensor  # [n] int64, the pixels of the masks before
    owner: tf.Tensor  # [pixels] int64, the mask
    lower: tf.Tensor  # [pixels] int64, the cell before the pixel's centre; cells are framed by a zero
    distance: tf.Tensor  # [pixels] float32, from that cell to the next


class Bands(NamedTuple):
    """Runs of pixel rows in a column of a mask, in order, in which the mask may change."""

    column: tf.Tensor  # [b] int64, the place in the columns' Axis
    start: tf.Tensor  # [b] int64, the first row of the box that may differ from the one before
    end: tf.Tensor  # [b] int64, the last one


def encode_masks(masks, boxes, height, width):
    """Resizes masks into their boxes, cuts them at 0.5 and encodes them as run lengths of the whole picture.

    Args:
        masks: [n, M, M] float32 probabilities; M is static.
        boxes: [n, 4] float32 in pixels of the picture; may reach beyond it.
        height, width: [] int32, of the picture.
    Returns:
        [n] string: the `counts` of COCO's compressed run lengths, whose `size` is [height, width].
    """
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    boxes = empty_wild(boxes)
    widths = tf.minimum(boxes[:, 3], tf.cast(width, tf.float32)) - tf.maximum(boxes[:, 1], 0.0)
    # So many masks at a time as have a bounded number of columns: what they take stays bounded too.
    parts = tf.cast(tf.cumsum(tf.maximum(widths, 0.0)) / CHUNK, tf.int32)

    def step(start, runs):
        end = tf.reduce_max(tf.where(parts == parts[start])) + 1
        found = encode_part(masks[start:end], boxes[start:end], height, width)
        return end, tf.concat([runs, found], 0)

    count = tf.shape(masks, out_type=tf.int64)[0]
    state = tf.constant(0, tf.int64), tf.zeros([0], tf.string)
    shapes = tf.TensorShape([]), tf.TensorShape([None])
    _, runs = tf.while_loop(lambda start, _: start < count, step, state, shapes, parallel_iterations=1)
    return runs


def empty_wild(boxes):
    """[n, 4] float32, with zeros for a box that has NaN, infinity or a side beyond FARTHEST: no mask can be drawn."""
    return tf.where(tf.reduce_all(tf.abs(boxes) < FARTHEST, axis=1, keepdims=True), boxes, 0.0)


def encode_part(masks, boxes, height, width):
    framed = tf.pad(masks, [[0, 0], [1, 1], [1, 1]])
    rows = interpolate(boxes[:, 0], boxes[:, 2], height, masks.shape[1])
    # A box between two rows of pixel centers has no pixel: columns without rows would have nothing to gather from.
    right = tf.where(rows.count > 0, boxes[:, 3], boxes[:, 1])
    columns = interpolate(boxes[:, 1], right, width, masks.shape[2])
    bands = find_bands(framed, boxes, rows, columns)
    column, row = find_changes(framed, rows, columns, bands)
    owner = tf.gather(columns.owner, column)
    position = (column - tf.gather(columns.before - columns.first, owner)) * height
    position += tf.gather(rows.first, owner) + row
    return compress(owner, position, tf.shape(masks, out_type=tf.int64)[0], height * width)


def interpolate(start, end, size, cells):
    """The pixels whose centres lie between start and end, [n] each, and in the picture: an Axis."""
    some = end > start
    limits = tf.stack([tf.math.ceil(tf.cast(start, tf.float64) - 0.5), tf.floor(tf.cast(end, tf.float64) + 0.5)])
    limits = tf.where(some, tf.clip_by_value(limits, 0.0, tf.cast(size, tf.float64)), 0.0)
    first, last = tf.unstack(tf.cast(limits, tf.int64))
    count = tf.maximum(last - first, 0)
    before = tf.cumsum(count, exclusive=True)
    owner = tf.repeat(tf.range(tf.size(start, tf.int64)), count)
    position = tf.cast(tf.range(tf.reduce_sum(count)) - tf.gather(before - first, owner), tf.float32)
    # mmdetection's order of operations, by way of [-1, 1], so that float32 rounds alike. The one that is taken away and
    # added again is not written as a number: an optimiser of graphs would leave both out.
    one = tf.ones_like(position)
    position = (position + 0.5 - tf.gather(start, owner)) / tf.gather(end - start, owner)
    position = ((position * 2.0 - one + one) * float(cells) - 1.0) / 2.0
    lower = tf.floor(position)
    cell = tf.cast(tf.clip_by_value(lower, -1.0, cells - 1.0), tf.int64) + 1
    return Axis(first, count, before, owner, cell, position - lower)


def blend(lower, upper, distance):
    return lower * (1.0 - distance) + upper * distance


def find_bands(framed, boxes, rows, columns):
    """Where down its columns each mask may change.

    Args:
        framed: [n, M + 2, M + 2] float32, the masks with a frame of zeros.
        boxes: [n, 4] float32.
        rows, columns: Axis.
    """
    count, side = tf.shape(framed)[0], framed.shape[1]
    # The mask at its own rows but the picture's columns, above or below 0.5; the outermost rows are the frame's zeros.
    stretched = tf.reshape(tf.transpose(framed, [0, 2, 1]), [-1, side])
    at = columns.owner * side + columns.lower
    knots = blend(tf.gather(stretched, at), tf.gather(stretched, at + 1), columns.distance[:, None]) - MASK_THRESHOLD
    inside, unsure = knots >= 0.0, ~(tf.abs(knots) >= ROUNDING)
    crosses = (inside[:, 1:] != inside[:, :-1]) | unsure[:, 1:] | unsure[:, :-1]
    # Before the first row and after the last there is no mask: two more places to look at.
    edge = tf.ones_like(crosses[:, :1])
    found = tf.where(tf.concat([edge, crosses, edge], 1))
    column, cell = found[:, 0], found[:, 1] - 1
    owner = tf.gather(columns.owner, column)

    # How many pixels of a mask lie before each cell.
    pixels = tf.math.unsorted_segment_sum(tf.ones_like(rows.owner), rows.owner * side + rows.lower, count * side)
    starts = tf.cumsum(tf.pad(tf.reshape(pixels, [count, side]), [[0, 0], [1, 0]]), axis=1)
    starts = tf.reshape(starts, [-1])
    base = owner * (side + 1)
    low, high = tf.gather(starts, base + tf.maximum(cell, 0)), tf.gather(starts, base + cell + 1)
    low = tf.where(cell == side - 1, high, low)  # after the last row

    # Between two knots that are sure to be on either side, and steep enough, the line itself tells where.
    flat = column * side + tf.clip_by_value(cell, 0, side - 2)
    knots, unsure = tf.reshape(knots, [-1]), tf.reshape(unsure, [-1])
    above, below = tf.gather(knots, flat), tf.gather(knots, flat + 1)
    pixels_per_cell = tf.gather((boxes[:, 2] - boxes[:, 0]) / (side - 2), owner)
    sure = tf.abs(below - above) > 4 * ROUNDING * pixels_per_cell
    sure &= ~tf.gather(unsure, flat) & ~tf.gather(unsure, flat + 1)
    share = tf.cast(above / (above - below), tf.float64)
    top = tf.gather(tf.cast(boxes[:, 0], tf.float64), owner)
    length = tf.gather(tf.cast(boxes[:, 2], tf.float64), owner) - top
    exact = (tf.cast(cell, tf.float64) + share - 0.5) * length / (side - 2) + top - 0.5
    exact -= tf.cast(tf.gather(rows.first, owner), tf.float64)
    exact = tf.where(sure, exact, 0.0)
    guess = tf.clip_by_value(tf.cast(tf.math.ceil(exact), tf.int64), low, high)
    start = tf.where(sure, tf.maximum(guess - 1, low), low)
    end = tf.where(sure, tf.minimum(guess + 1, high), high)
    # A row that two bands share is the first one's.
    shared = (column[1:] == column[:-1]) & (start[1:] == end[:-1])
    start += tf.pad(tf.cast(shared, tf.int64), [[tf.minimum(tf.size(start), 1), 0]])
    return Bands(column, start, end)


def find_changes(framed, rows, columns, bands):
    """-> (column, row), [c] int64 each, in order: the row differs from the one before, or from nothing, in its column.

    Args:
        framed: [n, M + 2, M + 2] float32, the masks with a frame of zeros.
        rows, columns: Axis.
        bands: Bands.
    """
    side = framed.shape[1]
    lengths = bands.end - bands.start + 2  # with the row before
    band = tf.repeat(tf.range(tf.size(lengths, tf.int64)), lengths)
    row = tf.range(tf.reduce_sum(lengths)) + tf.gather(bands.start - 1 - tf.cumsum(lengths, exclusive=True), band)
    column = tf.gather(bands.column, band)
    owner = tf.gather(columns.owner, column)
    count = tf.gather(rows.count, owner)
    at = tf.gather(rows.before, owner) + tf.clip_by_value(row, 0, count - 1)
    down, across = tf.gather(rows.distance, at), tf.gather(columns.distance, column)
    corner = (owner * side + tf.gather(rows.lower, at)) * side + tf.gather(columns.lower, column)
    values = tf.reshape(framed, [-1])
    left = blend(tf.gather(values, corner), tf.gather(values, corner + side), down)
    right = blend(tf.gather(values, corner + 1), tf.gather(values, corner + side + 1), down)
    inside = (blend(left, right, across) >= MASK_THRESHOLD) & (row >= 0) & (row < count)
    changes = tf.where((inside[1:] != inside[:-1]) & (band[1:] == band[:-1]))[:, 0] + 1
    return tf.gather(column, changes), tf.gather(row, changes)


def compress(owner, position, count, size):
    """COCO's compressed run lengths of `count` masks of `size` pixels, [count] string.

    Args:
        owner: [c] int64, the mask that changes, ascending.
        position: [c] int64, the pixel, in COCO's order; ascending within a mask.
    """
    # Where a column ends at the picture's lower border and the next begins at its upper one, nothing changes.
    key = owner * (size + 1) + position
    same = key[1:] == key[:-1]
    one = tf.minimum(tf.size(key), 1)
    single = tf.where(~(tf.pad(same, [[one, 0]]) | tf.pad(same, [[0, one]])))[:, 0]
    owner, position = tf.gather(owner, single), tf.gather(position, single)
    # Nor at the end of the picture.
    within = tf.where(position < size)[:, 0]
    owner, position = tf.gather(owner, within), tf.gather(position, within)

    ends = tf.RaggedTensor.from_value_rowids(position, owner, count, validate=False)
    ends = tf.concat([ends, tf.fill([count, 1], size)], 1)
    mask, end = ends.value_rowids(), ends.values
    begins = tf.gather(ends.row_starts(), mask)
    index = tf.range(tf.size(end, tf.int64)) - begins

    def back(values, steps):
        """Of each the one so many before; beyond its mask's first, 0."""
        return tf.where(index >= steps, tf.roll(values, steps, 0), 0)

    length = end - back(end, 1)
    # From the fourth run on the difference to the last but one is written.
    value = length - tf.where(index > 2, back(length, 2), 0)
    shifted = tf.bitwise.right_shift(value[:, None], tf.range(0, GROUP * GROUPS, GROUP, tf.int64))
    bits = shifted & 31
    rest = tf.bitwise.right_shift(shifted, tf.constant(GROUP, tf.int64))
    more = tf.where(bits & 16 > 0, rest != -1, rest != 0)
    used = tf.math.cumprod(tf.cast(more, tf.int32), axis=1, exclusive=True) > 0
    characters = tf.where(more, bits | 32, bits) + FIRST
    lengths = tf.math.unsorted_segment_sum(tf.reduce_sum(tf.cast(used, tf.int64), 1), mask, count)
    text = tf.RaggedTensor.from_row_lengths(tf.cast(characters[used], tf.int32), lengths, validate=False)
    return tf.strings.unicode_encode(text, "UTF-8")
