"""Command-line flags: a parser that reports a mistake in one line, and argparse types for numbers within a range.

It imports nothing slow, so that `--help` stays fast.
"""

import argparse
import math

from htc_tf.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser with UserErrors: one line instead of the usage of every flag."""

    def error(self, message):
        raise UserError(f"{message.removeprefix('argument ')}; --help lists all flags")


def whole(low, high=math.inf):
    """Returns an argparse type: an integer from low to high, both included."""
    return _checked(int, low, high, "a whole number")


def number(low, high=math.inf):
    """Returns an argparse type: a finite float from low to high, both included."""
    return _checked(float, low, high, "a number")


def _checked(kind, low, high, noun):
    expected = f"{noun}, {low} or more" if high == math.inf else f"{noun} from {low} to {high}"

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and abs(value) < math.inf):
            raise argparse.ArgumentTypeError(f"{text}: give {expected}")
        return value

    return convert


positive = whole(1)
fraction = number(0, 1)
batch = whole(1, 1024)  # images per call
port = whole(0, 65535)
seed = whole(0, 2**32 - 1)  # the seeds that NumPy accepts
