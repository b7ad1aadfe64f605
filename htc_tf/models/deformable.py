"""The layer of a deformable convolution: a small convolution foretells where, and how much, the taps read.

`layers.Convolution` makes it where a stage of the backbone is deformable (`resnet`); the arithmetic is
`ops.deformable`.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops.deformable import deformable_conv2d


class DeformableConv2D(tf.keras.layers.Conv2D):
    """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels], without bias, padded symmetrically.

    No tap moves at first: version 1 starts as the ordinary convolution, version 2 as half of it.
    """

    def __init__(
        self, channels, kernel, stride=1, groups=1, version=2, deform_groups=1, initializer="he_normal", name=None
    ):
        """
        Args:
            channels, kernel, stride, groups, initializer: as of an ordinary convolution.
            version: 1: taps move (arXiv:1703.06211); 2: they are weighted as well (arXiv:1811.11168).
            deform_groups: groups of input channels, each of which moves in its own way.
        """
        if version not in (1, 2):
            raise UserError(f"deformable = {version!r} is unknown; choose 1, 2 (modulated) or None")
        super().__init__(
            channels, kernel, stride, groups=groups, use_bias=False, kernel_initializer=initializer, name=name
        )
        self.version = version
        self.margin = (kernel - 1) // 2
        self.offsets = tf.keras.layers.Conv2D(
            deform_groups * (version + 1) * kernel**2, kernel, stride, kernel_initializer="zeros", name="offsets"
        )

    def call(self, x):
        margin = [self.margin, self.margin]
        offsets, mask = self.offsets(tf.pad(x, [[0, 0], margin, margin, [0, 0]])), None
        if self.version == 2:
            # Two thirds are offsets and the last the mask, as mmcv has them.
            *offsets, mask = tf.split(offsets, 3, axis=-1)
            offsets, mask = tf.concat(offsets, axis=-1), tf.sigmoid(mask)
        kernel = tf.convert_to_tensor(self.kernel)
        return deformable_conv2d(x, offsets, mask, kernel, self.strides[0], self.groups)
