"""Parameter groups: weights that learn or decay more or less than the others, chosen by name.

`training.optim` builds optimisers by them.
"""

import math
import re

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ranges import check_range, number


class ParameterGroups:
    """((pattern, rate multiplier, decay multiplier), ...), such as (("backbone/", 0.1, 1.0), ("norm|bias", 1.0, 0.0)).

    A pattern is a regular expression searched for in a variable's name, such as
    "htc/backbone/stage2_block1/conv1/conv/kernel:0". Where several are found, all their multipliers apply.
    """

    def __init__(self, groups, owner, default=()):
        """
        Args:
            groups: the triples; None for the default ones.
            owner: whose they are, for messages, such as "SGD.groups".
            default: triples of which nobody expects that there are such weights.
        Raises:
            UserError: a triple is malformed.
        """
        self.owner, self.groups, self.multipliers = owner, [], ()
        self.expected = groups is not None
        for group in groups if self.expected else default:
            try:
                pattern, rate, decay = group
                for multiplier in (rate, decay):
                    check_range(f"{owner}: a multiplier", multiplier, number(0, 1000))
                self.groups.append((re.compile(pattern), float(rate), float(decay)))
            except (TypeError, ValueError, OverflowError, RecursionError, re.error) as error:
                raise UserError(
                    f"{owner} has {group!r} ({error}): give (pattern of names, rate multiplier, decay multiplier)"
                ) from error

    def resolve(self, variables):
        """Sets `multipliers`: (rate, decay) for each of the variables.

        Raises:
            UserError: a pattern is in no name.
        """
        for pattern, _, _ in self.groups:
            if self.expected and not any(pattern.search(v.name) for v in variables):
                raise UserError(f"{self.owner}: {pattern.pattern!r} is in the name of no trained weight; misspelt?")
        self.multipliers = [
            tuple(math.prod(group[kind] for group in self.groups if group[0].search(v.name)) for kind in (1, 2))
            for v in variables
        ]

    def pairs(self):
        """The pairs of multipliers that there are, each once."""
        return sorted(set(self.multipliers))


class GroupedOptimizers(tf.Module):
    """Optimisers of Keras' older kind, one for each pair of multipliers, used together like one of the newer kind.

    tensorflow-addons' are of the older kind: they have one rate for all weights, and make their slots only when they
    first step, too late for a checkpoint.
    """

    def __init__(self, make, groups, name):
        """
        Args:
            make: rate multiplier, decay multiplier -> an optimiser.
            groups: ParameterGroups.
        """
        super().__init__(name=name)
        self.make, self.groups, self.parts = make, groups, []

    @property
    def iterations(self):
        return self.parts[0].iterations

    def build(self, variables):
        self.groups.resolve(variables)
        self.parts = [self.make(*pair) for pair in self.groups.pairs()]
        for part, members in zip(self.parts, self._divide(variables), strict=True):
            part._create_all_weights(members)

    def apply_gradients(self, gradients_and_variables, skip_gradients_aggregation):
        """Takes the variables in the order that `build` was given."""
        members = self._divide(list(gradients_and_variables))
        for part, pairs in zip(self.parts, members, strict=True):
            part.apply_gradients(pairs, experimental_aggregate_gradients=not skip_gradients_aggregation)

    def _divide(self, items):
        """The items of each part: what has the same multipliers."""
        multipliers = self.groups.multipliers
        return [[x for x, own in zip(items, multipliers, strict=True) if own == pair] for pair in self.groups.pairs()]
