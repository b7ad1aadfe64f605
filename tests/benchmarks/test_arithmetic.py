"""FLOP of the parts of a network, against layers counted by hand."""

import pytest
import tensorflow as tf

from htc_tf.benchmarks.arithmetic import Arithmetic, Flop, count


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("NUM_STAGES=2")[1]


@pytest.fixture(scope="module")
def inference(model):
    return Arithmetic(model, 64, 64).parts(images=2, rois=[10, 10], masks=3)


def test_a_function_by_hand():
    first, second = tf.Variable(tf.ones([5, 7])), tf.Variable(tf.ones([7, 3]))

    def layers(x):
        return tf.nn.relu(x @ first) @ second

    each = 2 * 4 * 5 * 7, 2 * 4 * 7 * 3
    assert count(layers, [[4, 5]])[0] == Flop(sum(each), 0)
    # What nothing comes before needs no gradient of its input, what does not learn none of its weights.
    assert count(layers, [[4, 5]], [first, second], first=True)[0] == Flop(sum(each), each[0] + 2 * each[1])
    assert count(layers, [[4, 5]], [second], first=True)[0] == Flop(sum(each), each[1])
    assert count(layers, [[4, 5]], [first, second])[0] == Flop(sum(each), 2 * sum(each))


def test_rpn(inference):
    cells = sum(side * side for side in (16, 8, 4, 2, 1))
    assert inference["RPN"] == Flop(2 * 2 * cells * 16 * (9 * 16 + 3 + 12), 0)


def test_box_heads(inference):
    one = 7 * 7 * 16 * 16 + 16 * 16 + 16 * (8 + 1) + 16 * 4
    assert inference["box stages"] == Flop(10 * 2 * 2 * one, 0)


def test_masks(model, inference):
    cells, channels = 14 * 14, 16
    trunk, receive = cells * 9 * channels * channels, cells * channels * channels
    logits = cells * 4 * channels * channels + 4 * cells * channels * 8
    assert inference["masks"] == Flop(3 * 2 * (2 * (trunk + logits) + receive), 0)
    # In training the first stage's positives see its head alone, the second's see both trunks.
    learnt = Arithmetic(model, 64, 64, training=True)
    learnt = learnt.parts(images=1, rois=[16, 16], masks=[3, 2])["masks"]
    forward = 2 * (3 * (trunk + logits) + 2 * (2 * trunk + receive + logits))
    assert learnt == Flop(forward, 2 * forward)


def test_frozen_layers_have_no_backward_pass(model):
    image, first = [[1, 64, 64, 3]], model.backbone.stem
    stem = count(first, image, first.trainable_variables, first=True)[0]
    # Nothing needs the gradient of the image.
    assert stem == Flop(2 * 32 * 32 * 7 * 7 * 3 * 8, 2 * 32 * 32 * 7 * 7 * 3 * 8)
    assert count(first, image, [], first=True)[0] == Flop(stem.forward, 0)
