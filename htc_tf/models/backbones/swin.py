"""Swin Transformer backbone (Liu et al., arXiv:2103.14030).

As in mmdetection's SwinTransformer, feature maps of any size are padded to whole windows, and each stage's output has
a layer norm of its own. Attention is computed within windows of 7 x 7 cells. Every other block shifts the windows by
half a window and masks the attention between cells that are not neighbors in the image.

Matrix products are in the precision of the run; layer norms and softmax are in float32.
"""

from collections.abc import Sequence

import gin
import numpy as np
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.drop_path import draw_seed, drop_paths, fold_in
from htc_tf.models.norms import ChannelNormalization
from htc_tf.ranges import CHANNELS, Each, check_ranges, number, whole
from htc_tf.structures import FeatureMaps

PATCH = 4  # side of an embedded patch, pixels
NORM_EPSILON = 1e-5
MASKED = -100.0  # added to the attention logits of cells that are not neighbors, as in the authors' code


def make_dense(units: int, name: str, bias: bool = True) -> tf.keras.layers.Dense:
    initializer = tf.keras.initializers.TruncatedNormal(stddev=0.02)
    return tf.keras.layers.Dense(units, use_bias=bias, kernel_initializer=initializer, name=name)


def pad_to_windows(x: tf.Tensor, window: int) -> tf.Tensor:
    """Returns x [B, H, W, C] with zeros at the bottom and the right, so that H and W are multiples of the window."""
    height, width = x.shape[1:3]
    return tf.pad(x, [[0, 0], [0, -height % window], [0, -width % window], [0, 0]])


