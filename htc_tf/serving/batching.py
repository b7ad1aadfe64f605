"""Batches inside a request: images of the same padded shape run through the model together, a bounded number at a time.

Every image keeps the padded shape that it has alone: padding changes the features beside it, so that padding a whole
batch to one shape would change the detections.
"""

import tensorflow as tf


def detect(predict_fns, preprocessed, batch_sizes, fixed_sizes, finish=None):
    """Runs the model on every image.

    Args:
        predict_fns: a tf.function for each padded shape, which maps images [n, H, W, 3] uint8 and sizes [n, 2] float32
            to a dict of tensors [n, ...] with the same names for all shapes.
        preprocessed: Preprocessed.
        batch_sizes: ascending ints; the last one is the largest number of images at a time.
        fixed_sizes: If True, the functions are compiled for these batch sizes alone, and a smaller batch is filled up
            with copies of its last image.
        finish: maps (a function's outputs, row numbers [n]) to the outputs to keep, of the same shape for all padded
            shapes; by default all outputs.

    Returns:
        A dict of tensors [B, ...]; zero or empty in the rows of refused images.
    """
    batch = tf.size(preprocessed.shape_indices)
    allowed = tf.constant(batch_sizes, tf.int32)
    finish = finish or (lambda outputs, rows: outputs)
    results = None
    for index, predict in enumerate(predict_fns):
        height, width = predict.input_signature[0].shape[1:3]
        rows = tf.cast(tf.where(preprocessed.shape_indices == index)[:, 0], tf.int32)  # [count]
        count = tf.size(rows)

        def run(start, rows=rows, count=count, predict=predict, height=height, width=width):
            taken = tf.minimum(count - start, allowed[-1])
            size = allowed[tf.searchsorted(allowed, taken[None])[0]] if fixed_sizes else taken
            chosen = tf.gather(rows, tf.minimum(tf.range(start, start + size), count - 1))  # [size]
            with tf.device("/device:CPU:0"):
                images = parse_images(tf.gather(preprocessed.images, chosen), [height, width, 3])
            outputs = finish(predict(images, tf.gather(preprocessed.sizes, chosen)), chosen)
            return chosen[:taken], {name: value[:taken] for name, value in outputs.items()}

        if results is None:
            results = blank_results(predict, finish, batch)

        def step(start, results, run=run):
            chosen, outputs = run(start)
            results = {
                name: tf.tensor_scatter_nd_update(results[name], chosen[:, None], value)
                for name, value in outputs.items()
            }
            return start + tf.size(chosen), results

        shapes = {name: tf.TensorShape([None, *value.shape[1:]]) for name, value in results.items()}
        _, results = tf.while_loop(
            lambda start, _, count=count: start < count,
            step,
            (0, results),
            (tf.TensorShape([]), shapes),
            parallel_iterations=1,
        )
    return results


def parse_images(serialized, shape):
    """Parses serialized images [n] string of one shape: [n, *shape] uint8."""
    signature = tf.TensorSpec(shape, tf.uint8)
    return tf.map_fn(lambda image: tf.io.parse_tensor(image, tf.uint8), serialized, fn_output_signature=signature)


def blank_results(predict, finish, batch):
    """Returns zeros or empty strings [batch, ...] with the shapes and dtypes of the finished outputs."""

    @tf.function(autograph=False)
    def outputs(images, sizes, rows):
        return finish(predict(images, sizes), rows)

    signature = (*predict.input_signature, tf.TensorSpec([None], tf.int32))
    specs = outputs.get_concrete_function(*signature).structured_outputs
    return {
        name: tf.zeros([batch, *spec.shape[1:]], spec.dtype)
        if spec.dtype != tf.string
        else tf.fill([batch, *spec.shape[1:]], "")
        for name, spec in specs.items()
    }
