"""A request's pictures through the model: those of one padded shape together, a bounded number at a time.

Before: `serving.preprocess`. After: `serving.outputs`. Each picture keeps the shape that it has by itself: what lies in the
padding reaches the features beside it, so that padding all of a batch to one shape would change the answers.
"""

import tensorflow as tf


def detect(ways, prepared, batch_sizes, exactly, finish=None):
    """
    Args:
        ways: a tf.function for each shape: images [n, H, W, 3] uint8, sizes [n, 2] float32 -> a dict of tensors, the
            same names for all shapes, n along their first dimension.
        prepared: Prepared.
        batch_sizes: the most pictures at a time is the last; ascending ints.
        exactly: whether a way takes these batch sizes alone, because it is compiled for each: what is fewer is filled
            up, with the last picture again.
        finish: (what a way gives, [n] rows) -> what stays of it, of one shape for all ways; all of it by default.
    Returns:
        A dict of tensors [B, ...]; zero, or empty, where there was no picture.
    """
    batch = tf.size(prepared.shapes)
    allowed = tf.constant(batch_sizes, tf.int32)
    finish = finish or (lambda found, rows: found)
    found = None
    for shape, way in enumerate(ways):
        height, width = way.input_signature[0].shape[1:3]
        rows = tf.where(prepared.shapes == shape)[:, 0]
        rows = tf.cast(rows, tf.int32)
        count = tf.size(rows)

        def look(start, rows=rows, count=count, way=way, height=height, width=width):
            taken = tf.minimum(count - start, allowed[-1])
            looked_at = allowed[tf.searchsorted(allowed, taken[None])[0]] if exactly else taken
            chosen = tf.gather(rows, tf.minimum(tf.range(start, start + looked_at), count - 1))
            with tf.device("/device:CPU:0"):
                images = unpack(tf.gather(prepared.pictures, chosen), [height, width, 3])
            answer = finish(way(images, tf.gather(prepared.sizes, chosen)), chosen)
            return chosen[:taken], {name: value[:taken] for name, value in answer.items()}

        if found is None:
            found = blank(way, finish, batch)

        def step(start, found, look=look):
            chosen, answer = look(start)
            update = tf.tensor_scatter_nd_update
            found = {name: update(found[name], chosen[:, None], value) for name, value in answer.items()}
            return start + tf.size(chosen), found

        shapes = {name: tf.TensorShape([None, *value.shape[1:]]) for name, value in found.items()}
        _, found = tf.while_loop(
            lambda start, _, count=count: start < count,
            step,
            (0, found),
            (tf.TensorShape([]), shapes),
            parallel_iterations=1,
        )
    return found


def unpack(pictures, shape):
    """Serialised pictures of one shape, [n] string -> [n, *shape] uint8."""
    signature = tf.TensorSpec(shape, tf.uint8)
    return tf.map_fn(lambda picture: tf.io.parse_tensor(picture, tf.uint8), pictures, fn_output_signature=signature)


def blank(way, finish, batch):
    """What `detect` starts from: of the shapes and dtypes that a way's answers have when they are finished."""

    @tf.function(autograph=False)
    def answer(images, sizes, rows):
        return finish(way(images, sizes), rows)

    specs = answer.get_concrete_function(*way.input_signature, tf.TensorSpec([None], tf.int32)).structured_outputs
    return {
        name: tf.zeros([batch, *spec.shape[1:]], spec.dtype)
        if spec.dtype != tf.string
        else tf.fill([batch, *spec.shape[1:]], "")
        for name, spec in specs.items()
    }
