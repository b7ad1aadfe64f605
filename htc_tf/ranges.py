"""Value ranges of gin parameters: declared as a decorator of the configurable, checked at each call.

    @gin.register
    @check_ranges(channels=whole(1), drop_path=number(0, below=1))
    class Backbone: ...

A value out of range raises a UserError of one line that names the parameter: "Backbone.channels = 0: must be a whole
number, at least 1". The attribute `__ranges__` keeps the declarations, so that a test finds parameters without one.
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

MAX_TEXT = 80  # characters of a refused value in a message
MAX_ITEMS = 1000  # of a list
MAX_WHOLE = 10**9  # no parameter may ask for more of anything than a machine holds


@dataclass(frozen=True)
class Number:
    """Range of finite numbers: `minimum` and `maximum` are inside, `above` and `below` are not."""

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    whole: bool = False

    def allows(self, value):
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        # NaN fails every comparison; an int beyond the largest float would overflow later.
        finite = abs(value) < sys.float_info.max
        return finite and self.above < value < self.below and self.minimum <= value <= self.maximum

    def __str__(self):
        words = ["a whole number" if self.whole else "a number"]
        words += [f"at least {self.minimum}"] if self.minimum > -math.inf else []
        words += [f"more than {self.above}"] if self.above > -math.inf else []
        words += [f"at most {self.maximum}"] if self.maximum < math.inf else []
        words += [f"less than {self.below}"] if self.below < math.inf else []
        return ", ".join(words)


@dataclass(frozen=True)
class Each:
    """Range of lists and tuples: every item is within `item`; their number is `count`, or `minimum` to `maximum`."""

    item: Any
    count: int | None = None
    minimum: int = 1
    maximum: int = MAX_ITEMS

    def allows(self, value):
        if not isinstance(value, (list, tuple)) or len(value) > MAX_ITEMS or not all(map(self.item.allows, value)):
            return False
        return len(value) == self.count if self.count is not None else self.minimum <= len(value) <= self.maximum

    def __str__(self):
        size = self.count if self.count is not None else f"{self.minimum} to {self.maximum}"
        return f"a list of {size} items, each {self.item}"


@dataclass(frozen=True)
class Choice:
    """Range of a few values, which must also have the same type: 1 is not True."""

    values: tuple

    def allows(self, value):
        return any(type(value) is type(choice) and value == choice for choice in self.values)

    def __str__(self):
        return f"one of {', '.join(map(repr, self.values))}" if len(self.values) > 1 else repr(self.values[0])


@dataclass(frozen=True)
class Text:
    """Range of all strings but the empty one."""

    def allows(self, value):
        return isinstance(value, str) and value != ""

    def __str__(self):
        return "a string"


@dataclass(frozen=True)
class AnyOf:
    """Union of several ranges."""

    ranges: tuple

    def allows(self, value):
        return any(allowed.allows(value) for allowed in self.ranges)

    def __str__(self):
        return ", or ".join(map(str, self.ranges))


def number(minimum=-math.inf, maximum=math.inf, above=-math.inf, below=math.inf):
    return Number(minimum, maximum, above, below)


def whole(minimum=0, maximum=MAX_WHOLE):
    return Number(minimum, maximum, whole=True)


def choice(*values):
    return Choice(values)


def either(*ranges):
    return AnyOf(ranges)


def optional(allowed):
    return AnyOf((allowed, Choice((None,))))


FLAG = choice(True, False)
TEXT = Text()
FRACTION = number(0, 1)
CHANNELS = whole(1, 2**16)
SIDE = whole(1, 2**15)  # side of an image, pixels


def check_range(name, value, allowed):
    """Checks one value.

    Args:
        name: Name of the parameter as a user writes it, such as "Experiment.clip_norm".
        value: Its value.
        allowed: A Number, Each, Choice or AnyOf.
    Raises:
        UserError: The value is out of range.
    """
    if not allowed.allows(value):
        try:
            shown = repr(value)
        except ValueError:  # Python refuses to print an integer of thousands of digits
            shown = "a value too long to print"
        shown = re.sub(r" at 0x[0-9a-f]+", "", shown)
        shown = shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + "…"
        raise UserError(f"{name} = {shown}: must be {allowed}")


def check_built(name, value):
    """Checks that a value is no class: `@ResNet` instead of `@ResNet()` would fail much later, with an obscure error.

    Raises:
        UserError: The value or one of its items is a class, and the parameter takes instances.
    """
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if inspect.isclass(item) and not name.endswith(".build_model"):
            raise UserError(f"{name} = @{item.__name__} is a class: add () for an instance, @{item.__name__}()")


def check_ranges(**ranges):
    """Decorates a class or a function so that each call first checks the arguments named here, defaults included.

    A subclass that calls `super().__init__` is also checked by the ranges of its base, and named in the error.
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
            except TypeError:  # for a missing or unknown argument Python's own message names the function
                return function(*args, **kwargs)
            arguments.apply_defaults()
            owner = type(args[0]).__name__ if inspect.isclass(target) else target.__name__
            for name, value in arguments.arguments.items():
                check_built(f"{owner}.{name}", value)
                if name in ranges:
                    check_range(f"{owner}.{name}", value, ranges[name])
            return function(*args, **kwargs)

        # gin and Keras read a signature without following `__wrapped__`.
        checked.__signature__ = signature
        if not inspect.isclass(target):
            checked.__ranges__ = ranges
            return checked
        target.__init__, target.__ranges__ = checked, {**getattr(target, "__ranges__", {}), **ranges}
        return target

    return decorate


def check_bindings(function, bindings):
    """Checks the gin bindings of a function, {parameter: value}, before its first call."""
    for name, value in bindings.items():
        allowed = getattr(function, "__ranges__", {}).get(name)
        if allowed is not None:
            check_range(f"{function.__name__}.{name}", value, allowed)
