"""The detector: restored from a run, applied to images of any size, with the semantic map of the same pass."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image

from htc_tf.data.datasets import load_info
from htc_tf.data.preprocessing import decode_rgb
from htc_tf.errors import UserError
from htc_tf.evaluation.records import detect_records
from htc_tf.inference.detector import Detector, restore
from htc_tf.inference.inputs import read_image
from htc_tf.inference.output_names import drawing_names
from htc_tf.inference.predict_files import Options, predict_files
from htc_tf.run import Run
from htc_tf.structures import Detections


@pytest.fixture(scope="module")
def detector(tiny_experiment, tiny_run):
    """A detector with batches of four, so that the last batch of six images has two padding rows."""
    return restore(tiny_experiment("NUM_STAGES=2", "eval/Input.batch_size=4"), tiny_run)


def test_blank_variables_have_the_same_names_and_shapes_and_are_zero(tiny_experiment):
    drawn, blank = (tiny_experiment().build_model() for _ in range(2))
    drawn.build_variables()
    blank.build_variables(blank=True)
    assert [(v.name, v.shape) for v in blank.variables] == [(v.name, v.shape) for v in drawn.variables]
    assert any(np.any(v) for v in drawn.variables) and not any(np.any(v) for v in blank.variables)


def test_images_get_the_detections_of_their_records(tiny_experiment, tiny_run, tiny_data, eagerly):
    detector = restore(tiny_experiment("NUM_STAGES=2", "eval/Input.batch_size=1"), tiny_run)
    results, _, _ = detect_records(detector, load_info(tiny_data.records))
    image = read_image(tiny_data.images / f"{3:012d}.jpg")
    found = detector.detect_image(image)
    wanted = [result for result in results if result["image_id"] == 3]
    y1, x1, y2, x2 = found.boxes.T
    np.testing.assert_allclose(np.stack([x1, y1, x2 - x1, y2 - y1], 1), [r["bbox"] for r in wanted], atol=1e-3)
    np.testing.assert_allclose(found.scores, [r["score"] for r in wanted], rtol=1e-5)
    assert found.masks == [r["segmentation"] for r in wanted] and len(wanted) > 3


def test_the_semantic_map_comes_from_the_same_pass(detector, tiny_run, tiny_data, eagerly):
    """Detections and labels equal those computed separately."""
    image = read_image(tiny_data.images / f"{3:012d}.jpg")
    plain, labels = detector.detect_image(image), detector.label_map(image)
    assert plain.labels is None
    result = detector.detect_image(image, semantic=True)
    for one, other in zip(result[:3], plain[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert result.masks == plain.masks and len(result.masks) > 3
    np.testing.assert_array_equal(result.labels, labels)


def test_a_model_without_the_semantic_branch_has_no_map(tiny_model):
    experiment, model = tiny_model("SEMANTIC=False")
    detector, image = Detector(model, experiment), np.zeros([40, 40, 3], np.uint8)
    for call in (detector.label_map, lambda image: detector.detect_image(image, semantic=True)):
        with pytest.raises(UserError, match="semantic branch"):
            call(image)


class WholeImageModel:
    """A model that detects one object as large as the image and records its input shapes."""

    masks = False

    def __init__(self):
        self.shapes = []

    def infer(self, images, sizes):
        self.shapes.append(tuple(images.shape))
        one = tf.ones([1, 1])
        boxes = tf.concat([tf.zeros_like(sizes), sizes], 1)[:, tf.newaxis]
        return Detections(boxes, one, tf.cast(one, tf.int32), one > 0)


def test_images_of_any_size(tiny_experiment, eagerly):
    model = WholeImageModel()
    detector = Detector(model, tiny_experiment("IMAGE_MAX_SIDE=100"))
    sizes = [(200, 300), (300, 200), (64, 64), (20, 2000), (1, 1)]
    for height, width in sizes:
        found = detector.detect_image(np.zeros([height, width, 3], np.uint8))
        np.testing.assert_allclose(found.boxes, [[0, 0, height, width]], rtol=1e-6)
        assert found.masks is None
    landscape, portrait, long = (1, 64, 96, 3), (1, 96, 64, 3), (1, 64, 128, 3)
    assert model.shapes == [landscape, portrait, landscape, long, landscape]


def test_runs_that_cannot_be_restored(tiny_experiment, tiny_run, tmp_path):
    with pytest.raises(UserError, match=r"nowhere is missing: name the folder of a training run"):
        restore(tiny_experiment(), Run(tmp_path / "nowhere"))
    run = Run(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    with pytest.raises(UserError, match="8 classes, but NUM_CLASSES = 5"):
        restore(tiny_experiment("NUM_CLASSES=5"), run)
    run.classes.write_text("{")
    with pytest.raises(UserError, match=r"classes\.json is damaged"):
        restore(tiny_experiment(), run)
    shutil.copy(tiny_run.classes, run.classes)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore(tiny_experiment(), run)


def test_images_are_decoded_as_in_training_and_made_upright(tmp_path, tiny_data):
    path = tiny_data.images / f"{1:012d}.jpg"
    pixels = decode_rgb(path.read_bytes()).numpy()
    np.testing.assert_array_equal(read_image(path), pixels)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn to the right
    turned = tmp_path / "turned.png"
    Image.fromarray(pixels).save(turned, exif=exif)
    np.testing.assert_array_equal(read_image(turned), np.rot90(pixels, -1))
    for mode in ("L", "P", "RGBA", "1", "LA"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / f"{mode}.png")
        assert read_image(tmp_path / f"{mode}.png").shape == pixels.shape
    Image.fromarray(pixels).save(tmp_path / "still.gif", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    assert read_image(tmp_path / "still.gif").shape == pixels.shape


def test_drawings_do_not_replace_each_other():
    paths = [Path(name) for name in ("a/x.jpg", "b/x.png", "c/x_2.jpg", "d/x.gif", "y.jpg")]
    names = drawing_names(paths)
    assert names[0] == "x.png" and names[1] == "x_2.png" and names[4] == "y.png" and len(set(names)) == 5


def test_drawings_do_not_replace_images(detector, tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png would replace"):
        predict_files(detector, [], [tmp_path / "x.png"], tmp_path, Options(threshold=0.5))


@pytest.mark.parametrize("kind", ["semantic", "cutouts"])
def test_semantic_maps_and_cut_outs_do_not_replace_images(tmp_path, kind):
    (tmp_path / kind).mkdir()
    path = tmp_path / kind / "x.png"
    Image.new("RGB", (30, 30)).save(path)
    with pytest.raises(UserError, match=rf"{kind}/x\.png would replace"):
        predict_files(None, [], [path], tmp_path, Options(**{kind: True}))
