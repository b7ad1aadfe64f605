"""Composite backbones of two Swins and of two ResNets against the originals; XLA, precision, random seeds, mistakes."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.composite import Composite
from htc_tf.models.backbones.hrnet import HRNet
from htc_tf.models.backbones.resnet import ResNet
from htc_tf.models.backbones.swin import Swin
from htc_tf.weights import Unmatched, entries, load_mmdet
from htc_tf.weights.versions import from_mmdet
from tests.slow import slow

DRAWN = runpy.run_path(str(Path(__file__).resolve().parents[2] / "reference" / "drawn_weights.py"))
SWIN = {"channels": 4, "depths": (1, 2, 3, 2), "heads": (1, 2, 2, 4), "drop_path": 0.0}
KINDS = {"swin": (Swin, SWIN, None), "resnet": (ResNet, {"depth": 18, "width": 4, "frozen_stages": -1}, "frozen_batch")}


def make_composite(kind, **arguments):
    kind, sizes, norm = KINDS[kind]
    parts = [kind(**{**sizes, **arguments}, name=name) for name in ("assistant", "lead")]
    composite = Composite(*parts, norm=norm)
    composite(tf.zeros([1, 32, 32, 3]))
    return composite


def network(backbone):
    """The part of an HTC that the tables of names read."""
    return SimpleNamespace(backbone=backbone, built=True, variables=backbone.variables)


def load(composite, listing):
    """Sets the weights of the reference arrays by the original's names and shapes."""
    rows = dict(line.split("\t") for line in listing)
    shapes = {name: tuple(int(side) for side in sides.split(",") if side) for name, sides in rows.items()}
    arrays, _ = from_mmdet(DRAWN["state_dict"](shapes), "composite.pth")
    assert load_mmdet(network(composite), arrays) == Unmatched([], [], [])
    return composite


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_gradients_are_the_originals(kind, images, reference):
    """Of both parts; the largest difference is a fraction of the array's largest value."""
    expected = {key.removeprefix(f"{kind}_"): x for key, x in reference("cbnet").items() if key.startswith(kind)}
    composite = load(make_composite(kind), expected["listing"])
    table = {entry.name: entry for entry in entries(network(composite))}
    theirs = {key.removeprefix("gradient_"): x for key, x in expected.items() if key.startswith("gradient_")}
    theirs, _ = from_mmdet(theirs, "gradients.pth")  # named and arranged as weights
    assert len(theirs) == 7

    with tf.GradientTape() as tape:
        lead, assistant = composite(images, training=True)
        found = [*lead.values(), *assistant.values()]
        loss = sum(tf.reduce_sum(x * DRAWN["waves"](x.shape)) for x in found)
    gradients = tape.gradient(loss, [table[name].variable for name in theirs])
    for level, x in enumerate(found, start=2):
        array = expected[f"level{level}"]
        np.testing.assert_allclose(x, array, atol=1e-5 * abs(array).max(), err_msg=level)
    for (name, array), gradient in zip(theirs.items(), gradients, strict=True):
        here = table[name].layout.theirs(gradient.numpy(), None)
        np.testing.assert_allclose(here, array, atol=1e-4 * abs(array).max(), err_msg=name)


@pytest.mark.parametrize("kind, sizes", slow(("swin", {"depths": (1, 1, 1, 1)}), ("resnet", {"depth": 10})))
def test_xla_compiles_it(kind, sizes, images):
    composite = make_composite(kind, **sizes)
    compiled = tf.function(composite, jit_compile=True, autograph=False)(images)
    for found, expected in zip(tf.nest.flatten(compiled), tf.nest.flatten(composite(images)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_links_are_zero_at_first(kind, images):
    """Untrained, the lead of two ResNets is a ResNet; that of two Swins receives the features of its own level."""
    composite = make_composite(kind)
    lead, assistant = composite(images)
    alone = composite.parts[1]
    added = {level: assistant[level] for level in assistant} if kind == "swin" else None
    shared = composite.parts[0].share(images)
    for level, x in alone(images, shared=shared, added=added).items():
        np.testing.assert_allclose(lead[level], x, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(kind, images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        composite = load(make_composite(kind), reference("cbnet")[f"{kind}_listing"])
        lead, assistant = composite(images)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    for level, x in enumerate([*lead.values(), *assistant.values()], start=2):
        assert x.dtype == tf.bfloat16
        expected = reference("cbnet")[f"{kind}_level{level}"]
        assert np.sqrt(np.mean((tf.cast(x, tf.float32) - expected) ** 2)) < 0.05 * np.std(expected)


def test_the_parts_drop_different_paths(images):
    """Even if they have the same weights, and the assistant's features add nothing."""
    composite = make_composite("swin", drop_path=0.5)
    assistant, lead = composite.parts
    theirs = {v.name.split("/", 2)[2]: v for v in assistant.variables}
    for variable in lead.variables:
        variable.assign(theirs[variable.name.split("/", 2)[2]])
    shared = assistant.share(images)
    added = {level: tf.zeros_like(x) for level, x in assistant(images, shared=shared).items()}
    first = assistant(images, training=True, shared=shared)[5]
    second = lead(images, training=True, shared=shared, added=added)[5]
    still = [part(images, shared=shared, added=added)[5] for part in composite.parts]
    np.testing.assert_array_equal(*still)
    assert abs(first - second).numpy().max() > 0.1


def test_frozen_stages_of_both_parts():
    composite = make_composite("swin", frozen_stages=1)
    frozen = {v.name for v in composite.variables} - {v.name for v in composite.trainable_variables}
    assert {"/".join(name.split("/")[1:3]) for name in frozen} == {
        *("assistant/embed", "assistant/embed_norm"),
        *(f"{part}/{layer}" for part in ("assistant", "lead") for layer in ("stage1_block1", "norm1", "merging1")),
    }


def test_mistakes():
    with pytest.raises(UserError, match="HRNet has no layers to share; bind two Swins, ResNets or Res2Nets"):
        Composite(HRNet(name="assistant"), HRNet(name="lead"))
    with pytest.raises(UserError, match="one kind and width"):
        Composite(Swin(name="assistant"), ResNet(name="lead"))
    with pytest.raises(UserError, match="one kind and width"):
        Composite(Swin(name="assistant"), Swin(channels=192, heads=(6, 12, 24, 48), name="lead"))
    with pytest.raises(UserError, match=r"both named 'backbone'.*lead/Swin.name = 'lead'"):
        Composite(Swin(), Swin())
