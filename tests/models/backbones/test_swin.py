"""Swin against a PyTorch implementation; stochastic depth, precision and mistakes."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.swin import Swin, attention_mask
from htc_tf.weights import Unmatched, entries, load_mmdet
from htc_tf.weights.swin_names import rename_swin
from htc_tf.weights.versions import from_mmdet
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[2] / "reference"
WEIGHTS = runpy.run_path(str(REFERENCE / "swin_weights.py"))
DRAWN = runpy.run_path(str(REFERENCE / "drawn_weights.py"))
LEVELS = (2, 3, 4, 5)


def make_swin(arrays=None, **arguments):
    """Returns a small Swin with weights {mmdetection's name: array}."""
    swin = Swin(**{**WEIGHTS["TOY"], **arguments})
    swin(tf.zeros([1, 64, 96, 3]))
    if arrays is not None:
        assert not load_mmdet(network(swin), arrays).unexpected
    return swin


def network(swin):
    """The part of an HTC that the tables of names read."""
    return SimpleNamespace(backbone=swin, built=True, variables=swin.variables)


def mmdet_arrays():
    return {f"backbone.{name}": array for name, array in WEIGHTS["state_dict"]("mmdet").items()}


@pytest.fixture(scope="module")
def swin():
    """With mmdetection's weights, every one of them."""
    swin = make_swin()
    assert load_mmdet(network(swin), mmdet_arrays()) == Unmatched([], [], [])
    return swin


@pytest.fixture(scope="module")
def images():
    return tf.constant(WEIGHTS["images"]())


def test_outputs_are_those_of_pytorch(swin, images, reference):
    found = swin(images)
    assert list(found) == list(LEVELS)
    for level in LEVELS:
        np.testing.assert_allclose(found[level], reference("swin_toy")[f"mmdet_C{level}"], atol=2e-4)


@pytest.mark.slow
def test_xla_compiles_it(images):
    swin = make_swin(depths=(2, 1, 1, 1))
    compiled = tf.function(swin, jit_compile=True, autograph=False)(images)
    for level, expected in swin(images).items():
        np.testing.assert_allclose(compiled[level], expected, atol=1e-4)


def test_the_authors_weights_give_their_outputs(images, reference):
    swin = make_swin(rename_swin(WEIGHTS["state_dict"]("authors")))
    found = swin(images)
    for level in LEVELS:
        np.testing.assert_allclose(found[level], reference("swin_toy")[f"authors_C{level}"], atol=2e-4)


def test_gradients_are_those_of_pytorch(swin, images, reference):
    with tf.GradientTape() as tape:
        found = swin(images)
        waves = {level: tf.cos(0.1 * tf.range(tf.size(x), dtype=tf.float32)) for level, x in found.items()}
        loss = sum(tf.reduce_sum(x * tf.reshape(waves[level], x.shape)) for level, x in found.items())
    table = {entry.name: entry for entry in entries(network(swin))}
    names = [name for name in reference("swin_toy") if name.startswith("gradient_")]
    wanted = [table["backbone." + name.removeprefix("gradient_")] for name in names]
    assert len(wanted) == 6
    gradients = tape.gradient(loss, [entry.variable for entry in wanted])
    for name, entry, gradient in zip(names, wanted, gradients, strict=True):
        assert isinstance(gradient, tf.Tensor)  # not IndexedSlices, whose sum is not deterministic
        expected = reference("swin_toy")[name]
        np.testing.assert_allclose(
            entry.layout.theirs(gradient.numpy(), None), expected, atol=2e-5 * abs(expected).max()
        )


@pytest.mark.parametrize("window, compiled", [(7, False), (12, False), *slow((12, True))])
def test_features_and_gradients_are_those_of_the_authors_module(window, compiled, reference):
    """Their detectors' backbone: swin.npz, with windows larger than the maps of the last stages."""
    expected = {name: array for name, array in reference("swin").items() if name.startswith(f"window{window}_")}
    swin = make_swin(channels=8, heads=(1, 2, 4, 8), window=window, drop_path=0.0)
    shapes = WEIGHTS["shapes"]("authors", 8, WEIGHTS["TOY"]["depths"], (1, 2, 4, 8), window)
    shapes |= {f"norm{i}.{leaf}": (8 * 2**i,) for i in range(4) for leaf in ("weight", "bias")}
    drawn = DRAWN["state_dict"]({f"backbone.{name}": shape for name, shape in shapes.items()})
    arrays, _ = from_mmdet(drawn, "swin.pth")
    assert load_mmdet(network(swin), arrays) == Unmatched([], [], [])
    prefix = f"window{window}_gradient_"
    gradients, _ = from_mmdet({name.removeprefix(prefix): x for name, x in expected.items() if prefix in name}, "")
    table = {entry.name: entry for entry in entries(network(swin))}
    assert len(gradients) == 8

    @tf.function(jit_compile=compiled, autograph=False)
    def learn(images):
        with tf.GradientTape() as tape:
            found = swin(images, training=True)
            loss = sum(tf.reduce_sum(x * DRAWN["waves"](x.shape)) for x in found.values())
        return found, tape.gradient(loss, [table[name].variable for name in gradients])

    levels, learned = learn(DRAWN["images"]())
    for level, x in levels.items():
        array = expected[f"window{window}_level{level}"]
        np.testing.assert_allclose(x, array, atol=1e-5 * abs(array).max())
    for (name, array), gradient in zip(gradients.items(), learned, strict=True):
        here = table[name].layout.theirs(gradient.numpy(), None)
        np.testing.assert_allclose(here, array, atol=1e-4 * abs(array).max(), err_msg=name)


def test_attention_mask_of_a_shifted_window():
    """On 4 x 4 cells, windows of 4 shifted by 2: the four quarters come from four corners of the image."""
    mask = attention_mask(4, 4, 4)
    assert mask.shape == (1, 1, 16, 16)
    quarters = np.kron([[0, 1], [2, 3]], np.ones([2, 2])).reshape(-1)
    np.testing.assert_array_equal(mask[0, 0] == 0, quarters[:, np.newaxis] == quarters)


def test_a_repeated_step_drops_the_same_paths(images):
    swin = make_swin(mmdet_arrays(), drop_path=0.5)
    assert [block.drop_path for blocks in swin.blocks for block in blocks] == pytest.approx(np.linspace(0, 0.5, 8))

    def last(images, training=True):
        return swin(images, training=training)[5].numpy()

    trained = last(images)
    np.testing.assert_array_equal(trained, last(images))
    assert abs(trained - last(images, training=False)).max() > 0.1


@pytest.mark.parametrize("frozen_stages", [2, 4])
def test_frozen_stages_drop_no_path(images, frozen_stages):
    swin = make_swin(mmdet_arrays(), drop_path=0.5, frozen_stages=frozen_stages)
    trained, tested = swin(images, training=True), swin(images, training=False)
    same = [level - 1 for level in trained if (trained[level].numpy() == tested[level].numpy()).all()]
    assert same == list(range(1, frozen_stages + 1))


def test_bfloat16_keeps_norms_and_softmax_in_float32(images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        swin = make_swin(mmdet_arrays())
        found = swin(images)
        graph = tf.function(swin, autograph=False).get_concrete_function(images).graph
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    types = {
        kind: {op.outputs[0].dtype for op in graph.get_operations() if op.type == kind} for kind in ("Softmax", "Rsqrt")
    }
    assert types == {"Softmax": {tf.float32}, "Rsqrt": {tf.float32}}
    assert {op.outputs[0].dtype for op in graph.get_operations() if op.type == "BatchMatMulV2"} == {tf.bfloat16}
    for level in LEVELS:
        assert found[level].dtype == tf.bfloat16
        error = tf.cast(found[level], tf.float32) - reference("swin_toy")[f"mmdet_C{level}"]
        assert np.sqrt(np.mean(error**2)) < 0.05


def test_frozen_stages():
    swin = make_swin(frozen_stages=2)
    frozen = {v.name.split("/")[1] for v in swin.variables} - {v.name.split("/")[1] for v in swin.trainable_variables}
    blocks = {"stage1_block1", "stage2_block1", "stage2_block2"}
    assert frozen == {"embed", "embed_norm", *blocks, "norm1", "norm2", "merging1", "merging2"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"depths": (2, 2, 2)}, "Swin.depths"),
        ({"heads": (3, 6, 12, 24)}, "stage 1 has 4 channels"),
        ({"drop_path": 1.0}, "Swin.drop_path = 1.0"),
    ],
)
def test_mistakes_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        make_swin(**arguments)
