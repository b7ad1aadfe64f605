"""Semantic map: full-resolution labels from stride-8 logits, and their drawing with a legend."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from htc_tf.data.coco_classes import STUFF_NAMES, THING_NAMES
from htc_tf.inference import semantic_map
from htc_tf.inference.semantic_map import draw_labels, enlarge, label_names
from htc_tf.visualization.palette import palette

SHAPES = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]


def interpolated(logits, y, x):
    """Returns the logits at (y, x) in cells, interpolated bilinearly with a replicated border."""
    y, x = (np.clip(value, 0, end - 1) for value, end in zip((y, x), logits.shape, strict=False))
    top, left = (int(min(np.floor(value), end - 2)) for value, end in zip((y, x), logits.shape, strict=False))
    down, right = y - top, x - left
    rows = logits[top : top + 2, left] * (1 - right) + logits[top : top + 2, left + 1] * right
    return rows[0] * (1 - down) + rows[1] * down


@pytest.mark.parametrize(("shape", "resized"), [((48, 64), (48, 64)), ((31, 90), (44, 60)), ((96, 50), (48, 25))])
def test_labels_equal_the_argmax_of_interpolated_logits(monkeypatch, shape, resized):
    monkeypatch.setattr(semantic_map, "STRIP", 5 * 7 * shape[1])  # seven rows at a time
    logits = np.random.default_rng(1).normal(size=(6, 8, 5)).astype(np.float32)
    scale = np.float32(resized) / np.float32(shape)
    labels = enlarge(tf.constant(logits), shape, tf.constant(scale))
    assert labels.shape == shape and labels.dtype == np.uint8
    for y, x in np.random.default_rng(2).integers(0, shape, (60, 2)):
        # The pixel's center in the resized image; cells are centered on every eighth pixel.
        position = ((np.array([y, x]) + 0.5) * scale - 0.5) / 8
        expected = interpolated(logits, *position)
        assert expected[labels[y, x]] >= expected.max() - 1e-4


def test_names_and_colors():
    unnamed = [{"id": 1, "name": "\U000e0fff"}, {"id": 3, "name": "\u0436\u0443\u043a"}]
    assert [name for name, _ in label_names(unnamed, [0, 2]).values()] == ["1", "\u0436\u0443\u043a"]
    named = label_names(SHAPES, [1, 2, 5])
    assert {label: name for label, (name, _) in named.items()} == {1: "square", 2: "stuff 2", 5: "stuff 5"}
    np.testing.assert_array_equal(named[1][1], palette(2)[1])  # the masks' color
    assert len({tuple(color) for _, color in named.values()}) == 3
    coco = [{"id": key, "name": name} for key, name in THING_NAMES.items()]
    assert label_names(coco, [0, 156])[156][0] == "sky-other" and label_names(coco, [0])[0][0] == "person"
    assert len(STUFF_NAMES) == 91 and STUFF_NAMES[182] == "wood"


def test_a_drawing_has_a_legend():
    image = np.full((300, 640, 3), 90, np.uint8)
    labels = np.zeros((300, 640), np.uint8)
    labels[:, 320:] = 7
    drawn = draw_labels(image, labels, SHAPES)
    assert drawn.shape[1] == 640 and 320 < drawn.shape[0] < 380
    for part, label in ((drawn[:300, :300], 0), (drawn[:300, 340:], 7)):
        blend = 0.45 * 90 + 0.55 * label_names(SHAPES, [0, 7])[label][1].astype(float)
        assert np.abs(part - blend).max() < 4
    assert (drawn[150, 318:322] > 150).all(axis=-1).any()  # the line between them
    for _, color in label_names(SHAPES, [0, 7]).values():
        assert (np.abs(drawn[300:].astype(int) - color).max(axis=-1) < 20).sum() > 100
    assert draw_labels(image[:40, :40], labels[:40, :40], SHAPES).shape[1] == 640


def test_a_models_map_follows_its_logits(tiny_model, eagerly):
    from htc_tf.inference.detector import Detector

    experiment, model = tiny_model()
    detector = Detector(model, experiment)
    image = np.asarray(Image.radial_gradient("L").resize((90, 60)).convert("RGB"))
    labels = detector.label_map(image)
    images, sizes = detector.prepare(image)
    # The branch's logits on the grid of the padded input.
    pyramid = model.neck(model.backbone(model.normalize(images, sizes)))
    logits = model.semantic_head(pyramid).logits[0].numpy()
    scale = sizes[0].numpy() / image.shape[:2]
    assert labels.shape == (60, 90)
    for y, x in ((0, 0), (59, 89), (30, 45), (12, 70)):
        expected = interpolated(logits, *(((np.array([y, x]) + 0.5) * scale - 0.5) / 8))
        assert expected[labels[y, x]] >= expected.max() - 1e-4
