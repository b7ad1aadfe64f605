"""Parameter groups: multipliers of learning rate and weight decay for the weights whose names match a pattern."""

import math
import re

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ranges import FRACTION, check_range, check_ranges, number

NO_DECAY = (("norm|bias|gamma|beta", 1.0, 0.0),)  # gamma and beta: scale and offset of norms of any name


class LayerTriples(tuple):
    """Triples of `layer_decay`, with its patterns: `layers`, and `within` or None."""

    layers, within = (), None

    def check(self, variables):
        """Refuses weights that match `within`, but none of `layers`."""
        try:
            left = [v.name for v in variables if self.within and re.search(self.within, v.name)]
        except (TypeError, RecursionError, re.error) as error:
            raise UserError(f"layer_decay.within = {self.within!r} is not a pattern of names: {error}") from error
        left = [name for name in left if not any(re.search(pattern, name) for pattern in self.layers)]
        if left:
            raise UserError(
                f"layer_decay.layers matches {left[0]!r} with none of its {len(self.layers)} patterns ({len(left)} "
                "such weights): they would learn at the full rate; give a pattern for each block of the backbone"
            )


@gin.register
@check_ranges(rate=FRACTION)
def layer_decay(layers, rate, others=NO_DECAY, within=None):
    """Returns triples for `ParameterGroups` by which learning rates decrease from the last layer to the first.

    Layer i of n learns at rate^(n - i) of the learning rate and weights in no layer at the full one (arXiv:1801.06146,
    section 3.2), so a pretrained backbone changes least in its first layers.

    Args:
        layers: Sequence of patterns, from the first layer to the last; a pattern may join several layers of a network.
        rate: float, ratio of the learning rates of two successive layers.
        others: Further triples; by default norms and biases do not decay.
        within: Pattern of the weights that `layers` must cover, or None. A weight that matches it but no layer, such as
            a block of a deeper backbone, is an error: it would learn at the full rate.
    """
    triples = ((pattern, rate ** (len(layers) - i), 1.0) for i, pattern in enumerate(layers))
    triples = LayerTriples((*others, *triples))
    triples.layers, triples.within = layers, within
    return triples


class ParameterGroups:
    """((pattern, rate multiplier, decay multiplier), ...), such as (("backbone/", 0.1, 1.0), ("norm|bias", 1.0, 0.0)).

    A pattern is a regular expression that is searched in a variable's name, such as
    "htc/backbone/stage2_block1/conv1/conv/kernel:0". If several match, all their multipliers apply.
    """

    def __init__(self, groups, owner, default=()):
        """
        Args:
            groups: Sequence of triples, or None for `default`.
            owner: Name of the gin parameter, for messages, such as "SGD.groups".
            default: Triples used without `groups`; unlike those, they may match no weight.
        Raises:
            UserError: A triple is malformed.
        """
        self.owner, self.groups, self.multipliers = owner, [], ()
        self.layers = groups if isinstance(groups, LayerTriples) else LayerTriples()
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
        """Sets `multipliers`, a (rate, decay) pair per variable.

        Raises:
            UserError: A pattern matches no name, or `layer_decay` leaves out a weight that it must not.
        """
        for pattern, _, _ in self.groups:
            if self.expected and not any(pattern.search(v.name) for v in variables):
                raise UserError(f"{self.owner}: {pattern.pattern!r} matches no trained weight: check its spelling")
        self.layers.check(variables)
        self.multipliers = [
            tuple(math.prod(group[kind] for group in self.groups if group[0].search(v.name)) for kind in (1, 2))
            for v in variables
        ]

    def pairs(self):
        """Returns the distinct pairs of multipliers, sorted."""
        return sorted(set(self.multipliers))


class GroupedOptimizers(tf.Module):
    """Legacy Keras optimizers, one per pair of multipliers, behind the interface of a current one.

    tensorflow-addons' optimizers and those of `training.legacy_optimizers` are legacy ones: they have one rate for all
    weights, and create their slots in their first step, too late for restoring a checkpoint. The package's list of
    weights excluded from decay compares variables by reference, which fails for the components of mirrored variables.
    """

    def __init__(self, make, groups, name):
        """
        Args:
            make: Function that returns an optimizer for a rate multiplier and a decay multiplier.
            groups: ParameterGroups.
        """
        super().__init__(name=name)
        self.make, self.groups, self.parts = make, groups, []

    @property
    def iterations(self):
        return self.parts[0].iterations

    @property
    def variables(self):
        """All variables, of the parts too: tf.Module does not find those, because legacy optimizers are no modules."""
        return (*super().variables, *(v for part in self.parts for v in part.variables()))

    def build(self, variables):
        self.groups.resolve(variables)
        self.parts = [self.make(*pair) for pair in self.groups.pairs()]
        for part, members in zip(self.parts, self._divide(variables), strict=True):
            part._create_all_weights(members)

    def apply_gradients(self, gradients_and_variables, skip_gradients_aggregation):
        """Applies gradients; the variables come in the order given to `build`."""
        members = self._divide(list(gradients_and_variables))
        for part, pairs in zip(self.parts, members, strict=True):
            part.apply_gradients(pairs, experimental_aggregate_gradients=not skip_gradients_aggregation)

    def _divide(self, items):
        """Returns the items of each part: those with the same multipliers."""
        multipliers = self.groups.multipliers
        return [[x for x, own in zip(items, multipliers, strict=True) if own == pair] for pair in self.groups.pairs()]
