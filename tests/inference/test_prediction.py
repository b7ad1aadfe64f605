"""Prediction: filtering, COCO results, drawing, saving and cut-outs of the objects detected in an image."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.errors import UserError
from htc_tf.inference import predictor
from htc_tf.inference.output_names import image_ids
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.predictor import Predictor
from htc_tf.inference.results import ImageResult
from htc_tf.visualization.cutouts import cut_out, cut_outs
from htc_tf.visualization.palette import palette

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]
BOXES = np.float32([[10, 20, 60, 90], [0, 100, 40, 160], [50, 5, 55, 9]])


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(100, 120, (120, 160, 3), np.uint8)


@pytest.fixture
def masks():
    masks = np.zeros((3, 120, 160), bool)
    for mask, (y1, x1, y2, x2) in zip(masks[:2], BOXES.astype(int), strict=False):
        mask[y1:y2, x1:x2] = True
    return masks  # the third is empty


@pytest.fixture
def found(image, masks):
    runs = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    runs = [{**run, "counts": run["counts"].decode()} for run in runs]
    return Prediction(image, ImageResult(BOXES, np.float32([0.9, 0.6, 0.2]), np.int32([1, 0, 1]), runs), CATEGORIES)


def test_fields(found, masks):
    assert len(found) == 3 and found.class_names == ["cat", "car", "cat"] and found.category_ids == [17, 3, 17]
    assert found.masks.dtype == bool
    np.testing.assert_array_equal(found.masks, masks)
    assert repr(found) == "<Prediction in 160 x 120 pixels: 1 cat, 1 car; 1 below 30%>"


def test_above(found, masks):
    sure = found.above(0.5)
    assert len(sure) == 2 and sure.scores.min() >= 0.5 and sure.boxes.shape == (2, 4)
    np.testing.assert_array_equal(sure.masks, masks[:2])
    nothing = found.above(0.95)
    assert nothing.masks.shape == (0, 120, 160) and nothing.to_coco() == [] and "nothing" in repr(nothing)
    assert nothing.draw(threshold=0).shape == (480, 640, 3)


def test_a_prediction_is_a_sequence_of_objects(found, masks):
    labels = [(one.label, round(one.score, 1), one.class_index, one.category_id) for one in found]
    assert labels == [("cat", 0.9, 1, 17), ("car", 0.6, 0, 3), ("cat", 0.2, 1, 17)]
    np.testing.assert_array_equal(found[-2].box, BOXES[1])
    np.testing.assert_array_equal(found[1].mask, masks[1])
    assert repr(found[0]) == "<cat, 90%, x 20.0 to 90.0, y 10.0 to 60.0>"
    with pytest.raises(IndexError):
        found[3]
    for index in (slice(1, None), [1, 2], np.array([False, True, True]), found.scores < 0.7):
        assert isinstance(found[index], Prediction) and found[index].class_names == ["car", "cat"]
        np.testing.assert_array_equal(found[index].masks, masks[1:])
    assert len(found[[]]) == len(found[found.scores > 1]) == 0 and found.size == (120, 160)
    assert found.visible().class_names == ["cat", "car"]  # the third mask is empty


def test_polygons(found, image, tmp_path):
    (first,), (second,), nothing = found.polygons(0)
    assert {tuple(point) for point in first.outer} == {(20, 10), (90, 10), (90, 60), (20, 60)}
    assert {tuple(point) for point in second.outer} == {(100, 0), (160, 0), (160, 40), (100, 40)} and nothing == []
    np.testing.assert_array_equal(found[0].polygons()[0].outer, found.polygons()[0][0].outer)
    found.to_labelme(tmp_path / "new" / "x.json", image_path=tmp_path / "x.jpg")
    content = json.loads((tmp_path / "new" / "x.json").read_text())
    assert [shape["label"] for shape in content["shapes"]] == ["cat", "car"] and content["imagePath"] == "../x.jpg"


def test_notebooks_show_the_drawing(found, image):
    shown = Image.open(io.BytesIO(found._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), found.draw())
    large = Prediction(np.zeros((100, 3000, 3), np.uint8), found.result, CATEGORIES)
    assert Image.open(io.BytesIO(large[:0]._repr_png_())).size == (1024, 34)


def test_coco(found, masks):
    entries = json.loads(json.dumps(found.to_coco(image_id=5)))
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(5, 17), (5, 3), (5, 17)]
    assert entries[0]["bbox"] == [20, 10, 70, 50] and entries[0]["score"] == pytest.approx(0.9)
    np.testing.assert_array_equal(coco_mask.decode(entries[1]["segmentation"]), masks[1])


def test_without_masks(image):
    found = Prediction(image, ImageResult(BOXES, np.float32([0.9, 0.6, 0.2]), np.int32([1, 0, 1]), None), CATEGORIES)
    assert found.masks is None and found.above(0.5).masks is None and "segmentation" not in found.to_coco()[0]
    assert found.draw().shape == (480, 640, 3)
    with pytest.raises(UserError, match="MASKS"):
        cut_outs(found, 0)


@pytest.mark.parametrize("image_id", [-1, "5", None, 1.0])
def test_ids_of_coco_results(found, image_id):
    """A negative id gave no results: it marks the rows that fill up a batch."""
    with pytest.raises(UserError, match=r"image_id=.*: give the image's number, 0 or more"):
        found.to_coco(image_id)
    assert len(found.to_coco(np.int64(2**40))) == 3


def test_the_file_suffix_selects_the_format_of_drawings(found, tmp_path):
    drawn = found.draw(tmp_path / "new" / "x.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "x.png")), drawn)
    found.draw(str(tmp_path / "x.JPG"))
    jpeg = Image.open(tmp_path / "x.JPG")
    assert jpeg.format == "JPEG" and np.abs(np.asarray(jpeg).astype(int) - drawn).mean() < 3
    assert (found.draw(threshold=0.7) != drawn).any()


def test_supervision(found, masks, monkeypatch):
    """Boxes in x, y order, masks, scores and class names become `supervision.Detections`."""
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    detections = found.to_supervision()
    np.testing.assert_array_equal(detections.xyxy[0], [20, 10, 90, 60])
    np.testing.assert_array_equal(detections.mask, masks)
    assert detections.class_id.tolist() == [1, 0, 1] and detections.confidence.shape == (3,)
    assert detections.data["class_name"].tolist() == ["cat", "car", "cat"]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        found.to_supervision()


def test_cut_outs_decode_one_mask_at_a_time(found, monkeypatch):
    monkeypatch.setattr(Prediction, "masks", property(lambda prediction: pytest.fail("all masks are decoded")))
    assert len(cut_outs(found, 0.1)) == 2


def test_cut_outs(found, image, masks):
    pieces = cut_outs(found, 0.1)
    assert [(name, round(score, 1)) for name, score, _ in pieces] == [("cat", 0.9), ("car", 0.6)]  # no empty mask
    piece = pieces[0][2]
    assert piece.shape == (54, 74, 4) and piece.dtype == np.uint8
    np.testing.assert_array_equal(piece[..., :3], image[8:62, 18:92])
    alpha = piece[..., 3]
    assert (alpha[5:-5, 5:-5] == 255).all() and alpha[0].max() < 10 and alpha[:, -1].max() < 10
    assert ((alpha > 20) & (alpha < 235)).any()  # the edge is antialiased
    assert alpha.sum() / 255 == pytest.approx(masks[0].sum(), rel=0.01)
    # The image border that cuts an object is not feathered.
    at_border = pieces[1][2]
    assert at_border.shape == (42, 62, 4) and (at_border[:35, 10:, 3] == 255).all()
    assert cut_out(image, np.zeros((120, 160), bool)) is None


def test_image_ids_are_unique(tmp_path):
    names = ["x.jpg", "000007.jpg", "b/7.jpg", "y.jpg", "1.png", "z.jpg"]
    assert image_ids([tmp_path / name for name in names]) == [0, 7, 2, 3, 1, 5]
    ids = image_ids([tmp_path / name for name in ["3.jpg", "2.jpg", "x.jpg", "y.jpg"]])
    assert ids[:2] == [3, 2] and len(set(ids)) == 4


class BrightestPixelDetector:
    """A detector that returns one object: the brightest pixel."""

    def detect_image(self, image):
        y, x = np.unravel_index(image.sum(axis=2).argmax(), image.shape[:2])
        return ImageResult(np.float32([[y, x, y + 1, x + 1]]), np.float32([1]), np.int32([0]), None)


def test_a_predictor_takes_one_image_or_a_list(image, tmp_path):
    model = Predictor(BrightestPixelDetector(), CATEGORIES)
    assert model.class_names == ["car", "cat"]
    image[30, 70] = 255
    Image.fromarray(image).save(tmp_path / "x.png")
    for source in (image, Image.fromarray(image), tmp_path / "x.png", str(tmp_path / "x.png")):
        one = model(source)
        np.testing.assert_array_equal(one.boxes, [[30, 70, 31, 71]])
        np.testing.assert_array_equal(one.image, image)
    first, second = model([image, image[:, ::-1]])
    np.testing.assert_array_equal(second.boxes, [[30, 89, 31, 90]])
    assert model([]) == [] and first.class_names == ["car"]
    kept = first.image.copy()
    image[:] = 0  # a buffer of the caller, used for the next image
    np.testing.assert_array_equal(first.image, kept)


@pytest.mark.parametrize("options", [{}, {"tile": 64}])
def test_an_image_of_a_list_that_cannot_be_read_is_named(image, tmp_path, options):
    model = Predictor(BrightestPixelDetector(), CATEGORIES)
    with pytest.raises(UserError, match=r"^image 1 of the list: an image of type NoneType: "):
        model([image, None], **options)
    with pytest.raises(UserError, match=r"^an image of type bytes: "):
        model(b"no image", **options)
    with pytest.raises(UserError, match=rf"^{tmp_path}/none\.png: "):
        model([image, tmp_path / "none.png"], **options)


def test_a_forked_process_is_refused(image, monkeypatch):
    """TensorFlow would wait there without end, for threads that the fork has left behind."""
    model = Predictor(BrightestPixelDetector(), CATEGORIES)
    monkeypatch.setattr(predictor.os, "getpid", lambda: -1)
    for use in (model, model.semantic):
        with pytest.raises(UserError, match=r'loaded in another process: .* multiprocessing\.get_context\("spawn"\)$'):
            use(image)


def test_colors_follow_the_class(found):
    drawn = found.draw(threshold=0.5)
    for box, color in zip(BOXES[:2], palette(2)[[1, 0]], strict=True):
        y, x = round(4 * box[2]) - 60, round(4 * box[1])  # on the enlarged box's left side
        assert np.abs(drawn[y, x - 2 : x + 3].astype(int) - color).max(axis=-1).min() < 30
