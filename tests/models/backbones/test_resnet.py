"""ResNet, ResNeXt and deformable backbones: variables, equivalences, gradients and FLOPs."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.resnet import Block, ResNet
from htc_tf.models.layers import Convolution, DeformableConv2D
from htc_tf.ops.grouped_convolution import native_grouped_convolution
from htc_tf.training.dry_run import flops
from tests.modes import MODES


def trained(layer):
    return [v for v in layer.variables if "moving" not in v.name]


def test_parameters_of_resnext50():
    with tf.Graph().as_default(), native_grouped_convolution():  # no variable is initialized, little is traced
        backbone = ResNet(groups=32, group_width=4)
        features = backbone(tf.zeros([1, 64, 96, 3]))
        # torchvision's resnext50_32x4d without its classifier.
        assert sum(v.shape.num_elements() for v in trained(backbone)) == 25_028_904 - 2_049_000
    assert {k: f.shape[1:] for k, f in features.items()} == {
        k: (64 // 2**k, 96 // 2**k, 64 * 2**k) for k in (2, 3, 4, 5)
    }


def test_deformable_grouped_and_frozen_convolutions():
    options = {"groups": 8, "group_width": 8, "deformable": 1, "deformable_stages": (3, 4)}
    backbone = ResNet(50, width=16, frozen_stages=2, **options)
    for level, blocks in enumerate(backbone.stages, start=2):
        for block in blocks:
            assert [layer.offsets is not None for layer in block.body] == [False, level in (3, 4), False]
            assert [layer.convolution.groups for layer in block.body] == [1, 8, 1]
            widths = [layer.convolution.filters * 2 ** (2 - level) for layer in block.body]
            assert widths == [16, 16, 64]
            assert block.trainable == (level > 3)


def test_deformable_stages_build_on_a_map_of_one_cell():
    """C5 of an image of 32 x 32 pixels, the smallest, on which `HTC.build_variables` creates all variables."""
    features = ResNet(50, width=4, deformable=2, deformable_stages=(3, 4, 5))(tf.zeros([1, 32, 32, 3]))
    assert features[5].shape == [1, 1, 1, 128]


def make_blocks(version):
    """A bottleneck, and a deformable one with the same variables; a random map."""
    tf.keras.utils.set_random_seed(3)
    image = tf.random.normal([1, 8, 6, 16])
    kind = {"inner": 16, "groups": 4}
    plain, moving = (Block(4, 2, True, True, "batch", "block", deformable=d, **kind) for d in (None, version))
    for block in (plain, moving):
        block(image)
    rest = [v for v in moving.variables if "offsets" not in v.name]
    assert len(moving.variables) == len(rest) + 2 and [v.shape for v in rest] == [v.shape for v in plain.variables]
    for variable, value in zip(rest, plain.variables, strict=True):
        variable.assign(value)
    return image, plain, moving


@pytest.mark.parametrize("version", [1, 2])
def test_a_new_deformable_block_equals_an_ordinary_one(version, eagerly):
    """The taps of version 2 are weighted by one half."""
    image, plain, moving = make_blocks(version)
    if version == 2:
        kernel = plain.body[1].convolution.kernel
        kernel.assign(kernel / 2)
    np.testing.assert_allclose(moving(image), plain(image), atol=1e-5)
    moving.body[1].offsets.bias.assign(tf.linspace(-0.9, 0.8, 9 * (version + 1)))
    assert not np.allclose(moving(image), plain(image), atol=1e-2)


def test_gradients_of_a_deformable_block():
    """In graph mode and compiled."""
    image, _, block = make_blocks(2)
    # Away from whole cells, where bilinear interpolation has a kink.
    block.body[1].offsets.bias.assign(tf.linspace(-0.9, 0.8, 27))

    def learn():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(block(image, training=False) ** 2)
        return tape.gradient(loss, block.trainable_variables)

    by_graph, compiled = (MODES[mode](learn)() for mode in ("graph", "xla"))
    for variable, one, other in zip(block.trainable_variables, by_graph, compiled, strict=True):
        assert np.abs(one).max() > 1e-4, variable.name
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("options", [{"groups": 8}, {"groups": 8, "deformable": 2}])
def test_flops_are_those_of_the_groups(options):
    """Zeros of a block-diagonal kernel do not count; the kernel and the offsets of a deformable convolution do."""
    layer = Convolution(32, 3, 2, norm="frozen_batch", **options)
    layer(tf.zeros([1, 8, 8, 32]))
    with native_grouped_convolution():
        graph = tf.function(layer, autograph=False).get_concrete_function(tf.TensorSpec([1, 8, 8, 32])).graph
    counted = sum(number for name, number in flops(graph) if "Conv2D" in name or "conv2d" in name)
    offsets = 27 * 32 if "deformable" in options else 0
    assert counted == 2 * 4 * 4 * 9 * (32 * 4 + offsets)


def test_in_bfloat16(eagerly):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        for options in ({"groups": 4}, {"groups": 4, "deformable": 2}):
            layer = Convolution(16, 3, norm="frozen_batch", **options)
            with tf.GradientTape() as tape:
                value = layer(tf.ones([1, 4, 4, 16]))
            gradients = tape.gradient(value, layer.trainable_variables)
            assert value.dtype == tf.bfloat16 and {g.dtype for g in gradients} == {tf.float32}
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"depth": 18, "groups": 4}, "has no bottlenecks"),
        ({"depth": 10, "group_width": 4}, "has no bottlenecks"),
        ({"depth": 34, "stride_in_1x1": True}, "has no bottlenecks"),
        ({"depth": 34, "deformable": 1, "deformable_stages": (3,)}, "has no bottlenecks"),
        ({"deformable": 1}, "deformable_stages"),
        ({"deformable_stages": (3,)}, "deformable_stages"),
        ({"deformable": 2, "deformable_stages": (6,)}, "at least 2, at most 5"),
        ({"width": 8, "groups": 32, "group_width": 4}, "give 8 or more"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        ResNet(**options)


def test_groups_that_do_not_divide_the_channels():
    with pytest.raises(UserError, match=r"channels in multiples of 16, but .*norm has 24"):
        Convolution(24, 1, norm="group")(tf.zeros([1, 2, 2, 3]))


def test_unknown_version():
    with pytest.raises(UserError, match="deformable = 3"):
        DeformableConv2D(8, 3, version=3)
