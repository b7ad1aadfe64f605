"""Composite backbone of CBNetV2 (Liang et al., arXiv:2107.00420): two backbones of one kind, one after the other.

The assistant's features of a level and of all higher ones are added to the input of the lead's stage of that level
(dense higher-level composition, section 3.2). The neck and the heads work on the lead's features. In training they also
work on the assistant's, whose losses count less (section 3.3; see `HTCLoss.assistant_weight`).
"""

from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.fpn import LEVELS, upsample
from htc_tf.models.layers import Convolution
from htc_tf.models.norms import NORM
from htc_tf.ranges import check_ranges
from htc_tf.structures import FeatureMaps


@gin.register
@check_ranges(norm=NORM)
class Composite(tf.keras.layers.Layer):
    """Two backbones, such as two Swins or two ResNets, that share their first layers.

    A backbone for it has
    - `width`, the channels of C2, which each further level doubles;
    - `levels_up`, by how many levels the features of a stage are above its input: 0 or 1;
    - a method `share`, which returns the input, at stride 4, of the first stage that is not shared;
    - the arguments `shared` and `added` of Swin's `call`.
    """

    def __init__(
        self,
        assistant: tf.keras.layers.Layer,
        lead: tf.keras.layers.Layer,
        norm: str | None = None,
        name: str = "backbone",
    ) -> None:
        """
        Args:
            assistant: Swin, ResNet or another such backbone.
            lead: Another backbone like it, with another name. It has no weights of the shared layers.
            norm: str, a kind of `norms.make_norm` after each 1x1 convolution between the two; None for a bias.
        """
        super().__init__(name=name)
        kind = type(lead).__name__
        if not hasattr(lead, "share"):
            raise UserError(f"Composite.lead: {kind} has no layers to share; bind two Swins, ResNets or Res2Nets")
        if type(assistant) is not type(lead) or assistant.width != lead.width:
            raise UserError("Composite.assistant and Composite.lead differ: bind two backbones of one kind and width")
        if assistant.name == lead.name:
            raise UserError(
                f"Composite.assistant and Composite.lead are both named {lead.name!r}: bind @assistant/{kind}() and "
                f"@lead/{kind}(), with assistant/{kind}.name = 'assistant' and lead/{kind}.name = 'lead'"
            )
        self.parts, self.norm = [assistant, lead], norm
        self.links = [self.make_links(level) for level in LEVELS]

    def make_links(self, level: int) -> list[Convolution | None]:
        """Returns a list of layers: one for each of the assistant's features that the lead's stage receives, or None.

        Initially their output is zero. Features in the shape of the stage's input pass unchanged.
        """
        lead = self.parts[1]
        target = level - lead.levels_up
        if target not in LEVELS:
            return []  # a shared stage
        width = lead.width * 2 ** (target - 2)
        initializer = "he_normal" if self.norm else "zeros"
        kind: dict[str, Any] = {"norm": self.norm, "norm_scale": "zeros", "initializer": initializer}
        return [
            None if source == target else Convolution(width, 1, name=f"link{level}_{source}", **kind)
            for source in range(level, LEVELS[-1] + 1)
        ]

    def call(self, images: tf.Tensor, training: bool | None = None) -> tuple[FeatureMaps, FeatureMaps]:
        """Returns a pair {2: C2, 3: C3, 4: C4, 5: C5}, the lead's and the assistant's, of normalized images."""
        assistant, lead = self.parts
        with tf.name_scope(assistant.name):
            shared = assistant.share(images, training=training)
        features = assistant(images, training=training, shared=shared)
        added = {
            level: self.connect(links, level, features, training)
            for level, links in zip(LEVELS, self.links, strict=True)
            if links
        }
        return lead(images, training=training, shared=shared, added=added), features

    def connect(
        self, links: Sequence[Convolution | None], level: int, features: FeatureMaps, training: bool | None
    ) -> tf.Tensor:
        """Returns the sum of the assistant's features in the shape of the input of the lead's stage."""
        target = level - self.parts[1].levels_up
        linked = []
        for source, link in enumerate(links, start=level):
            x = features[source] if link is None else link(features[source], training=training)
            linked.append(upsample(x, 2 ** (source - target)))
        return tf.add_n(linked)