def partition(x: tf.Tensor, window: int) -> tf.Tensor:
    """Returns the n windows of x [B, H, W, C], row by row: [B n, window^2, C]. H and W are multiples of the window."""
    height, width, channels = x.shape[1:]
    # [B, H / window, window, W / window, window, C] -> [B, H / window, W / window, window, window, C]
    x = tf.reshape(x, [-1, height // window, window, width // window, window, channels])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, window * window, channels])


def merge(windows: tf.Tensor, window: int, height: int, width: int) -> tf.Tensor:
    """Returns x [B, height, width, C] of its windows [B n, window^2, C], the inverse of `partition`."""
    channels = windows.shape[-1]
    # [B, H / window, W / window, window, window, C] -> [B, H / window, window, W / window, window, C]
    x = tf.reshape(windows, [-1, height // window, width // window, window, window, channels])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, height, width, channels])


def attention_mask(height: int, width: int, window: int) -> tf.Tensor:
    """Returns [n, 1, window^2, window^2]: MASKED where two cells of a shifted window are not neighbors in the image."""

    def regions(side):
        # 0: all windows but the last; 1: the first half of the last window; 2: cells rolled from the opposite border.
        cells = np.arange(side)
        return (cells >= side - window).astype(np.int32) + (cells >= side - window // 2)

    ids = 3 * tf.constant(regions(height))[:, tf.newaxis] + tf.constant(regions(width))  # [height, width], 0 ... 8
    ids = partition(ids[tf.newaxis, :, :, tf.newaxis], window)  # [n, window^2, 1]
    return tf.where(tf.equal(ids, tf.transpose(ids, [0, 2, 1])), 0.0, MASKED)[:, tf.newaxis]


def relative_positions(window: int) -> np.ndarray:
    """Returns [window^4] int32: the index, below (2 window - 1)^2, of the offset (y, x) between each pair of cells."""
    cells = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = cells[:, np.newaxis] - cells + window - 1  # [window^2, window^2, 2], 0 ... 2 window - 2
    return (offsets[..., 0] * (2 * window - 1) + offsets[..., 1]).reshape(-1).astype(np.int32)


class WindowAttention(tf.keras.layers.Layer):
    """Multi-head self-attention within windows, with a learned bias for each offset between two cells."""

    def __init__(self, channels: int, heads: int, window: int, name: str) -> None:
        super().__init__(name=name)
        self.heads, self.window = heads, window
        self.qkv = make_dense(3 * channels, "qkv")
        self.projection = make_dense(channels, "projection")

    def build(self, shape: tf.TensorShape) -> None:
        self.relative_position_bias = self.add_weight(
            "relative_position_bias",
            [(2 * self.window - 1) ** 2, self.heads],
            initializer=tf.keras.initializers.TruncatedNormal(stddev=0.02),
            experimental_autocast=False,
        )

    def call(self, windows: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Returns [B n, window^2, C].

        Args:
            windows: [B n, window^2, C].
            mask: [n, 1, window^2, window^2], from `attention_mask`, or None.
        """
        cells, channels = windows.shape[1:]
        depth = channels // self.heads
        parts = tf.reshape(self.qkv(windows), [-1, cells, 3, self.heads, depth])
        queries, keys, values = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))  # each [B n, heads, cells, depth]
        # [B n, heads, cells, cells]
        logits = tf.cast(tf.matmul(queries * depth**-0.5, keys, transpose_b=True), tf.float32) + self.bias()
        if mask is not None:
            logits = tf.reshape(logits, [-1, mask.shape[0], self.heads, cells, cells]) + mask  # [B, n, heads, ...]
            logits = tf.reshape(logits, [-1, self.heads, cells, cells])
        attended = tf.matmul(tf.cast(tf.nn.softmax(logits), values.dtype), values)  # [B n, heads, cells, depth]
        return self.projection(tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [-1, cells, channels]))

    def bias(self) -> tf.Tensor:
        """Returns [heads, window^2, window^2], by a matrix product: a gather's gradient is not deterministic."""
        chosen = tf.one_hot(relative_positions(self.window), (2 * self.window - 1) ** 2)  # [window^4, offsets]
        pairs = tf.matmul(chosen, tf.convert_to_tensor(self.relative_position_bias))  # [window^4, heads]
        return tf.transpose(tf.reshape(pairs, [self.window**2, self.window**2, self.heads]), [2, 0, 1])


class SwinBlock(tf.keras.layers.Layer):
    """Window attention, then an MLP of two layers, each with a layer norm before it and a shortcut around it."""

    def __init__(
        self, channels: int, heads: int, window: int, shift: int, mlp_ratio: int, drop_path: float, name: str
    ) -> None:
        super().__init__(name=name)
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1, self.norm2 = (
            ChannelNormalization(NORM_EPSILON, name="norm1"),
            ChannelNormalization(NORM_EPSILON, name="norm2"),
        )
        self.attention = WindowAttention(channels, heads, window, name="attention")
        self.expand = make_dense(mlp_ratio * channels, "expand")
        self.shrink = make_dense(channels, "shrink")

    def call(self, x: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns [B, H, W, C].

        Args:
            x: [B, H, W, C].
            mask: The `attention_mask` of the padded map.
            seed: [2] int32, or None to drop no path.
        """
        x += drop_paths(self.attend(self.norm1(x), mask), self.drop_path, fold_in(seed, 0))
        hidden = tf.nn.gelu(self.expand(self.norm2(x)), approximate=False)
        return x + drop_paths(self.shrink(hidden), self.drop_path, fold_in(seed, 1))

    def attend(self, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns the attention [B, H, W, C] within the windows of x, shifted or not."""
        height, width = x.shape[1:3]
        x = pad_to_windows(x, self.window)
        if self.shift:
            x = tf.roll(x, [-self.shift, -self.shift], [1, 2])
        windows = self.attention(partition(x, self.window), mask=mask if self.shift else None)
        x = merge(windows, self.window, *x.shape[1:3])
        if self.shift:
            x = tf.roll(x, [self.shift, self.shift], [1, 2])
        return x[:, :height, :width]


class PatchMerging(tf.keras.layers.Layer):
    """Halves the resolution and doubles the channels: 2 x 2 cells become one cell, in the channel order (y, x, c)."""

    def __init__(self, channels: int, name: str) -> None:
        super().__init__(name=name)
        self.norm = ChannelNormalization(NORM_EPSILON, name="norm")
        self.reduction = make_dense(2 * channels, "reduction", bias=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [B, H / 2, W / 2, 2 C] of x [B, H, W, C]."""
        return self.reduction(self.norm(tf.nn.space_to_depth(x, 2)))  # from 4 C channels


@gin.register
@check_ranges(
    channels=CHANNELS,
    depths=Each(whole(1, 100), 4),
    heads=Each(whole(1, 1024), 4),
    window=whole(1, 64),
    mlp_ratio=whole(1, 64),
    drop_path=number(0, below=1),
    frozen_stages=whole(-1, 4),
)
class Swin(tf.keras.layers.Layer):
    """A Swin Transformer without its classifier. The default is Swin-T: 27.5 million parameters, 96 to 768 channels."""

    levels_up = 0  # resolution is halved before a stage's blocks, not in them (see `composite`)

    def __init__(
        self,
        channels: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: int = 4,
        drop_path: float = 0.2,
        frozen_stages: int = -1,
        name: str = "backbone",
    ) -> None:
        """
        Args:
            channels: int, channels of C2; each stage doubles them.
            depths: 4 ints, blocks of each stage.
            heads: 4 ints, attention heads of each stage.
            window: int, cells along each side of a window.
            mlp_ratio: int, width of an MLP's hidden layer relative to the block's channels.
            drop_path: float, probability of dropping a path of the last block in training; it increases linearly from
                0 in the first block.
            frozen_stages: int, number of leading stages that are not trained, together with the patch embedding; 0
                freezes the embedding alone, -1 nothing. A frozen stage's output norm is frozen too, although a
                classifier's checkpoint has no weights for it, and no path of its blocks is dropped.
        """
        super().__init__(name=name)
        widths = [channels * 2**stage for stage in range(4)]
        for stage, (width, count) in enumerate(zip(widths, heads, strict=True), start=1):
            if width % count:
                raise UserError(f"Swin.heads: stage {stage} has {width} channels, which {count} heads cannot share")
        self.width, self.window, self.frozen_stages = channels, window, frozen_stages
        self.embed = tf.keras.layers.Conv2D(channels, PATCH, PATCH, name="embed")
        self.embed_norm = ChannelNormalization(NORM_EPSILON, name="embed_norm")
        rates = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        self.blocks = [
            [
                SwinBlock(
                    width,
                    count,
                    window,
                    shift=window // 2 if block % 2 else 0,
                    mlp_ratio=mlp_ratio,
                    drop_path=next(rates),
                    name=f"stage{stage}_block{block + 1}",
                )
                for block in range(depth)
            ]
            for stage, (width, count, depth) in enumerate(zip(widths, heads, depths, strict=True), start=1)
        ]
        self.mergings = [PatchMerging(width, name=f"merging{stage}") for stage, width in enumerate(widths[:3], start=1)]
        self.norms = [ChannelNormalization(NORM_EPSILON, name=f"norm{stage}") for stage in range(1, 5)]
        frozen = [self.embed, self.embed_norm] if frozen_stages >= 0 else []
        for stage in range(max(frozen_stages, 0)):
            frozen += [*self.blocks[stage], self.norms[stage], *self.mergings[stage : stage + 1]]
        for layer in frozen:
            layer.trainable = False

    def share(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the patch embedding [B, H / 4, W / 4, channels] of normalized images; see `composite`."""
        return self.embed_norm(self.embed(images))

    def call(
        self,
        images: tf.Tensor,
        training: bool | None = None,
        shared: tf.Tensor | None = None,
        added: FeatureMaps | None = None,
    ) -> FeatureMaps:
        """Returns {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32.

        Args:
            images: [B, H, W, 3], normalized; H and W are multiples of 32.
            shared: Output of `share`, in a composite; None to compute it.
            added: {level: [B, H / 2^level, W / 2^level, C]}, added to the input of the stage of each level; or None.
        """
        seed = draw_seed(images, self.norms[-1].beta) if training else None
        if added is not None:
            seed = fold_in(seed, 1)  # the assistant's, which may have the same weights, is another
        x = self.share(images) if shared is None else shared
        features, number = {}, 0
        for stage, blocks in enumerate(self.blocks):
            if stage:
                x = self.mergings[stage - 1](x)
            if added is not None:
                x += added[stage + 2]
            height, width = (side + -side % self.window for side in x.shape[1:3])
            mask = attention_mask(height, width, self.window)
            trained_seed = seed if stage >= self.frozen_stages else None
            for block in blocks:
                x, number = block(x, mask, fold_in(trained_seed, number)), number + 1
            features[stage + 2] = self.norms[stage](x)
        return features
