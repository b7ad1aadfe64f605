"""Convolutions that the network is built from.

TensorFlow's SAME padding is asymmetric when the stride is 2. The public weights were trained with symmetric padding,
which `Convolution` therefore does explicitly.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.norms import FrozenBatchNormalization, make_norm
from htc_tf.models.switchable import StandardizedConv2D, SwitchableConv2D
from htc_tf.ops.convolution import conv2d
from htc_tf.ops.deformable import deformable_conv2d
from htc_tf.ops.grouped_convolution import grouped_conv2d


class DenseConv2D(tf.keras.layers.Conv2D):
    """Keras' Conv2D; in training, kernels larger than 1x1 at stride 1 use the gradient of `ops.convolution`.

    Keras passes `training` on from the layers around it. In inference the plain operation stays, because TensorFlow
    cannot fuse bias and ReLU with an operation that has a custom gradient.
    """

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.convolve(x, tf.convert_to_tensor(self.kernel), self.bias, training)

    def convolve(
        self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, training: bool | None = None
    ) -> tf.Tensor:
        """Computes `call` with these weights, of x's type, in place of the layer's own."""
        if training and self.strides == (1, 1) and self.kernel_size != (1, 1):
            x = conv2d(x, kernel)
        else:
            x = tf.nn.conv2d(x, kernel, self.strides, self.padding.upper())
        return x if bias is None else tf.nn.bias_add(x, bias)


class GroupedConv2D(tf.keras.layers.Conv2D):
    """Keras' Conv2D in groups of channels, with a gradient on CPUs too.

    Its kernel is [k, k, C / groups, channels].
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.convolve(x, tf.convert_to_tensor(self.kernel), self.bias)

    def convolve(
        self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, training: bool | None = None
    ) -> tf.Tensor:
        """Computes `call` with these weights, of x's type, in place of the layer's own."""
        x = grouped_conv2d(x, kernel, self.strides[0], self.groups, self.padding.upper())
        return x if bias is None else tf.nn.bias_add(x, bias)


class DeformableConv2D(tf.keras.layers.Conv2D):
    """A deformable convolution (`ops.deformable`) without bias, padded symmetrically.

    A small convolution predicts the offsets of the taps and, in version 2, their weights. All offsets are zero
    initially: version 1 starts as the ordinary convolution, version 2 as half of it.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        version: int = 2,
        deform_groups: int = 1,
        initializer: str | tf.keras.initializers.Initializer = "he_normal",
        name: str | None = None,
    ) -> None:
        """
        Args:
            channels, kernel, stride, groups, initializer: As in `Convolution`.
            version: int, 1 for learned offsets (arXiv:1703.06211), 2 for learned weights of the taps as well
                (arXiv:1811.11168).
            deform_groups: int, groups of input channels that have offsets of their own.
        """
        if version not in (1, 2):
            raise UserError(f"deformable = {version!r} is unknown; choose 1, 2 (modulated) or None")
        # "same" lets Keras build it on a map smaller than the kernel; `call` pads by itself.
        options = {"padding": "same", "use_bias": False, "kernel_initializer": initializer, "name": name}
        super().__init__(channels, kernel, stride, groups=groups, **options)
        self.version = version
        self.margin = (kernel - 1) // 2
        self.offsets = tf.keras.layers.Conv2D(
            deform_groups * (version + 1) * kernel**2, kernel, stride, kernel_initializer="zeros", name="offsets"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
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


class Convolution(tf.keras.layers.Layer):
    """A convolution with symmetric padding, then optionally a norm and a ReLU.

    A frozen batch norm is folded into the kernel and a bias (`ops.folded_norm`), so that the backward pass needs no
    copy of the norm's input.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        norm: str | None = None,
        relu: bool = False,
        bias: bool | None = None,
        initializer: str | tf.keras.initializers.Initializer = "he_normal",
        norm_scale: str | tf.keras.initializers.Initializer = "ones",
        groups: int = 1,
        deformable: int | None = None,
        standardized: bool = False,
        switchable: bool = False,
        name: str | None = None,
    ) -> None:
        """
        Args:
            channels: int, output channels.
            kernel: int, side of the kernel, odd.
            stride: int, 1 or 2.
            norm: str, a kind of `make_norm`, or None.
            relu: If True, the output passes a ReLU.
            bias: If True, a bias is added; None for one where no norm follows.
            initializer: Initializer of the kernel.
            norm_scale: Initializer of the norm's scale.
            groups: int, groups of channels that are convolved separately; several have no bias.
            deformable: int, version 1 or 2 of `DeformableConv2D`, which has no bias either; None for an ordinary
                convolution.
            standardized: If True, the convolution is a `StandardizedConv2D`, which has no bias and no groups either.
            switchable: If True, it is a `SwitchableConv2D`, which has a kernel of 3, no bias, no groups and as
                many inputs as outputs.
        """
        super().__init__(name=name, dtype="float32", autocast=False)  # so that kernels are folded in float32
        self.margin = (kernel - 1) // 2 if stride > 1 and not (deformable or switchable) else 0
        common = {"kernel_initializer": initializer, "padding": "valid" if self.margin else "same", "name": "conv"}
        if deformable:
            self.convolution = DeformableConv2D(
                channels, kernel, stride, groups, deformable, initializer=initializer, name="conv"
            )
        elif switchable:
            self.convolution = SwitchableConv2D(channels, stride, initializer=initializer, name="conv")
        elif standardized:
            self.convolution = StandardizedConv2D(channels, kernel, stride, **common)
        elif groups > 1:
            self.convolution = GroupedConv2D(channels, kernel, stride, groups=groups, use_bias=False, **common)
        else:
            bias = norm is None if bias is None else bias
            self.convolution = DenseConv2D(channels, kernel, stride, use_bias=bias, **common)
        self.norm = make_norm(norm, scale=norm_scale)
        self.batch_statistics = isinstance(self.norm, tf.keras.layers.BatchNormalization)
        self.relu = relu

    @property
    def offsets(self) -> tf.keras.layers.Layer | None:
        """The convolution that predicts a deformable convolution's offsets, else None."""
        return getattr(self.convolution, "offsets", None)

    @property
    def folded_norm(self) -> FrozenBatchNormalization | None:
        """The norm, if the kernel and a bias contain it, else None."""
        plain = isinstance(self.convolution, (DenseConv2D, GroupedConv2D)) and not self.convolution.use_bias
        return self.norm if plain and isinstance(self.norm, FrozenBatchNormalization) else None

    def build(self, shape: tf.TensorShape) -> None:
        """Makes the variables of the convolution and the norm if the norm is folded: then neither is called."""
        if (norm := self.folded_norm) is not None:
            with tf.name_scope(self.convolution.name):
                self.convolution.build(shape)
            with tf.name_scope(norm.name):
                norm.build([*shape[:-1], self.convolution.filters])

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns [B, ceil(H / stride), ceil(W / stride), channels] of x [B, H, W, C]."""
        if self.margin:
            x = tf.pad(x, [[0, 0], [self.margin, self.margin], [self.margin, self.margin], [0, 0]])
        if (norm := self.folded_norm) is not None:
            kernel, bias = norm.fold(tf.convert_to_tensor(self.convolution.kernel))
            x, kernel, bias = (tf.cast(part, self.convolution.compute_dtype) for part in (x, kernel, bias))
            x = self.convolution.convolve(x, kernel, bias, training)
        else:
            x = self.convolution(x)
            if self.norm is not None:
                x = self.norm(x, training=training) if self.batch_statistics else self.norm(x)
        return tf.nn.relu(x) if self.relu else x
