"""Helpers of the tests that read checkpoint files."""

import pytest

from htc_tf.errors import UserError
from htc_tf.weights.files import collect, read
from htc_tf.weights.wrappers import unwrap


def load(path):
    """Returns {name: array} of a checkpoint file."""
    named, _ = unwrap(read(path), path)
    return collect(named, path)


def refused(path, words, reader=load):
    """Checks that a file is refused in one line that names it and holds the words; returns the line."""
    with pytest.raises(UserError) as error:
        reader(path)
    message = str(error.value)
    assert str(path) in message and words in message and "\n" not in message and len(message) < 700
    return message
