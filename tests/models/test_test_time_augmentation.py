"""Test-time augmentation: frames of views by hand; one view, two equal views and flipped views on the tiny model."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models import test_time_augmentation as tta


def test_a_view_of_the_same_size_is_the_image_without_its_padding():
    images = np.random.RandomState(0).randint(0, 255, (2, 32, 64, 3), np.uint8)
    sizes = np.float32([[20, 50], [32, 64]])
    view, ratio = tta.make_view(tf.constant(images), tf.constant(sizes), 1.0, False)
    flipped_view, _ = tta.make_view(tf.constant(images), tf.constant(sizes), 1.0, True)
    assert view.shape == (2, 32, 64, 3) and ratio.numpy().tolist() == [1, 1]
    np.testing.assert_array_equal(view[0, :20, :50], images[0, :20, :50])
    np.testing.assert_array_equal(flipped_view[0, :20, :50], images[0, :20, :50][:, ::-1])
    np.testing.assert_array_equal(flipped_view[1], images[1, :, ::-1])


def test_a_resized_view_is_padded_and_keeps_its_border():
    images = np.full((1, 32, 64, 3), 200, np.uint8)
    images[0, 16:], images[0, :, 40:] = 0, 0
    view, ratio = tta.make_view(tf.constant(images), tf.constant([[16.0, 40.0]]), 0.75, True)
    assert view.shape == (1, 32, 64, 3) and ratio.numpy().tolist() == [0.75, 0.75]
    np.testing.assert_allclose(view[0, :12, :30], 200)


def test_boxes_to_a_view_and_back():
    sizes, ratio = tf.constant([[20.0, 50.0]]), tf.constant([0.5, 2.0])
    boxes = tf.constant([[[1.0, 2.0, 5.0, 10.0]]])
    seen = tta.to_view_frame(boxes, sizes, ratio, True)
    np.testing.assert_array_equal(seen, [[[0.5, 80, 2.5, 96]]])
    for flipped in (False, True):
        seen = tta.to_view_frame(boxes, sizes, ratio, flipped)
        np.testing.assert_array_equal(tta.to_image_frame(seen, sizes, ratio, flipped), boxes)


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()[1]


def assert_alike(found, wanted, atol):
    np.testing.assert_array_equal(found.valid, wanted.valid)
    np.testing.assert_array_equal(found.classes, wanted.classes)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=atol)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    valid = wanted.valid.numpy()
    np.testing.assert_allclose(found.masks.numpy()[valid], wanted.masks.numpy()[valid], atol=1e-3)


def test_one_view_equals_a_single_pass(model, drawn_batch):
    images, sizes = drawn_batch.images, drawn_batch.sizes
    wanted = model.infer(images, sizes)
    assert wanted.valid.numpy().sum() > 3
    assert_alike(tta.TestTimeAugmentation(scales=(1.0,), flip=False)(model, images, sizes), wanted, 1e-3)


def test_the_same_view_twice_changes_nothing(model, drawn_batch):
    images, sizes = drawn_batch.images, drawn_batch.sizes
    views = tta.TestTimeAugmentation(scales=(1.0, 1.0), flip=False)
    assert_alike(views(model, images, sizes), model.infer(images, sizes), 1e-3)


def test_a_flipped_view_alone_equals_the_detections_of_the_flipped_image(model, drawn_batch):
    images, sizes = drawn_batch.images, drawn_batch.sizes
    views = tta.TestTimeAugmentation(scales=(1.0,))
    views.views = [(1.0, True)]
    flipped_view, _ = tta.make_view(images, sizes, 1.0, True)
    wanted = model.infer(flipped_view, sizes)
    wanted = wanted._replace(
        boxes=tf.where(wanted.valid[..., None], tta.flip_boxes(wanted.boxes, sizes), 0.0),
        masks=wanted.masks[..., ::-1],
    )
    assert_alike(views(model, images, sizes), wanted, 1e-3)


def test_detections_of_resized_views_are_in_the_frame_of_the_image(model, drawn_batch):
    images, sizes = drawn_batch.images, drawn_batch.sizes
    found = tta.TestTimeAugmentation(scales=(0.5,))(model, images, sizes)
    single = model.infer(images, sizes)
    assert [field.shape for field in found] == [field.shape for field in single]
    masks = found.masks.numpy()[found.valid.numpy()]
    assert found.valid.numpy().any(axis=1).all() and ((masks > 0) & (masks < 1)).all()
    y1, x1, y2, x2 = np.moveaxis(found.boxes.numpy(), -1, 0)
    height, width = sizes.numpy()[:, :1], sizes.numpy()[:, 1:]
    assert (y1 >= -1e-3).all() and (y2 <= height + 1e-3).all() and (x1 >= -1e-3).all() and (x2 <= width + 1e-3).all()


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_invalid_scales_are_refused(scales):
    with pytest.raises(UserError, match=r"TestTimeAugmentation.scales = "):
        tta.TestTimeAugmentation(scales=scales)


def test_a_gin_override_makes_infer_use_it(tiny_experiment, drawn_batch):
    images, sizes = drawn_batch.images, drawn_batch.sizes
    override = [
        "HTC.test_time=@TestTimeAugmentation()",
        "TestTimeAugmentation.scales=(1.0,)",
        "NUM_STAGES=1",
        "SEMANTIC=False",
    ]
    model = tiny_experiment(*override).build_model()
    found = model.infer(images, sizes)
    assert found.masks.shape[:2] == found.scores.shape
    views, model.test_time = model.test_time, None
    assert views.views == [(1.0, False), (1.0, True)]
    assert not np.array_equal(found.scores, model.infer(images, sizes).scores)
    np.testing.assert_array_equal(views(model, images, sizes).scores, found.scores)
