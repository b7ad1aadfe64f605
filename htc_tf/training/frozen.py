"""Frozen parts of a model: layers that are not trained, and batch norms on stored statistics.

Frozen parts need trained weights: initial values would stay. `training.first_weights` checks this when a training
begins, and `training.trainer` prints the frozen parts before step 1.
"""

import inspect
import re
from typing import NamedTuple

import tensorflow as tf

from htc_tf.errors import UserError, listed
from htc_tf.models.norms import FrozenBatchNormalization

MAX_NAMES = 4  # layers in a message


class Frozen(NamedTuple):
    """The frozen layers and norms of one part of a model."""

    part: str  # "backbone", "neck", "stage 1 mask head", ...
    owners: tuple  # layers that gin has built: the part, and the backbones in it
    layers: tuple  # names of frozen layers, such as "backbone/stage1": the blocks of a stage are one
    norms: int  # batch norms on stored statistics
    variables: frozenset  # ids of the variables that are not trained

    def __str__(self):
        words = []
        if self.layers:
            words.append(f"weights of {listed(self.layers, MAX_NAMES)}{self._setting('frozen_stages')}")
        if self.norms:
            words.append(f"statistics of {self.norms} batch norms in the {self.part}{self._setting('norm')}")
        return "; ".join(words)

    def _setting(self, parameter):
        kinds = dict.fromkeys(type(owner) for owner in self.owners if has_parameter(owner, parameter))
        return f" ({', '.join(f'{kind.__name__}.{parameter}' for kind in kinds)})" if kinds else ""


def has_parameter(layer, name):
    return name in inspect.signature(type(layer)).parameters


def find_parts(model):
    """Returns {name: layer} of the parts of an HTC, or {"network": model} of another model."""
    names = ("backbone", "neck", "rpn", "semantic_head", "context_head", "relay")
    parts = {name: getattr(model, name, None) for name in names}
    for number, stage in enumerate(getattr(model, "stages", ()), start=1):
        parts |= {f"stage {number} box head": stage.box_head}
        parts |= {f"stage {number} mask head": stage.mask_head if model.masks else None}
    found = {name.replace("_", " "): part for name, part in parts.items() if part is not None}
    return found or {"network": model}


def find_frozen(model):
    """Returns a Frozen for each part of an HTC that has frozen layers or norms. The model must have variables."""
    found = [inspect_part(name, part) for name, part in find_parts(model).items()]
    return [frozen for frozen in found if frozen.layers or frozen.norms]


def inspect_part(name, part):
    """Returns the Frozen of one part."""
    layers = [layer for layer in (part, *part.submodules) if isinstance(layer, tf.keras.layers.Layer)]
    norms = [layer for layer in layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    # A keras-cv backbone has ordinary batch norms and calls all of them in inference mode.
    stored = getattr(part, "frozen_statistics", False)
    still = [n for n in norms if stored or not n.trainable or isinstance(n, FrozenBatchNormalization)]
    own = {id(v) for norm in norms for v in norm.weights}
    frozen = [v for layer in layers if not layer.trainable for v in layer.weights if id(v) not in own]
    # A composite backbone or a recursive neck holds backbones, which have a name of their own in those of variables.
    inner = [layer for layer in layers if layer is not part and has_parameter(layer, "frozen_stages")]
    names = {layer.name for layer in inner}

    def shorten(name):
        # "htc/backbone/stage1_block2/conv1/conv/kernel:0" -> "backbone/stage1" or, in a part, "backbone/lead/stage1"
        steps = name.split("/")[1:]
        return re.sub(r"_block\d+$", "", "/".join(steps[: 3 if steps[1] in names else 2]))

    variables = frozenset(id(v) for v in [*frozen, *(v for norm in still for v in norm.non_trainable_weights)])
    return Frozen(name, (part, *inner), tuple(dict.fromkeys(shorten(v.name) for v in frozen)), len(still), variables)


def check_frozen(model, trained=(), backbone=None):
    """Refuses frozen parts that have initial values.

    Args:
        model: HTC with variables.
        trained: Ids of the variables that have trained weights.
        backbone: str, name of the configuration's weights of the backbone, for the message, or None.
    Raises:
        UserError: Variables of a part are frozen without trained weights; the message names the part and the remedies.
    """
    trained = set(trained)
    untrained = [frozen for frozen in find_frozen(model) if not frozen.variables <= trained]
    if untrained:
        own = f"--backbone_weights {backbone or 'NAME'} (for the backbone) or "
        raise UserError(
            "frozen parts need trained weights, and these would keep initial values: "
            f"{'; '.join(map(str, untrained))}. Give {own if untrained[0].part == 'backbone' else ''}"
            "--init_from SOURCE; or train all of it: --gin_file gin/options/from_scratch.gin for a ResNet, else by the "
            "parameters in parentheses"
        )


def describe_start(model, source, first_step):
    """Returns the line that a training prints before its first step: the source of its weights, and its frozen parts.

    Args:
        model: HTC with variables.
        source: str or None, returned by `first_weights.initialize`.
        first_step: int, 0 or the step that an earlier process has saved.
    """
    begin = f"{'resuming' if first_step else 'starting'} from {source or 'initial values, drawn by --seed'}"
    frozen = find_frozen(model)
    return f"{begin}; frozen: {'; '.join(map(str, frozen))}" if frozen else f"{begin}; nothing is frozen"
