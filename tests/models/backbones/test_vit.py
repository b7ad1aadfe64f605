"""ViT and its simple feature pyramid against detectron2's; XLA, stochastic depth, precision and mistakes."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.vit import ViT, ViTBlock
from htc_tf.models.simple_fpn import SimpleFPN
from tests.models.backbones.originals import DRAWN, check_bfloat16, compare_with_original, load_drawn
from tests.slow import slow

# Windows of 3 x 3 and tables of offsets for 4 x 4 cells, on maps of 4 x 6 and 6 x 2.
TOY = {"channels": 16, "depth": 4, "heads": 2, "window": 3, "global_blocks": (2, 4)}
TOY |= {"image_side": 64, "pretrained_side": 48}


def make_network(**arguments):
    """Returns a small ViT and its neck with the weights of the reference arrays."""
    return load_drawn(ViT(**{**TOY, **arguments}), SimpleFPN(8))


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("compiled", [False, *slow(True)])
def test_pyramid_and_gradients_are_those_of_detectron2(compiled, network, images, reference):
    def forward():
        pyramid = network.neck(network.backbone(images))
        assert list(pyramid) == [2, 3, 4, 5, 6]
        return {f"p{level}": x for level, x in pyramid.items()}, {}

    compare_with_original(network, forward, reference("vit"), 19, compiled)


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_maps_of_other_sizes_than_the_tables(network, reference, size):
    found = network.backbone(tf.constant(DRAWN["images"](*size)))
    assert list(found) == [4]
    expected = reference("vit")["x".join(map(str, size))]
    np.testing.assert_allclose(found[4], expected, atol=1e-5 * abs(expected).max())


def test_bfloat16_keeps_norms_and_softmax_in_float32(images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = make_network()
        found = network.neck(network.backbone(images))
        graph = tf.function(network.backbone, autograph=False).get_concrete_function(images).graph
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    for kind, dtype in (("Rsqrt", tf.float32), ("Softmax", tf.float32), ("BatchMatMulV2", tf.bfloat16)):
        assert {op.outputs[0].dtype for op in graph.get_operations() if op.type == kind} == {dtype}, kind
    check_bfloat16({f"p{level}": x for level, x in found.items()}, reference("vit"), 0.05)


def test_both_paths_of_a_block_are_dropped_by_image():
    """With a rate of 0.5 an image keeps neither, one or both of what the attention and the MLP add, times 2."""
    block = ViTBlock(8, heads=2, window=None, side=3, mlp_ratio=2, drop_path=0.5, name="block")
    x = tf.random.stateless_normal([32, 3, 3, 8], [1, 2])
    block(x)
    block.attention.row_offsets.assign(tf.random.stateless_normal([5, 4], [3, 4]))
    trained = block(x, tf.constant([5, 6]))
    attended = block.attend(block.norm1(x))
    outcomes = []
    for kept in (0.0, 2.0):
        middle = x + kept * attended
        added = block.shrink(tf.nn.gelu(block.expand(block.norm2(middle)), approximate=False))
        outcomes += [middle, middle + 2 * added]
    differences = tf.reduce_max(abs(tf.stack(outcomes) - trained), [2, 3, 4])  # [4, 32]
    np.testing.assert_allclose(tf.reduce_min(differences, 0), 0, atol=1e-5)
    assert set(np.argmin(differences, 0)) == {0, 1, 2, 3}


def test_a_repeated_step_drops_the_same_paths(images):
    backbone = make_network(drop_path=0.6).backbone
    assert [block.drop_path for block in backbone.encoder] == pytest.approx([0, 0.2, 0.4, 0.6])
    trained = backbone(images, training=True)[4].numpy()
    np.testing.assert_array_equal(trained, backbone(images, training=True)[4])
    assert any(np.any(trained != backbone(images + 0.01 * i, training=True)[4]) for i in range(1, 4))
    assert np.abs(trained - backbone(images)[4]).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"heads": 3}, "ViT.heads = 3"),
        ({"global_blocks": (2, 5)}, "ViT.global_blocks = .* but ViT.depth = 4"),
        ({"drop_path": 1.0}, "ViT.drop_path = 1.0"),
    ],
)
def test_mistakes_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        ViT(**{**TOY, **arguments})
