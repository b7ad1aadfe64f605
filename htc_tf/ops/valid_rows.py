"""Work on the RoIs that there are: of B x N few may be valid, and a head need not see the padding.

Before it: features pooled from padded RoIs. After it: the mask loss, or the masks of detections, padded again.

The valid rows of the whole batch are moved to the front, in their order. In graph mode a head then takes as many rows
as are valid. XLA knows only shapes that no value decides: there it takes pieces of fixed size, one after the other in a
loop that ends with the last valid row, and the gradient's loop does as many.
"""

import tensorflow as tf

# Graph mode takes a multiple of it, so that kernels that prepare themselves for each new shape (oneDNN's, cuDNN's) meet
# few; and none meets an empty batch.
MULTIPLE = 8
# Rows of a piece under XLA.
PIECE = 32


def on_valid_rows(function, rows, valid, xla=False):
    """Calls a function on the valid rows alone.

    Args:
        function: tensors [r, ...] -> a tensor [r, ...], for any r. A row of it depends on the same row alone.
        rows: the tensors, [B * N, ...] each.
        valid: [B, N] bool.
        xla: whether XLA compiles it.
    Returns:
        [B, N, ...]: what the function gives, zeros where not valid.
    """
    flat = tf.reshape(valid, [-1])
    order = tf.argsort(tf.cast(~flat, tf.int32), stable=True)
    count = tf.math.count_nonzero(flat, dtype=tf.int32)
    if xla:
        answer = by_pieces(function, [tf.gather(x, order) for x in rows], count)
    else:
        first = order[: -(-tf.maximum(count, 1) // MULTIPLE) * MULTIPLE]
        order = order[:count]
        answer = function(*[tf.gather(x, first) for x in rows])[:count]
    answer = tf.scatter_nd(order[:, tf.newaxis], answer, [*tf.unstack(tf.shape(flat)), *answer.shape[1:]])
    return tf.reshape(answer, [-1, valid.shape[1], *answer.shape[1:]])


def by_pieces(function, rows, count):
    """function(*rows) [R, ...], piece by piece, as far as `count` [] int32 rows go; zeros after them."""
    # Known when traced (where there is a gradient, always), or only when compiled.
    total = rows[0].shape[0] or tf.shape(rows[0])[0]
    size = min(PIECE, total) if isinstance(total, int) else PIECE
    pieces = -(-total // size)

    def cut(x):
        x = tf.pad(x, [[0, pieces * size - total]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.TensorArray(x.dtype, pieces).unstack(tf.reshape(x, [pieces, size, *x.shape[1:]]))

    specs = [tf.TensorSpec([size, *x.shape[1:]], x.dtype) for x in rows]
    function = tf.function(function, autograph=False).get_concrete_function(*specs)
    like = function.structured_outputs
    cuts = [cut(x) for x in rows]
    _, answers = tf.while_loop(
        lambda piece, _: piece * size < count,
        lambda piece, answers: (piece + 1, answers.write(piece, function(*[x.read(piece) for x in cuts]))),
        (0, tf.TensorArray(like.dtype, pieces, element_shape=like.shape)),
        maximum_iterations=pieces,  # for the gradient, which keeps what each piece leaves in lists as long as this
        parallel_iterations=1,
    )
    answer = tf.reshape(answers.stack(), [pieces * size, *like.shape[1:]])[:total]
    return tf.where(tf.reshape(tf.range(total) < count, [-1] + [1] * (like.shape.rank - 1)), answer, 0.0)
