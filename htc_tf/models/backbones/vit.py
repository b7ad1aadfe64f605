"""Plain ViT backbone of ViTDet (Li et al., arXiv:2203.16527): window attention, and global attention in a few blocks.

All blocks work at stride 16; `models.simple_fpn` makes the other levels. Attention adds a bias for the offset between
two cells, the sum of one for the rows and one for the columns (arXiv:2112.01526, section 4.1).

Matrix products are in the precision of the run; layer norms and softmax are in float32.
"""

from collections.abc import Sequence

import gin
import numpy as np
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.swin import make_dense, merge, pad_to_windows, partition
from htc_tf.models.drop_path import draw_seed, drop_paths, fold_in
from htc_tf.models.norms import ChannelNormalization
from htc_tf.ops.table_resizing import cubic, linear, resizing_matrix
from htc_tf.ranges import CHANNELS, Each, check_ranges, number, whole
from htc_tf.structures import FeatureMaps

PATCH = 16  # side of an embedded patch, pixels
LEVEL = 4  # of the pyramid, at stride 16


def offset_matrix(cells: int, rows: int) -> np.ndarray:
    """Returns [cells, cells, rows] float32: the weight of each row of a table for the offset between two cells.

    The rows are the offsets from -(rows - 1) / 2 to (rows - 1) / 2; for more or fewer cells the table is resized.
    """
    offsets = np.arange(cells)[:, np.newaxis] - np.arange(cells) + cells - 1  # 0 ... 2 cells - 2
    return resizing_matrix(2 * cells - 1, rows, linear)[offsets]


