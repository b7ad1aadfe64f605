"""Flags of the commands: a parser that reports a mistake in one line, and ranges of numbers as argparse types.

Nothing heavy is imported: `--help` stays quick.
"""

import argparse
import math

from htc_tf.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are UserErrors: one line instead of the usage of every flag."""

    def error(self, message):
        raise UserError(f"{message.removeprefix('argument ')}; --help lists all flags")


def whole(low, high=math.inf):
    """An argparse type: an int from low to high, both included."""
    return _checked(int, low, high, "a whole number")


def number(low, high=math.inf):
    """An argparse type: a finite float from low to high, both included."""
    return _checked(float, low, high, "a number")


def _checked(kind, low, high, noun):
    wanted = f"{noun}, {low} or more" if high == math.inf else f"{noun} from {low} to {high}"

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and abs(value) < math.inf):
            raise argparse.ArgumentTypeError(f"{text}: give {wanted}")
        return value

    return convert


positive = whole(1)
fraction = number(0, 1)  # scores and shares
batch = whole(1, 1024)  # images at once
port = whole(0, 65535)
seed = whole(0, 2**32 - 1)  # what NumPy's generator takes
