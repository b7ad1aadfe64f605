"""Frozen parts of a model: layers that do not train, and batch norms on stored statistics.

What is frozen must come from trained weights: initial values would stay as they were drawn. `training.start` checks it
when a training begins, and `training.trainer` says it in one line before step 1.
"""

import inspect
import re
from typing import NamedTuple

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.layers import FrozenBatchNormalization

NAMED = 4  # layers in a message


class Frozen(NamedTuple):
    """What is frozen in one part of a model."""

    part: str  # "backbone", "neck", "stage 1's mask head", ...
    owner: object  # the layer that gin has built
    layers: tuple  # names of what does not train, "backbone/stage1": blocks of a stage are one
    norms: int  # batch norms on stored statistics

    def __str__(self):
        words = []
        if self.layers:
            more = f" and {len(self.layers) - NAMED} more" if len(self.layers) > NAMED else ""
            words.append(f"weights of {', '.join(self.layers[:NAMED])}{more}{self._setting('frozen_stages')}")
        if self.norms:
            words.append(f"statistics of {self.norms} batch norms in the {self.part}{self._setting('norm')}")
        return "; ".join(words)

    def _setting(self, parameter):
        kind = type(self.owner)
        return f" ({kind.__name__}.{parameter})" if parameter in inspect.signature(kind).parameters else ""


def find_frozen(model):
    """-> a Frozen for each part of an HTC, with variables, that has something frozen."""
    parts = {name: getattr(model, name, None) for name in ("backbone", "neck", "rpn", "semantic_head")}
    for number, stage in enumerate(getattr(model, "stages", ()), start=1):
        parts |= {f"stage {number}'s box head": stage.box_head}
        parts |= {f"stage {number}'s mask head": stage.mask_head if model.masks else None}
    found = [look(name.replace("_", " "), part) for name, part in parts.items() if part is not None]
    return [frozen for frozen in found if frozen.layers or frozen.norms]


def look(name, part):
    layers = [layer for layer in (part, *part.submodules) if isinstance(layer, tf.keras.layers.Layer)]
    norms = [layer for layer in layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    # A keras-cv backbone has plain batch norms and calls them all as in inference.
    stored = getattr(part, "frozen_statistics", False)
    still = [n for n in norms if stored or not n.trainable or isinstance(n, FrozenBatchNormalization)]
    own = {id(v) for norm in norms for v in norm.weights}
    names = [v.name for layer in layers if not layer.trainable for v in layer.weights if id(v) not in own]
    # "htc/backbone/stage1_block2/conv1/conv/kernel:0" -> "backbone/stage1"
    short = [re.sub(r"_block\d+$", "", "/".join(name.split("/")[1:3])) for name in names]
    return Frozen(name, part, tuple(dict.fromkeys(short)), len(still))


def check_taught(model, backbone):
    """Refuses frozen parts that have initial values.

    Args:
        model: an HTC, with variables.
        backbone: whether the backbone has trained weights; the rest has none.
    Raises:
        UserError: something else is frozen; what, and what to do.
    """
    untaught = [frozen for frozen in find_frozen(model) if frozen.part != "backbone" or not backbone]
    if untaught:
        raise UserError(
            f"this training starts from initial values, and these would stay so: {'; '.join(map(str, untaught))}. Give "
            "--backbone_weights FILE (for a backbone) or --init_from RUN; or let all of it learn: --gin_file "
            "gin/options/from_scratch.gin for a ResNet, else by the parameters in parentheses"
        )


def first_line(model, source, first_step):
    """What a training says before its first step: where its weights come from, and what is frozen.

    Args:
        source: what `start.initialise` has returned.
        first_step: 0, or the step that an earlier process has saved.
    """
    begin = f"{'resuming' if first_step else 'starting'} from {source or 'initial values, drawn by --seed'}"
    frozen = find_frozen(model)
    return f"{begin}; frozen: {'; '.join(map(str, frozen))}" if frozen else f"{begin}; nothing is frozen"
