"""A try in a graph: what may raise on a damaged file must not take the whole request with it."""

import tensorflow as tf


def attempt(function, argument, otherwise):
    """function(argument), or `otherwise` where it raises.

    Only tf.data can go on after an operation has failed: https://www.tensorflow.org/api_docs/python/tf/data/Dataset
    (`ignore_errors`). It is core TensorFlow, and so is `get_single_element`, which was made for serving.

    Args:
        function: from a tensor to a structure of tensors; traced once. It should be small: it is made ready anew in
            each call, a millisecond for a dozen operations.
        argument: a tensor.
        otherwise: what it gives then; of the same dtypes and ranks.
    """
    tried = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors()
    return tried.concatenate(tf.data.Dataset.from_tensors(otherwise)).take(1).get_single_element()
