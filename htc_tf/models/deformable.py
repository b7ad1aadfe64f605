"""Deformable convolution layer: a small convolution predicts the offsets, and in version 2 the weights, of the taps.

`layers.Convolution` creates it in the deformable stages of a ResNet; `ops.deformable` has the arithmetic.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops.deformable import deformable_conv2d


class DeformableConv2D(tf.keras.layers.Conv2D):
    """A deformable convolution without bias, padded symmetrically.

    All offsets are zero initially: version 1 starts as the ordinary convolution, version 2 as half of it.
    """

    def __init__(
        self, channels, kernel, stride=1, groups=1, version=2, deform_groups=1, initializer="he_normal", name=None
    ):
        """
        Args:
            channels, kernel, stride, groups, initializer: As in `layers.Convolution`.
            version: int, 1 for learned offsets (arXiv:1703.06211), 2 for learned weights of the taps as well
                (arXiv:1811.11168).
            deform_groups: int, groups of input channels that have offsets of their own.
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
        """Returns [B, ceil(H / stride), ceil(W / stride), channels] of x [B, H, W, C]."""
        margin = [self.margin, self.margin]
        # [B, H', W', deform_groups * (version + 1) * kernel^2]
        offsets, mask = self.offsets(tf.pad(x, [[0, 0], margin, margin, [0, 0]])), None
        if self.version == 2:
            # Two thirds of the channels are offsets and the last third is the mask, as in mmcv.
            *offsets, mask = tf.split(offsets, 3, axis=-1)
            offsets, mask = tf.concat(offsets, axis=-1), tf.sigmoid(mask)
        kernel = tf.convert_to_tensor(self.kernel)
        return deformable_conv2d(x, offsets, mask, kernel, self.strides[0], self.groups)
