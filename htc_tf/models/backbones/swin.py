"""The backbone: a Swin Transformer, from normalised images to the feature maps C2 ... C5 that the FPN takes.

In the place of `models.backbones.resnet`. Liu et al., arXiv:2103.14030, with what mmdetection's SwinTransformer adds for
detection: maps of any size are padded to whole windows, and each stage's output has a layer norm of its own. Attention
is within windows of 7 x 7 cells; every other block shifts the windows by half of one, and keeps apart what the shift
brought together from opposite borders.

Products are in the precision of the run; layer norms and the softmax are in float32.
"""

import gin
import numpy as np
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ranges import CHANNELS, Each, check_ranges, number, whole

PATCH = 4  # pixels a side
NORM_EPSILON = 1e-5
APART = -100.0  # added to the logits of cells that must not see each other


def make_norm(name):
    """Of the channels of every cell; the default epsilon of Keras is another."""
    return tf.keras.layers.LayerNormalization(epsilon=NORM_EPSILON, dtype="float32", name=name)


def normalize(norm, x):
    return tf.cast(norm(x), x.dtype)


def make_dense(units, name, bias=True):
    initializer = tf.keras.initializers.TruncatedNormal(stddev=0.02)
    return tf.keras.layers.Dense(units, use_bias=bias, kernel_initializer=initializer, name=name)


