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


def map_valid_rows(function, rows, valid, xla=False):
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
        answer = in_chunks(function, [tf.gather(x, order) for x in rows], count)
    else:
        first = order[: (tf.maximum(count, 1) + MULTIPLE - 1) // MULTIPLE * MULTIPLE]
        order = order[:count]
        answer = function(*[tf.gather(x, first) for x in rows])[:count]
    answer = tf.scatter_nd(order[:, tf.newaxis], answer, [*tf.unstack(tf.shape(flat)), *answer.shape[1:]])
    return tf.reshape(answer, [-1, valid.shape[1], *answer.shape[1:]])


def in_chunks(function, rows, count):
    """function(*rows) [R, ...], piece by piece, as far as `count` [] int32 rows go; zeros after them.

    The gradient computes each piece again: what a loop would keep for it are lists, which cannot leave a compiled
    function, and forward and backward may be compiled apart.
    """
    # Known when traced, or only when compiled.
    total = rows[0].shape[0] or tf.shape(rows[0])[0]
    size = min(PIECE, total) if isinstance(total, int) else PIECE
    pieces = -(-total // size)

    def cut(x):
        x = tf.pad(x, [[0, pieces * size - total]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(x, [pieces, size, *x.shape[1:]])

    def join(x):
        return tf.reshape(x, [pieces * size, *x.shape[2:]])[:total]

    def walk(step, state):
        """state = step(piece, *state) for each piece that has a valid row."""
        return tf.while_loop(
            lambda piece, *_: piece * size < count,
            lambda piece, *state: (piece + 1, *step(piece, *state)),
            (0, *state),
            parallel_iterations=1,
        )[1:]

    def put(x, piece, value):
        return tf.tensor_scatter_nd_update(x, piece[tf.newaxis, tf.newaxis], value[tf.newaxis])

    specs = [tf.TensorSpec([size, *x.shape[1:]], x.dtype) for x in rows]
    function = tf.function(function, autograph=False).get_concrete_function(*specs)
    like = function.structured_outputs

    @tf.custom_gradient
    def compute(*rows):
        cuts = [cut(x) for x in rows]

        def forward(piece, answer):
            return (put(answer, piece, function(*[tf.gather(x, piece) for x in cuts])),)

        def gradient(upstream, variables=()):
            upstream = cut(upstream)
            learnt = [index for index, x in enumerate(cuts) if x.dtype.is_floating]

            def backward(piece, *sums):
                inputs = [tf.gather(x, piece) for x in cuts]
                sources = [inputs[index] for index in learnt] + list(variables)
                with tf.GradientTape() as tape:
                    tape.watch(sources)
                    answer = function(*inputs)
                parts = tape.gradient(answer, sources, tf.gather(upstream, piece), tf.UnconnectedGradients.ZERO)
                rows, weights = len(learnt), [tf.convert_to_tensor(part) for part in parts[len(learnt) :]]
                of_rows = [put(x, piece, part) for x, part in zip(sums[:rows], parts[:rows], strict=True)]
                return *of_rows, *[x + part for x, part in zip(sums[rows:], weights, strict=True)]

            zeros = [tf.zeros_like(x) for x in [*(cuts[index] for index in learnt), *variables]]
            sums = walk(backward, zeros)
            of_rows = dict(zip(learnt, map(join, sums), strict=False))
            return [of_rows.get(index) for index in range(len(cuts))], list(sums[len(learnt) :])

        (answer,) = walk(forward, [tf.zeros([pieces, *like.shape], like.dtype)])
        return join(answer), gradient if function.variables else lambda upstream: gradient(upstream)[0]

    answer = compute(*rows)
    return tf.where(tf.reshape(tf.range(total) < count, [-1] + [1] * (like.shape.rank - 1)), answer, 0.0)
