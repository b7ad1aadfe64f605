"""Computation on valid RoIs alone: few of B x N rows may be valid, and a head should not process the padding.

The valid rows of the whole batch are moved to the front, in their order. In graph mode a head then processes as many
rows as are valid. Under XLA no shape may depend on a value: there the rows are processed in chunks of fixed size, in a
loop that ends with the last valid row, and the gradient's loop has as many steps.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from htc_tf.ops.devices import has_gpu

# Graph mode rounds the number of rows up to a multiple of this, so that kernels which are prepared for each new shape
# (oneDNN, cuDNN) meet few shapes; and none meets an empty batch.
MULTIPLE = 8
# Rows of a chunk under XLA, on a CPU and on a GPU.
CHUNK, GPU_CHUNK = 32, 128


def map_valid_rows(
    function: Callable[..., tf.Tensor], rows: Sequence[tf.Tensor], valid: tf.Tensor, xla: bool = False
) -> tf.Tensor:
    """Applies a function to the valid rows alone.

    Args:
        function: maps tensors [r, ...] to a tensor [r, ...] for any r; each output row depends on the same input row.
        rows: list of tensors [B * N, ...].
        valid: [B, N] bool.
        xla: If True, the code is compiled by XLA.

    Returns:
        [B, N, ...], the function's values, zeros where not valid.
    """
    flat = tf.reshape(valid, [-1])  # [B * N]
    order = tf.argsort(tf.cast(~flat, tf.int32), stable=True)  # indices of the valid rows first
    count = tf.math.count_nonzero(flat, dtype=tf.int32)
    if xla:
        values = in_chunks(function, [tf.gather(x, order) for x in rows], count)  # [B * N, ...]
    else:
        first = order[: (tf.maximum(count, 1) + MULTIPLE - 1) // MULTIPLE * MULTIPLE]  # [count, rounded up]
        order = order[:count]
        values = function(*[tf.gather(x, first) for x in rows])[:count]  # [count, ...]
    # Back to the rows that the values came from.
    values = tf.scatter_nd(order[:, tf.newaxis], values, [*tf.unstack(tf.shape(flat)), *values.shape[1:]])
    return tf.reshape(values, [-1, valid.shape[1], *values.shape[1:]])  # [B, N, ...]


def in_chunks(function: Callable[..., tf.Tensor], rows: Sequence[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
    """Applies a function to the first `count` rows, chunk by chunk.

    The gradient computes each chunk again: the values that a loop would store for it are TensorLists, which cannot
    leave a compiled function, and forward and backward pass may be compiled separately.

    Args:
        function: as in `map_valid_rows`.
        rows: list of tensors [R, ...].
        count: [] int32.

    Returns:
        [R, ...], the function's values, zeros from row `count` on.
    """
    # R is an int if it is known when traced, and a tensor if it is known only when compiled.
    total = rows[0].shape[0] or tf.shape(rows[0])[0]
    size = GPU_CHUNK if has_gpu() else CHUNK
    size = min(size, total) if isinstance(total, int) else size
    chunks = -(-total // size)

    def split(x):
        """Pads [R, ...] and reshapes it to [chunks, size, ...]."""
        x = tf.pad(x, [[0, chunks * size - total]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(x, [chunks, size, *x.shape[1:]])

    def join(x):
        """Reshapes [chunks, size, ...] to [R, ...]."""
        return tf.reshape(x, [chunks * size, *x.shape[2:]])[:total]

    def loop(step, state):
        """Computes state = step(chunk, *state) for each chunk that has a valid row."""
        return tf.while_loop(
            lambda chunk, *_: chunk * size < count,
            lambda chunk, *state: (chunk + 1, *step(chunk, *state)),
            (0, *state),
            parallel_iterations=1,
        )[1:]

    def update(x, chunk, value):
        """Returns x [chunks, ...] with x[chunk] = value."""
        return tf.tensor_scatter_nd_update(x, chunk[tf.newaxis, tf.newaxis], value[tf.newaxis])

    # Traced once, so that both loops share the graph and its variables are known.
    specs = [tf.TensorSpec([size, *x.shape[1:]], x.dtype) for x in rows]
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    spec = traced.structured_outputs  # [size, ...]

    @tf.custom_gradient
    def compute(*rows):
        inputs = [split(x) for x in rows]

        def forward(chunk, values):
            return (update(values, chunk, traced(*[tf.gather(x, chunk) for x in inputs])),)

        def gradient(upstream, variables=()):
            upstream = split(upstream)
            # Integer inputs, for example classes, have no gradient.
            differentiable = [index for index, x in enumerate(inputs) if x.dtype.is_floating]
            num_rows = len(differentiable)

            def backward(chunk, *sums):
                """Writes this chunk's gradient of the rows, and adds its gradient of the variables."""
                chunk_inputs = [tf.gather(x, chunk) for x in inputs]
                sources = [chunk_inputs[index] for index in differentiable] + list(variables)
                with tf.GradientTape() as tape:
                    tape.watch(sources)
                    values = traced(*chunk_inputs)
                parts = tape.gradient(values, sources, tf.gather(upstream, chunk), tf.UnconnectedGradients.ZERO)
                of_variables = [tf.convert_to_tensor(part) for part in parts[num_rows:]]
                of_rows = [update(x, chunk, part) for x, part in zip(sums[:num_rows], parts[:num_rows], strict=True)]
                return *of_rows, *[x + part for x, part in zip(sums[num_rows:], of_variables, strict=True)]

            zeros = [tf.zeros_like(x) for x in [*(inputs[index] for index in differentiable), *variables]]
            sums = loop(backward, zeros)
            of_rows = dict(zip(differentiable, map(join, sums), strict=False))
            return [of_rows.get(index) for index in range(len(inputs))], list(sums[num_rows:])

        (values,) = loop(forward, [tf.zeros([chunks, *spec.shape], spec.dtype)])  # [chunks, size, ...]
        # tf.custom_gradient passes `variables` only if the function reads some.
        return join(values), gradient if traced.variables else lambda upstream: gradient(upstream)[0]

    values = compute(*rows)
    # The last chunk may contain rows that are not valid.
    return tf.where(tf.reshape(tf.range(total) < count, [-1] + [1] * (spec.shape.rank - 1)), values, 0.0)