def partition(x, window):
    """[B, H, W, C] -> [B n, window^2, C], the n windows row by row; H and W are multiples of the window."""
    height, width, channels = x.shape[1:]
    x = tf.reshape(x, [-1, height // window, window, width // window, window, channels])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, window * window, channels])


def reunite(windows, window, height, width):
    """The inverse of `partition`."""
    channels = windows.shape[-1]
    x = tf.reshape(windows, [-1, height // window, width // window, window, window, channels])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, height, width, channels])


def separate_regions(height, width, window):
    """[n, 1, window^2, window^2]: APART for two cells of a shifted window that are no neighbours in the image."""

    def regions(side):
        # What the last shift of windows leaves together: all but the last window, its first part, what came around.
        cells = np.arange(side)
        return (cells >= side - window).astype(np.int32) + (cells >= side - window // 2)

    ids = 3 * tf.constant(regions(height))[:, tf.newaxis] + tf.constant(regions(width))
    ids = partition(ids[tf.newaxis, :, :, tf.newaxis], window)
    return tf.where(ids == tf.transpose(ids, [0, 2, 1]), 0.0, APART)[:, tf.newaxis]


def relative_positions(window):
    """[window^4] int32: for each pair of cells i, j, which of the (2 window - 1)^2 offsets (y, x) leads from j to i."""
    cells = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = cells[:, np.newaxis] - cells + window - 1
    return (offsets[..., 0] * (2 * window - 1) + offsets[..., 1]).reshape(-1).astype(np.int32)


def drop_paths(x, rate, seed):
    """Stochastic depth (arXiv:1603.09382): an image of x [B, H, W, C] becomes 0 with probability `rate`, or larger."""
    kept = tf.random.stateless_uniform([tf.shape(x)[0], 1, 1, 1], seed) >= rate
    return x * tf.cast(tf.where(kept, 1 / (1 - rate), 0.0), x.dtype)


class WindowAttention(tf.keras.layers.Layer):
    """Attention among the cells of each window, with a bias learnt for every offset between two cells."""

    def __init__(self, channels, heads, window, name):
        super().__init__(name=name)
        self.heads, self.window = heads, window
        self.qkv = make_dense(3 * channels, "qkv")
        self.projection = make_dense(channels, "projection")

    def build(self, shape):
        self.relative_position_bias = self.add_weight(
            "relative_position_bias",
            [(2 * self.window - 1) ** 2, self.heads],
            initializer=tf.keras.initializers.TruncatedNormal(stddev=0.02),
            experimental_autocast=False,
        )

    def call(self, windows, apart=None):
        """windows [B n, window^2, C]; apart: what `separate_regions` gives, or None."""
        cells, channels = windows.shape[1:]
        depth = channels // self.heads
        parts = tf.reshape(self.qkv(windows), [-1, cells, 3, self.heads, depth])
        queries, keys, values = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        logits = tf.cast(tf.matmul(queries * depth**-0.5, keys, transpose_b=True), tf.float32) + self.bias()
        if apart is not None:
            logits = tf.reshape(logits, [-1, apart.shape[0], self.heads, cells, cells]) + apart
            logits = tf.reshape(logits, [-1, self.heads, cells, cells])
        seen = tf.matmul(tf.cast(tf.nn.softmax(logits), values.dtype), values)
        return self.projection(tf.reshape(tf.transpose(seen, [0, 2, 1, 3]), [-1, cells, channels]))

    def bias(self):
        """[heads, window^2, window^2]. A product, since a lookup's gradient is added up in any order."""
        chosen = tf.one_hot(relative_positions(self.window), (2 * self.window - 1) ** 2)
        pairs = tf.matmul(chosen, tf.convert_to_tensor(self.relative_position_bias))
        return tf.transpose(tf.reshape(pairs, [self.window**2, self.window**2, self.heads]), [2, 0, 1])


class SwinBlock(tf.keras.layers.Layer):
    """Attention in windows, then two dense layers for each cell, each after a layer norm and around a shortcut."""

    def __init__(self, channels, heads, window, shift, mlp_ratio, drop_path, name):
        super().__init__(name=name)
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1, self.norm2 = make_norm("norm1"), make_norm("norm2")
        self.attention = WindowAttention(channels, heads, window, name="attention")
        self.expand = make_dense(mlp_ratio * channels, "expand")
        self.shrink = make_dense(channels, "shrink")

    def call(self, x, apart, seed=None):
        """x [B, H, W, C]; apart: what `separate_regions` gives; seed int32 [2], or None to drop no path."""
        x += self.drop(self.attend(normalize(self.norm1, x), apart), seed, 0)
        hidden = tf.nn.gelu(self.expand(normalize(self.norm2, x)), approximate=False)
        return x + self.drop(self.shrink(hidden), seed, 1)

    def attend(self, x, apart):
        height, width = x.shape[1:3]
        bottom, right = -height % self.window, -width % self.window
        x = tf.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]])
        if self.shift:
            x = tf.roll(x, [-self.shift, -self.shift], [1, 2])
        windows = self.attention(partition(x, self.window), apart=apart if self.shift else None)
        x = reunite(windows, self.window, height + bottom, width + right)
        if self.shift:
            x = tf.roll(x, [self.shift, self.shift], [1, 2])
        return x[:, :height, :width]

    def drop(self, x, seed, branch):
        if seed is None or not self.drop_path:
            return x
        return drop_paths(x, self.drop_path, tf.random.experimental.stateless_fold_in(seed, branch))


class PatchMerging(tf.keras.layers.Layer):
    """[B, H, W, C] -> [B, H / 2, W / 2, 2 C]: 2 x 2 cells become channels (y, x, c), then a dense layer."""

    def __init__(self, channels, name):
        super().__init__(name=name)
        self.norm = make_norm("norm")
        self.reduction = make_dense(2 * channels, "reduction", bias=False)

    def call(self, x):
        return self.reduction(normalize(self.norm, tf.nn.space_to_depth(x, 2)))


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
    """images [B, H, W, 3] -> {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32; H and W are multiples of 32.

    The default is Swin-T, 27.5 million weights, with 96, 192, 384 and 768 channels.
    """

    def __init__(
        self,
        channels=96,
        depths=(2, 2, 6, 2),
        heads=(3, 6, 12, 24),
        window=7,
        mlp_ratio=4,
        drop_path=0.2,
        frozen_stages=-1,
        name="backbone",
    ):
        """
        Args:
            channels: of C2; every stage doubles them.
            depths, heads: blocks, and attention heads of each block, of the four stages.
            window: cells a side.
            mlp_ratio: how many times as wide the hidden dense layer is.
            drop_path: probability with which training leaves out a path of the last block; the first block's is 0, and
                those between grow evenly.
            frozen_stages: how many leading stages, the patch embedding before them included, do not train; -1 trains
                all.
        """
        super().__init__(name=name)
        widths = [channels * 2**stage for stage in range(4)]
        for stage, (width, count) in enumerate(zip(widths, heads, strict=True), start=1):
            if width % count:
                raise UserError(f"Swin.heads: stage {stage} has {width} channels, which {count} heads cannot share")
        self.window = window
        self.embed = tf.keras.layers.Conv2D(channels, PATCH, PATCH, name="embed")
        self.embed_norm = make_norm("embed_norm")
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
        self.norms = [make_norm(f"norm{stage}") for stage in range(1, 5)]
        frozen = [self.embed, self.embed_norm] if frozen_stages >= 0 else []
        for stage in range(max(frozen_stages, 0)):
            frozen += [*self.blocks[stage], self.norms[stage], *self.mergings[stage : stage + 1]]
        for layer in frozen:
            layer.trainable = False

    def call(self, images, training=None):
        seed = self.draw_seed(images) if training else None
        x = normalize(self.embed_norm, self.embed(images))
        features, number = {}, 0
        for stage, blocks in enumerate(self.blocks):
            if stage:
                x = self.mergings[stage - 1](x)
            height, width = (side + -side % self.window for side in x.shape[1:3])
            apart = separate_regions(height, width, self.window)
            for block in blocks:
                own = None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)
                x, number = block(x, apart, own), number + 1
            features[stage + 2] = normalize(self.norms[stage], x)
        return features

    def draw_seed(self, images):
        """int32 [2] out of the images and the weights: another in every step, and the same for the same step.

        Counting and learning (`training.gradients`) may take a forward pass each, which must be equal, as must a
        step that is taken again after a restart. A random state would move on between them. Sums of whole numbers are
        the same in any order.
        """
        pixels = tf.reduce_sum(tf.cast(64 * images, tf.int32))
        weights = tf.reduce_sum(tf.bitcast(tf.convert_to_tensor(self.norms[-1].beta), tf.int32))
        return tf.stack([pixels, weights])
