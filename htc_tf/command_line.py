"""Command-line flags: a parser with mistakes in one line and shell completion, and types for numbers within a range.

It imports nothing slow, so that `--help` stays fast.
"""

import argparse
import math
import os

from htc_tf.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser with UserErrors: one line instead of the usage of every flag.

    Attributes:
        program: The name that the usage shows, set by `htc-tf`; None for the name of the command itself.
    """

    program = None
    _completing = False

    def __init__(self, prog=None, **options):
        super().__init__(prog=self.program or prog, **options)

    def parse_known_args(self, args=None, namespace=None):
        """Parses as argparse does. Where a shell asks for completions, it prints them and ends the process."""
        if "_ARGCOMPLETE" in os.environ and not Parser._completing:
            Parser._completing = True  # argcomplete parses the words so far with this parser
            import argcomplete

            argcomplete.autocomplete(self)
        return super().parse_known_args(args, namespace)

    def _get_values(self, action, arg_strings):
        """Refuses empty words, which argparse passes on: as a path, that of an unset shell variable is this folder."""
        if "" in arg_strings and not Parser._completing:
            raise UserError(f"{'/'.join(action.option_strings) or action.dest} is empty: give a value")
        return super()._get_values(action, arg_strings)

    def given(self, flags, names):
        """Returns "--grpc, --version", those of the named flags that are not at their defaults; "" without any."""
        return ", ".join(f"--{name}" for name in names if getattr(flags, name) != self.get_default(name))

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