class Attention(tf.keras.layers.Layer):
    """Multi-head self-attention over a grid of cells, with decomposed relative positions."""

    def __init__(self, channels: int, heads: int, side: int, name: str) -> None:
        """side: int, cells along each side of the grid for which the tables of offsets are made."""
        super().__init__(name=name)
        self.heads, self.side = heads, side
        self.qkv = make_dense(3 * channels, "qkv")
        self.projection = make_dense(channels, "projection")

    def build(self, shape: tf.TensorShape) -> None:
        table = [2 * self.side - 1, shape[-1] // self.heads]
        options = {"initializer": "zeros", "experimental_autocast": False}
        self.row_offsets = self.add_weight("row_offsets", table, **options)
        self.column_offsets = self.add_weight("column_offsets", table, **options)

    def call(self, x: tf.Tensor, height: int, width: int) -> tf.Tensor:
        """Returns [B, height * width, C] of x [B, height * width, C]."""
        cells, channels = x.shape[1:]
        depth = channels // self.heads
        parts = tf.reshape(self.qkv(x), [-1, cells, 3, self.heads, depth])
        queries, keys, values = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))  # each [B, heads, cells, depth]
        logits = tf.cast(tf.matmul(queries * depth**-0.5, keys, transpose_b=True), tf.float32)
        logits = tf.reshape(logits, [-1, self.heads, height, width, height, width])
        rows, columns = self.biases(tf.reshape(queries, [-1, self.heads, height, width, depth]))
        logits = logits + rows[..., tf.newaxis] + columns[..., tf.newaxis, :]
        weights = tf.nn.softmax(tf.reshape(logits, [-1, self.heads, cells, cells]))
        attended = tf.matmul(tf.cast(weights, values.dtype), values)  # [B, heads, cells, depth]
        return self.projection(tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [-1, cells, channels]))

    def biases(self, queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the logits' biases by the keys' row and by the keys' column.

        Args:
            queries: [B, heads, height, width, depth].
        Returns:
            ([B, heads, height, width, height], [B, heads, height, width, width]), both float32.
        """
        height, width = queries.shape[2:4]
        # [height, height, depth] and [width, width, depth], of the queries' and the keys' rows and columns
        rows = tf.tensordot(offset_matrix(height, 2 * self.side - 1), tf.convert_to_tensor(self.row_offsets), 1)
        columns = tf.tensordot(offset_matrix(width, 2 * self.side - 1), tf.convert_to_tensor(self.column_offsets), 1)
        by_row = tf.matmul(queries, tf.cast(rows, queries.dtype), transpose_b=True)
        by_column = tf.einsum("nhyxd,xkd->nhyxk", queries, tf.cast(columns, queries.dtype))
        return tf.cast(by_row, tf.float32), tf.cast(by_column, tf.float32)


class PositionTable(tf.keras.layers.Layer):
    """Learned absolute positions, added to a map of any size."""

    def __init__(self, side: int, name: str) -> None:
        super().__init__(name=name)
        self.side = side

    def build(self, shape: tf.TensorShape) -> None:
        initializer = tf.keras.initializers.TruncatedNormal(stddev=0.02)
        shape = [self.side, self.side, shape[-1]]
        self.table = self.add_weight("table", shape, initializer=initializer, experimental_autocast=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [B, H, W, C], x [B, H, W, C] plus the table resized to its map."""
        rows, columns = (resizing_matrix(size, self.side, cubic) for size in x.shape[1:3])
        table = tf.tensordot(rows, tf.convert_to_tensor(self.table), 1)  # [H, side, C]
        return x + tf.cast(tf.einsum("ws,hsc->hwc", columns, table), x.dtype)


class ViTBlock(tf.keras.layers.Layer):
    """Attention, then an MLP of two layers, each with a layer norm before it and a shortcut around it."""

    def __init__(
        self, channels: int, heads: int, window: int | None, side: int, mlp_ratio: int, drop_path: float, name: str
    ) -> None:
        """
        Args:
            channels: int.
            heads: int, attention heads.
            window: int, cells along each side of a window, or None for global attention.
            side: int, cells along each side of the map for which a global block's tables of offsets are made.
            mlp_ratio: int, width of the MLP's hidden layer relative to `channels`.
            drop_path: float, probability of dropping a path in training.
            name: str.
        """
        super().__init__(name=name)
        self.window, self.drop_path = window, drop_path
        self.norm1, self.norm2 = ChannelNormalization(name="norm1"), ChannelNormalization(name="norm2")
        self.attention = Attention(channels, heads, window or side, name="attention")
        self.expand = make_dense(mlp_ratio * channels, "expand")
        self.shrink = make_dense(channels, "shrink")

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns [B, H, W, C] of x [B, H, W, C]; seed [2] int32 drops paths, None drops none."""
        x += drop_paths(self.attend(self.norm1(x)), self.drop_path, fold_in(seed, 0))
        hidden = tf.nn.gelu(self.expand(self.norm2(x)), approximate=False)
        return x + drop_paths(self.shrink(hidden), self.drop_path, fold_in(seed, 1))

    def attend(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the attention [B, H, W, C] within the windows of x, or over the whole map."""
        height, width, channels = x.shape[1:]
        if self.window is None:
            cells = self.attention(tf.reshape(x, [-1, height * width, channels]), height, width)
            return tf.reshape(cells, [-1, height, width, channels])
        padded = pad_to_windows(x, self.window)
        windows = self.attention(partition(padded, self.window), self.window, self.window)
        return merge(windows, self.window, *padded.shape[1:3])[:, :height, :width]


@gin.register
@check_ranges(
    channels=CHANNELS,
    depth=whole(1, 100),
    heads=whole(1, 1024),
    window=whole(1, 64),
    global_blocks=Each(whole(1, 100), minimum=0),
    mlp_ratio=whole(1, 64),
    drop_path=number(0, below=1),
    image_side=whole(PATCH, 8192),
    pretrained_side=whole(PATCH, 8192),
)
class ViT(tf.keras.layers.Layer):
    """A plain ViT without its classifier. The default is ViT-B: 768 channels and 12 blocks, every third one global."""

    def __init__(
        self,
        channels: int = 768,
        depth: int = 12,
        heads: int = 12,
        window: int = 14,
        global_blocks: Sequence[int] = (3, 6, 9, 12),
        mlp_ratio: int = 4,
        drop_path: float = 0.1,
        image_side: int = 1024,
        pretrained_side: int = 224,
        name: str = "backbone",
    ) -> None:
        """
        Args:
            channels: int, channels of all blocks.
            depth: int, number of blocks.
            heads: int, attention heads of each block.
            window: int, cells along each side of a window.
            global_blocks: ints, the blocks with attention over the whole map, from 1 on; others have windows.
            mlp_ratio: int, width of an MLP's hidden layer relative to `channels`.
            drop_path: float, probability of dropping a path of the last block in training; it increases linearly from
                0 in the first block.
            image_side: int, pixels along each side of the images for which the global blocks' tables of offsets are
                made. For images of other sizes they are resized.
            pretrained_side: int, pixels along each side of the images of the pretraining, which decide the size of the
                table of absolute positions. It is resized to the map.
        """
        super().__init__(name=name)
        if channels % heads:
            raise UserError(f"ViT.heads = {heads} heads cannot share ViT.channels = {channels}: give a divisor of it")
        if max(global_blocks, default=1) > depth:
            raise UserError(f"ViT.global_blocks = {global_blocks}, but ViT.depth = {depth}: give blocks from 1 to that")
        self.patch_embedding = tf.keras.layers.Conv2D(channels, PATCH, PATCH, name="patch_embedding")
        self.positions = PositionTable(pretrained_side // PATCH, name="positions")
        self.encoder = [
            ViTBlock(
                channels,
                heads,
                window=None if block in global_blocks else window,
                side=image_side // PATCH,
                mlp_ratio=mlp_ratio,
                drop_path=rate,
                name=f"block{block}",
            )
            for block, rate in enumerate(np.linspace(0.0, drop_path, depth).tolist(), start=1)
        ]

    def call(self, images: tf.Tensor, training: bool | None = None) -> FeatureMaps:
        """Returns {4: C4} at stride 16, [B, H / 16, W / 16, channels], of normalized images [B, H, W, 3]."""
        seed = draw_seed(images, self.encoder[-1].norm2.beta) if training else None
        x = self.positions(self.patch_embedding(images))
        for i, block in enumerate(self.encoder):
            x = block(x, fold_in(seed, i))
        return {LEVEL: x}
