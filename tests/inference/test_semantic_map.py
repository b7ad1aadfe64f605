"""Labels of every pixel from logits of every eighth, and their picture."""

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
    """Bilinear at a point in cells, the border repeated."""
    y, x = (np.clip(value, 0, end - 1) for value, end in zip((y, x), logits.shape, strict=False))
    top, left = (int(min(np.floor(value), end - 2)) for value, end in zip((y, x), logits.shape, strict=False))
    down, right = y - top, x - left
    rows = logits[top : top + 2, left] * (1 - right) + logits[top : top + 2, left + 1] * right
    return rows[0] * (1 - down) + rows[1] * down


@pytest.mark.parametrize(("shape", "resized"), [((48, 64), (48, 64)), ((31, 90), (44, 60)), ((96, 50), (48, 25))])
def test_labels_are_those_of_interpolated_logits(monkeypatch, shape, resized):
    monkeypatch.setattr(semantic_map, "STRIP", 5 * 7 * shape[1])  # seven rows at a time
    logits = np.random.default_rng(1).normal(size=(6, 8, 5)).astype(np.float32)
    scale = np.float32(resized) / np.float32(shape)
    labels = enlarge(tf.constant(logits), shape, tf.constant(scale))
    assert labels.shape == shape and labels.dtype == np.uint8
    for y, x in np.random.default_rng(2).integers(0, shape, (60, 2)):
        # The pixel's centre in the resized image; the cell's centre is that of every eighth pixel.
        position = ((np.array([y, x]) + 0.5) * scale - 0.5) / 8
        expected = interpolated(logits, *position)
        assert expected[labels[y, x]] >= expected.max() - 1e-4


def test_names_and_colours():
    unnamed = [{"id": 1, "name": "\U000e0fff"}, {"id": 3, "name": "\u0436\u0443\u043a"}]
    assert [name for name, _ in label_names(unnamed, [0, 2]).values()] == ["1", "\u0436\u0443\u043a"]
    named = label_names(SHAPES, [1, 2, 5])
    assert {label: name for label, (name, _) in named.items()} == {1: "square", 2: "stuff 2", 5: "stuff 5"}
    np.testing.assert_array_equal(named[1][1], palette(2)[1])  # as masks are drawn
    assert len({tuple(colour) for _, colour in named.values()}) == 3
    coco = [{"id": key, "name": name} for key, name in THING_NAMES.items()]
    assert label_names(coco, [0, 156])[156][0] == "sky-other" and label_names(coco, [0])[0][0] == "person"
    assert len(STUFF_NAMES) == 91 and STUFF_NAMES[182] == "wood"


def test_a_picture_with_a_legend():
    image = np.full((300, 640, 3), 90, np.uint8)
    labels = np.zeros((300, 640), np.uint8)
    labels[:, 320:] = 7
    drawn = draw_labels(image, labels, SHAPES)
    assert drawn.shape[1] == 640 and 320 < drawn.shape[0] < 380
    for part, label in ((drawn[:300, :300], 0), (drawn[:300, 340:], 7)):
        blend = 0.45 * 90 + 0.55 * label_names(SHAPES, [0, 7])[label][1].astype(float)
        assert np.abs(part - blend).max() < 4
    assert (drawn[150, 318:322] > 150).all(axis=-1).any()  # the line between them
    for _, colour in label_names(SHAPES, [0, 7]).values():
        assert (np.abs(drawn[300:].astype(int) - colour).max(axis=-1) < 20).sum() > 100
    assert draw_labels(image[:40, :40], labels[:40, :40], SHAPES).shape[1] == 640


def test_a_model_maps_what_it_was_fed(tiny_model, eagerly):
    from htc_tf.inference.detector import Detector

    experiment, model = tiny_model()
    detector = Detector(model, experiment)
    image = np.asarray(Image.radial_gradient("L").resize((90, 60)).convert("RGB"))
    labels = detector.label_map(image)
    images, sizes = detector.prepare(image)
    # The branch's own logits, on the grid that they have in the padded input.
    pyramid = model.neck(model.backbone(model.normalize(images, sizes)))
    logits = model.semantic_head(pyramid).logits[0].numpy()
    scale = sizes[0].numpy() / image.shape[:2]
    assert labels.shape == (60, 90)
    for y, x in ((0, 0), (59, 89), (30, 45), (12, 70)):
        expected = interpolated(logits, *(((np.array([y, x]) + 0.5) * scale - 0.5) / 8))
        assert expected[labels[y, x]] >= expected.max() - 1e-4
