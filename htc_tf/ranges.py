"""Allowed values of parameters: declared beside each gin configurable, checked when it is called.

    @gin.register
    @check_ranges(channels=whole(1), drop_path=number(0, below=1))
    class Backbone: ...

A value outside is a UserError of one line that names the parameter: `Backbone.channels = 0: must be a whole number, at
least 1`. The declarations are kept in `__ranges__`, so that a test can find parameters without one.
"""

import functools
import inspect
import math
import numbers
import re
import sys
from dataclasses import dataclass
from typing import Any

from htc_tf.errors import UserError

# Longest text of a refused value in a message.
SHOWN = 80
# Bound of every whole number: what is built from one must not take the machine.
MOST = 10**9


@dataclass(frozen=True)
class Number:
    """A finite number within bounds, `least` and `most` included, `above` and `below` not."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    whole: bool = False

    def allows(self, value):
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        # NaN compares false; an int beyond any float is as good as infinite.
        finite = abs(value) < sys.float_info.max
        return finite and self.above < value < self.below and self.least <= value <= self.most

    def __str__(self):
        words = ["a whole number" if self.whole else "a number"]
        words += [f"at least {self.least}"] if self.least > -math.inf else []
        words += [f"more than {self.above}"] if self.above > -math.inf else []
        words += [f"at most {self.most}"] if self.most < math.inf else []
        words += [f"less than {self.below}"] if self.below < math.inf else []
        return ", ".join(words)


@dataclass(frozen=True)
class Each:
    """A list or tuple of `count` items (any number from `least` on where None), each within `item`."""

    item: Any
    count: int | None = None
    least: int = 1

    def allows(self, value):
        if not isinstance(value, (list, tuple)) or not all(map(self.item.allows, value)):
            return False
        return len(value) == self.count if self.count is not None else len(value) >= self.least

    def __str__(self):
        size = f"{self.count} items" if self.count is not None else f"{self.least} or more items"
        return f"a list{f' of {size}' if self.count or self.least else ''}, each {self.item}"


@dataclass(frozen=True)
class Choice:
    """One of some values, of the same type: 1 is not True."""

    values: tuple

    def allows(self, value):
        return any(type(value) is type(choice) and value == choice for choice in self.values)

    def __str__(self):
        return f"one of {', '.join(map(repr, self.values))}" if len(self.values) > 1 else repr(self.values[0])


@dataclass(frozen=True)
class AnyOf:
    """Within one of several ranges."""

    ranges: tuple

    def allows(self, value):
        return any(allowed.allows(value) for allowed in self.ranges)

    def __str__(self):
        return ", or ".join(map(str, self.ranges))


def number(least=-math.inf, most=math.inf, above=-math.inf, below=math.inf):
    """A finite number within bounds, as `Number`."""
    return Number(least, most, above, below)


def whole(least=0, most=MOST):
    """A whole number from `least` to `most`."""
    return Number(least, most, whole=True)


def choice(*values):
    return Choice(values)


def optional(allowed):
    """None, or a value within `allowed`."""
    return AnyOf((allowed, Choice((None,))))


FLAG = choice(True, False)
FRACTION = number(0, 1)
CHANNELS = whole(1, 2**16)
SIDE = whole(1, 2**15)  # of an image, pixels


def check_range(name, value, allowed):
    """
    Args:
        name: of the parameter, as a user writes it: "Experiment.clip_norm".
        value: what it was given.
        allowed: a Number, Each, Choice or AnyOf.
    Raises:
        UserError: the value is not allowed.
    """
    if not allowed.allows(value):
        try:
            shown = repr(value)
        except ValueError:  # Python writes no whole number of thousands of digits
            shown = "a value too long to be shown"
        shown = re.sub(r" at 0x[0-9a-f]+", "", shown)
        shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"
        raise UserError(f"{name} = {shown}: must be {allowed}")


def check_built(name, value):
    """A class in place of an object: `@ResNet` for `@ResNet()`. It would fail far from here.

    Raises:
        UserError: the value, or an item of it, is a class, and `name` is not of a parameter that takes one.
    """
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if inspect.isclass(item) and not name.endswith(".build_model"):
            raise UserError(f"{name} = @{item.__name__}: a part is built by its (), @{item.__name__}()")


def check_ranges(**ranges):
    """Decorates a class or a function: each call checks the arguments named here, defaults included, before anything.

    A subclass that calls `super().__init__` is checked by the ranges of its base too, under its own name.
    """

    def decorate(target):
        function = target.__init__ if inspect.isclass(target) else target
        signature = inspect.signature(function)
        unknown = ranges.keys() - signature.parameters.keys()
        if unknown:
            raise TypeError(f"{target.__qualname__} has no parameters {sorted(unknown)}")

        @functools.wraps(function)
        def checked(*args, **kwargs):
            try:
                arguments = signature.bind(*args, **kwargs)
            except TypeError:  # a missing or unknown argument: Python's own message names the function
                return function(*args, **kwargs)
            arguments.apply_defaults()
            owner = type(args[0]).__name__ if inspect.isclass(target) else target.__name__
            for name, value in arguments.arguments.items():
                check_built(f"{owner}.{name}", value)
                if name in ranges:
                    check_range(f"{owner}.{name}", value, ranges[name])
            return function(*args, **kwargs)

        # gin and Keras read the signature without following wrappers.
        checked.__signature__ = signature
        if not inspect.isclass(target):
            checked.__ranges__ = ranges
            return checked
        target.__init__, target.__ranges__ = checked, {**getattr(target, "__ranges__", {}), **ranges}
        return target

    return decorate


def check_bindings(function, bindings):
    """Checks a registered function's gin bindings, {parameter: value}, before it is called."""
    for name, value in bindings.items():
        allowed = getattr(function, "__ranges__", {}).get(name)
        if allowed is not None:
            check_range(f"{function.__name__}.{name}", value, allowed)
